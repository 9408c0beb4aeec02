"""Python imports this before anything else in each process whose PYTHONPATH has this folder: it watches the server."""

import os
import sys
from pathlib import Path

if "dagster_batch_llm.resources.local" in sys.orig_argv:
    from tests.kills.places import watch

    watch("server", Path(os.environ["KILLS_FOLDER"]))
