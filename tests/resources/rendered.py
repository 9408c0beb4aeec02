"""Request files as they are rendered, for tests that have no plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.providers.profile import Profile
from dagster_batch_llm.resources.providers.wires.wire import line_sql
from dagster_batch_llm.resources.request import RequestSpec


def rendered(path: Path, profile: Profile, spec: RequestSpec, prompts: Sequence[str]) -> Path:
    """Write a line per prompt, with ids from t-0 on; gives the path."""
    parts, engine = profile.line_parts(spec), connect()
    query = f"SELECT {line_sql(parts, '$id', '$prompt')}"
    lines = [rows(engine, query, {"id": f"t-{n}", "prompt": prompt})[0][0] for n, prompt in enumerate(prompts)]
    path.write_text("".join(lines))
    return path
