"""The simulated provider: files, batches, all that goes wrong with them, and above all the bill."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import httpx

from .faults import MEMORY_SECONDS, ROWS_PER_BATCH, Setting
from .hub import START, Hub

Json = dict[str, Any]
TOKEN = "batch_llm_token"


@dataclass
class Job:
    """One batch. What will become of it is drawn when it is created."""

    id: str
    file_id: str
    metadata: Json
    created: float
    listed: float
    ready: float
    verdict: str
    part: float
    late: float
    strange: float
    hidden: float
    lies: bool
    lines: list[tuple[str, str]]
    ours: bool
    limit: int
    status: str = "validating"
    ended: float | None = None
    completed: int = 0
    failed: int = 0
    exact: bool = False
    """Whether it has as many results as it counts."""
    good: set[str] = field(default_factory=set[str])
    files: Json = field(default_factory=dict[str, Any])


class Provider:
    """OpenAI's files and batches as far as the client uses them."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.setting: Setting = hub.setting
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, Job] = {}
        self.billed: Counter[str] = Counter()
        self.good: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.cut_off: dict[str, int] = {}
        """By prompt: the largest output limit at which its answer was cut off."""
        self.cramped: set[str] = set()
        """Prompts that were asked again without more room than that."""
        self.shortened: list[list[str]] = []
        """The prompts of batches that have once been fetched without their last results."""
        self.wrong_cancels: list[str] = []
        self.doubled: set[str] = set()
        self.doubling = False
        self._numbers = 0
        self._known: dict[str, Job] = {}

    # ---- what happens by itself ----

    def stranger(self) -> None:
        """Another application makes a batch on the same account, perhaps with another ledger of ours."""
        dice = self.hub.dice
        name = self._name("file")
        marks: list[Json] = [{}, {TOKEN: f"feedbeef{dice.getrandbits(64):016x}"}, {"app": "other"}]
        self.files[name] = b""
        sent = f"feedbeef{dice.getrandbits(64):016x}"
        rows = dice.choice((3, ROWS_PER_BATCH))
        job = self._job(name, dice.choice(marks), [(f"{sent}-{n}", f"other {n}") for n in range(rows)], ours=False)
        job.verdict = "completed"

    def work(self) -> None:
        """End the batches whose time has come."""
        now = self.hub.monotonic()
        for job in self.jobs.values():
            if job.ended is None and job.ready <= now:
                self._end(job, job.verdict, job.part, job.ready)

    def finish(self) -> None:
        """End all batches, whether their time has come or not: what they cost belongs to the bill."""
        for job in self.jobs.values():
            if job.ended is None:
                self._end(job, job.verdict, job.part, job.ready)

    def _end(self, job: Job, verdict: str, part: float, when: float) -> None:
        job.ended = when
        job.status = "failed" if verdict.startswith("failed") else verdict
        if verdict != "completed":
            self._note(f"batch {verdict}")
        self.hub.say(f"{job.id} ends: {verdict}")
        if verdict.startswith("failed"):
            return
        dice = self.hub.dice
        done = len(job.lines) if verdict == "completed" else int(part * len(job.lines))
        out: list[Json] = []
        err: list[Json] = []
        for custom_id, prompt in job.lines[:done]:
            self._answer(job, custom_id, prompt, out, err)
        for custom_id, _ in job.lines[done:]:
            if dice.random() < 0.5:
                code = "batch_expired" if verdict == "expired" else "batch_cancelled"
                err.append({"custom_id": custom_id, "response": None, "error": {"code": code, "message": "not run"}})
        if job.ours and dice.random() < self.setting.row / 4:
            self._note("row unknown")
            strange = f"feedbeef{dice.getrandbits(64):016x}-1"
            # Where nothing but the first line tells whose a batch is, that one has to be right.
            first = int(self.setting.kind == "results")
            if len(out) >= first:
                out.insert(first, _line(strange, 200, _body("re: stranger")))
                out.append(_line("what is this", 200, _body("re: stranger")))
        if self.setting.kind == "results" and verdict == "completed" and not (out or err):
            # One that has ended well and says nothing at all is a candidate for a day, which is beyond the horizon.
            err.append(_line(job.lines[0][0], 500, {"error": {"code": "server_error", "message": "sorry"}}))
        job.completed, job.failed = len(out), 0 if job.lies else len(err)
        if dice.random() < 0.3 and verdict == "completed" and out:
            out, err = out + err, []
            job.failed = 0
        job.exact = job.completed + job.failed == len(out) + len(err)
        for kind, lines in (("output_file_id", out), ("error_file_id", err)):
            if lines:
                name = self._name(kind[:3])
                self.files[name] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
                job.files[kind] = name

    def _answer(self, job: Job, custom_id: str, prompt: str, out: list[Json], err: list[Json]) -> None:
        """Run one row: what it costs, and which lines speak of it."""
        dice, fault = self.hub.dice, None
        if job.ours and dice.random() < self.setting.row:
            kinds = (
                "errored",
                "errored",
                "invalid",
                "truncated",
                "refused",
                "refusal",
                "missing",
                "doubled",
                "doubled",
            )
            fault = dice.choice(kinds)
            self._note(f"row {fault}")
        ok = _line(custom_id, 200, _body(f"re: {prompt}"))
        paid = fault not in {"errored", "refused"}
        if job.ours:
            self.billed[prompt] += paid
            (self.good if fault in {None, "doubled"} else self.bad)[prompt] += paid
        if fault in {None, "doubled"}:
            job.good.add(prompt)
        place = dice.randrange(len(out) + 1)
        match fault:
            case "errored":
                err.append(_line(custom_id, 500, {"error": {"code": "server_error", "message": "sorry"}}))
            case "refused":
                err.append(_line(custom_id, 400, {"error": {"code": "bad_request", "message": "no"}}))
            case "invalid":
                out.insert(place, _line(custom_id, 200, _body(None)))
            case "truncated":
                self.cut_off[prompt] = max(job.limit, self.cut_off.get(prompt, 0))
                out.insert(place, _line(custom_id, 200, _body(f"re: {prompt}", "length")))
            case "refusal":
                out.insert(place, _line(custom_id, 200, _body(None, refusal="I won't")))
            case "missing":
                pass
            case "doubled":
                out.insert(place, ok)
                if dice.random() < 0.5:  # a failure that stands before the answer
                    out.insert(dice.randrange(place + 1), _line(custom_id, 200, _body(None)))
                else:
                    out.append(_line(custom_id, 200, _body(f"second thoughts: {prompt}")))
            case _:
                out.insert(place, ok)

    def faults_of(self, batch: str | None) -> set[str]:
        """What is wrong with a batch."""
        job = self.jobs.get(batch or "")
        if job is None:
            return set()
        verdict = set[str]() if job.verdict == "completed" else {f"batch {job.verdict}"}
        named = {
            "files late": job.late > 0.0,
            "unknown status": job.strange > job.created,
            "404 after create": job.hidden > job.created,
            "counts lie": job.lies,
        }
        return verdict | {name for name, holds in named.items() if holds}

    def may_end_early(self, file: str) -> bool:
        """Whether its batch's counts tell that a line is lacking. Twice the same isn't found out; so only once."""
        for job in self.jobs.values():
            asked = [prompt for _, prompt in job.lines]
            if file in job.files.values() and job.exact and asked not in self.shortened:
                self.shortened.append(asked)
                return True
        return False

    # ---- what is asked of it ----

    def serve(
        self, method: str, path: str, params: httpx.QueryParams, content: bytes, headers: Mapping[str, str]
    ) -> httpx.Response:
        """Carry out one request that has arrived."""
        self.work()
        parts = path.removeprefix("/v1/").split("/")
        match method, parts:
            case "POST", ["files"]:
                name = self._name("file")
                self.files[name] = _uploaded(content, headers.get("content-type", ""))
                return self._json({"id": name, "object": "file"})
            case "DELETE", ["files", name]:
                return (
                    self._no(404, "no such file") if self.files.pop(name, None) is None else self._json({"deleted": 1})
                )
            case "GET", ["files", name]:
                return self._json({"id": name}) if name in self.files else self._no(404, "no such file")
            case "GET", ["files", name, "content"]:
                found = self.files.get(name)
                return self._no(404, "no such file") if found is None else self.hub.respond(200, content=found)
            case "POST", ["batches"]:
                return self._create(json.loads(content), headers.get("idempotency-key"))
            case "GET", ["batches"]:
                return self._list(params)
            case "GET", ["batches", name]:
                job = self.jobs.get(name)
                hidden = job is None or self.hub.monotonic() < job.hidden
                return self._no(404, "no such batch") if hidden or job is None else self._json(self._shown(job))
            case "POST", ["batches", name, "cancel"]:
                return self._cancel(self.jobs[name])
            case _:
                return self._no(404, "no such page")

    def _create(self, body: Json, key: str | None) -> httpx.Response:
        known = self._known.get(key or "")
        if known and self.hub.monotonic() <= known.created + MEMORY_SECONDS:
            self.hub.say(f"makes {known.id} no second time")
            return self._json(self._shown(known))
        name = body["input_file_id"]
        if name not in self.files:
            return self._no(404, "no such input file")
        lines = [json.loads(line) for line in self.files[name].splitlines()]
        asked = [(line["custom_id"], str(line["body"]["messages"][-1]["content"])) for line in lines]
        asked.sort(key=lambda pair: (len(pair[0]), pair[0]))  # a file's order promises nothing
        limit = max(line["body"]["max_tokens"] for line in lines)
        job = self._job(name, body["metadata"], asked, ours=True, limit=limit)
        if key:
            self._known[key] = job
        if self.doubling:
            self.doubled.update(prompt for _, prompt in asked)
        self.cramped.update(prompt for _, prompt in asked if self.cut_off.get(prompt, 0) >= limit)
        seconds = job.ready - job.created
        self.hub.say(f"makes {job.id} of {name}: {len(asked)} rows of {limit}, {job.verdict} in {seconds:.0f} s")
        return self._json(self._shown(job))

    def _job(self, file: str, metadata: Json, lines: list[tuple[str, str]], *, ours: bool, limit: int = 0) -> Job:
        dice, now = self.hub.dice, self.hub.monotonic()
        verdicts = ("failed queue", "failed queue", "expired", "cancelled", "failed bad")
        job = Job(
            id=self._name("batch"),
            file_id=file,
            metadata=metadata,
            created=now,
            listed=now + self.setting.lag(dice),
            ready=now + dice.choice((dice.uniform(1.0, 60.0), dice.uniform(60.0, 900.0))),
            verdict=dice.choice(verdicts) if ours and dice.random() < self.setting.batch else "completed",
            part=dice.random(),
            late=dice.uniform(0.0, 45.0) if dice.random() < self.setting.late else 0.0,
            strange=now + dice.uniform(0.0, 300.0) if dice.random() < 0.1 else now,
            hidden=now + dice.uniform(0.0, 60.0) if dice.random() < 0.1 else now,
            lies=dice.random() < self.setting.lies,
            lines=lines,
            ours=ours,
            limit=limit,
        )
        self.jobs[job.id] = job
        return job

    def _list(self, params: httpx.QueryParams) -> httpx.Response:
        now = self.hub.monotonic()
        listed = [job for job in reversed(self.jobs.values()) if job.listed <= now]
        names = [job.id for job in listed]
        start = names.index(params["after"]) + 1 if params.get("after") in names else 0
        page = listed[start : start + min(int(params["limit"]), self.setting.page)]
        more = start + len(page) < len(listed)
        return self._json({"object": "list", "data": [self._shown(job) for job in page], "has_more": more})

    def _cancel(self, job: Job) -> httpx.Response:
        self.hub.say(f"is asked to cancel {job.id}")
        asked = [prompt for _, prompt in job.lines]
        twins = sum([prompt for _, prompt in other.lines] == asked for other in self.jobs.values())
        if not job.ours or twins < 2:
            self.wrong_cancels.append(job.id)
        if job.ended is not None:
            return self._no(409, "it has ended")
        now = self.hub.monotonic()
        self._end(job, "cancelled", min(1.0, (now - job.created) / max(job.ready - job.created, 1.0)), now)
        return self._json(self._shown(job))

    def _shown(self, job: Job) -> Json:
        now = self.hub.monotonic()
        there = job.ended is not None and now >= job.ended + job.late
        silent = self.setting.kind == "results"  # its records don't say whose they are
        status = "hibernating" if now < job.strange and job.ended is None else job.status
        return {
            "id": job.id,
            "object": "batch",
            "input_file_id": None if silent else job.file_id,
            "metadata": None if silent else job.metadata,
            "status": status,
            "created_at": int(START + job.created + self.setting.skew),
            "expires_at": int(START + job.created + self.setting.skew + 86400),
            "request_counts": {"total": len(job.lines), "completed": job.completed, "failed": job.failed},
            "errors": self._errors(job),
            **(job.files if there else {}),
        }

    def _errors(self, job: Job) -> Json | None:
        if job.status != "failed":
            return None
        code = "token_limit_exceeded" if job.verdict == "failed queue" else "invalid_json_line"
        return {"object": "list", "data": [{"code": code, "message": "no", "line": 1}]}

    def _json(self, body: Json, status: int = 200) -> httpx.Response:
        date = formatdate(self.hub.now() + self.setting.skew, usegmt=True)
        return self.hub.respond(status, content=json.dumps(body).encode(), headers={"date": date})

    def _no(self, status: int, message: str) -> httpx.Response:
        return self._json({"error": {"message": message, "code": "no"}}, status)

    def _name(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}-{self._numbers}"

    def _note(self, fault: str) -> None:
        self.faults[fault] += 1


def _body(content: str | None, finish: str = "stop", refusal: str | None = None) -> Json:
    message = {"role": "assistant", "content": content, "refusal": refusal}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def _line(custom_id: str, status: int, body: Json) -> Json:
    return {"custom_id": custom_id, "response": {"status_code": status, "body": body}, "error": None}


def _uploaded(content: bytes, kind: str) -> bytes:
    """The file part of a multipart body."""
    boundary = kind.split("boundary=")[1].encode()
    (part,) = (part for part in content.split(b"--" + boundary) if b'name="file"' in part)
    return part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
