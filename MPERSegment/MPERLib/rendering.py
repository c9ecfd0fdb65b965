"""Changes to the scene without a rendering after each of them.

A view that has waited for its rendering for longer than a frame renders within the next change of a node: in a callback
with ten changes that is up to ten renderings of all views.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import slicer


@contextmanager
def rendered_once() -> Iterator[None]:
    """Let the views render after the block, from the event loop, and not within it."""
    app = getattr(slicer, "app", None)  # none in a Slicer without windows
    if app is None:
        yield
        return
    app.pauseRender()
    try:
        yield
    finally:
        import qt  # of a Slicer with windows

        qt.QTimer.singleShot(0, app.resumeRender)
