"""Which parameters of a task an API takes, and where in a request's body they go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from ...errors import InputError
from ...request import LIMITS, RequestSpec, is_count


@dataclass(frozen=True)
class Parameters:
    """An API's list of what may be set; nothing is set that a task doesn't set.

    Attributes:
        places: What a task may say → its path in the body, such as ``reasoning.effort``.
        limit: Path of the longest answer in tokens, whichever of its names a task uses; empty if there is none.
        shaped: Path → how a task's value is written there.
    """

    places: Mapping[str, str] = field(default_factory=dict[str, str])
    limit: str = ""
    shaped: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict[str, Callable[[Any], Any]])

    @classmethod
    def named(cls, names: Iterable[str], *, limit: str = "", **renamed: str) -> Parameters:
        """Parameters that go to the top of the body under their own names, but for those that are `renamed`."""
        return cls({**{name: name for name in names}, **renamed}, limit)

    def placed(self, spec: RequestSpec) -> RequestSpec:
        """The task with its parameters as they stand in the body.

        Raises:
            InputError: One of them isn't taken, or a limit isn't a number of tokens.
        """
        body: dict[str, Any] = {}
        for name, value in spec.parameters.items():
            if name in LIMITS and self.limit:
                if not is_count(value):
                    raise InputError(f"{name} is {value!r}; it is a number of tokens, at least 1.")
                continue
            if name not in self.places:
                raise InputError(f"parameters has {name!r}, which can't be set. These can: {', '.join(self._known())}.")
            path = self.places[name]
            put(body, path, self.shaped[path](value) if path in self.shaped else value)
        if self.limit and spec.limit:
            put(body, self.limit, spec.limit)
        return replace(spec, parameters=body)

    def _known(self) -> list[str]:
        return sorted({*self.places, *(LIMITS if self.limit else ())}) or ["none"]


def a_list(value: Any) -> Any:
    """A list, where a task may name a single value."""
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def put(body: dict[str, Any], path: str, value: Any) -> None:
    """Set a value at a path with dots; an object is merged into one that is there."""
    *outer, last = path.split(".")
    for name in outer:
        inner: object = body.setdefault(name, {})
        if not isinstance(inner, dict):
            raise InputError(
                f"parameters set both {name!r} and {path!r}, which is a part of it; leave one of them out."
            )
        body = cast("dict[str, Any]", inner)
    there: object = body.get(last)
    if isinstance(there, dict) and isinstance(value, dict):
        body[last] = {**cast("dict[str, Any]", there), **cast("dict[str, Any]", value)}
    else:
        body[last] = value
