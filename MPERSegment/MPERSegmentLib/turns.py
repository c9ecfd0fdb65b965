"""Work cut into turns of the event loop, so that none of them holds the window."""

from __future__ import annotations

from collections.abc import Callable

import qt
from MPERLib.callbacks import slot


def later(function: Callable[[], None], name: str) -> None:
    """Call `function` at the next turn; `name` is what the trace of callbacks calls it."""
    qt.QTimer.singleShot(0, slot(function, name))
