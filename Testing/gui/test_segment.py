"""MPERSegment in a window: from the click to the mask, and what the panels then show."""

from __future__ import annotations

import slicer
from mper.resources import sample_scan

ENGINE_S = 60


def load(path=None):
    from mper.io import read_volume
    from MPERLib import mrml

    volume = read_volume(path or sample_scan())
    return mrml.show_scan(volume.array, volume.geometry.affine, "LGE-MRI", slicer.mrmlScene)


def test_a_click_makes_a_mask(desk):
    scan = load()
    widget = desk.open("MPERSegment")
    desk.wait_until(lambda: widget.room.ready, ENGINE_S, "the engine")
    assert widget.ui.segmentButton.text == "Segment LA"
    desk.click(widget.ui.segmentButton)
    node = desk.wait_until(lambda: widget.result.node, 60, "the mask")
    desk.screenshot("segment")
