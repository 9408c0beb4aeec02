"""What must be true of a seed: once all is done, and at every insert of attempts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from dagster_batch_llm.resources.answers import MAX_TRIES, MAX_UNRUN
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.late import late_name
from dagster_batch_llm.resources.ledger import OPEN_ATTEMPTS, Attempt, AttemptState, PlanState, schema
from sqlalchemy import select

from .world import World, prompt_of


def asked_in(world: World, manifest: str) -> list[str]:
    """An attempt's keys; its manifest never changes."""
    if manifest not in world.manifests:
        world.manifests[manifest] = [row["key"] for row in world.seams.read(Home(world.folder).manifest(manifest))]
    return world.manifests[manifest]


def check_overlap(world: World, inserted: Sequence[Attempt]) -> None:
    """No two open attempts have a key in common, and nothing is asked for a plan that has ended."""
    ended = sorted({attempt.plan for attempt in inserted} - world.open_plans())
    world.broken += [f"unwanted: keys are taken for {plan}, which has ended" for plan in ended]
    open_ = world.ledger.attempts.find(schema.attempt.c.state.in_(OPEN_ATTEMPTS))
    mine = {attempt.id for attempt in inserted}
    taken = {key for a in open_ if a.id not in mine for key in asked_in(world, a.manifest)}
    for attempt in inserted:
        keys = asked_in(world, attempt.manifest)
        if twice := sorted(taken.intersection(keys)):
            world.broken.append(f"overlap: attempt {attempt.id[-4:]} takes {twice}, which another open attempt has")
        taken.update(keys)


def check_all(world: World, *, finished: bool) -> list[str]:
    """Every violation, in words."""
    broken = list(dict.fromkeys(world.broken))
    provider = world.provider
    world.over = False
    if not finished or not world.is_over():
        broken.append(f"unfinished: plans {sorted(world.open_plans())}, {_open(world)}")
    provider.finish()
    if finished:
        world.sweep()
        broken += _silent(world)
    broken += [f"cancelled: {name} is not ours, or not a duplicate" for name in _wanted_ones(world)]
    cramped = sorted(provider.cramped - provider.doubled)  # of a duplicate's answers only the best one is kept
    broken += [f"cramped: {prompt!r} was cut off, and asked again with the same limit" for prompt in cramped]
    outcomes, good = _answers(world, broken)
    for key in sorted({key for keys in world.wanted.values() for key in keys}):
        prompt, got = prompt_of(key), outcomes[key]
        if prompt in provider.doubled:
            continue  # a proxy that repeats creates makes us pay twice, and no rule of ours can know it
        unusable = sum(count for outcome, count in got.items() if outcome != "ok")
        if provider.good[prompt] > 1 or provider.billed[prompt] > 1 + unusable:
            broken.append(f"paid twice: {key} was billed {provider.billed[prompt]} times, recorded {dict(got)}")
        if finished and provider.good[prompt] and not good[key]:
            broken.append(f"lost: {key} was paid and answered, recorded {dict(got)}")
    for plan in world.ledger.plans.find(schema.plan.c.state == PlanState.DONE):
        for key in world.wanted[plan.id]:
            got = outcomes[key]
            final = got["ok"] or got["refused"] or got.total() - got["expired"] >= MAX_TRIES or got.total() >= MAX_UNRUN
            broken += [] if final else [f"final too early: {key} of {plan.id} has {dict(got)}"]
    return broken


def _wanted_ones(world: World) -> list[str]:
    """Of the batches that were cancelled although they have no twin, those that weren't given up unsent meanwhile."""
    attempts = world.ledger.attempts
    void = attempts.find(schema.attempt.c.state == AttemptState.VOID) if world.provider.wrong_cancels else []
    unwanted = {send.token for attempt in void for send in attempts.sends(attempt.id)}
    jobs = [world.provider.jobs[name] for name in world.provider.wrong_cancels]
    return [job.id for job in jobs if not (job.ours and job.lines[0][0].rpartition("-")[0] in unwanted)]


def _silent(world: World) -> list[str]:
    """Every batch that cost something is the one of its attempt, or a person was told of it."""
    table = schema.link
    with world.ledger.attempts._db.read() as c:  # pyright: ignore[reportPrivateUsage]
        extra = {row.batch_id: row.extra for row in c.execute(select(table.c.batch_id, table.c.extra))}
    told = {subject for _, subject, _ in world.ledger.attempts.incidents()}
    paid = [job.id for job in world.provider.jobs.values() if job.ours and job.completed]
    return [
        f"silent: {name} was paid, and nobody was told" for name in paid if extra.get(name, True) and name not in told
    ]


def _open(world: World) -> str:
    found = world.ledger.attempts.find(schema.attempt.c.state.in_(OPEN_ATTEMPTS))
    return ", ".join(f"{a.id[-4:]} {a.state}" for a in found) or "no open attempt"


def _answers(world: World, broken: list[str]) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """Outcomes per key of all answers that the ledger names; each file adds up and holds only its own answers."""
    home, outcomes, good = Home(world.folder), defaultdict[str, Counter[str]](Counter), Counter[str]()
    table = schema.answers
    with world.ledger.attempts._db.read() as c:  # pyright: ignore[reportPrivateUsage]
        named = [(row.file, row.attempt) for row in c.execute(select(table).order_by(table.c.at, table.c.file))]
    files = Counter(attempt for name, attempt in named if "-late-" not in name)
    broken += [
        f"accounting: attempt {attempt.id[-4:]} is {attempt.state}, answers files {files[attempt.id]}"
        for attempt in world.attempts()
        if files[attempt.id] != (attempt.state is AttemptState.ANSWERED)
    ]
    for name, attempt in named:
        row = world.ledger.attempts.find(schema.attempt.c.id == attempt)[0]
        lines = world.seams.read(home.answers(name))
        asked = asked_in(world, row.manifest)
        counted = next(a for a in world.ledger.attempts.answers([row.id]) if a.file == name).outcomes
        said = Counter(str(line["outcome"]) for line in lines)
        late = "-late-" in name
        if not late and (
            sorted(line["key"] for line in lines) != sorted(asked)
            or dict(said) != dict(counted)
            or len(asked) != row.rows
        ):
            broken.append(
                f"accounting: attempt {row.id[-4:]} sent {row.rows}, recorded {dict(counted)}, kept {dict(said)}"
            )
        paid = _paid_late(world, row, name) if late else _paid_for(world, row)
        kept = {line["key"]: line["outcome"] for line in lines}
        broken += [
            f"lost: {key} is {kept.get(key)} in {row.id[-4:]}, whose batch has answered it"
            for key in asked
            if kept.get(key) != "ok" and prompt_of(key) in paid
        ]
        for line in lines:
            outcomes[line["key"]][line["outcome"]] += 1
            if line["outcome"] == "ok":
                good[line["key"]] += 1
                if line["answer"] != f"re: {prompt_of(line['key'])}":
                    broken.append(f"mixed up: {line['key']} has the answer {line['answer']!r}")
    return outcomes, good


def _paid_for(world: World, attempt: Attempt) -> set[str]:
    """The prompts that were answered well by any batch that was linked to an attempt when it was closed."""
    table, jobs = schema.link, world.provider.jobs
    known = (table.c.attempt == attempt.id, table.c.linked_at <= (attempt.closed_at or 0.0))
    with world.ledger.attempts._db.read() as c:  # pyright: ignore[reportPrivateUsage]
        linked = list(c.execute(select(table.c.batch_id).where(*known)).scalars())
    return {prompt for name in linked for prompt in jobs[name].good}


def _paid_late(world: World, attempt: Attempt, name: str) -> set[str]:
    """The prompts that were answered well by the late arrival that an answers file was made of."""
    return {p for job in world.provider.jobs.values() if late_name(attempt, job.id) == name for p in job.good}
