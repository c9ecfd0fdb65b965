"""Imports go one way, from the top of the house to the ground, and light commands stay light.

The floors, each of which may use those below it:

0. what everything speaks in: standard library and numpy
1. files, DICOM, datasets, figures of masks: SimpleITK, h5py, highdicom, scipy, scikit-image
2. networks, training, prediction: torch; runs on a GPU machine that lacks SimpleITK and highdicom
3. command line and engine: everything below
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mper

PACKAGE = Path(mper.__file__).parent
ROOT = ("progress", "phases", "provenance", "volume", "labels", "roi", "strokes", "resources")

# From the ground up: a package or module, and its floor. Each imports from itself and from those before it.
ORDER = {
    "utils.coded": 0,  # what errors of all others are made of
    **dict.fromkeys(ROOT, 0),
    "utils": 0,
    "utils.cleanup": 1,  # psutil
    "utils.errors": 1,  # platformdirs
    "utils.plots": 1,  # matplotlib
    "utils.devices": 2,  # torch, psutil
    "utils.processes": 2,  # torch, psutil
    "measurement": 1,
    "dicom": 1,
    "io": 1,
    "dataloading": 2,
    "nets": 2,
    "models.card": 0,
    "models": 2,
    "datasets": 1,
    "methods": 2,
    "inference": 2,
    "refinement": 2,
    "evaluation.metrics": 1,
    "evaluation": 2,
    "training.runs": 1,
    "training.curves": 1,
    "training.publish": 1,
    "training.run_table": 1,
    "training.tensorboard": 1,
    "training": 2,
    "visualization": 2,
    "cohort": 2,
    "cluster": 2,
    "benchmark": 2,
    "engine.settings": 3,
    "engine.errors": 3,
    "engine.schemas": 3,
    "engine.tokens": 3,
    "engine.throttle": 3,
    "engine.connections": 3,
    "engine.access": 3,
    "engine.services": 3,
    "engine.arrays": 3,
    "engine.routes": 3,
    "engine": 3,
    "cli": 3,
    "api": 3,
    "__init__": 3,
    "__main__": 3,
}

SLICER = {"PythonQt", "ctk", "qt", "slicer", "vtk"}
UNPICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
PICKLING_CALLS = {"torch.load", "torch.save", "fabric.load", "fabric.save"}
MISSING_ON_GPU_MACHINES = ("SimpleITK", "highdicom", "pydicom", "fastapi", "monai")

FILES = sorted(PACKAGE.rglob("*.py"))


def place_of(module: str) -> str | None:
    """The entry of ORDER that a dotted name below mper belongs to; None for names of the package itself."""
    parts = module.split(".")
    return next((name for name in (".".join(parts[:n]) for n in (2, 1)) if name in ORDER), None)


def module_of(file: Path) -> str:
    """The dotted name of a file below mper."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(file: Path) -> Iterator[str]:
    """Full dotted names that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", timeout=120)


def test_every_module_has_a_place() -> None:
    unnamed = sorted(module_of(file) for file in FILES if place_of(module_of(file)) is None)
    assert not unnamed, f"say in ORDER (and in the design) where these belong: {unnamed}"
    assert all(
        (PACKAGE / name.replace(".", "/")).is_dir() or (PACKAGE / f"{name.replace('.', '/')}.py").is_file()
        for name in ORDER
    )


def test_root_holds_only_what_all_use() -> None:
    assert {file.stem for file in PACKAGE.glob("*.py")} == {*ROOT, "api", "__init__", "__main__"}


@pytest.mark.parametrize("package", sorted({file.parent for file in FILES} - {PACKAGE}), ids=lambda p: p.name)
def test_package_says_what_lives_there_and_what_it_imports(package: Path) -> None:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len(text.splitlines()) >= 3 and "Imports: " in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_module_imports_only_from_its_floor_and_below(file: Path) -> None:
    place = place_of(module_of(file)) or "__main__"  # what has no place fails above, once
    floor, order = ORDER[place], list(ORDER)
    for name in imports_of(file):
        top, _, rest = name.partition(".")
        imported = place_of(rest) if top == "mper" and rest else None
        if imported is not None:
            assert order.index(imported) <= order.index(place), f"{place} imports {name}, which stands above it"
            assert ORDER[imported] <= floor, f"floor {floor} imports {name} of floor {ORDER[imported]}"
        if floor < 2:
            assert top not in ("torch", "lightning_fabric"), f"floor {floor} imports {name}"
        if floor == 0:
            assert top in {*sys.stdlib_module_names, "numpy", "mper"}, f"floor 0 imports {name}"
        assert top not in SLICER, f"the library imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_nothing_is_unpickled(file: Path) -> None:
    imports = set(imports_of(file))
    assert not {name.partition(".")[0] for name in imports} & UNPICKLERS
    assert not imports & PICKLING_CALLS
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in PICKLING_CALLS
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


HEAVY = "heavy = {'torch', 'lightning_fabric'} & set(sys.modules); sys.exit(f'imported {heavy}' if heavy else 0)"


def test_package_imports_no_torch() -> None:
    done = run_python(f"import sys, mper\n{HEAVY}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["segment", "--help"]], ids=" ".join)
def test_help_and_listing_import_no_torch(arguments: list[str]) -> None:
    done = run_python(
        f"""
import sys
from mper.cli import main
try:
    status = main({arguments!r})
except SystemExit as stop:
    status = stop.code
if status:
    sys.exit(f"ended with {{status}}")
{HEAVY}
"""
    )
    assert done.returncode == 0, done.stderr


def test_training_and_prediction_import_without_what_a_gpu_machine_lacks() -> None:
    modules = sorted(f"mper.{module_of(file)}" for file in FILES if ORDER[place_of(module_of(file)) or "__main__"] == 2)
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in MISSING_ON_GPU_MACHINES)
    done = run_python(f"import sys, importlib\n{block}for name in {modules!r}:\n    importlib.import_module(name)")
    assert done.returncode == 0, done.stderr
