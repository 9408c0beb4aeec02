"""A batch server on this machine: OpenAI's files and batches, no key, no network.

It answers with the nearest label by all-MiniLM-L6-v2, with the first sentence, with sentence vectors, or by
forwarding to an OpenAI-compatible server of the user's own. It needs the extra ``local``.
"""

from __future__ import annotations

from .process import LocalServer, emulates, ensure_server, script_faults, stop_server
from .weights import find_weights

__all__ = ["LocalServer", "emulates", "ensure_server", "find_weights", "script_faults", "stop_server"]
