"""A picture of the wall of a left atrium: its surface from four sides, coloured by the image intensity ratio.

Drawn with Pillow alone (triangles from back to front), in its own font, so that it looks the same on every machine.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mper.measurement.surface import Surface
from mper.measurement.wall import IIR_THRESHOLDS

Floats = npt.NDArray[np.float64]
_GROUND, _TEXT, _QUIET = (19, 22, 28), (236, 239, 244), (139, 148, 163)
_CLIPPED, _PLAIN = (70, 76, 88), (203, 108, 81)
_PANEL, _GAP, _EDGE, _BAR = 300, 14, 24, 86
_FINER = 2  # drawn so much larger, then made smaller: smooth edges
_LOW, _HIGH = 0.5, 1.8  # of the colour bar
_STOPS = (
    (0.0, (49, 84, 150)),
    (0.36, (112, 178, 202)),
    (0.54, (240, 225, 130)),
    (0.63, (240, 140, 50)),
    (0.85, (190, 30, 40)),
    (1.0, (110, 0, 40)),
)
_LIGHT = np.array([-0.35, 0.45, 0.82])  # to the right, up, and to the viewer
# Name, what is to the right in the picture, and the direction to the viewer, in LPS; superior is on top.
_VIEWS = (
    ("anterior", (1, 0, 0), (0, -1, 0)),
    ("left", (0, 1, 0), (1, 0, 0)),
    ("posterior", (-1, 0, 0), (0, 1, 0)),
    ("right", (0, -1, 0), (-1, 0, 0)),
)


def draw_wall(surface: Surface) -> bytes:
    """A PNG of four views.

    Parameters
    ----------
    surface : Surface
        With the scalar ``wall`` (0 where it was clipped, drawn grey) and, of an LGE scan, ``iir``.
    """
    with_ratio = "iir" in surface.scalars
    width = 2 * _EDGE + len(_VIEWS) * _PANEL + (len(_VIEWS) - 1) * _GAP
    centre = (surface.points_mm.min(axis=0) + surface.points_mm.max(axis=0)) / 2
    across, deep, high = np.abs(surface.points_mm - centre).max(axis=0).tolist()
    scale = _PANEL / 2 / (1.06 * max(across, deep, high))  # pixels a mm
    height = max(120, round(2.12 * high * scale))
    canvas = Image.new("RGB", (width, _EDGE + 30 + height + (_BAR if with_ratio else _EDGE)), _GROUND)
    draw = ImageDraw.Draw(canvas)
    colours = _colours(surface)
    for number, (name, right, viewer) in enumerate(_VIEWS):
        left = _EDGE + number * (_PANEL + _GAP)
        draw.text((left, _EDGE - 4), name, _QUIET, _font(16))
        panel = _view(surface, colours, centre, (scale, height), np.array(right, float), np.array(viewer, float))
        canvas.paste(panel, (left, _EDGE + 22))
    if with_ratio:
        _bar(draw, _EDGE + 36 + height, width)
    stream = io.BytesIO()
    canvas.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def ratio_colour(ratio: npt.ArrayLike) -> Floats:
    """(..., 3) colours 0 to 255 of image intensity ratios."""
    share = (np.asarray(ratio, dtype=np.float64) - _LOW) / (_HIGH - _LOW)
    places = [stop for stop, _ in _STOPS]
    return np.stack([np.interp(share, places, [colour[n] for _, colour in _STOPS]) for n in range(3)], axis=-1)


def _colours(surface: Surface) -> Floats:
    """(m, 3) colour of each triangle."""
    points = np.tile(np.array(_PLAIN, float), (len(surface.points_mm), 1))
    if "iir" in surface.scalars:
        ratio = surface.scalars["iir"]
        points = np.where(np.isfinite(ratio)[:, None], ratio_colour(np.nan_to_num(ratio)), _CLIPPED)
    if "wall" in surface.scalars:
        points = np.where(surface.scalars["wall"][:, None] > 0, points, _CLIPPED)
    return np.asarray(points[surface.triangles].mean(axis=1))


def _view(
    surface: Surface, colours: Floats, centre: Floats, size: tuple[float, int], right: Floats, viewer: Floats
) -> Image.Image:
    up = np.cross(viewer, right)
    scale, height = size
    moved = surface.points_mm - centre
    flat = np.stack([moved @ right, -(moved @ up)], axis=1) * scale + np.array([_PANEL / 2, height / 2])
    corners = moved[surface.triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    facing = normal @ viewer > 0
    depth = (corners.mean(axis=1) @ viewer)[facing]
    lit = np.stack([normal @ right, normal @ up, normal @ viewer], axis=1) @ (_LIGHT / np.linalg.norm(_LIGHT))
    shade = np.clip(0.35 + 0.65 * np.clip(lit, 0, 1), 0, 1)[:, None]
    painted = (colours * shade).astype(np.uint8)[facing]
    polygons = _FINER * flat[surface.triangles[facing]]
    image = Image.new("RGB", (_FINER * _PANEL, _FINER * height), (0, 0, 0))
    draw = ImageDraw.Draw(image)
    for n in np.argsort(depth):
        draw.polygon(polygons[n].reshape(-1).tolist(), tuple(painted[n].tolist()))
    return image.resize((_PANEL, height), Image.Resampling.LANCZOS)


def _bar(draw: ImageDraw.ImageDraw, top: int, width: int) -> None:
    left, right = _EDGE + 230, width - _EDGE - 20
    draw.text((_EDGE, top + 2), "image intensity ratio", _TEXT, _font(15))
    for column in range(left, right):
        ratio = _LOW + (_HIGH - _LOW) * (column - left) / (right - left)
        draw.line((column, top, column, top + 18), tuple(ratio_colour(ratio).astype(int).tolist()))
    for ratio in (_LOW, *IIR_THRESHOLDS, _HIGH):
        x = left + (ratio - _LOW) / (_HIGH - _LOW) * (right - left)
        draw.line((x, top + 18, x, top + 24), _TEXT)
        draw.text((x, top + 27), f"{ratio:.2f}", _QUIET, _font(13), anchor="mt")
    draw.text((_EDGE, top + 27), "grey: clipped or not in the scan", _QUIET, _font(13))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
