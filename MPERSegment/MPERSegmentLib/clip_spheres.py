"""The spheres of clips as they are drawn: a surface for each point with a radius, which follows it."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from MPERLib import mrml

from MPERSegmentLib import clip_nodes

_RESOLUTION = 32
_COLOUR, _OPACITY = (0.95, 0.75, 0.2), 0.3


class ClipSpheres:
    """Draws the spheres of clips; the models that it adds are not saved with the scene."""

    def __init__(self) -> None:
        self._models: dict[str, slicer.vtkMRMLModelNode] = {}  # by the id of the point

    def show(self, clipNodes: list[Any]) -> None:
        """Draw these spheres, and no others."""
        wanted = {
            node.GetID(): node
            for node in clipNodes
            if clip_nodes.kind_of(node) == clip_nodes.SPHERE and node.GetNumberOfControlPoints()
        }
        for key in [key for key in self._models if key not in wanted]:
            self._remove(key)
        for key, node in wanted.items():
            self._draw(key, node)

    def close(self) -> None:
        self.show([])

    def _draw(self, key: str, node: Any) -> None:
        model = self._models.get(key)
        if not mrml.alive(model):
            model = self._models[key] = self._make(node)
        source = vtk.vtkSphereSource()
        source.SetCenter(*node.GetNthControlPointPosition(0))
        source.SetRadius(clip_nodes.radius_of(node) or 1.0)
        source.SetThetaResolution(_RESOLUTION)
        source.SetPhiResolution(_RESOLUTION)
        source.Update()
        model.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        model.SetAndObservePolyData(source.GetOutput())

    def _make(self, node: Any) -> Any:
        model = node.GetScene().CreateNodeByClass("vtkMRMLModelNode")
        model.UnRegister(None)
        model.SetName(node.GetName())
        model.SetHideFromEditors(True)
        model.SetSaveWithScene(False)
        model.SetSelectable(False)  # a click goes to the point inside
        node.GetScene().AddNode(model)
        model.CreateDefaultDisplayNodes()
        display = model.GetDisplayNode()
        display.SetSaveWithScene(False)
        display.SetColor(*_COLOUR)
        display.SetOpacity(_OPACITY)
        display.SetVisibility2D(True)
        display.SetSliceIntersectionThickness(2)
        return model

    def _remove(self, key: str) -> None:
        model = self._models.pop(key)
        if mrml.alive(model):
            model.GetScene().RemoveNode(model)
