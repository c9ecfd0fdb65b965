"""What a list leaves out because it cannot be read: a line for each, so that one damaged item hides no other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

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
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if len(self._lines) < _MOST:
                self._lines.append(f"{what} is skipped: {self._explain(error)}")
            else:
                self._more += 1

    @property
    def lines(self) -> list[str]:
        """The lines, oldest first; at last how many more there would be."""
        return [*self._lines, f"{self._more} more are skipped"] if self._more else list(self._lines)
