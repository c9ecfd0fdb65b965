"""A small picture of a case: its middle slice, the label over it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mper.datasets.case import Case
from mper.labels import BACKGROUND, UNLABELLED, Label
from mper.volume import Geometry, Volume

_SIZE = 128  # of the longer side, in pixels
_WASH = 0.45  # how strongly a label colours the scan
_FILE = ".thumbnail.png"
_REVISION = "revision"


def case_thumbnail(case: Case) -> bytes:
    """A PNG of a case with its newest label; drawn once for each revision and kept beside the case."""
    revisions = case.revisions()
    newest = str(revisions[-1].number if revisions else 0)
    path = case.path / _FILE
    with contextlib.suppress(OSError, SyntaxError, ValueError), Image.open(path) as kept:  # SyntaxError: Pillow's
        if getattr(kept, "text", {}).get(_REVISION) == newest:
            return path.read_bytes()
    data = draw_thumbnail(case.image(), case.label(), case.labels, newest)
    from mper.utils.files import write_atomically

    with contextlib.suppress(OSError):  # a folder that cannot be written to costs only the time
        write_atomically(path, [data])
    return data


def draw_thumbnail(scan: Volume, label: Volume | None, labels: Sequence[Label], revision: str = "") -> bytes:
    """A PNG of the slice (along k) in the middle of what is labelled, else of the scan."""
    found = np.zeros(0, dtype=int)
    if label is not None:
        drawn = (label.array != BACKGROUND) & (label.array != UNLABELLED)
        found = np.flatnonzero(drawn.any(axis=(1, 2)))
    k = int(found[len(found) // 2]) if found.size else scan.array.shape[0] // 2
    grey = _grey(scan.array[k])
    picture = np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)
    if label is not None:
        for each in labels:
            own = label.array[k] == each.value
            picture[own] = (1 - _WASH) * picture[own] + _WASH * np.array(each.colour, np.float32)
    picture = picture[_upright(scan.geometry)]
    image = Image.fromarray(picture.round().astype(np.uint8))
    _, dj, di = scan.geometry.step_lengths
    height, width = image.height * dj, image.width * di
    scale = _SIZE / max(height, width)
    image = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BILINEAR)
    told = PngInfo()
    told.add_text(_REVISION, revision)
    stream = io.BytesIO()
    image.save(stream, "png", pnginfo=told)
    return stream.getvalue()


def _grey(plane: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    values = plane.astype(np.float32)
    low, high = np.percentile(values, [1, 99])
    if not high > low:
        low, high = float(values.min()), float(values.max())
    return np.asarray(255 * np.clip((values - low) / max(high - low, 1e-6), 0, 1), dtype=np.float32)


def _upright(geometry: Geometry) -> tuple[slice, slice]:
    """Rows and columns as people look at them: the patient's left to the right, posterior and inferior down."""
    flips = []
    for axis, down_is_positive in ((1, (True, True, False)), (2, (True, True, True))):
        along = geometry.directions[:, axis]
        main = int(np.abs(along).argmax())
        flips.append(slice(None, None, 1 if (along[main] > 0) == down_is_positive[main] else -1))
    rows, columns = flips
    return rows, columns
