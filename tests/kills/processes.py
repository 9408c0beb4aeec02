"""What the processes of a world do: a run as Dagster's launcher starts one, and a tick as its daemon evaluates it.

They are forked from a process that has imported everything, so that a kill costs a tenth of a second and not three.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import cast

import dagster as dg
from dagster import DagsterInstance
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster_batch_llm.pipelines.sensor import tick

from .location import NAME, Location
from .places import watch

ORIGIN = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(NAME), "__repository__")


def forked(work: Callable[[], None], log: Path) -> int:
    """Start a process; gives its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - nothing of the parent's may go on in here
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def instance_of(folder: Path) -> DagsterInstance:
    return DagsterInstance.from_config(str(folder / "dagster"))


def register_run(
    instance: DagsterInstance, location: Location, assets: set[str], tags: dict[str, str], *, located: bool
) -> str:
    """A run as the daemon or the webserver makes it, before it is launched."""
    keys = frozenset(dg.AssetKey(name) for name in assets)
    origin = RemoteJobOrigin(ORIGIN, location.whole.name) if located else None
    job = location.job(keys)
    return instance.create_run_for_job(job, tags=tags, asset_selection=keys, remote_job_origin=origin).run_id


def run(folder: Path, location: Location, run_id: str, role: str) -> None:
    """What `dagster api execute_run` does."""
    watch(role, folder)
    with instance_of(folder) as instance:
        found = instance.get_run_by_id(run_id)
        assert found is not None
        execute_run(InMemoryJob(location.job(frozenset(found.asset_selection or ()))), found, instance)


def evaluate(folder: Path, location: Location, requested: Path) -> None:
    """What the daemon and its code server do in a tick; what it asks for is left in a file."""
    watch("tick", folder)
    with instance_of(folder) as instance:
        cursor = requested.with_name("cursor")
        context = dg.SensorEvaluationContext(
            instance_ref=None,
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=cursor.read_text() if cursor.exists() else None,
            log_key=None,
            repository_name=None,
            repository_def=location.repository,
            instance=instance,
            code_location_origin=RegisteredCodeLocationOrigin(NAME),
        )
        result = tick(context)
        if isinstance(result, dg.SkipReason):
            return
        cursor.write_text(result.cursor or "{}")
        lines = [json.dumps(_told(request)) for request in result.run_requests or ()]
        requested.write_text("\n".join(lines))


def _told(request: dg.RunRequest) -> dict[str, object]:
    tags = dict(request.tags) | ({"dagster/partition": request.partition_key} if request.partition_key else {})
    assets = [key.to_user_string() for key in cast("list[dg.AssetKey]", request.asset_selection)]
    return {"assets": assets, "tags": tags}
