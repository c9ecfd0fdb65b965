"""Overlays on a scan that explain a mask: the prototype map and the uncertainty map.

Both are nodes on the scan's grid, cropped to the network's field of view. A prototype map is a label map with its own
colour table; the table stores which prototypes are shown, the node the threshold, so both are saved with the scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from MPERLib import mrml
from MPERLib.rendering import rendered_once

Node = Any

_OVERLAY = "MPER.Overlay"  # "yes" on the nodes made here
_THRESHOLD = "MPER.Threshold"
_HOT = ((0, 0, 0), (90, 20, 80), (220, 60, 40), (255, 180, 40), (255, 255, 200))


class PrototypeOverlay:
    """A prototype map in the scene.

    Attributes
    ----------
    node : vtkMRMLLabelMapVolumeNode
    colours : vtkMRMLColorTableNode
    """

    def __init__(self, node: Node, similarity: np.ndarray | None = None, values: np.ndarray | None = None):
        self.node = node
        self.colours = node.GetDisplayNode().GetColorNode()
        self._values = mrml.array_of(node).copy() if values is None else values
        self._similarity = similarity

    def setSimilarity(self, similarity: np.ndarray) -> None:
        """Set the cosine of each voxel to its prototype, which allows a threshold."""
        self._similarity = similarity

    @property
    def canThreshold(self) -> bool:
        """Whether the similarities are known; a loaded scene has only the map."""
        return self._similarity is not None

    @property
    def threshold(self) -> float:
        """Voxels less similar to their prototype (cosine) are not shown."""
        return float(self.node.GetAttribute(_THRESHOLD) or 0)

    def setThreshold(self, similarity: float) -> None:
        """Show only voxels that are at least this similar to their prototype (cosine)."""
        if self._similarity is None or not mrml.alive(self.node):
            return
        shown = np.where(self._similarity >= similarity, self._values, 0).astype(np.uint8)
        with rendered_once():
            slicer.util.updateVolumeFromArray(self.node, shown)
            self.node.SetAttribute(_THRESHOLD, f"{similarity:g}")

    def hidden(self) -> set[int]:
        """Values of the prototypes that are hidden."""
        return {value for value in range(1, self.colours.GetNumberOfColors()) if not self._opacity(value)}

    def setHidden(self, values: Iterable[int]) -> None:
        """Hide these prototypes and show all others."""
        hidden = set(values)
        with mrml.modifying(self.colours):
            for value in range(1, self.colours.GetNumberOfColors()):
                opacity = 0.0 if value in hidden else 1.0
                if opacity != self._opacity(value):
                    red, green, blue, _alpha = self._colour(value)
                    self.colours.SetColor(value, red, green, blue, opacity)

    def _opacity(self, value: int) -> float:
        return self._colour(value)[3]

    def _colour(self, value: int) -> tuple[float, float, float, float]:
        colour = [0.0] * 4
        self.colours.GetColor(value, colour)
        return tuple(colour)  # type: ignore[return-value]


def prototype_overlay(
    array: np.ndarray,
    start: Sequence[int],
    prototypes: Sequence[Mapping[str, Any]],
    volumeNode: Node,
    name: str,
    similarity: np.ndarray | None = None,
) -> PrototypeOverlay:
    """Add a prototype map to the scene as a label map on its scan.

    Parameters
    ----------
    array : (k, j, i) uint8 array
        Number of the nearest prototype, 0 for none.
    start : (int, int, int)
        The voxel (k, j, i) of the scan at which it begins.
    prototypes : sequence of mappings
        The engine's ``prototypes``: ``value``, ``name``, ``colour``.
    similarity : (k, j, i) float array or None
        Cosine of each voxel to its prototype; without it there is no threshold.
    """
    scene = volumeNode.GetScene()
    colours = _colour_table(scene, name, 1 + max((int(p["value"]) for p in prototypes), default=0))
    colours.SetColor(0, _("none"), 0, 0, 0, 0)
    for value in range(1, colours.GetNumberOfColors()):
        colours.SetColor(value, str(value), 0.5, 0.5, 0.5, 1)
    for prototype in prototypes:
        red, green, blue = (part / 255 for part in prototype["colour"])
        colours.SetColor(int(prototype["value"]), prototype["name"], red, green, blue, 1)
    scene.AddNode(colours)
    node = _on_scan("vtkMRMLLabelMapVolumeNode", array, start, volumeNode, name)
    node.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())
    return PrototypeOverlay(node, similarity, array)


def uncertainty_overlay(array: np.ndarray, start: Sequence[int], volumeNode: Node, name: str) -> Node:
    """Add an uncertainty map (uint8 percent) to the scene as a scalar volume; certain voxels are transparent."""
    scene = volumeNode.GetScene()
    colours = _colour_table(scene, name, 101)
    at = np.linspace(0, 100, len(_HOT))
    name_of = _("{n} % uncertain")
    for percent in range(101):
        red, green, blue = (np.interp(percent, at, [c[n] for c in _HOT]) / 255 for n in range(3))
        colours.SetColor(percent, name_of.format(n=percent), red, green, blue, 1)
    scene.AddNode(colours)
    node = _on_scan("vtkMRMLScalarVolumeNode", array, start, volumeNode, name)
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(colours.GetID())
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0, 100)
    display.SetAutoThreshold(False)
    display.SetApplyThreshold(True)
    display.SetThreshold(5, 100)
    return node


def uncertainty_colours() -> list[tuple[float, tuple[int, int, int]]]:
    """The colours of an uncertainty map: shares from 0 (certain) to 1 with (red, green, blue) up to 255."""
    return [(n / (len(_HOT) - 1), colour) for n, colour in enumerate(_HOT)]


def show(node: Node | None, opacity: float, scene: Node) -> None:
    """Show a prototype map or an uncertainty map over the scan in all slice views; None hides it.

    Other layers that the user has chosen are kept, unless they are in the same place.
    """
    label = node is not None and node.IsA("vtkMRMLLabelMapVolumeNode")
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        view = scene.GetNthNodeByClass(n, "vtkMRMLSliceCompositeNode")
        if label or _is_ours(scene, view.GetLabelVolumeID()):
            view.SetLabelVolumeID(node.GetID() if label else None)
        if (node is not None and not label) or _is_ours(scene, view.GetForegroundVolumeID()):
            view.SetForegroundVolumeID(node.GetID() if node is not None and not label else None)
        if label:
            view.SetLabelOpacity(opacity)
        elif node is not None:
            view.SetForegroundOpacity(opacity)


def _is_ours(scene: Node, node_id: str | None) -> bool:
    node = scene.GetNodeByID(node_id) if node_id else None
    return node is not None and node.GetAttribute(_OVERLAY) == "yes"


def remove(node: Node | None) -> None:
    """Remove an overlay and its colour table from the scene."""
    if mrml.alive(node):
        scene, display = node.GetScene(), node.GetDisplayNode()
        colours = display.GetColorNode() if display else None
        own = colours if colours is not None and colours.GetHideFromEditors() else None
        for gone in (node, display, own):
            if mrml.alive(gone):
                scene.RemoveNode(gone)


def _colour_table(scene: Node, name: str, count: int) -> Node:
    """A colour table that is not in the scene yet."""
    colours = scene.CreateNodeByClass("vtkMRMLColorTableNode")
    colours.UnRegister(None)
    colours.SetName(scene.GetUniqueNameByString(_("{name} colours").format(name=name)))
    colours.SetTypeToUser()
    colours.SetHideFromEditors(True)
    colours.SetNumberOfColors(count)
    return colours


def _on_scan(kind: str, array: np.ndarray, start: Sequence[int], volumeNode: Node, name: str) -> Node:
    """A new volume node for a part of the scan's grid, under the scan's transform."""
    geometry = mrml.geometry_of(volumeNode)
    stop = [a + n for a, n in zip(start, array.shape, strict=True)]
    if min(start) < 0 or any(b > n for b, n in zip(stop, geometry.shape, strict=True)):
        raise ValueError(
            _("the map ({part} from {start}) does not fit {name}; the scan was changed, segment it again").format(
                part=array.shape, start=tuple(start), name=volumeNode.GetName()
            )
        )
    scene = volumeNode.GetScene()
    node = scene.CreateNodeByClass(kind)
    node.UnRegister(None)
    node.SetAttribute(_OVERLAY, "yes")
    node.SetName(scene.GetUniqueNameByString(name))
    mrml.fill_volume(node, array, geometry.crop(start, stop).affine)
    scene.AddNode(node)
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    mrml.place(node, volumeNode)
    return node
