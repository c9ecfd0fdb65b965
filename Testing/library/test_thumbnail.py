"""The small picture of a case."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_data import LPS, blob_dataset

from mper.labels import make_label
from mper.visualization import thumbnail
from mper.visualization.thumbnail import case_thumbnail, draw_thumbnail
from mper.volume import Geometry, Volume

LA = (make_label(1, "LA"),)


def picture(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def scan(shape: tuple[int, int, int], spacing: tuple[float, float, float], directions: np.ndarray = LPS) -> Volume:
    """Bright in the corner where j and i begin."""
    array = np.zeros(shape, np.float32)
    array[:, : shape[1] // 4, : shape[2] // 4] = 100
    return Volume(array, Geometry.from_axes((0, 0, 0), spacing, directions, shape))


def test_picture_has_the_proportions_of_the_patient() -> None:
    assert picture(draw_thumbnail(scan((3, 40, 80), (5, 1, 1)), None, LA)).shape == (64, 128, 3)
    assert picture(draw_thumbnail(scan((3, 40, 80), (5, 4, 1)), None, LA)).shape == (128, 64, 3)


@pytest.mark.parametrize(("j", "i"), [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_the_patients_right_is_left_and_the_front_is_on_top(j: int, i: int) -> None:
    """However the array is stored, what lies right and anterior is drawn at the top left."""
    directions = LPS * np.array([1, j, i])
    bright = picture(draw_thumbnail(scan((3, 40, 40), (1, 1, 1), directions), None, LA))[..., 0] > 128
    rows, columns = np.nonzero(bright)
    assert (rows.mean() < 64) == (j > 0) and (columns.mean() < 64) == (i > 0)


def test_the_slice_in_the_middle_of_the_label_is_shown() -> None:
    array = np.zeros((20, 16, 16), np.float32)
    array += np.arange(20)[:, None, None]
    volume = Volume(array, Geometry.from_axes((0, 0, 0), (1, 1, 1), LPS, array.shape))
    mask = np.zeros(array.shape, np.uint8)
    mask[14:17, 4:12, 4:12] = 1
    mask[0, 0, 0] = 255
    drawn = picture(draw_thumbnail(volume, volume.with_array(mask), LA))
    assert np.ptp(drawn.reshape(-1, 3), axis=0).max() > 50
    nothing = picture(draw_thumbnail(volume, volume.with_array(mask * (mask == 255)), LA))
    assert np.ptp(nothing.reshape(-1, 3), axis=0).max() == 0


def test_a_picture_is_drawn_once_for_each_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = blob_dataset(tmp_path / "data", 1).case("case0")
    drawn = []
    draw = thumbnail.draw_thumbnail
    monkeypatch.setattr(thumbnail, "draw_thumbnail", lambda *a: (drawn.append(a[3]), draw(*a))[1])
    first = case_thumbnail(case)
    assert case_thumbnail(case) == first and drawn == ["1"]
    label = case.label()
    assert label is not None
    case.add_label(label.with_array(np.zeros_like(label.array)), author="t", how="hand")
    assert case_thumbnail(case) != first and drawn == ["1", "2"]
    (case.path / ".thumbnail.png").write_bytes(b"no picture")
    case_thumbnail(case)
    assert drawn == ["1", "2", "2"]
