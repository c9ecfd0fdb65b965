"""Questions that the user must agree to before something is lost, or cannot be undone."""

from __future__ import annotations

import slicer
from MPERLib import callbacks


def agreed(question: str, title: str) -> bool:
    """Whether the user agrees; in testing mode always.

    In testing mode Slicer's own question answers itself with True, which it then takes for "not OK".
    """
    with callbacks.dialog():
        return bool(slicer.app.testingEnabled() or slicer.util.confirmOkCancelDisplay(question, windowTitle=title))
