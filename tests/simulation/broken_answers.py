"""Removed: the rules of keeping answers, and of reading them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dagster_batch_llm.resources import answers as answers_module
from dagster_batch_llm.resources import looking as looking_module
from dagster_batch_llm.resources import machine as machine_module
from dagster_batch_llm.resources.ledger import Attempt
from dagster_batch_llm.resources.ledger.attempts import Attempts
from dagster_batch_llm.resources.providers import over_http
from dagster_batch_llm.resources.providers.protocol import Batch, Phase
from dagster_batch_llm.resources.providers.wires.wire import Wire
from dagster_batch_llm.resources.result_files import Missing, ResultFiles

from .broken_rule import Patch, Rule, always, swapped
from .seams import Seams


def _closed_first(seams: Seams) -> list[Patch]:
    parse, close = answers_module.parse_results, Attempts.close
    hidden: dict[str, tuple[Path, bytes]] = {}

    def parsed(*args: Any, target: Path, name: str, **more: Any) -> Any:
        result = parse(*args, target=target, name=name, **more)
        hidden[name] = (target, target.read_bytes())
        target.write_bytes(b"")
        return result

    def closed(self: Any, attempt: Attempt, answers: Any) -> Attempt:
        done = close(self, attempt, answers)
        seams.effect("the answers file")
        target, content = hidden[answers.file]
        target.write_bytes(content)
        return done

    return [(answers_module, "parse_results", parsed), (Attempts, "close", closed)]


def _ordered_by(order: str) -> Any:
    def remove(seams: Seams) -> list[Patch]:
        matched = answers_module._matched  # pyright: ignore[reportPrivateUsage]
        return [
            (
                answers_module,
                "_matched",
                lambda absent: matched(absent).replace("ORDER BY outcome <> 'ok', n", f"ORDER BY {order}"),  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
            )
        ]

    return remove


def _by_order(seams: Seams) -> list[Patch]:
    parse, result_sql = answers_module.parse_results, Wire.result_sql
    token = ""

    def parsed(*args: Any, tokens: Sequence[str], **more: Any) -> Any:
        nonlocal token
        token = tokens[-1]
        return parse(*args, tokens=tokens, **more)

    def counted(wire: Wire, spec: Any) -> str:
        numbered = f"'{token}-' || (row_number() OVER () - 1)"
        return f"SELECT * REPLACE ({numbered} AS custom_id) FROM ({result_sql(wire, spec)})"

    return [(answers_module, "parse_results", parsed), (Wire, "result_sql", counted)]


def _any_token(seams: Seams) -> list[Patch]:
    parse = answers_module.parse_results

    def parsed(*args: Any, tokens: Sequence[str], **more: Any) -> Any:
        return parse(*args, tokens=["[0-9a-f]+"], **more)

    return [(answers_module, "parse_results", parsed)]


def _partial_dropped(seams: Seams) -> list[Patch]:
    fetch = ResultFiles.fetch

    def hasty(files: ResultFiles, provider: Any, batches: Sequence[Batch], names: Sequence[str]) -> Any:
        return fetch(files, provider, [b for b in batches if b.phase is Phase.COMPLETED], names)

    return [(ResultFiles, "fetch", hasty)]


def _first_file(seams: Seams) -> list[Patch]:
    fetch = ResultFiles.fetch

    def last(*args: Any) -> tuple[list[Path], Missing]:
        paths, lacking = fetch(*args)
        return paths[-1:], lacking

    return [(ResultFiles, "fetch", last)]


def _few_will_do(seams: Seams) -> list[Patch]:
    return [(machine_module, "too_few", always(None))]


def _hasty(seams: Seams) -> list[Patch]:
    """Too few results would be noticed, and the files fetched once more."""
    return [(looking_module, "_FILES_LATE_SECONDS", -1.0), *_few_will_do(seams)]


ANSWERS = (
    Rule("R9", "closed before the answers are durable", _closed_first),
    Rule("P", "results are matched by their order", _by_order, real=True),
    Rule("P", "the last line wins", _ordered_by("n DESC"), real=True),
    Rule("P", "the first line wins, ok or not", _ordered_by("n"), real=True),
    Rule("P", "a stranger's token will do", _any_token),
    Rule("P", "results of an ended batch are dropped", _partial_dropped),
    Rule("P", "only the last result file is read", _first_file),
    Rule(
        "P",
        "half a file is taken for whole",
        swapped(over_http, "ends_whole", always(True)),
        tuned={"network": 0.5, "row": 0.25, "lies": 1.0},
    ),
    Rule("P", "fewer results than are counted will do", _few_will_do, tuned={"network": 0.4}),
    Rule("P", "late files are not waited for", _hasty, tuned={"late": 0.6}),
    Rule("P", "one failure is final", swapped(answers_module, "MAX_TRIES", 1)),
)
