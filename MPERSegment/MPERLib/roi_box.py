"""A box in the views, a markups ROI: how it looks, and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from MPERLib import mrml

_COLOUR = (0.35, 0.85, 0.95)
_THIN = 0.08  # relative to the control points, as Slicer measures lines
_POINTS = 1.0  # percent of the view

Node = Any


def move(roi: Node, box_mm: Sequence[float], scan: Node) -> None:
    """Put a box where it belongs on a scan.

    Parameters
    ----------
    roi : vtkMRMLMarkupsROINode
    box_mm : six numbers
        x0, x1, y0, y1, z0, z1 in LPS mm, in the scan's own frame.
    scan : vtkMRMLScalarVolumeNode
    """
    low, high = np.array(box_mm[::2], float), np.array(box_mm[1::2], float)
    middle = (low + high) / 2
    with mrml.modifying(roi):
        roi.SetAndObserveTransformNodeID(scan.GetTransformNodeID())
        roi.SetCenter(-middle[0], -middle[1], middle[2])
        roi.SetSize(*(high - low))


def style(roi: Node) -> None:
    """A thin outline without filling, with handles to drag it."""
    roi.CreateDefaultDisplayNodes()
    display = roi.GetDisplayNode()
    display.SetFillVisibility(False)
    display.SetOutlineVisibility(True)
    display.SetSelectedColor(*_COLOUR)
    display.SetColor(*_COLOUR)
    display.SetLineThickness(_THIN)
    display.SetGlyphScale(_POINTS)
    display.SetPropertiesLabelVisibility(False)
    display.SetPointLabelsVisibility(False)
    display.SetHandlesInteractive(True)
    display.SetTranslationHandleVisibility(True)
    display.SetScaleHandleVisibility(True)
    display.SetRotationHandleVisibility(False)
