"""A window with a module's panel beside slice views, under the host of Slicer's API; see README.md."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALL = (
    "pip install -e '.[test]'; on Debian and Ubuntu also: "
    "apt-get install libegl1 libgl1 libxkbcommon0 libfontconfig1 libdbus-1-3 libgssapi-krb5-2 fonts-dejavu-core"
)

try:
    import host

    HOST: Any = host.start()
    MISSING = ""
except ImportError as error:
    HOST, MISSING = None, f"{error}; {INSTALL}"
    if os.environ.get("CI") == "true":
        raise ImportError(MISSING) from error


class _Skipped(pytest.Module):
    def collect(self) -> Any:
        pytest.skip(MISSING, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    """Without Qt or Slicer's library the tests here cannot even be imported."""
    return _Skipped.from_parent(parent, path=module_path) if MISSING else None


if type(HOST).__name__ == "Slicer":
    collect_ignore = ["test_host.py"]  # the host's own tests; what it promises of Slicer is in test_pythonqt.py

if HOST is not None:
    import slicer
    from slicer_window import SlicerWindow, children, leftovers

    for module in ("MPERSegment", "MPERTrainer"):  # as Slicer has both folders on its module paths
        sys.path.insert(0, str(REPOSITORY / module))


PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


def pytest_configure(config: pytest.Config) -> None:
    """What PySide6 thinks of a call is not for the modules, which speak to PythonQt."""
    for text in ("Function. .*deprecated", "'exec_' will be removed"):
        config.addinivalue_line("filterwarnings", f"ignore:{text}:DeprecationWarning:host")


@pytest.fixture(scope="session")
def running_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An engine that does not end with a test, for all those that are not about its start and its end."""
    from MPERLib.engine import Engine

    with pytest.MonkeyPatch.context() as patch:
        home = str(tmp_path_factory.mktemp("engine"))
        for name in ("XDG_DATA_HOME", "LOCALAPPDATA", "TMPDIR", "TEMP", "TMP"):
            patch.setenv(name, home)
        patch.setenv("MPER_PYTHON", os.environ.get("MPER_PYTHON") or sys.executable)
        engine = Engine.local([])
        engine.start()
        end = time.monotonic() + 120
        while engine.state == "starting" and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.01)
    assert engine.state == "ready", engine.reason
    yield engine
    engine.stop(wait_s=10)


@pytest.fixture
def shared_engine(running_engine: Any, window: SlicerWindow, tmp_path: Path) -> Iterator[Any]:
    """The modules of the test use the engine that tests share; it finds none of the datasets of tests before."""
    window.keep(running_engine)
    yield running_engine
    for file in [*tmp_path.rglob("dataset.json")]:
        shutil.rmtree(file.parent, ignore_errors=True)


@pytest.fixture
def window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[SlicerWindow]:
    """Slicer with an empty scene: open modules, click, wait, take pictures. Fails on any exception in a callback, and
    on processes, temporary files, connections or panels that outlive the test.
    """
    home = tmp_path / "user"
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("MPER_PYTHON", os.environ.get("MPER_PYTHON") or sys.executable)
    temporary = tmp_path / "temporary"  # its own, or tests that run at the same time leave files in it too
    temporary.mkdir()
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name in ("MPERTrainerLib.runs_panel._POLL_MS", "MPERTrainerLib.training_panel._REST_MS"):
        monkeypatch.setattr(name, 100)  # less waiting
    processes, files = children(), leftovers()
    HOST.forget_settings()
    made = SlicerWindow(HOST, tmp_path)
    yield made
    made.close()
    try:
        assert not made.errors(), "exceptions left callbacks: " + "; ".join(map(repr, made.errors()))
        if request.node.stash.get(PASSED, False):  # the traceback of a failure keeps everything alive
            assert not made.survivors(), f"still alive after they were closed: {made.survivors()}"
        made.wait_until(lambda: children() <= processes, 10, "processes of this test to end")
        assert leftovers() <= files, f"temporary files were left: {leftovers() - files}"
    finally:
        shutil.rmtree(home, ignore_errors=True)
