"""Where strokes may change the mask: the masking settings of the Segment Editor apply to them as to its effects.

The settings are those of the parameter node of the panel's Segment Editor: intensity range, overwriting of other
segments, editable area. The first two are in the panel, too, as the Segment Editor shows its own only with an effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
from MPERLib import mrml, phases, segmentation_node
from MPERLib.callbacks import slot
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import silent
from slicer.i18n import tr as _

from MPERSegmentLib import result_node

_USUAL_PERCENT = (2, 98)  # of the intensities inside the mask: the range that is proposed


class StrokeLimits:
    """The limits of strokes in the panel.

    Parameters
    ----------
    context : PanelContext
    tag : str
        Singleton tag of the Segment Editor's parameter node.
    """

    def __init__(self, context: PanelContext, tag: str):
        self._context, self._tag = context, tag
        self._node: Any = None
        ui = context.ui
        ui.limitCheck.connect("toggled(bool)", slot(self._onCheck))
        for box in (ui.limitLow, ui.limitHigh):
            box.connect("valueChanged(double)", slot(self._onRange))
        ui.keepOthersCheck.connect("toggled(bool)", slot(self._onOthers))

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show the settings for another result, or none."""
        self._node = node
        ui, settings = self._context.ui, self._settings()
        ui.limitsBox.enabled = node is not None
        if settings is None:
            return
        limited = bool(settings.GetSourceVolumeIntensityMask())
        low, high = settings.GetSourceVolumeIntensityMaskRange()
        for widget in (ui.limitCheck, ui.limitLow, ui.limitHigh, ui.keepOthersCheck):
            widget.blockSignals(True)
        ui.limitCheck.checked = limited
        ui.limitLow.value, ui.limitHigh.value = low, high
        ui.keepOthersCheck.checked = settings.GetOverwriteMode() != settings.OverwriteAllSegments
        for widget in (ui.limitCheck, ui.limitLow, ui.limitHigh, ui.keepOthersCheck):
            widget.blockSignals(False)
        ui.limitLow.enabled = ui.limitHigh.enabled = limited
        ui.limitsBox.title = (
            _("Limits of strokes: on") if limited or ui.keepOthersCheck.checked else _("Limits of strokes")
        )

    # ---- what the user does

    def _onCheck(self, checked: bool) -> None:
        settings = self._settings(make=True)
        low, high = settings.GetSourceVolumeIntensityMaskRange()
        if checked and low >= high:
            settings.SetSourceVolumeIntensityMaskRange(*self._usual())
        settings.SetSourceVolumeIntensityMask(checked)
        self.show(self._node)

    def _onRange(self) -> None:
        ui = self._context.ui
        low, high = ui.limitLow.value, ui.limitHigh.value
        if low > high:
            with silent(ui.limitHigh):
                ui.limitHigh.value = high = low
        self._settings(make=True).SetSourceVolumeIntensityMaskRange(low, high)

    def _onOthers(self, checked: bool) -> None:
        settings = self._settings(make=True)
        settings.SetOverwriteMode(settings.OverwriteNone if checked else settings.OverwriteAllSegments)
        self.show(self._node)

    def _usual(self) -> tuple[float, float]:
        """The usual intensities inside the mask."""
        scan = result_node.scan_of(self._node) if mrml.alive(self._node) else None
        if scan is None:
            return 0.0, 1.0
        voxels = mrml.array_of(phases.voxels_of(scan, phases.of(self._node)))
        try:
            part, start = segmentation_node.mask_part(self._node, scan)
        except ValueError:  # segments overlap, say
            part, start = np.zeros((1, 1, 1), np.uint8), (0, 0, 0)
        inside = voxels[mrml.window(start, part.shape)][part > 0]
        low, high = np.percentile(inside if inside.size else voxels, _USUAL_PERCENT)
        return float(low), float(high)

    def _settings(self, make: bool = False) -> Any:
        """The parameter node of the Segment Editor; None where there is none yet, unless it is to be made."""
        found = slicer.mrmlScene.GetSingletonNode(self._tag, "vtkMRMLSegmentEditorNode")
        return mrml.editor_settings(self._tag) if found is None and make else found

    # ---- what strokes may change

    def editable(self, node: Any, low: Sequence[int], scene: np.ndarray, value: int) -> np.ndarray | None:
        """Which voxels may become `value`; None where all may.

        Parameters
        ----------
        node : vtkMRMLSegmentationNode
        low : (int, int, int)
            The scan's voxel (k, j, i) at which `scene` begins.
        scene : (k, j, i) uint8 array
            The label values now; 0 outside the model's structures.
        value : int
            Label value; 0 to remove.
        """
        settings, scan = self._settings(), result_node.scan_of(node)
        if settings is None or scan is None:
            return None
        open_ = np.ones(scene.shape, bool)
        if settings.GetSourceVolumeIntensityMask():
            first, last = settings.GetSourceVolumeIntensityMaskRange()
            voxels = mrml.array_of(phases.voxels_of(scan, phases.of(node)))[mrml.window(low, scene.shape)]
            open_ &= (voxels >= first) & (voxels <= last)
        kept = _kept_values(node, settings) - {value}
        if value and kept:  # to remove a structure is what a stroke is for
            open_ &= ~np.isin(scene, list(kept))
        outside = (settings.GetMaskMode() in _outside_modes()) and not value
        if settings.GetMaskMode() != slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere and not outside:
            open_ &= _area(node, scan, settings, low, scene.shape, value)
        return None if open_.all() else open_


def _kept_values(node: Any, settings: Any) -> set[int]:
    """Label values of structures that other segments must not overwrite."""
    if settings.GetOverwriteMode() == settings.OverwriteAllSegments:
        return set()
    display, kept = node.GetDisplayNode(), set()
    segmentation = node.GetSegmentation()
    for n in range(segmentation.GetNumberOfSegments()):
        value = segmentation_node.label_value_of(segmentation.GetNthSegment(n))
        visible = display is not None and display.GetSegmentVisibility(segmentation.GetNthSegmentID(n))
        if value and not (settings.GetOverwriteMode() == settings.OverwriteVisibleSegments and visible):
            kept.add(value)
    return kept


def _outside_modes() -> tuple[int, int]:
    kind = slicer.vtkMRMLSegmentationNode
    return kind.EditAllowedOutsideAllSegments, kind.EditAllowedOutsideVisibleSegments


def _area(node: Any, scan: Any, settings: Any, low: Sequence[int], shape: Sequence[int], value: int) -> np.ndarray:
    """The editable area of the Segment Editor in a box of the scan."""
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    values = {segmentation_node.label_value_of(segmentation.GetSegment(each)): each for each in ids}
    reference, mask = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
    reference.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(mrml.ijk_to_ras(scan)))
    reference.SetExtent(*(int(n) for a, m in zip(low[::-1], shape[::-1], strict=True) for n in (a, a + m - 1)))
    mode, edited = settings.GetMaskMode(), values.get(value) or ""
    node.GenerateEditMask(mask, mode, reference, edited, settings.GetMaskSegmentID() or "")
    return np.asarray(mrml.image_array(mask) == 0)
