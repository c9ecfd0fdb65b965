"""What Slicer's extension is built from: CMake lists every file, so that what works from a clone works packaged."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = ("MPERSegment", "MPERTrainer")
LEFT_OUT = {".DS_Store", "CMakeLists.txt"}


def listed(folder: Path, variable: str) -> list[str]:
    """The files that a CMake variable of a folder names."""
    text = (folder / "CMakeLists.txt").read_text(encoding="utf-8")
    block = re.search(rf"set\({variable}\n(.*?)\n  \)", text, re.DOTALL)
    assert block, f"{folder.name}/CMakeLists.txt has no list {variable}"
    return [line.strip().replace("${MODULE_NAME}", folder.name) for line in block[1].splitlines()]


def present(folder: Path, *patterns: str) -> set[str]:
    """The files of the tree, without what git leaves out."""
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    if (REPOSITORY / ".git").exists():
        words = [str(file.relative_to(REPOSITORY)) for file in found]
        done = subprocess.run(
            ["git", "check-ignore", "--stdin"], cwd=REPOSITORY, input="\n".join(words), capture_output=True, text=True
        )
        found -= {REPOSITORY / line for line in done.stdout.splitlines()}
    names = {file.relative_to(folder).as_posix() for file in found}
    return {name for name in names if "__pycache__" not in name and Path(name).name not in LEFT_OUT}


@pytest.mark.parametrize(
    ("folder", "variable", "patterns"),
    [
        ("", "LIBRARY_SCRIPTS", ("mper/**/*.py",)),
        (
            "",
            "LIBRARY_RESOURCES",
            ("DATA_LICENSES.md", *(f"Resources/{n}/**/*" for n in ("Models", "SampleData", "Terminology"))),
        ),
        *((module, "MODULE_PYTHON_SCRIPTS", ("**/*.py",)) for module in MODULES),
        *((module, "MODULE_PYTHON_RESOURCES", ("Resources/**/*",)) for module in MODULES),
    ],
)
def test_cmake_lists_every_file_once_in_order(folder: str, variable: str, patterns: tuple[str, ...]) -> None:
    names = listed(REPOSITORY / folder, variable)
    tree = present(REPOSITORY / folder, *patterns)
    assert not tree - set(names), f"add to {variable} in {folder or '.'}/CMakeLists.txt: {sorted(tree - set(names))}"
    assert not set(names) - tree, f"not there, though {variable} names them: {sorted(set(names) - tree)}"
    assert len(names) == len(set(names))


def test_extension_is_described_alike_wherever_it_is() -> None:
    entry = json.loads((REPOSITORY / "MPER.json").read_text(encoding="utf-8"))
    text = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"project\((\w+)\)", text)[1] == "MPER"  # type: ignore[index]
    assert entry["$schema"].endswith("catalog-entry-schema-v1.0.2.json#")
    assert {"segmentation", "cardiac"} <= {*re.search(r'EXTENSION_KEYWORDS "([^"]+)"', text)[1].split()}  # type: ignore[index]
    url = entry["scm_url"].removesuffix(".git")
    assert f'EXTENSION_HOMEPAGE "{url}' in text
    raw = url.replace("https://github.com", "https://raw.githubusercontent.com") + f"/{entry['scm_revision']}/"
    for variable in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"):
        for address in re.search(rf'{variable} "([^"]+)"', text)[1].split():  # type: ignore[index]
            assert address.startswith(raw)
            assert (REPOSITORY / address.removeprefix(raw)).is_file(), f"{variable}: there is no {address}"
    assert re.search(r'EXTENSION_DEPENDS "([^"]+)"', text)[1].split() == entry["build_dependencies"]  # type: ignore[index]


def test_icons_are_large_enough() -> None:
    image = pytest.importorskip("PIL.Image")
    for path in ("MPER.png", *(f"{m}/Resources/Icons/{m}.png" for m in MODULES)):
        with image.open(REPOSITORY / path) as icon:
            assert icon.width == icon.height >= 128


def test_sample_data_knows_the_scan_that_comes_with_it() -> None:
    text = (REPOSITORY / "MPERSegment" / "MPERLib" / "startup.py").read_text(encoding="utf-8")
    scan = (REPOSITORY / "Resources" / "SampleData" / "la.nrrd").read_bytes()
    assert f'SHA256 = "{hashlib.sha256(scan).hexdigest()}"' in text


def test_engine_is_installed_with_what_the_library_needs() -> None:
    """The same lower bounds as in pyproject.toml, and besides what lightning-fabric needs but torch."""
    requirement = pytest.importorskip("packaging.requirements").Requirement

    def lower(wanted: Any) -> set[str]:
        return {str(part) for part in wanted.specifier if part.operator == ">="}

    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    block = text.partition("\ndependencies = [")[2].partition("\n]")[0]
    library = {
        r.name.casefold(): r for r in (requirement(line.split('"')[1]) for line in block.splitlines() if '"' in line)
    }
    code = (REPOSITORY / "MPERSegment" / "MPERLib" / "install.py").read_text(encoding="utf-8")
    lines = (
        (REPOSITORY / "MPERSegment" / "Resources" / "engine-requirements.txt").read_text(encoding="utf-8").splitlines()
    )
    lines = [
        *filter(None, (line.partition("#")[0].strip() for line in lines)),
        *re.findall(r'= "((?:torch|lightning)[^"]+)"', code),
    ]
    ours = {r.name.casefold(): r for r in map(requirement, lines)}
    for name, wanted in library.items():
        assert lower(ours[name]) == lower(wanted), f"{wanted} is another where the engine is installed"
    assert str(ours["torch"].specifier) == str(library["torch"].specifier)
    needs = [requirement(line) for line in importlib.metadata.requires("lightning-fabric") or []]
    needed = {need.name.casefold() for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})}
    assert needed <= set(ours), "add to engine-requirements.txt what lightning-fabric needs"
    assert set(ours) - set(library) <= needed, "nobody needs these"


def imports_of(module: str) -> Iterator[tuple[Path, str]]:
    """Each file of a module with each full dotted name that it imports, wherever in the file it does."""
    for file in (REPOSITORY / module).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from ((file, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_nothing_that_slicer_may_lack(module: str) -> None:
    """Slicer's own process never imports torch and its like; what they are needed for runs in the engine."""
    lacking = {"torch", "h5py", "highdicom", "SimpleITK", "scipy", "skimage"}
    lacking |= {"safetensors", "lightning_fabric", "fastapi"}
    found = list(imports_of(module))
    assert any(name.startswith("slicer") for _, name in found)
    assert not [(file.name, name) for file, name in found if name.partition(".")[0] in lacking]


@pytest.mark.parametrize("module", MODULES)
def test_modules_use_only_the_lowest_level_of_the_library(module: str) -> None:
    allowed = {"volume", "labels", "progress", "provenance", "resources", "strokes"}
    used = [(file.name, name.split(".")[1]) for file, name in imports_of(module) if name.startswith("mper.")]
    assert used and not [each for each in used if each[1] not in allowed]
