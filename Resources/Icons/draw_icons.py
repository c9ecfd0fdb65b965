"""Draws the icons of the extension and its modules, and the thumbnail of the sample scan.

The picture is what the method does: an atrium with its veins, divided among prototypes, each with its own colour.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mper.io import read_volume
from mper.labels import make_label

REPOSITORY = Path(__file__).resolve().parents[2]
OVERSAMPLING = 4
PROTOTYPES = ((255, 190, 92), (240, 98, 86), (190, 96, 214))
CENTRES = ((0.30, 0.52), (0.62, 0.30), (0.64, 0.70))
GROUND = ((38, 52, 82), (20, 27, 45))


def atrium(size: int) -> Image.Image:
    """A mask of an atrium with four veins and an appendage, in a square of `size`."""
    mask = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(mask)
    draw.ellipse([n * size for n in (0.25, 0.27, 0.75, 0.75)], fill=255)
    for start, end in (
        ((0.40, 0.40), (0.17, 0.25)),
        ((0.36, 0.58), (0.15, 0.70)),
        ((0.60, 0.40), (0.82, 0.21)),
        ((0.64, 0.58), (0.86, 0.66)),
    ):
        draw.line([n * size for n in (*start, *end)], fill=255, width=round(0.135 * size))
        radius = 0.0675
        draw.ellipse([(end[at % 2] + (radius if at > 1 else -radius)) * size for at in range(4)], fill=255)
    smooth = mask.filter(ImageFilter.GaussianBlur(0.028 * size))
    return smooth.point(lambda value: 255 if value > 120 else 0)


def divided(size: int) -> Image.Image:
    """The atrium, every point in the colour of its nearest prototype, with a white rim."""
    y, x = np.mgrid[:size, :size] / size
    distances = [np.hypot(x - cx, y - cy) for cx, cy in CENTRES]
    colours = np.array(PROTOTYPES, np.uint8)[np.argmin(distances, axis=0)]
    picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    mask = atrium(size)
    rim = mask.filter(ImageFilter.MaxFilter(2 * round(0.012 * size) + 1))
    picture.paste((255, 255, 255, 255), mask=rim)
    picture.paste(Image.fromarray(colours).convert("RGBA"), mask=mask)
    return picture


def ground(size: int) -> Image.Image:
    """A dark square with round corners."""
    shade = np.linspace(0, 1, size)[:, None, None]
    colours = (1 - shade) * np.array(GROUND[0]) + shade * np.array(GROUND[1])
    picture = Image.fromarray(np.broadcast_to(colours, (size, size, 3)).astype(np.uint8)).convert("RGBA")
    corners = Image.new("L", (size, size), 0)
    ImageDraw.Draw(corners).rounded_rectangle([0, 0, size - 1, size - 1], radius=0.18 * size, fill=255)
    picture.putalpha(corners)
    return picture


def segment_icon(size: int) -> Image.Image:
    """The atrium alone."""
    large = OVERSAMPLING * size
    picture = ground(large)
    picture.alpha_composite(divided(large))
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def trainer_icon(size: int) -> Image.Image:
    """The atrium, smaller, within an arrow that comes back to where it began."""
    large = OVERSAMPLING * size
    picture = ground(large)
    inner = round(0.58 * large)
    picture.alpha_composite(divided(inner), ((large - inner) // 2, (large - inner) // 2 - round(0.01 * large)))
    draw = ImageDraw.Draw(picture)
    radius, width, gold = 0.415, 0.06, (255, 214, 120, 255)
    box = [(0.5 + s * radius) * large for s in (-1, -1, 1, 1)]
    draw.arc(box, -40, 235, fill=gold, width=round(width * large))
    angle = math.radians(-40)
    tip = np.array([0.5 + (radius - width / 2) * math.cos(angle), 0.5 + (radius - width / 2) * math.sin(angle)])
    along, across = np.array([math.sin(angle), -math.cos(angle)]), np.array([math.cos(angle), math.sin(angle)])
    corners = [tip + 0.15 * along, tip + 0.095 * across, tip - 0.095 * across]
    draw.polygon([(float(x * large), float(y * large)) for x, y in corners], fill=gold)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def thumbnail() -> Image.Image:
    """A slice of the sample scan with the outline that an expert drew, as Sample Data shows it (260 x 280)."""
    folder = REPOSITORY / "Resources" / "SampleData"
    scan, mask = (read_volume(folder / name).array for name in ("la.nrrd", "la-reference.nrrd"))
    at = int(np.argmax((mask > 0).sum(axis=(1, 2))))
    low, high = np.percentile(scan, (1, 99.5))
    grey = np.clip((scan[at].astype(float) - low) / (high - low), 0, 1)
    picture = Image.fromarray((255 * grey).astype(np.uint8)).convert("RGB")
    scale = max(260 / picture.width, 280 / picture.height)
    size = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    inside = Image.fromarray((255 * (mask[at] > 0)).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    inside = inside.point(lambda value: 255 if value > 127 else 0)
    rim = np.array(inside.filter(ImageFilter.MaxFilter(5))) > np.array(inside)
    pixels = np.array(picture)
    pixels[rim] = make_label(1, "LA").colour
    left, top = (size[0] - 260) // 2, (size[1] - 280) // 2
    return Image.fromarray(pixels).crop((left, top, left + 260, top + 280))


def main() -> None:
    """Write all of them where the modules and the extension look for them."""
    for path, picture in {
        "MPER.png": segment_icon(256),
        "MPERSegment/Resources/Icons/MPERSegment.png": segment_icon(128),
        "MPERTrainer/Resources/Icons/MPERTrainer.png": trainer_icon(128),
        "MPERSegment/Resources/Icons/LeftAtrium.png": thumbnail(),
    }.items():
        (REPOSITORY / path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(REPOSITORY / path, optimize=True)


if __name__ == "__main__":
    main()
