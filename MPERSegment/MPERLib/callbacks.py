"""How long our callbacks hold Slicer's window.

Whatever Qt or VTK calls of ours goes through `slot`, so that what took too long is found in any session, not only in
a test. The last few thousand are kept; Diagnostics shows the slowest.
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

TOO_LONG_S = 0.1


@dataclass(frozen=True)
class Record:
    """One call: what it was, when it began (time.perf_counter) and how long it took."""

    name: str
    began_s: float
    seconds: float


_records: deque[Record] = deque(maxlen=5000)
_asked_s = 0.0  # spent in dialogs so far: there the window waits for the user, not the user for it


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Record how long the block takes."""
    began, asked_s = time.perf_counter(), _asked_s
    try:
        yield
    finally:
        _records.append(Record(name, began, time.perf_counter() - began - (_asked_s - asked_s)))


@contextmanager
def dialog() -> Iterator[None]:
    """The block waits for the user's answer in a dialog, which holds nothing."""
    global _asked_s
    began, asked_s = time.perf_counter(), _asked_s
    try:
        yield
    finally:
        _asked_s = asked_s + time.perf_counter() - began  # a dialog within it counts once


def slot(function: Callable[..., Any], name: str | None = None) -> Callable[..., None]:
    """`function` for Qt or VTK to call: timed, and with its errors in the log, as nobody is there to catch them.

    As with Qt's own slots, arguments that `function` does not take are left out.
    """
    name = name or getattr(function, "__qualname__", repr(function))
    takes = _positional(function)

    def called(*arguments: Any) -> None:
        with timed(name):
            try:
                function(*arguments[:takes])
            except Exception:
                logging.exception("MPER: %s failed", name)

    return called


def _positional(function: Callable[..., Any]) -> int | None:
    """How many arguments by position `function` takes, None without a limit."""
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


def records() -> list[Record]:
    """What was recorded, oldest first."""
    return list(_records)


def clear() -> None:
    """Forget what was recorded."""
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
