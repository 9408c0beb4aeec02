"""The package as it is built and installed, and the shape of the source that it is built from."""

from __future__ import annotations

import ast
import gc
import importlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("resources", "assets", "pipelines")
"""In the order in which they may import: each one only what stands before it."""
NAMESPACE = "dagster_batch_llm"
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

LONGEST_FILE, LONGEST_FUNCTION = 400, 60
GENERATED = ROOT / "resources" / "ledger" / "migrations" / "versions"
"""Alembic writes these; a table is as long as its columns."""

HTTPX = {
    "resources/providers/http_words.py",
    "resources/providers/http.py",
    "resources/local/upstream.py",
    "pipelines/demo/graphql.py",
}

INSTALLED = """
import importlib, json, sys
from importlib.metadata import entry_points
from pathlib import Path

rooms = [importlib.import_module(f"dagster_batch_llm.{room}") for room in ("resources", "assets", "pipelines")]
ledger = rooms[0].Ledger(Path(sys.argv[1]))  # it finds its migrations in the wheel
[command] = entry_points(group="console_scripts", name="dagster-batch-llm")
command.load()
[registry] = entry_points(group="dagster_dg_cli.registry_modules", name="dagster_batch_llm")
print(json.dumps({
    "files": [room.__file__ for room in rooms],
    "missing": [name for room in rooms for name in room.__all__ if not hasattr(room, name)],
    "ledger": ledger.id,
    "registry": registry.load().__name__,
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """A command's output; one that fails shows everything it said."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def builds_here() -> bool:
    """Whether this environment has the setuptools that pyproject.toml asks for; else `build` fetches it."""
    needed = re.search(r"setuptools>=(\d+)", " ".join(PYPROJECT["build-system"]["requires"]))
    try:
        return needed is not None and int(version("setuptools").split(".")[0]) >= int(needed[1])
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools writes beside what it builds, and what lay there would get in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", PYPROJECT["project"]["readme"], *PYPROJECT["project"]["license-files"]):
        shutil.copy(ROOT / name, source / name)
    alone = ["--no-isolation"] if builds_here() else []
    run(sys.executable, "-m", "build", "--wheel", *alone, "--outdir", folder, source, cwd=folder)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_rooms_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    sources = {f"{NAMESPACE}/{path.relative_to(ROOT).as_posix()}" for path in MODULES}
    assert packed == sources | {f"{NAMESPACE}/{room}/py.typed" for room in ROOMS}
    migrations = f"{NAMESPACE}/resources/ledger/migrations"
    assert {f"{migrations}/env.py", f"{migrations}/versions/v0001_first.py"} <= packed
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_an_installed_wheel_works_without_the_source(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "environment"
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    [packages] = {
        Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    }
    # The dependencies come from here; lines in a .pth don't bring along the .pth of the editable installation.
    (packages / "dependencies.pth").write_text("\n".join({sysconfig.get_path(p) for p in ("purelib", "platlib")}))
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)

    said = json.loads(run(python, "-P", "-c", INSTALLED, tmp_path / "home", cwd=tmp_path).splitlines()[-1])
    assert [Path(file).is_relative_to(packages) for file in said["files"]] == [True, True, True]
    assert said["missing"] == []
    assert said["ledger"] == (tmp_path / "home" / "answers" / "LEDGER").read_text()
    assert said["registry"] == f"{NAMESPACE}.pipelines"


def test_every_folder_with_code_is_listed_as_a_package() -> None:
    folders = {path.parent for path in MODULES}
    assert sorted(folder for folder in folders if not (folder / "__init__.py").exists()) == []
    dotted = sorted(f"{NAMESPACE}." + ".".join(folder.relative_to(ROOT).parts) for folder in folders)
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == dotted


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_offers_what_it_lists(room: str) -> None:
    module = importlib.import_module(f"{NAMESPACE}.{room}")
    assert len(set(module.__all__)) == len(module.__all__) > 0
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert (ROOT / room / "py.typed").exists()


@cache
def parsed(path: Path) -> ast.Module:
    """A file's syntax tree.

    CPython 3.11 loses count of its recursion if garbage is collected meanwhile, such as another test's half-run step.
    """
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


def imported(path: Path) -> Iterator[str]:
    """Absolute names of the modules that a file imports."""
    package = [NAMESPACE, *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room: str) -> None:
    allowed = {*ROOMS[: ROOMS.index(room) + 1]}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in MODULES
        if path.relative_to(ROOT).parts[0] == room
        for name in imported(path)
        if name.split(".")[0] == NAMESPACE and name.split(".")[1] not in allowed
    ]
    assert wrong == []


def test_no_room_is_imported_as_if_it_were_a_package_of_its_own() -> None:
    # `import resources` would work from the root of a clone, and only there.
    assert [(path.name, name) for path in MODULES for name in imported(path) if name.split(".")[0] in ROOMS] == []


def test_http_is_spoken_in_few_places() -> None:
    found = {
        path.relative_to(ROOT).as_posix() for path in MODULES for n in imported(path) if n.split(".")[0] == "httpx"
    }
    assert found <= HTTPX
    assert "resources/providers/http.py" in found


def test_no_file_and_no_function_is_long() -> None:
    long = [
        f"{path.relative_to(ROOT)} has {lines} lines"
        for path in MODULES
        if (lines := len(path.read_text().splitlines())) > LONGEST_FILE
    ]
    for path in MODULES:
        if path.parent == GENERATED:
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert long == []


def test_the_workspace_loads_the_demo_location() -> None:
    [named] = re.findall(r"python_module: (\S+)", (ROOT / "workspace.yaml").read_text())
    assert named == f"{NAMESPACE}.pipelines.definitions"
    assert PYPROJECT["tool"]["dg"]["project"]["code_location_target_module"] == named
    definitions: dg.Definitions = importlib.import_module(named).defs
    dg.Definitions.validate_loadable(definitions)
    repository = definitions.get_repository_def()
    assert [sensor.name for sensor in repository.sensor_defs] == ["batch_llm_sensor"]


def test_a_documented_extra_brings_what_the_local_server_imports() -> None:
    brought = {re.split(r"[<>=\[]", name)[0] for name in PYPROJECT["project"]["optional-dependencies"]["local"]}
    always = {re.split(r"[<>=\[]", name)[0] for name in PYPROJECT["project"]["dependencies"]}
    third_party = {
        name.split(".")[0]
        for path in MODULES
        if path.is_relative_to(ROOT / "resources" / "local")
        for name in imported(path)
        if name.split(".")[0] not in {*sys.stdlib_module_names, NAMESPACE}
    }
    assert third_party <= brought | always
