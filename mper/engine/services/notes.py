"""What a list leaves out because it cannot be read: a line for each, so that one damaged item hides no other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from mper.engine.errors import RequestError
from mper.utils.coded import Coded

_MOST = 20  # lines that are kept


class Notes:
    """Lines on what was skipped.

    Parameters
    ----------
    explain : callable
        Puts an error into one line.
    """

    def __init__(self, explain: Callable[[BaseException], str]):
        self._explain = explain
        self._lines: list[str] = []
        self._more = 0

    @contextlib.contextmanager
    def skipping(self, what: str) -> Iterator[None]:
        """A block that reads one item; where it cannot be read the block ends, and a line says so."""
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RequestError) as error:
            if len(self._lines) < _MOST:
                reason = self._explain(error)
                self._lines.append(Coded(f"{what} is skipped: {reason}", "skipped", what=what, reason=reason))
            else:
                self._more += 1

    @property
    def lines(self) -> list[str]:
        """The lines, oldest first; at last how many more there would be."""
        more = [Coded(f"{self._more} more are skipped", "more-skipped", n=self._more)] if self._more else []
        return [*self._lines, *more]
