"""The clock of a run, by which its budget and every share of it are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Clock = Callable[[], float]
"""Seconds since some moment."""


class RunClock:
    """Seconds that a run has worked; pauses do not count.

    Parameters
    ----------
    processor_time : bool
        Whether processor time of this process counts, of all threads together, instead of the time that passes.
    """

    def __init__(self, processor_time: bool = False):
        self._now: Clock = time.process_time if processor_time else time.monotonic
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
