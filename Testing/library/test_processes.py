"""Work in the background: a process of its own, at low priority."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mper.utils import processes
from mper.utils.processes import start_detached, watch_parent


def test_detached_process_prints_to_its_log_and_knows_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPER_TOKEN", "secret" * 4)
    log = tmp_path / "mit Umlaut ä.txt"
    log.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("MPER_ERROR_CODES", "1")
    process = start_detached(["segment", str(tmp_path / "none.nrrd"), str(tmp_path / "mask.nrrd")], log)
    assert process.wait(60) == 1 and process.stdin is None
    lines = log.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "before" and lines[1].startswith("mper: error: ") and len(lines) == 2
    assert os.environ["MPER_TOKEN"] == "secret" * 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has priority classes instead")
def test_detached_process_leads_a_session_of_its_own(tmp_path: Path) -> None:
    process = start_detached(["serve", "--port", "0"], tmp_path / "log")
    try:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
    finally:
        process.kill()
        process.wait()


def test_standing_back_lowers_the_priority_once(tmp_path: Path) -> None:
    code = "from mper.utils.processes import lower_priority; lower_priority(); lower_priority()\n"
    code += "import os, sys\nif sys.platform != 'win32': print(os.nice(0))\nelse: print('below normal')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() in ("below normal", str(max(10, os.nice(0) if hasattr(os, "nice") else 0)))


def test_one_core_is_left_where_there_are_more_than_two() -> None:
    code = (
        "import torch\nfrom mper.utils.processes import reserve_one_core\n"
        "for n in (1, 2, 3, 8):\n    torch.set_num_threads(n); reserve_one_core(); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["1", "2", "2", "7"]


@pytest.mark.skipif(sys.platform == "win32", reason="puts another system in its place")
def test_on_windows_the_parent_is_watched_without_a_read_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl
    import select
    import termios

    inner, outer = os.pipe()
    looked, gone = threading.Event(), threading.Event()

    def peek(handle: ctypes.c_void_p, _room: None, _size: int, _read: None, waiting: Any, _left: None) -> int:
        assert handle.value is not None
        there = ctypes.c_int()
        fcntl.ioctl(handle.value - 1000, termios.FIONREAD, there)
        waiting._obj.value = there.value
        looked.set()
        return there.value or not select.select([handle.value - 1000], [], [], 0)[0]

    def read(descriptor: int, most: int) -> bytes:
        assert descriptor != inner or select.select([inner], [], [], 0)[0], "it would wait"
        return system_read(descriptor, most)

    system_read = os.read
    monkeypatch.setattr(os, "read", read)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(processes, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(ctypes, "WinDLL", {"kernel32": SimpleNamespace(PeekNamedPipe=peek)}.get, raising=False)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(get_osfhandle=lambda descriptor: descriptor + 1000))  # type: ignore[arg-type]
    with os.fdopen(inner) as stream:
        watch_parent(stream, gone.set)
        assert looked.wait(10) and not gone.wait(0.1)
        os.write(outer, b"what the parent says means nothing")
        assert not gone.wait(0.1)
        os.close(outer)
        assert gone.wait(10)
