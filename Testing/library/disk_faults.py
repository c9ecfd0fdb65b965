"""A disk that is full, or a program that is killed, at any step of what it writes.

A step is a file or folder that is made, renamed or brought to the disk. Both faults are made in the process of the
test: at the n-th step an error is raised, and at every later one. That of a full disk is an `OSError` for steps that
need room. That of a killed program is raised for everything that changes the disk, clean-up included: what a program
does after it was killed has no effect.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mper.utils.files import this_host


class Killed(BaseException):
    """The program ends here."""


class Faults:
    """Counts the steps, and raises at one of them; see the module."""

    def __init__(self, at: int = sys.maxsize, kill: bool = False) -> None:
        self.at, self.kill, self.steps = at, kill, 0

    def step(self) -> None:
        self.steps += 1
        if self.steps > self.at:
            if self.kill:
                raise Killed
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def undo(self) -> None:
        """A step that takes no room, and that only a killed program does not do."""
        if self.kill and self.steps > self.at:
            raise Killed


@contextlib.contextmanager
def faults(at: int = sys.maxsize, kill: bool = False) -> Iterator[Faults]:
    """In this block the disk is full, or the program is killed, after so many steps."""
    import h5py
    import safetensors.torch

    now = Faults(at, kill)

    def before(call: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            call()
            return function(*arguments, **named)

        return wrapped

    opened, made = io.open, h5py.File

    def open_file(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        if set(mode) & set("wax+"):
            now.step()
        return opened(file, mode, *more, **named)

    def open_h5(name: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        if mode != "r" and named.get("driver") != "core":
            now.step()
        return made(name, mode, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", open_file)
        patch.setattr(h5py, "File", open_h5)
        for module, name in ((os, "mkdir"), (os, "fsync"), (os, "link"), (shutil, "copyfile")):
            patch.setattr(module, name, before(now.step, getattr(module, name)))
        patch.setattr(safetensors.torch, "save_file", before(now.step, safetensors.torch.save_file))
        for name in ("replace", "rename", "unlink", "rmdir"):
            patch.setattr(os, name, before(now.undo if not kill else now.step, getattr(os, name)))
        patch.setattr(shutil, "rmtree", before(now.undo, shutil.rmtree))
        yield now


@functools.cache
def _ended_process() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def make_dead(folder: Path) -> None:
    """What is half-written below a folder is from now on that of a process that ended some minutes ago."""
    for path in sorted(folder.rglob(".*.part"), key=lambda path: -len(path.parts)):
        if not path.name.startswith(f".{this_host()}-"):
            continue
        random = path.name.rsplit("-", 1)[-1]
        dead = path.with_name(f".{this_host()}-{_ended_process()}-{random}")
        path.rename(dead)
        os.utime(dead, (dead.stat().st_mtime - 300,) * 2)


def half_written(folder: Path) -> list[Path]:
    """What listings leave out: unfinished files and folders."""
    return sorted(folder.rglob(".*.part"))
