"""Bounds on what people without a token can cause: late answers to wrong tokens, and few lines in the log."""

from __future__ import annotations

import asyncio
import logging
import time

from mper.engine.errors import TooManyFailures

_FIRST_S, _SLOWEST_S = 0.25, 8.0  # until a wrong token is answered
_FORGIVEN_S = 600.0
_PENDING = 8  # wrong tokens of one address that are being answered at a time
_MOST_ADDRESSES = 1000
_LINES, _PER_S = 60, 60.0


class FailureThrottle:
    """Wrong tokens by address: each is answered twice as late as the one before, and few at a time."""

    def __init__(self) -> None:
        self._count: dict[str, tuple[int, float]] = {}  # latest failure last
        self._pending: dict[str, int] = {}

    async def wait(self, address: str) -> None:
        """Wait before a failure is answered.

        Raises
        ------
        TooManyFailures
            If so many of this address wait already.
        """
        if self._pending.get(address, 0) >= _PENDING:
            raise TooManyFailures("too many wrong tokens from this address; wait a little")
        count = self._counted(address)
        self._pending[address] = self._pending.get(address, 0) + 1
        try:
            await asyncio.sleep(min(_SLOWEST_S, _FIRST_S * 2 ** min(count - 1, 10)))
        finally:
            self._pending[address] -= 1
            if not self._pending[address]:
                del self._pending[address]

    def _counted(self, address: str) -> int:
        """How many failures of an address there were, this one included."""
        now = time.monotonic()
        count, before = self._count.pop(address, (0, now))
        count = 1 if now - before > _FORGIVEN_S else count + 1
        self._count[address] = (count, now)
        if len(self._count) > _MOST_ADDRESSES:
            del self._count[next(iter(self._count))]
        return count


class LogBudget:
    """Writes at most 60 lines a minute to a log; the first line after a pause says how many were left out."""

    def __init__(self, log: logging.Logger):
        self._log = log
        self._began = -_PER_S
        self._lines = 0

    def log(self, level: int, message: str, *arguments: object) -> None:
        """Write a line, if there is room for one."""
        if not self._log.isEnabledFor(level):
            return
        now = time.monotonic()
        if now - self._began >= _PER_S:
            if self._lines > _LINES:
                self._log.warning("%d lines were left out", self._lines - _LINES)
            self._began, self._lines = now, 0
        self._lines += 1
        if self._lines <= _LINES:
            self._log.log(level, message, *arguments)

    def warning(self, message: str, *arguments: object) -> None:
        """Write a warning, if there is room for one."""
        self.log(logging.WARNING, message, *arguments)
