"""Clips of a left atrium in the scene: planes and spheres as markups, saved with it and movable by hand.

A plane without a radius removes all on the side that its normal points to; one with a radius, half the shorter side of
what is drawn, only the parts that touch the disc of that radius. A sphere is one point with a radius. As JSON they are
those of ``mper measure --clip``: LPS in mm, in the scan's own frame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from MPERLib import mrml
from slicer.i18n import tr as _

PLANE, SPHERE = "plane", "sphere"
_KIND = "MPER.Clip"  # attribute of a markup: PLANE or SPHERE
_OF = "MPER.ClipOf"  # reference of a markup to the segmentation that it clips
_RADIUS = "MPER.RadiusMm"  # attribute of a sphere's point, and of a plane that removes only what touches its disc
_DRAWN_MM = 25.0  # half a side of a plane without a radius, as it is drawn
_COLOUR, _OPACITY = (0.95, 0.75, 0.2), 0.35
_LARGEST_FILE = 1 << 20  # bytes

Node = Any
Clip = dict[str, Any]


# ---- in the scene


def all_of(segmentationNode: Node) -> list[Node]:
    """The clips of a segmentation, in the order in which they were made."""
    found = []
    for kind in ("vtkMRMLMarkupsPlaneNode", "vtkMRMLMarkupsFiducialNode"):
        found += slicer.util.getNodesByClass(kind, segmentationNode.GetScene())
    mine = [node for node in found if node.GetAttribute(_KIND) and node.GetNodeReference(_OF) is segmentationNode]
    return sorted(mine, key=_number)


def segmentation_of(clipNode: Node) -> Node | None:
    """The segmentation that a markup clips; None where it is no clip."""
    return clipNode.GetNodeReference(_OF) if clipNode.GetAttribute(_KIND) else None


def kind_of(clipNode: Node) -> str:
    return clipNode.GetAttribute(_KIND)


def radius_of(clipNode: Node) -> float | None:
    """In mm; None for a plane that removes its whole side."""
    text = clipNode.GetAttribute(_RADIUS)
    if text is None:
        return None
    return min(clipNode.GetSizeWorld()) / 2 if kind_of(clipNode) == PLANE else float(text)


def set_radius(clipNode: Node, radius_mm: float) -> None:
    """Set the radius of a sphere, or of a plane that has one."""
    with mrml.modifying(clipNode):
        clipNode.SetAttribute(_RADIUS, f"{radius_mm:g}")
        if kind_of(clipNode) == PLANE:
            clipNode.SetSizeWorld(2 * radius_mm, 2 * radius_mm)


def flip(clipNode: Node) -> None:
    """Let a plane remove its other side."""
    clipNode.SetNormalWorld([-part for part in clipNode.GetNormalWorld()])


def show(clipNode: Node, visible: bool) -> None:
    display = clipNode.GetDisplayNode()
    if display is not None and bool(display.GetVisibility()) != visible:
        display.SetVisibility(visible)


def show_handles(clipNode: Node, visible: bool) -> None:
    """Show or hide the handles that move and turn a clip."""
    display = clipNode.GetDisplayNode()
    if display is not None and bool(display.GetHandlesInteractive()) != visible:
        display.SetHandlesInteractive(visible)


# ---- as JSON


def to_dicts(segmentationNode: Node, scan: Node) -> list[Clip]:
    """The clips of a segmentation as JSON has them; those that are not placed yet are left out."""
    return [_to_dict(node, scan) for node in all_of(segmentationNode) if node.GetNumberOfControlPoints()]


def from_dicts(segmentationNode: Node, scan: Node, clips: Sequence[Clip]) -> None:
    """Make these, and no others, the clips of a segmentation; those of the same name and kind are moved."""
    present = {(node.GetName(), kind_of(node)): node for node in all_of(segmentationNode)}
    for clip in clips:
        node = present.pop((clip["name"], clip["kind"]), None)
        if node is None:
            node = _make(segmentationNode, scan, clip)
        _set(node, scan, clip)
    for node in present.values():
        segmentationNode.GetScene().RemoveNode(node)


def add(segmentationNode: Node, scan: Node, clip: Clip) -> Node:
    """Add a clip, with a number to its name where that is taken."""
    names = {node.GetName() for node in all_of(segmentationNode)}
    name, number = clip["name"], 1
    while clip["name"] in names:
        number += 1
        clip = {**clip, "name": f"{name} {number}"}
    node = _make(segmentationNode, scan, clip)
    _set(node, scan, clip)
    return node


def read_file(path: Path) -> list[Clip]:
    """Clips from a file of the command line.

    Raises
    ------
    ValueError
        If it is not such a file; one line.
    OSError
        If it cannot be read.
    """
    wrong = _("{file} is no file of clips: {reason}")
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(wrong.format(file=path.name, reason=_("it is too large")))
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))["clips"]
        return [_checked(number, entry) for number, entry in enumerate(entries, 1)]
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = _('expected {"clips": [{"kind": "plane", ...}]}')
        raise ValueError(wrong.format(file=path.name, reason=reason)) from error
    except ValueError as error:
        raise ValueError(wrong.format(file=path.name, reason=error)) from error


def write_file(path: Path, clips: Sequence[Clip]) -> None:
    """Write clips for the command line; what was there before stays unless all is written."""
    beside = path.with_name(path.name + ".part")
    try:
        text = json.dumps({"clips": list(clips)}, indent=1, ensure_ascii=False) + "\n"
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


# ---- inside


def _number(node: Node) -> int:
    scene = node.GetScene()
    return next((n for n in range(scene.GetNumberOfNodes()) if scene.GetNthNode(n) is node), 0)


def _make(segmentationNode: Node, scan: Node, clip: Clip) -> Node:
    kind = {PLANE: "vtkMRMLMarkupsPlaneNode", SPHERE: "vtkMRMLMarkupsFiducialNode"}[clip["kind"]]
    scene = segmentationNode.GetScene()
    node = scene.CreateNodeByClass(kind)
    node.UnRegister(None)
    node.SetName(clip["name"])
    node.SetAttribute(_KIND, clip["kind"])
    scene.AddNode(node)
    node.SetNodeReferenceID(_OF, segmentationNode.GetID())
    node.SetAndObserveTransformNodeID(scan.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetSelectedColor(*_COLOUR)
    display.SetColor(*_COLOUR)
    display.SetPropertiesLabelVisibility(True)
    display.SetTranslationHandleVisibility(True)
    display.SetScaleHandleVisibility(False)
    display.SetRotationHandleVisibility(clip["kind"] == PLANE)
    if clip["kind"] == PLANE:
        node.SetSizeMode(node.SizeModeAbsolute)
        display.SetFillOpacity(_OPACITY)
        display.SetNormalVisibility(True)
    mrml.place(node, scan)
    return node


def _set(node: Node, scan: Node, clip: Clip) -> None:
    radius = clip.get("radius_mm")
    with mrml.modifying(node):
        node.SetAttribute(_RADIUS, None if radius is None else f"{radius:g}")
        if clip["kind"] == SPHERE:
            (centre,) = mrml.ras_of([clip["center_mm"]], scan)
            if node.GetNumberOfControlPoints():
                node.SetNthControlPointPositionWorld(0, *centre)
            else:
                node.AddControlPointWorld(vtk.vtkVector3d(*centre), clip["name"])
            return
        point = np.array(clip["point_mm"], float)
        unit = np.array(clip["normal"], float) / math.hypot(*clip["normal"])
        origin, tip = mrml.ras_of([point, point + unit], scan)
        node.SetOriginWorld(origin)
        node.SetNormalWorld(tip - origin)
        side = 2 * (_DRAWN_MM if radius is None else radius)
        node.SetSizeWorld(side, side)


def _to_dict(node: Node, scan: Node) -> Clip:
    radius = radius_of(node)
    clip: Clip = {"kind": kind_of(node), "name": node.GetName().strip()}
    if clip["kind"] == SPHERE:
        (centre,) = mrml.lps_of([node.GetNthControlPointPositionWorld(0)], scan)
        return {**clip, "center_mm": _rounded(centre), "radius_mm": radius}
    origin = np.array(node.GetOriginWorld())
    point, tip = mrml.lps_of([origin, origin + np.array(node.GetNormalWorld())], scan)
    clip |= {"point_mm": _rounded(point), "normal": _rounded(tip - point)}
    return clip if radius is None else {**clip, "radius_mm": round(radius, 4)}


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def _checked(number: int, entry: object) -> Clip:
    """An entry of a file, whole and valid; the engine checks what it does with the mask."""
    places = {PLANE: ("point_mm", "normal"), SPHERE: ("center_mm",)}
    if not isinstance(entry, Mapping) or entry.get("kind") not in places:
        raise ValueError(_("clip {n} is neither a plane nor a sphere").format(n=number))
    kind = entry["kind"]
    name = entry.get("name", f"{kind} {number}")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(_("clip {n} has no name").format(n=number))
    made: Clip = {"kind": kind, "name": name.strip()}
    for key in places[kind]:
        value = entry.get(key)
        if not isinstance(value, list) or len(value) != 3 or not all(_finite(each) for each in value):
            raise ValueError(_("the clip {name} has no {key} of three numbers").format(name=name, key=key))
        made[key] = [float(each) for each in value]
    if kind == PLANE and not any(made["normal"]):
        raise ValueError(_("the clip {name} has a normal of length zero").format(name=name))
    radius = entry.get("radius_mm")
    if radius is None and kind == PLANE:
        return made
    if not _finite(radius) or not radius > 0:
        raise ValueError(_("the clip {name} has no radius above zero").format(name=name))
    return {**made, "radius_mm": float(radius)}


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6
