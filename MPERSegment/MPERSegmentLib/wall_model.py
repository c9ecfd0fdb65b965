"""The surface of a left atrium as a model node that is coloured by a scalar, with a colour bar."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from MPERLib import mrml
from MPERLib.surface import HIDDEN_3D
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

SCALARS = ("iir", "intensity", "distance")
_ROLE = "MPER.Wall"  # reference of a segmentation to its surface, so that a saved scene still shows it
_COLOURS = "MPERWallColours"  # singleton tag
_IIR_RANGE = (0.5, 1.8)
# As in the report's picture: share of the range, red, green, blue. IIR 0.97, 1.20, 1.32 and 1.61 are at 0.36 to 0.85.
_STOPS = (
    (0.0, (49, 84, 150)),
    (0.36, (112, 178, 202)),
    (0.54, (240, 225, 130)),
    (0.63, (240, 140, 50)),
    (0.85, (190, 30, 40)),
    (1.0, (110, 0, 40)),
)
_NO_VALUE = (0.55, 0.58, 0.62, 1.0)

Node = Any


def title_of(scalar: str) -> str:
    """A scalar with its unit, for people."""
    return {
        "iir": _("Image intensity ratio"),
        "intensity": _("Intensity"),
        "distance": _("Distance from the centroid (mm)"),
    }[scalar]


def short_title_of(scalar: str) -> str:
    """A scalar with its unit, for the colour bar."""
    return {"iir": _("IIR"), "intensity": _("Intensity"), "distance": _("Distance (mm)")}[scalar]


def node_of(segmentationNode: Node | None) -> Node | None:
    """The surface of a segmentation, None where there is none."""
    return segmentationNode.GetNodeReference(_ROLE) if segmentationNode is not None else None


def scalar_of(node: Node | None) -> str:
    """By which scalar a surface is coloured; empty where there is none."""
    display = node.GetDisplayNode() if node is not None else None
    return (display.GetActiveScalarName() or "") if display is not None else ""


def show(segmentationNode: Node, scan: Node, mesh: Node, scalar: str) -> Node:
    """Show a surface, coloured by a scalar of it (by `distance` where it has no other).

    Parameters
    ----------
    segmentationNode : vtkMRMLSegmentationNode
    scan : vtkMRMLScalarVolumeNode
        In whose frame the surface lies.
    mesh : vtkPolyData
        See `read`.
    scalar : str
    """
    node = node_of(segmentationNode) or _make(segmentationNode, scan)
    node.SetAndObserveTransformNodeID(scan.GetTransformNodeID())
    node.SetAndObserveMesh(mesh)
    colour(node, scalar)
    _hide_own(segmentationNode, True)
    return node


def colour(node: Node, scalar: str) -> None:
    """Colour a surface by another of its scalars."""
    data = node.GetPolyData().GetPointData()
    if data.GetArray(scalar) is None:
        scalar = "distance"
    display = node.GetDisplayNode()
    with mrml.modifying(display):
        display.SetActiveScalar(scalar, vtk.vtkAssignAttribute.POINT_DATA)
        display.SetScalarVisibility(True)
        display.SetAndObserveColorNodeID(_colours(node.GetScene()).GetID())
        display.SetScalarRangeFlag(slicer.vtkMRMLDisplayNode.UseManualScalarRange)
        display.SetScalarRange(*_range(vtk_to_numpy(data.GetArray(scalar)), scalar))
    legend = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(node)
    if legend is not None:
        legend.SetTitleText(short_title_of(scalar))
        legend.SetLabelFormat("%.2f" if scalar == "iir" else "%.0f")
        legend.SetVisibility(True)


def remove(segmentationNode: Node | None) -> None:
    """Remove the surface of a segmentation, and show the segmentation's own again."""
    node = node_of(segmentationNode)
    if node is not None:
        legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(node)
        for each in (legend, node):
            if mrml.alive(each):
                segmentationNode.GetScene().RemoveNode(each)
    if segmentationNode is not None:
        _hide_own(segmentationNode, False)


def set_visible(segmentationNode: Node | None, visible: bool) -> None:
    """Show or hide the surface of a segmentation together with its colour bar."""
    node = node_of(segmentationNode)
    if node is None:
        return
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(node)
    for display in (node.GetDisplayNode(), legend):
        if display is not None and bool(display.GetVisibility()) != visible:
            display.SetVisibility(visible)


def _make(segmentationNode: Node, scan: Node) -> Node:
    scene = segmentationNode.GetScene()
    node = scene.CreateNodeByClass("vtkMRMLModelNode")
    node.UnRegister(None)
    node.SetName(scene.GetUniqueNameByString(_("{name} wall").format(name=segmentationNode.GetName())))
    scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    segmentationNode.SetNodeReferenceID(_ROLE, node.GetID())
    mrml.place(node, scan)
    return node


def read(file: bytes) -> Node:
    """The wall of a surface in RAS, without what clips have removed.

    `file` is a .vtp file of the engine: points in LPS, scalars with ``wall``.
    """
    reader = vtk.vtkXMLPolyDataReader()
    reader.ReadFromInputStringOn()
    reader.SetInputString(bytes(file).decode("ascii"))
    reader.Update()
    found = reader.GetOutput()
    data = found.GetPointData()
    wall = vtk_to_numpy(data.GetArray("wall")) > 0
    triangles = vtk_to_numpy(found.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    triangles = triangles[wall[triangles].all(axis=1)]
    mesh = vtk.vtkPolyData()
    points = vtk.vtkPoints()
    points.SetData(_turned(found.GetPoints().GetData()))
    mesh.SetPoints(points)
    offsets = np.arange(0, 3 * len(triangles) + 1, 3, dtype=np.int64)
    cells = vtk.vtkCellArray()
    cells.SetData(
        numpy_to_vtkIdTypeArray(offsets, deep=True),
        numpy_to_vtkIdTypeArray(np.ascontiguousarray(triangles.reshape(-1), np.int64), deep=True),
    )
    mesh.SetPolys(cells)
    normals = _turned(data.GetArray("Normals"))
    normals.SetName("Normals")
    mesh.GetPointData().SetNormals(normals)
    for name in SCALARS:
        if data.GetArray(name) is not None:
            mesh.GetPointData().AddArray(data.GetArray(name))
    return mesh


def _turned(vectors: Node) -> Node:
    """LPS vectors as RAS, copied."""
    return numpy_to_vtk(vtk_to_numpy(vectors) * np.array([-1, -1, 1], np.float32), deep=True)


def _range(values: np.ndarray, scalar: str) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if scalar == "iir" or not values.size:
        return _IIR_RANGE
    low, high = (float(end) for end in np.percentile(values, (2, 98)))
    return low, max(high, low + 1e-6)


def _colours(scene: Node) -> Node:
    node = scene.GetSingletonNode(_COLOURS, "vtkMRMLColorTableNode")
    if node is None:
        node = scene.CreateNodeByClass("vtkMRMLColorTableNode")
        node.UnRegister(None)
        node.SetTypeToUser()
        node.SetName(_("MPER wall"))
        node.SetSingletonTag(_COLOURS)
        node.SetNumberOfColors(256)
        shares, colours = (np.array(part, float) for part in zip(*_STOPS, strict=True))
        for n in range(256):
            parts = [float(np.interp(n / 255, shares, colours[:, channel])) / 255 for channel in range(3)]
            node.SetColor(n, f"{n}", *parts, 1.0)
        node = scene.AddNode(node)
    node.GetLookupTable().SetNanColor(*_NO_VALUE)
    return node


def _hide_own(segmentationNode: Node, hide: bool) -> None:
    display = segmentationNode.GetDisplayNode()
    if display is None:
        return
    if hide and display.GetVisibility3D():
        display.SetAttribute(HIDDEN_3D, "yes")
        display.SetVisibility3D(False)
    elif not hide and display.GetAttribute(HIDDEN_3D):
        display.SetAttribute(HIDDEN_3D, None)
        display.SetVisibility3D(True)
