"""Removed: the rules of the look, by which two runs never take the same key, and how a key is asked again."""

from __future__ import annotations

from typing import Any

from dagster_batch_llm.resources.ledger import schema
from dagster_batch_llm.resources.ledger.looks import Looks, Snapshot
from dagster_batch_llm.resources.request import RequestSpec
from sqlalchemy import update

from .broken_rule import Patch, Rule, swapped
from .seams import Seams


def _unguarded(seams: Seams) -> list[Patch]:
    insert = Looks.insert

    def careless(self: Any, task: Any, fence: int, *more: Any) -> bool:
        hub = seams.hub
        assert hub is not None
        with hub.quietly():
            now = self.snapshot(task).fence
        return insert(self, task, now, *more)

    return [(Looks, "insert", careless)]


def _unmoved(seams: Seams) -> list[Patch]:
    insert, table = Looks.insert, schema.task

    def still(self: Any, task: Any, fence: int, *more: Any) -> bool:
        done = insert(self, task, fence, *more)
        hub = seams.hub
        assert hub is not None
        if done:
            with hub.quietly(), self._db.write() as c:
                c.execute(update(table).where(table.c.hash == task).values(fence=fence))
        return done

    return [(Looks, "insert", still)]


def _late_fence(seams: Seams) -> list[Patch]:
    snapshot = Looks.snapshot

    def split(self: Any, task: Any) -> Snapshot:
        first = snapshot(self, task)
        hub = seams.hub
        assert hub is not None
        hub.effect("ledger read: the fence", weight=10.0)  # a stop just here is rare
        return Snapshot(snapshot(self, task).fence, first.open_manifests, first.answers_files)

    return [(Looks, "snapshot", split)]


def _answers_first(seams: Seams) -> list[Patch]:
    snapshot = Looks.snapshot

    def split(self: Any, task: Any) -> Snapshot:
        files = snapshot(self, task).answers_files
        hub = seams.hub
        assert hub is not None
        hub.effect("ledger read: the open attempts", weight=10.0)
        second = snapshot(self, task)
        return Snapshot(second.fence, second.open_manifests, files)

    return [(Looks, "snapshot", split)]


def _as_before(spec: RequestSpec, _: int) -> RequestSpec:
    return spec


LOOKS = (
    Rule("F1", "the insert is not guarded by the task's fence", _unguarded),
    Rule("F1", "the insert does not move the task's fence", _unmoved),
    Rule("F2", "the fence is read after the snapshot", _late_fence),
    Rule("L", "what was cut off is asked as before", swapped(RequestSpec, "enlarged", _as_before)),
    Rule("F3", "answers are read before the open attempts", _answers_first),
)
