"""Clipping a mask by planes and spheres: the mitral valve, pulmonary veins and the appendage.

A small JSON file keeps the clips for the command line; Slicer keeps them as markups. Both are in LPS mm::

    {"clips": [
      {"kind": "plane", "name": "mitral valve", "point_mm": [10, 20, 30], "normal": [0, 0, -1], "radius_mm": 25},
      {"kind": "sphere", "name": "left appendage", "center_mm": [10, 20, 30], "radius_mm": 12}]}

A plane removes what lies on the side that its normal points to; with a radius only the parts on that side which
touch the disc of that radius around its point, so that a plane at a vein leaves the opposite wall alone. A sphere
removes what lies inside it. What is cut off from the rest is removed with it: the largest component stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mper.utils.coded import Coded, line_of
from mper.volume import Geometry

Point = tuple[float, float, float]
Mask: TypeAlias = npt.NDArray[np.bool_]
_LARGEST_FILE = 1 << 20  # bytes
_MOST_CLIPS = 50
_CORNERS = np.ones((3, 3, 3), bool)  # voxels that touch at a corner are connected, as in `mper.measurement.measures`


@dataclass(frozen=True)
class ClipPlane:
    """A plane; `normal` points to what is removed.

    Parameters
    ----------
    name : str
    point_mm, normal : three floats
        LPS; the normal is of any length above zero.
    radius_mm : float or None
        Of the disc that the parts to remove touch; None removes everything on the normal's side.
    """

    name: str
    point_mm: Point
    normal: Point
    radius_mm: float | None = None

    def __post_init__(self) -> None:
        _check_point(self.name, "point_mm", self.point_mm)
        _check_point(self.name, "normal", self.normal)
        length = math.hypot(*self.normal)
        if length < 1e-9:
            raise ValueError(
                Coded(
                    f"the clip {self.name!r} has a normal of length zero; give the direction to remove",
                    "clip-normal",
                    clip=self.name,
                )
            )
        if self.radius_mm is not None:
            _check_radius(self.name, self.radius_mm)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        made = {"kind": "plane", "name": self.name, "point_mm": list(self.point_mm), "normal": list(self.normal)}
        return made if self.radius_mm is None else {**made, "radius_mm": self.radius_mm}

    def removes(self, mask: Mask, geometry: Geometry) -> Mask:
        """Which voxels of a mask the clip removes."""
        unit = np.array(self.normal) / math.hypot(*self.normal)
        voxels = np.argwhere(mask)
        offset = geometry.to_world(voxels) - np.array(self.point_mm)
        height = offset @ unit
        beyond = _marked(mask.shape, voxels[height > 0])
        if self.radius_mm is None or not beyond.any():
            return beyond
        step = np.abs(unit @ geometry.directions) @ np.array(geometry.step_lengths)  # one voxel along the normal
        inside = np.linalg.norm(offset - height[:, None] * unit, axis=1) <= self.radius_mm
        parts, _ = ndimage.label(beyond, structure=_CORNERS)
        touching = parts[tuple(voxels[(height > 0) & (height <= step) & inside].T)]
        return np.asarray(np.isin(parts, np.unique(touching)) & beyond)


@dataclass(frozen=True)
class ClipSphere:
    """A sphere, the inside of which is removed; its centre is in LPS."""

    name: str
    center_mm: Point
    radius_mm: float

    def __post_init__(self) -> None:
        _check_point(self.name, "center_mm", self.center_mm)
        _check_radius(self.name, self.radius_mm)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": "sphere",
            "name": self.name,
            "center_mm": list(self.center_mm),
            "radius_mm": self.radius_mm,
        }

    def removes(self, mask: Mask, geometry: Geometry) -> Mask:
        """Which voxels of a mask the clip removes."""
        voxels = np.argwhere(mask)
        distance = np.linalg.norm(geometry.to_world(voxels) - np.array(self.center_mm), axis=1)
        return _marked(mask.shape, voxels[distance <= self.radius_mm])


Clip: TypeAlias = ClipPlane | ClipSphere


@dataclass(frozen=True, eq=False)
class Clipped:
    """A mask after clipping: what is kept, and the voxels that each clip removed, by its name."""

    kept: Mask
    removed_voxels: dict[str, int]


def clip_mask(mask: Mask, geometry: Geometry, clips: Sequence[Clip]) -> Clipped:
    """Apply clips to a mask of one structure.

    Parameters
    ----------
    mask : (k, j, i) bool array
        Of one component: other components count as cut off.
    geometry : Geometry
    clips : sequence of Clip

    Raises
    ------
    ValueError
        If the spacing is unknown, a clip removes nothing, or all clips together remove everything.
    """
    if not clips:
        return Clipped(mask, {})
    if not geometry.spacing_known:
        raise ValueError(
            Coded(
                "the spacing of the mask is unknown, so clips in mm have no place in it; give the spacing",
                "mask-without-spacing",
            )
        )
    kept = mask.copy()
    removed = {}
    for clip in clips:
        taken = clip.removes(mask, geometry)
        if not taken.any():
            raise ValueError(
                Coded(
                    f"the clip {clip.name!r} removes no voxel of the mask; move it (positions are LPS in mm), "
                    "turn its normal, or leave it out",
                    "clip-removes-nothing",
                    clip=clip.name,
                )
            )
        kept &= ~taken
        removed[clip.name] = int(np.count_nonzero(taken))
    if not kept.any():
        raise ValueError(
            Coded(
                f"the clips ({', '.join(clip.name for clip in clips)}) remove the whole mask; "
                "a plane removes the side that its normal points to: turn the normal, or make the spheres smaller",
                "clips-remove-all",
            )
        )
    return Clipped(largest_component(kept)[0], removed)


def largest_component(mask: Mask) -> tuple[Mask, int]:
    """The largest component (26 neighbours) of a mask, and how many components there are."""
    parts, count = ndimage.label(mask, structure=_CORNERS)
    if count < 2:
        return mask, count
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax()), count


def read_clips(path: Path) -> tuple[Clip, ...]:
    """Clips from their JSON file.

    Raises
    ------
    ValueError
        If it is not such a file.
    FileNotFoundError
        If it does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(
            Coded(f"{path} does not exist; give a JSON file of clips", "file-missing", path=str(path))
        )
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(Coded(f"{path} is too large for a file of clips", "no-clips-file", path=str(path)))
    try:
        stored = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(
            Coded(f"{path} is not a JSON file of clips ({error})", "no-clips-file", path=str(path))
        ) from error
    entries = stored.get("clips") if isinstance(stored, dict) else None
    if not isinstance(entries, list):
        raise ValueError(
            Coded(
                f'{path} is not a file of clips; expected {{"clips": [{{"kind": "plane", ...}}]}}',
                "no-clips-file",
                path=str(path),
            )
        )
    try:
        return clips_from_dicts(entries)
    except ValueError as error:
        reason = line_of(error)
        raise ValueError(Coded(f"{path}: {reason}", "case-note", case=str(path), note=reason)) from error


def write_clips(path: Path, clips: Sequence[Clip]) -> None:
    """Write clips as JSON."""
    from mper.utils.files import write_atomically

    text = json.dumps({"clips": [clip.to_dict() for clip in clips]}, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, [text.encode("utf-8")])


def clips_from_dicts(entries: Sequence[object]) -> tuple[Clip, ...]:
    """Clips from what `to_dict` gives.

    Raises
    ------
    ValueError
        If one is not as it should be; the message names it.
    """
    if len(entries) > _MOST_CLIPS:
        raise ValueError(f"{len(entries)} clips are given, at most {_MOST_CLIPS} are allowed")
    clips = tuple(_from_dict(number, entry) for number, entry in enumerate(entries, 1))
    names = [clip.name for clip in clips]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(Coded(f"two clips have the name {twice!r}; each needs its own", "clip-twice", clip=twice))
    return clips


def _from_dict(number: int, entry: object) -> Clip:
    kinds = {"plane": {"point_mm", "normal"}, "sphere": {"center_mm", "radius_mm"}}
    if not isinstance(entry, dict) or entry.get("kind") not in kinds:
        raise ValueError(f'clip {number} has no kind; expected "kind": "plane" or "sphere"')
    kind = entry["kind"]
    needed, allowed = kinds[kind], {*kinds[kind], "radius_mm", "kind", "name"}
    missing, unknown = sorted(needed - set(entry)), sorted(set(entry) - allowed)
    if missing or unknown:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has unknown entries {', '.join(map(str, unknown))}"
        raise ValueError(f"clip {number}, a {kind}, {wrong}")
    name = entry.get("name", f"{kind} {number}")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"clip {number} has a name that is no text")
    if kind == "sphere":
        return ClipSphere(name, _point(name, entry["center_mm"]), _number(name, entry["radius_mm"]))
    radius = entry.get("radius_mm")
    return ClipPlane(
        name,
        _point(name, entry["point_mm"]),
        _point(name, entry["normal"]),
        None if radius is None else _number(name, radius),
    )


def _point(name: str, value: object) -> Point:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError(f"the clip {name!r} has a position that is not three numbers: {value!r:.60}")
    x, y, z = (_number(name, each) for each in value)
    return x, y, z


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"the clip {name!r} has {value!r:.40} where a number is expected")
    return float(value)


def _check_point(name: str, what: str, point: Point) -> None:
    if len(point) != 3 or not all(math.isfinite(each) and abs(each) < 1e6 for each in point):
        raise ValueError(f"{what} of the clip {name!r} must be three numbers in mm, got {point!r:.60}")


def _check_radius(name: str, radius_mm: float) -> None:
    if not 0 < radius_mm < 1e4:
        raise ValueError(
            Coded(
                f"the radius of the clip {name!r} must be above zero, in mm, got {radius_mm:g}",
                "clip-radius",
                clip=name,
            )
        )


def _marked(shape: tuple[int, ...], voxels: npt.NDArray[np.int64]) -> Mask:
    """True at these voxels (n, 3)."""
    made = np.zeros(shape, bool)
    made[tuple(voxels.T)] = True
    return made
