"""Python imports this before anything else in each process whose PYTHONPATH has this folder: it watches them."""

import os
import sys
from pathlib import Path

_ROLES = {
    "dagster_batch_llm.resources.local": "server",
    "execute_run": "run",
    "execute_step": "run",
    "grpc": "tick",
}

_role = next((role for word, role in _ROLES.items() if word in sys.orig_argv), None)
if _role is not None:
    from tests.kills.places import watch

    watch(_role, Path(os.environ["KILLS_FOLDER"]))
