"""Callbacks of Qt and VTK: how long each blocks Slicer's window, and what happens when one fails.

Every callback goes through `slot`, so that one that takes too long is found in any session, not only in a test. The
last few thousand are kept; Diagnostics shows the slowest.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import qt
from slicer.i18n import tr as _

TOO_LONG_S = 0.1


@dataclass(frozen=True)
class Record:
    """One call: what it was, when it began (time.perf_counter) and how long it took."""

    name: str
    began_s: float
    seconds: float


_records: deque[Record] = deque(maxlen=5000)
_dialogs_s = 0.0  # spent in dialogs so far, where the window waits for the user
_listeners: list[Callable[[str], None]] = []


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Record how long the block takes."""
    began, dialogs_s = time.perf_counter(), _dialogs_s
    try:
        yield
    finally:
        _records.append(Record(name, began, time.perf_counter() - began - (_dialogs_s - dialogs_s)))


@contextmanager
def dialog() -> Iterator[None]:
    """The block waits for the user's answer in a dialog: its time does not count as blocking the window."""
    global _dialogs_s
    began, dialogs_s = time.perf_counter(), _dialogs_s
    try:
        yield
    finally:
        _dialogs_s = dialogs_s + time.perf_counter() - began  # a dialog within it counts once


def slot(
    function: Callable[..., Any], name: str | None = None, failed: Callable[[str], None] | None = None
) -> Callable[..., None]:
    """`function` for Qt or VTK to call: timed, and with its exceptions in the log, as nothing catches them there.

    As with Qt's own slots, arguments that `function` does not take are left out. After an exception `failed` takes one
    line for the user, so that the work that waits for this callback ends; without `failed`, the line goes to all
    listeners of `onException`.
    """
    name = name or getattr(function, "__qualname__", repr(function))
    takes = _positional(function)

    def called(*arguments: Any) -> None:
        with timed(name):
            try:
                function(*arguments[:takes])
            except Exception as error:
                report_exception(name, error, failed)

    return called


def report_exception(name: str, error: Exception, failed: Callable[[str], None] | None = None) -> None:
    """Log an exception with its traceback, and show the user one line; see `slot`."""
    logging.exception("MPER: %s failed", name)
    line = _("an unexpected error occurred ({error}); the details are in Slicer's error log").format(
        error=f"{type(error).__name__}: {error}".splitlines()[0][:200]
    )
    if failed:
        failed(line)
    else:
        tell(line)


def tell(line: str) -> None:
    """Show one line to the user in all panels that asked by `onException`."""
    for listener in list(_listeners):
        listener(line)


def onException(listener: Callable[[str], None]) -> Callable[[], None]:
    """Call `listener` with one line after an exception in a callback; what is returned ends that."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener) if listener in _listeners else None


def later(function: Callable[[], None], name: str, failed: Callable[[str], None] | None = None) -> None:
    """Call `function` from the event loop next, so that the window is not blocked for the sum of all work."""
    after(0, function, name, failed)


def after(
    milliseconds: int, function: Callable[[], None], name: str, failed: Callable[[str], None] | None = None
) -> None:
    """Call `function` from the event loop once so many milliseconds have passed."""
    waiting = [slot(function, name, failed)]  # PythonQt keeps what singleShot calls for long: let that hold nothing
    qt.QTimer.singleShot(milliseconds, lambda: waiting.pop()())


def _positional(function: Callable[..., Any]) -> int | None:
    """How many arguments by position `function` takes, None without a limit."""
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


def records() -> list[Record]:
    """The recorded calls, oldest first."""
    return list(_records)


def clear() -> None:
    """Forget the recorded calls."""
    _records.clear()


def slowest(n: int = 5) -> list[Record]:
    """The `n` calls that took longest, the worst first."""
    return sorted(_records, key=lambda record: record.seconds, reverse=True)[:n]


def report() -> str:
    """The slowest callbacks as text, for Diagnostics."""
    if not _records:
        return "callbacks: none yet"
    late = sum(record.seconds > TOO_LONG_S for record in _records)
    lines = [f"callbacks: {len(_records)}, of which {late} over {1000 * TOO_LONG_S:.0f} ms; the slowest:"]
    lines += [f"  {1000 * record.seconds:7.1f} ms  {record.name}" for record in slowest()]
    return "\n".join(lines)
