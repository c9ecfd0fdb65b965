"""Processes: background priority, processor cores, and those that end with, or outlive, the one that starts them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import mper

_NICE = 10
_LOOK_EVERY_S = 0.5


def lower_priority() -> None:
    """Run this process below normal priority; what cannot be changed stays as it is."""
    import psutil

    process = psutil.Process()
    with contextlib.suppress(psutil.Error):
        process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else max(_NICE, process.nice()))


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reserve_one_core() -> None:
    """Leave one core to other programs: torch uses all but one, where there are more than two."""
    import torch

    if torch.get_num_threads() > 2:
        torch.set_num_threads(torch.get_num_threads() - 1)


def watch_parent(stream: TextIO | None, gone: Callable[[], object]) -> None:
    """Call `gone`, in a thread, when a stream that the parent holds open ends, which works on every system."""

    def wait() -> None:
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                _read_to_end(stream.fileno())
        gone()

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _read_to_end(descriptor: int) -> None:
    """Read a pipe until its other end closes; on Windows without a read that waits.

    There such a read holds the pipe, and all that asks for the state of standard input waits with it: the OpenBLAS of
    scipy does when it is loaded.
    """
    if sys.platform == "win32":
        import ctypes
        import msvcrt

        peek = ctypes.WinDLL("kernel32").PeekNamedPipe
        handle, waiting = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor)), ctypes.c_ulong()
        while peek(handle, None, 0, None, ctypes.byref(waiting), None):
            if waiting.value:
                os.read(descriptor, waiting.value)
            time.sleep(_LOOK_EVERY_S)
    else:
        while os.read(descriptor, 4096):
            pass


def start_detached(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start ``mper WORDS`` with this interpreter as a process of its own.

    It belongs to no terminal, window or job of this process and stays when this one ends. What it prints is appended
    to `log`.
    """
    home = Path(mper.__file__).resolve().parents[1]
    left_out = ("MPER_TOKEN", "MPER_ERROR_CODES")  # people read the log, no program
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    paths = [str(home), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "mper", *words],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=home,  # whatever folder this process stands in must not be held by that one
            env=environment,
            creationflags=flags,
            start_new_session=True,  # does nothing on Windows
        )
