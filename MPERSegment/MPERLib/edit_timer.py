"""The time that a user spends on editing."""

from __future__ import annotations

import time

_PAUSE_S = 60.0  # longer without a change counts as a break


class EditTimer:
    """Adds up the time between changes, each at most a minute.

    Attributes
    ----------
    seconds : float
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from zero, from now on."""
        self.seconds = 0.0
        self.resume()

    def resume(self) -> None:
        """The user turns to the work: the time until now was not spent on it."""
        self._last = time.monotonic()

    def changed(self) -> float:
        """The user has changed something; returns the seconds that this adds."""
        now = time.monotonic()
        spent = min(now - self._last, _PAUSE_S)
        self._last = now
        self.seconds += spent
        return spent
