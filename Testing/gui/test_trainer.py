"""MPERTrainer in a window: from scans to a promoted version, and what happens when something goes away meanwhile."""

from __future__ import annotations

ENGINE_S = 60


def test_the_panel_opens(desk):
    widget = desk.open("MPERTrainer")
    desk.wait_until(lambda: widget.session.ready, ENGINE_S, "the engine")
    desk.screenshot("trainer-empty")
