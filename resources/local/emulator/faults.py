"""A script of faults: which ones there are, and which ones are to happen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ...errors import InputError
from .batches import BATCH_FAULTS
from .calls import ANY_CALL, CALL_FAULTS, CALLS
from .fault import Fault, sentence
from .rows import ROW_FAULTS

KNOWN: Mapping[str, Mapping[str, str]] = {
    **{
        place: {name: sentence(fault) for name, fault in {**CALL_FAULTS[ANY_CALL], **CALL_FAULTS[place]}.items()}
        for place in CALLS
    },
    ANY_CALL: {name: sentence(fault) for name, fault in CALL_FAULTS[ANY_CALL].items()},
    "batch": {name: fault.says for name, fault in BATCH_FAULTS.items()},
    "row": {name: sentence(fault) for name, fault in ROW_FAULTS.items()},
}
"""Place → fault → what it does."""


@dataclass(frozen=True)
class Faults:
    """What is to go wrong, in JSON if need be. Every rule is asked at every call, batch or row of its place.

    Args:
        rules: The faults. Those that strike the same call or batch add up, the first one nearest to the server; a row
            is struck by the first one only.
        seed: Chooses what a share strikes; the same script with the same seed strikes the same.
        speaks: The provider whose protocol the server speaks from its next start on.

    Raises:
        InputError: A fault is unknown (the message lists the known ones), or a number makes no sense.

    Example:
        >>> faults = Faults([Fault("create", "lost_reply", times=1), Fault("row", "missing", share=0.1)], seed=7)
        >>> Faults.from_json(faults.to_json()) == faults
        True
    """

    rules: Sequence[Fault] = ()
    seed: int = 0
    speaks: str = "openai"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        for rule in self.rules:
            _check(rule)

    def to_json(self) -> str:
        """The script as JSON, without what is left at its default."""
        usual = {one.name: one.default for one in fields(Fault)}
        rules = [{k: v for k, v in asdict(rule).items() if v != usual[k]} for rule in self.rules]
        spoken = {} if self.speaks == "openai" else {"speaks": self.speaks}
        return json.dumps({"seed": self.seed, **spoken, "rules": rules}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Faults:
        """Read a script.

        Raises:
            InputError: It is no JSON, has fields that no fault has, or names an unknown fault.
        """
        try:
            read = _SCRIPT.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(f"This is no script of faults: {place or 'the text'}: {first['msg']}.") from error
        return cls(tuple(Fault(**asdict(rule)) for rule in read.rules), read.seed, read.speaks)

    @classmethod
    def from_file(cls, path: Path) -> Faults:
        """Read a script from a file.

        Raises:
            InputError: It can't be read, or is none.
        """
        try:
            return cls.from_json(path.read_bytes())
        except OSError as error:
            raise InputError(f"The faults in {path} can't be read: {error.strerror}.") from error
        except InputError as error:
            raise InputError(f"{path}: {error.message}") from error


@dataclass(frozen=True)
class _Rule(Fault):
    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class _Script:
    __pydantic_config__ = ConfigDict(extra="forbid")

    rules: tuple[_Rule, ...] = ()
    seed: int = 0
    speaks: str = "openai"


_SCRIPT = TypeAdapter(_Script)


def _check(rule: Fault) -> None:
    known = KNOWN.get(rule.place)
    if known is None:
        raise InputError(f"Faults happen at {', '.join(KNOWN)}; there is no {rule.place!r}.")
    if rule.name not in known:
        raise InputError(f"{rule.place!r} has no fault {rule.name!r}; it has {', '.join(sorted(known))}.")
    if not (0 <= rule.share <= 1 and 0 <= rule.part <= 1):
        raise InputError(f"{rule.place} {rule.name}: share and part are from 0 to 1.")
    if min(rule.times or 0, rule.skip, rule.looks) < 0:
        raise InputError(f"{rule.place} {rule.name}: times, skip and looks are 0 or more.")
    if rule.status is not None and not (400 <= rule.status <= 599):
        raise InputError(f"{rule.place} {rule.name}: status is an error, from 400 to 599.")
    if rule.only and rule.place != "row":
        raise InputError(f"{rule.place} {rule.name}: only rows are chosen by their text.")
