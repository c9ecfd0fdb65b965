"""The clock of a run, by which its budget and every share of it are measured."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Clock = Callable[[], float]
"""Seconds since some moment."""


def awake_s() -> float:
    """Seconds since some moment, without those in which the machine slept: a laptop that is closed trains nothing.

    The clocks of Linux and macOS stop in sleep by themselves, that of Windows goes on.
    """
    if sys.platform == "win32":
        ticks = ctypes.c_ulonglong()  # of 100 ns
        ctypes.WinDLL("kernel32").QueryUnbiasedInterruptTime(ctypes.byref(ticks))
        return ticks.value / 1e7
    return time.monotonic()


class RunClock:
    """Seconds that a run has worked; pauses, and the sleep of the machine, do not count.

    Parameters
    ----------
    processor_time : bool
        Whether processor time of this process counts, of all threads together, instead of the time that passes.
    """

    def __init__(self, processor_time: bool = False):
        self._now: Clock = time.process_time if processor_time else awake_s
        self._uncounted_s = 0.0

    def __call__(self) -> float:
        return self._now() - self._uncounted_s

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What passes within this context does not count after it."""
        begin = self()
        try:
            yield
        finally:
            self._uncounted_s += self() - begin
