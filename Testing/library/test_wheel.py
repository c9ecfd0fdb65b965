"""The program works as people install it: from a wheel, away from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from mper import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = "Scripts" if os.name == "nt" else "bin"


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir")
    run(sys.executable, "-m", "pip", "wheel", *options, folder, REPOSITORY, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_the_resources_and_nothing_of_the_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.startswith(f"mper-{__version__}-")
    bundled = {
        file.relative_to(REPOSITORY / "Resources").as_posix()
        for name in ("Models", "SampleData", "Terminology")
        for file in (REPOSITORY / "Resources" / name).rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }
    assert {f"mper/_resources/{name}" for name in bundled} <= set(names)
    assert "mper/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"mper", f"mper-{__version__}.dist-info"}


@pytest.mark.slow
def test_demo_runs_from_an_installed_wheel_in_a_folder_with_blanks_and_umlauts(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "Köln Herz"
    home.mkdir()
    run(sys.executable, "-m", "venv", "--without-pip", "umgebung", cwd=home)
    python = home / "umgebung" / SCRIPTS / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    # What mper depends on comes from the environment of the tests; the repository itself must not come with it
    # (a folder named in a .pth file is searched, but its own .pth files, the editable install among them, are not).
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    options = ("--no-deps", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=home)

    imported = run(python, "-c", "import mper; print(mper.__file__)", cwd=home).strip()
    assert Path(imported).is_relative_to(home)
    run(home / "umgebung" / SCRIPTS / "mper", "demo", "--out", "Ergebnis der Probe", cwd=home)
    mask = home / "Ergebnis der Probe" / "mask.seg.nrrd"
    compare = (
        "import sys, pathlib; from mper.evaluation.sample import sample_dice; from mper.io import read_segmentation; "
        "print(sample_dice(read_segmentation(pathlib.Path(sys.argv[1]))))"
    )
    assert float(run(python, "-c", compare, mask, cwd=home)) > 0.8
