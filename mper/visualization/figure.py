"""A picture of a segmentation and its reasons: three planes, the mask's outline, the prototype map, a legend.

Drawn with Pillow alone, in its own font, so that it looks the same on every machine. Planes are shown as a
radiologist expects them, however the scan is stored: the patient's right is on the left, anterior and superior are on
top. The letters at their borders are those of the scan's own axes; a scan that does not tell how it lies has none.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mper.labels import BACKGROUND, Label, Segmentation, prototype_labels
from mper.volume import Geometry, Volume

_GROUND, _PANEL, _TEXT, _QUIET = (19, 22, 28), (0, 0, 0), (236, 239, 244), (139, 148, 163)
_OUTLINE = (255, 209, 102)
_PIXELS_PER_MM = 4.8
_OBLIQUE = 0.34  # sine of 20 degrees
_EDGE, _GAP, _HEAD, _CAPTION = 44, 18, 112, 30
_WASH = 0.72, 0.40  # how strongly prototypes of structures and of the background colour the scan


@dataclass(frozen=True)
class _Plane:
    """One slice: its name, and the axis (along the patient's) that it is cut across."""

    name: str
    axis: int

    def letters(self, geometry: Geometry) -> tuple[str, str, str, str]:
        """Where left, right, top and bottom of the slice lie in the patient; empty where that is unknown."""
        if not geometry.spacing_known:
            return "", "", "", ""
        down, across = (geometry.directions[:, axis] for axis in range(3) if axis != self.axis)
        if self.axis != 0:
            down = -down  # superior is on top
        left, right, top, bottom = (patient_letters(d) for d in (-across, across, -down, down))
        return left, right, top, bottom


_PLANES = (_Plane("axial", 0), _Plane("coronal", 1), _Plane("sagittal", 2))


def patient_letters(direction: npt.NDArray[np.float64]) -> str:
    """Where an LPS direction points to: L, R, P, A, S or I, or two of them if it is oblique by 20 degrees or more."""
    named = zip(direction, ("RL", "AP", "IS"), strict=True)
    strongest = sorted(named, key=lambda each: -abs(each[0]))
    return "".join(letters[int(share > 0)] for share, letters in strongest[:2] if abs(share) > _OBLIQUE)


def draw_segmentation(
    path: Path,
    scan: Volume,
    mask: Segmentation,
    prototype_map: Volume | None,
    per_class: int,
    title: str,
    lines: Sequence[str],
) -> None:
    """Draw a picture and write it as PNG; the arguments are those of `segmentation_png`."""
    from mper.utils.files import write_atomically

    write_atomically(path, [segmentation_png(scan, mask, prototype_map, per_class, title, lines)])


def segmentation_png(
    scan: Volume,
    mask: Segmentation,
    prototype_map: Volume | None,
    per_class: int,
    title: str,
    lines: Sequence[str],
) -> bytes:
    """A picture as PNG.

    Parameters
    ----------
    scan, mask, prototype_map
        On one grid; the third as `mper.inference.predictor.Prediction` gives it, None for a picture without.
    per_class : int
        Prototypes a class.
    title : str
    lines : sequence of str
        Facts below the title.
    """
    scan, mask = scan.along_patient_axes(), replace(mask, labelmap=mask.labelmap.along_patient_axes())
    prototype_map = None if prototype_map is None else prototype_map.along_patient_axes()
    centre = _centre(mask.labelmap.array)
    shades = [_upright(_grey(scan.array), plane, centre) for plane in _PLANES]
    sizes = [_size(shade.shape, _steps(scan, plane)) for shade, plane in zip(shades, _PLANES, strict=True)]
    scans = [
        np.asarray(Image.fromarray(s).resize(size, Image.Resampling.BICUBIC))
        for s, size in zip(shades, sizes, strict=True)
    ]
    rows = [("mask", [_outlined(s, mask, p, centre) for s, p in zip(scans, _PLANES, strict=True)])]
    if prototype_map is not None:
        names = prototype_labels(mask.labels, per_class)
        coloured = [
            _washed(s, prototype_map.array, names, per_class, p, centre) for s, p in zip(scans, _PLANES, strict=True)
        ]
        rows.append(("nearest prototype", coloured))
    height = max(size[1] for size in sizes)
    width = 2 * _EDGE + sum(size[0] for size in sizes) + 2 * _GAP
    legend = 92 if prototype_map is not None else 0
    head = _HEAD if title or lines else _EDGE
    canvas = Image.new("RGB", (width, head + len(rows) * (height + _CAPTION + _GAP) + legend + _EDGE - _GAP), _GROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((_EDGE, 34), title, _TEXT, _font(30))
    for n, line in enumerate(lines):
        draw.text((width - _EDGE, 34 + 25 * n), line, _QUIET, _font(17), anchor="ra")
    top = head
    for caption, panels in rows:
        left = _EDGE
        for panel, plane in zip(panels, _PLANES, strict=True):
            box = (left, top + _CAPTION, left + panel.shape[1], top + _CAPTION + height)
            draw.rectangle(box, _PANEL)
            inside = top + _CAPTION + (height - panel.shape[0]) // 2
            canvas.paste(Image.fromarray(panel), (left, inside))
            draw.text((left, top + _CAPTION - 9), f"{plane.name}, {caption}", _QUIET, _font(16), anchor="ls")
            _letters(draw, box, plane.letters(scan.geometry))
            left += panel.shape[1] + _GAP
        top += height + _CAPTION + _GAP
    if prototype_map is not None:
        _legend(draw, (_EDGE, top + 8), prototype_map.array, names, per_class)
    stream = io.BytesIO()
    canvas.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _centre(array: npt.NDArray[np.generic]) -> tuple[int, int, int]:
    """Where the planes are cut: through the slices that show most of the mask, or the middle where it is empty."""
    inside = array != BACKGROUND
    if not inside.any():
        k, j, i = (n // 2 for n in array.shape)
        return k, j, i
    k, j, i = (int(inside.sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3))
    return k, j, i


def _upright(array: npt.NDArray[np.uint8], plane: _Plane, centre: Sequence[int]) -> npt.NDArray[np.uint8]:
    """A slice, turned so that anterior or superior is on top."""
    cut = array.take(centre[plane.axis], axis=plane.axis)
    return np.ascontiguousarray(cut if plane.axis == 0 else np.flip(cut, 0))


def _steps(volume: Volume, plane: _Plane) -> tuple[float, float]:
    """Row and column step of a slice: mm, or equal where the spacing is unknown."""
    down, across = (s for axis, s in enumerate(volume.geometry.step_lengths) if axis != plane.axis)
    return down, across


def _size(shape: Sequence[int], steps: tuple[float, float]) -> tuple[int, int]:
    return round(shape[1] * steps[1] * _PIXELS_PER_MM), round(shape[0] * steps[0] * _PIXELS_PER_MM)


def _grey(array: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    values = array.astype(np.float32)
    low, high = np.percentile(values, (1, 99.7))
    return (np.clip((values - low) / max(high - low, 1e-6), 0, 1) ** 0.9 * 255).astype(np.uint8)


def _shares(slice_: npt.NDArray[np.uint8], values: Sequence[int], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """How much of each pixel belongs to each value: smooth borders instead of steps."""
    shares = [
        np.asarray(Image.fromarray(np.float32(slice_ == value)).resize(size, Image.Resampling.BICUBIC))
        for value in values
    ]
    return np.stack(shares)


def _outlined(
    grey: npt.NDArray[np.uint8], mask: Segmentation, plane: _Plane, centre: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """The scan with each structure's outline; one structure has a bright colour, several have their own."""
    picture = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    cut = _upright(mask.labelmap.array.astype(np.uint8), plane, centre)
    for label in mask.labels:
        inside = _shares(cut, [label.value], (grey.shape[1], grey.shape[0]))[0] > 0.5
        if not inside.any() or inside.all():
            continue
        picture = with_outline(picture, inside, _OUTLINE if len(mask.labels) == 1 else label.colour)
    return picture.round().astype(np.uint8)


def with_outline(
    picture: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_], colour: Sequence[int], width: float = 4.4
) -> npt.NDArray[np.float32]:
    """A picture (rows, columns, 3) with a smooth line of so many pixels around what is inside, and not all of it."""
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    line = np.clip(width / 2 - np.abs(distance - 0.5), 0, 1)[..., None].astype(np.float32)
    return picture * (1 - line) + np.array(colour, np.float32) * line


def _washed(
    grey: npt.NDArray[np.uint8],
    prototypes: npt.NDArray[np.generic],
    names: Sequence[Label],
    per_class: int,
    plane: _Plane,
    centre: Sequence[int],
) -> npt.NDArray[np.uint8]:
    """The scan in the colours of the prototypes."""
    cut = _upright(prototypes.astype(np.uint8), plane, centre)
    shares = _shares(cut, [0, *(label.value for label in names)], (grey.shape[1], grey.shape[0]))
    winner = shares.argmax(axis=0)
    colours = np.array([(0, 0, 0), *(label.colour for label in names)], np.float32)
    wash = np.array([0, *(_WASH[0] if label.value > per_class else _WASH[1] for label in names)], np.float32)
    light = (0.35 + 0.65 * grey.astype(np.float32) / 255)[..., None]  # the scan shines through
    strength = wash[winner][..., None]
    picture = grey[..., None] * (1 - strength) + colours[winner] * light * strength
    return picture.round().astype(np.uint8)


def _letters(draw: ImageDraw.ImageDraw, box: Sequence[int], letters: Sequence[str]) -> None:
    left, top, right, bottom = box
    middle, centre = (top + bottom) // 2, (left + right) // 2
    places = [(left + 8, middle, "lm"), (right - 8, middle, "rm"), (centre, top + 6, "mt"), (centre, bottom - 6, "mb")]
    for letter, (x, y, anchor) in zip(letters, places, strict=True):
        draw.text((x, y), letter, _TEXT, _font(15), anchor=anchor, stroke_width=2, stroke_fill=_PANEL)


def _legend(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    prototypes: npt.NDArray[np.generic],
    names: Sequence[Label],
    per_class: int,
) -> None:
    """A line of swatches for each class, with the share of its voxels that each prototype has."""
    counts = np.bincount(prototypes.astype(np.uint8).reshape(-1), minlength=256)
    classes = [names[n : n + per_class] for n in range(0, len(names), per_class)]
    left, top = corner
    for line, members in enumerate([*classes[1:], classes[0]]):
        total = max(1, int(sum(counts[label.value] for label in members)))
        x, y = left, top + 34 * line
        draw.text((x, y + 10), members[0].name.rsplit(" ", 1)[0], _TEXT, _font(17), anchor="lm")
        x += 130
        for number, label in enumerate(members, start=1):
            draw.rounded_rectangle((x, y, x + 20, y + 20), 4, label.colour)
            draw.text((x + 30, y + 10), f"prototype {number}", _TEXT, _font(16), anchor="lm")
            draw.text((x + 128, y + 10), f"{100 * counts[label.value] / total:.0f} %", _QUIET, _font(16), anchor="lm")
            x += 210
    draw.text((left, top + 34 * len(classes)), "share: of the voxels of that class", _QUIET, _font(14), anchor="lt")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
