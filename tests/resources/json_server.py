"""A model server of a test's own: JSON in, JSON out, on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from .served import serving

Say = Callable[[str, dict[str, Any], Mapping[str, str]], tuple[int, dict[str, Any]]]
"""What is said, with its status, to a path, a body and headers by their names in small letters."""


@contextmanager
def json_server(say: Say) -> Generator[str]:
    """Its address, without a path."""

    def respond(_: str, target: str, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        status, reply = say(target, json.loads(body), headers)
        return httpx.Response(status, json=reply)

    with serving(respond) as address:
        yield address
