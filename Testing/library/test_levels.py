"""Imports go one way, L0 <- L1 <- L2 <- L3, and light commands stay light.

The levels:

0. what everything speaks in: standard library and numpy
1. files, datasets, figures: L0, SimpleITK, h5py, highdicom, scipy, scikit-image
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
LEVELS = {
    0: """
        __init__ card labels locking progress provenance resources roi strokes volume
        """,
    1: """
        case curves dataset dicom importers io layouts measures metrics publish records runs shards
        """,
    2: """
        augment background benchmark bundle checkpoint coarse comparison devices edges effort evaluate explain fields
        holdout_curve inference locate masks methods nets picture planning prediction predictor preprocess ranking
        references refine remarks response sampling stroke_changes thumbnail train_config trainer training_data
        training_parts
        """,
    3: """
        __main__ cli demo doctor engine
        """,
}
LEVEL_OF = {name: level for level, names in LEVELS.items() for name in names.split()}

SLICER = {"PythonQt", "ctk", "qt", "slicer", "vtk"}
UNPICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
PICKLING_CALLS = {"torch.load", "torch.save", "fabric.load", "fabric.save"}
MISSING_ON_GPU_MACHINES = ("SimpleITK", "highdicom", "pydicom", "fastapi", "monai")

FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(file: Path) -> str:
    """The module or sub-package of mper that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


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


def test_every_module_has_a_level() -> None:
    unnamed = {part_of(file) for file in FILES} - set(LEVEL_OF)
    assert not unnamed, f"say in LEVELS (and in the design) where these belong: {sorted(unnamed)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_module_imports_only_from_its_level_and_below(file: Path) -> None:
    level = LEVEL_OF.get(part_of(file), 3)  # what has no level fails above, once
    for name in imports_of(file):
        top, _, rest = name.partition(".")
        if top == "mper" and rest:
            imported = LEVEL_OF.get(rest.split(".")[0], 0)  # what is no module is a name of mper itself
            assert imported <= level, f"level {level} imports {name} of level {imported}"
        if level < 2:
            assert top not in ("torch", "lightning_fabric"), f"level {level} imports {name}"
        if level == 0:
            assert top in {*sys.stdlib_module_names, "numpy", "mper"}, f"level 0 imports {name}"
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
    modules = sorted(
        ".".join(("mper", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for file in FILES
        if LEVEL_OF.get(part_of(file)) == 2
    )
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in MISSING_ON_GPU_MACHINES)
    done = run_python(f"import sys, importlib\n{block}for name in {modules!r}:\n    importlib.import_module(name)")
    assert done.returncode == 0, done.stderr
