"""Where the module panel is scrolled to."""

from __future__ import annotations

from typing import Any

import qt


def reveal(widget: Any) -> None:
    """Scroll the module panel to a widget."""
    area = widget.parent()
    while area is not None and not isinstance(area, qt.QScrollArea):
        area = area.parent()
    if area is not None:
        area.ensureWidgetVisible(widget)
