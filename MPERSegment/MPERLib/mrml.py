"""Scans, regions and positions between Slicer's scene and the library, exact to the voxel.

This is the one place that knows RAS. MRML has a matrix from voxel (i, j, k) to RAS mm in the node's own frame, and
maybe a parent transform from there to the world; the library has arrays (k, j, i) and LPS mm. All that goes to the
engine is in the scan's own frame; what comes back gets the scan's parent transform, so that it lies on the scan
wherever that is moved to. A non-linear transform has no such frame and is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from mper.volume import Geometry

GRID_TOLERANCE = 1e-3  # of a voxel: grids that differ by less are the same
_RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_KJI_IJK = np.eye(4)[[2, 1, 0, 3]]  # reverses the order of indices, of columns and of rows
_CASE = "MPER.Case"  # attribute of a scan: the dataset and the case that it is, separated by a line feed

Node = Any  # a vtkMRMLNode; slicer's classes are made at run time
Window = tuple[slice, ...]


# ---- geometry


def geometry_of(volumeNode: Node) -> Geometry:
    """The grid of a scan in its own frame.

    Raises
    ------
    ValueError
        If the node is no scan that can be segmented (no voxels, several components, a label map), its axes are not at
        right angles, or it is under a non-linear transform.
    """
    name = volumeNode.GetName()
    if not volumeNode.IsA("vtkMRMLScalarVolumeNode") or volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise ValueError(_("{name} is not a scan with one value per voxel; choose a scalar volume").format(name=name))
    image = volumeNode.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise ValueError(_("{name} has no voxels; load it again").format(name=name))
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise ValueError(
            _(
                "{name} has {n} values per voxel, a scan has one; convert it with the module Vector to Scalar Volume"
            ).format(name=name, n=components)
        )
    refuse_nonlinear(volumeNode)
    return Geometry(_affine(ijk_to_ras(volumeNode)), image.GetDimensions()[::-1])


def refuse_nonlinear(node: Node) -> None:
    """Raise ValueError if the node is under a non-linear transform."""
    parent = node.GetParentTransformNode()
    if parent is not None and not parent.IsTransformToWorldLinear():
        raise ValueError(
            _(
                "{name} is under the non-linear transform {transform}; harden it in the module Data, or remove it"
            ).format(name=node.GetName(), transform=parent.GetName())
        )


def array_of(volumeNode: Node) -> np.ndarray:
    """The voxels of a scan as (k, j, i), not copied."""
    return slicer.util.arrayFromVolume(volumeNode)


def between(source: Node | None, target: Node | None) -> np.ndarray:
    """(4, 4): from the frame of one node to that of another in RAS; None is the world.

    Raises
    ------
    ValueError
        If a non-linear transform lies between.
    """
    parents = [node.GetParentTransformNode() if node is not None else None for node in (source, target)]
    matrix = vtk.vtkMatrix4x4()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(*parents, matrix):
        for node in (source, target):
            if node is not None:
                refuse_nonlinear(node)
    return slicer.util.arrayFromVTKMatrix(matrix)


def roi_mm(roiNode: Node, volumeNode: Node | None = None) -> list[float]:
    """Axis-aligned LPS bounding box, in the scan's own frame, of a region drawn in the scene.

    Parameters
    ----------
    roiNode : vtkMRMLMarkupsROINode
        May be rotated, and under a transform of its own.
    volumeNode : vtkMRMLScalarVolumeNode or None
        The scan; None for a box in the world.

    Returns
    -------
    list of float
        x0, x1, y0, y1, z0, z1.

    Raises
    ------
    ValueError
        If the region is not placed, has no size, lies outside the scan, or is under a non-linear transform.
    """
    refuse_nonlinear(roiNode)
    size = np.array(roiNode.GetSize())
    if roiNode.GetNumberOfControlPoints() == 0 or not (size > 0).all():
        raise ValueError(
            _("the region {name} is not drawn yet; draw it, or choose no region").format(name=roiNode.GetName())
        )
    signs = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    to_world = slicer.util.arrayFromVTKMatrix(roiNode.GetObjectToWorldMatrix())
    corners = np.c_[signs * size, np.ones(8)] @ (_RAS_LPS @ between(None, volumeNode) @ to_world).T
    low, high = corners[:, :3].min(axis=0), corners[:, :3].max(axis=0)
    if volumeNode is not None:
        geometry = geometry_of(volumeNode)
        ends = np.array([(k, j, i) for k in (0, 1) for j in (0, 1) for i in (0, 1)]) * (np.array(geometry.shape) - 1)
        scan = geometry.to_world(ends)
        if (low > scan.max(axis=0)).any() or (high < scan.min(axis=0)).any():
            raise ValueError(_("the region {name} lies outside the scan; move it").format(name=roiNode.GetName()))
    return [float(value) for pair in zip(low, high, strict=True) for value in pair]


def world_of(index: Sequence[float], volumeNode: Node) -> tuple[float, float, float]:
    """World RAS of a voxel (k, j, i) of the scan."""
    point = between(volumeNode, None) @ ijk_to_ras(volumeNode) @ np.array([*reversed(list(index)), 1.0])
    return float(point[0]), float(point[1]), float(point[2])


def index_at(ras: Sequence[float], volumeNode: Node) -> tuple[int, int, int] | None:
    """The voxel (k, j, i) of the scan at a position in the world, None outside the scan."""
    inverse = np.linalg.inv(between(volumeNode, None) @ ijk_to_ras(volumeNode))
    i, j, k = np.rint((inverse @ np.array([*ras, 1.0]))[:3]).astype(int).tolist()
    shape = volumeNode.GetImageData().GetDimensions()[::-1]
    return (k, j, i) if all(0 <= n < end for n, end in zip((k, j, i), shape, strict=True)) else None


def lps_of(ras: Sequence[Sequence[float]], volumeNode: Node) -> np.ndarray:
    """(n, 3) LPS mm in the scan's own frame of positions in the world (RAS)."""
    points = np.c_[np.asarray(ras, dtype=float).reshape(-1, 3), np.ones(len(ras))]
    return (points @ (_RAS_LPS @ between(None, volumeNode)).T)[:, :3]


def ras_of(lps: Sequence[Sequence[float]], volumeNode: Node) -> np.ndarray:
    """(n, 3) positions in the world (RAS) of LPS mm in the scan's own frame."""
    points = np.c_[np.asarray(lps, dtype=float).reshape(-1, 3), np.ones(len(lps))]
    return (points @ (between(volumeNode, None) @ _RAS_LPS).T)[:, :3]


def jump_to(index: Sequence[float], volumeNode: Node) -> tuple[float, float, float]:
    """Centre all slice views on a voxel (k, j, i) of the scan; returns its world RAS."""
    ras = world_of(index, volumeNode)
    look_at(ras, volumeNode.GetScene())
    return ras


def look_at(ras: Sequence[float], scene: Node) -> None:
    """Centre all slice views on a position in the world."""
    centred = slicer.vtkMRMLSliceNode.CenteredJumpSlice
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *ras, centred)


def json_attribute(node: Node, name: str) -> dict[str, Any]:
    """The JSON object in an attribute of a node; empty where there is none, or somebody changed it by hand."""
    try:
        found = json.loads(node.GetAttribute(name) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def alive(node: Node | None) -> bool:
    """Whether the node is still in a scene: people delete nodes, and close scenes, while we work."""
    return node is not None and node.GetScene() is not None


def editor_settings(tag: str) -> slicer.vtkMRMLSegmentEditorNode:
    """The Segment Editor parameter node of a panel, by its singleton tag; the Segment Editor module has its own."""
    node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        node.UnRegister(None)
        node.SetSingletonTag(tag)
        node = slicer.mrmlScene.AddNode(node)
    return node


# ---- scans


def mark_case(volumeNode: Node, dataset: str, case: str) -> None:
    """Note on a scan that it is a case of a dataset."""
    volumeNode.SetAttribute(_CASE, f"{dataset}\n{case}")


def case_of(volumeNode: Node | None) -> tuple[str, str]:
    """Dataset and case that a scan is, both empty where it is none."""
    dataset, _newline, case = ((volumeNode.GetAttribute(_CASE) if volumeNode else None) or "").partition("\n")
    return dataset, case


def window(start: Sequence[int], shape: Sequence[int]) -> Window:
    """Slices of the box of `shape` that begins at `start`."""
    return tuple(slice(int(a), int(a) + n) for a, n in zip(start, shape, strict=True))


def on_whole_grid(part: np.ndarray, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """A part of a mask (k, j, i) uint8 that begins at `start`, on a grid of `shape`; 0 elsewhere."""
    whole = np.zeros(tuple(shape), np.uint8)
    whole[window(start, part.shape)] = part
    return whole


def show_scan(array: np.ndarray, affine: Any, name: str, scene: Node) -> Node:
    """Add a scan to the scene as a scalar volume node.

    Parameters
    ----------
    array : (k, j, i) array
    affine : (4, 4)
        From (k, j, i, 1) to LPS mm.
    """
    node = scene.CreateNodeByClass("vtkMRMLScalarVolumeNode")
    node.UnRegister(None)
    node.SetName(scene.GetUniqueNameByString(name))
    scene.AddNode(node)
    # The window is set before the voxels: Slicer's own automatic window reads a large scan for too long.
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    low, high = (float(value) for value in np.percentile(array[::4, ::4, ::4], (0.5, 99.5)))
    display.SetWindowLevelMinMax(low, max(high, low + 1e-6))
    fill_volume(node, array, np.asarray(affine, dtype=float))
    return node


def fill_volume(node: Node, array: np.ndarray, affine: np.ndarray) -> None:
    """Set the voxels (k, j, i) of a volume node and its affine (LPS)."""
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(_RAS_LPS @ affine @ _KJI_IJK))
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[::-1])
    image.GetPointData().SetScalars(scalars(array))
    node.SetAndObserveImageData(image)


@contextmanager
def modifying(node: Node) -> Iterator[None]:
    """Send one modified event of the node for all changes inside the block."""
    was = node.StartModify()
    try:
        yield
    finally:
        node.EndModify(was)


def place(node: Node, volumeNode: Node) -> None:
    """Put a node under the patient and study of its scan."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    scan = hierarchy.GetItemByDataNode(volumeNode)
    parent = hierarchy.GetItemParent(scan) if scan else hierarchy.GetSceneItemID()
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


def ijk_to_ras(volumeNode: Node) -> np.ndarray:
    """(4, 4): from voxel (i, j, k, 1) to RAS mm in the node's own frame."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _affine(ijk_to_ras: np.ndarray) -> np.ndarray:
    return _RAS_LPS @ ijk_to_ras @ _KJI_IJK


def scalars(array: np.ndarray) -> Node:
    """The values of an array (k, j, i) as a VTK array, copied."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype == np.float16:
        flat = flat.astype(np.float32)  # VTK has no half
    return numpy_support.numpy_to_vtk(flat, deep=True)


def image_array(image: Node) -> np.ndarray:
    """Voxels of an image as (k, j, i), not copied."""
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
