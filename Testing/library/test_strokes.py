"""Strokes: which voxels they cover, and their JSON."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mper.io.strokes import read_strokes, write_strokes
from mper.labels import make_label
from mper.strokes import (
    Stroke,
    StrokeList,
    label_value,
    strokes_from_dict,
    strokes_to_dict,
)
from mper.volume import Geometry

LABELS = (make_label(1, "LA"), make_label(3, "Scar"))


def oblique(shape: tuple[int, int, int] = (9, 14, 12)) -> Geometry:
    turn, lean = np.radians(25), np.radians(-15)
    a = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    b = np.array([[1, 0, 0], [0, np.cos(lean), -np.sin(lean)], [0, np.sin(lean), np.cos(lean)]])
    return Geometry.from_axes((-20.0, 31.0, 5.0), (3.0, 0.8, 1.1), (a @ b)[:, ::-1], shape)


def slowly(stroke: Stroke, geometry: Geometry) -> np.ndarray:
    """Every voxel asked for its distance to every point."""
    index = np.argwhere(np.ones(geometry.shape, dtype=bool))
    places = geometry.to_world(index)
    covered = np.zeros(len(index), dtype=bool)
    for point in stroke.points_mm:
        gaps = np.linalg.norm(places - point, axis=1)
        covered |= gaps <= stroke.radius_mm
        covered |= (index == np.rint(geometry.to_index(point))).all(axis=1)
    return index[covered]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*(st.floats(-3, n + 2) for n in (9, 14, 12))), min_size=1, max_size=5),
    st.floats(0, 7).filter(lambda r: abs(r - round(r, 1)) > 1e-6 or r == 0),
)
def test_a_stroke_covers_the_voxels_within_its_radius(points: list[tuple[float, float, float]], radius: float) -> None:
    geometry = oblique()
    stroke = Stroke(1, tuple(map(tuple, geometry.to_world(points).tolist())), radius)
    assert np.array_equal(stroke.voxels(geometry), slowly(stroke, geometry))


def test_a_point_covers_its_nearest_voxel_however_thin() -> None:
    geometry = oblique()
    place = tuple(geometry.to_world((4.3, 7.4, 2.6)).tolist())
    assert Stroke(1, (place,), 0.0).voxels(geometry).tolist() == [[4, 7, 3]]


def test_points_are_not_joined() -> None:
    geometry = Geometry.from_axes((0, 0, 0), (1, 1, 1), np.eye(3)[:, ::-1], (3, 3, 30))
    voxels = Stroke(1, ((2.0, 1.0, 1.0), (27.0, 1.0, 1.0)), 1.0).voxels(geometry)
    assert sorted({int(i) for i in voxels[:, 2]}) == [1, 2, 3, 26, 27, 28]


def test_a_stroke_beside_the_grid_covers_nothing() -> None:
    assert Stroke(1, ((900.0, 0.0, 0.0),), 2.0).voxels(oblique()).shape == (0, 3)


def test_numbers_that_cannot_be_added_are_far_away() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Stroke(1, ((1e308, 1e308, 1e308),), 1e308).voxels(oblique()).shape == (0, 3)


def test_thousands_of_points_are_covered_in_pieces() -> None:
    geometry = Geometry.from_axes((0, 0, 0), (1, 1, 1), np.eye(3)[:, ::-1], (40, 40, 40))
    rng = np.random.default_rng(0)
    stroke = Stroke(1, tuple(map(tuple, rng.uniform(0, 40, (3000, 3)).tolist())), 9.0)
    assert len(stroke.voxels(geometry)) == 40**3


def test_json_gives_back_what_it_was_given(tmp_path: Path) -> None:
    strokes = StrokeList(
        (
            Stroke(1, ((1.25, -2.0, 3.0), (1.5, -2.0, 3.0)), 1.5),
            Stroke(0, ((0.1, 0.2, 0.3),), 0.0),
            Stroke(3, ((1, 2, 3),)),
        ),
        "ab12",
        "la-8",
    )
    assert strokes_from_dict(json.loads(json.dumps(strokes_to_dict(strokes, LABELS))), LABELS) == strokes
    path = tmp_path / "Ängste und Striche.json"
    write_strokes(path, strokes, LABELS)
    assert read_strokes(path, LABELS) == strokes
    assert list(tmp_path.iterdir()) == [path]
    assert json.loads(path.read_text(encoding="utf-8"))["strokes"][1]["label"] == 0


@pytest.mark.parametrize("label", ["LA", "la", "Left atrium", "left ATRIUM", 1])
def test_a_label_is_known_by_name_meaning_and_value(label: object) -> None:
    assert label_value(label, LABELS) == 1


@pytest.mark.parametrize("label", [0, "background", "Background"])
def test_background_is_known_too(label: object) -> None:
    assert label_value(label, LABELS) == 0


@pytest.mark.parametrize("label", ["LV", 2, True, None, 255, 1.0, [1]])
def test_an_unknown_label_is_told_with_the_known_ones(label: object) -> None:
    with pytest.raises(ValueError, match=r"^unknown label .*; known are LA \(1\), Scar \(3\) and background \(0\)$"):
        label_value(label, LABELS)


@pytest.mark.parametrize(
    ("points", "radius", "words"),
    [
        ((), 1.0, "needs at least one point"),
        (((1.0, 2.0),), 1.0, "rows of three finite numbers"),
        (((1.0, 2.0, float("nan")),), 1.0, "rows of three finite numbers"),
        ((("a", "b", "c"),), 1.0, "rows of three finite numbers"),
        (((1.0, 2.0, 3.0), (1.0, 2.0)), 1.0, "rows of three finite numbers"),
        ((1.0, 2.0, 3.0), 1.0, "rows of three finite numbers"),
        (((1.0, 2.0, 3.0),), -1.0, "radius"),
        (((1.0, 2.0, 3.0),), float("inf"), "radius"),
        (((1.0, 2.0, 3.0),), float("nan"), "radius"),
        (((10**400, 2.0, 3.0),), 1.0, "rows of three finite numbers"),
        (((1.0, 2.0, 3.0),), 10**400, "radius"),
    ],
)
def test_a_malformed_stroke_is_refused(points: tuple, radius: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Stroke(1, points, radius)


@pytest.mark.parametrize("value", [-1, 255, 300])
def test_a_stroke_has_a_label_value(value: int) -> None:
    with pytest.raises(ValueError, match="label value"):
        Stroke(value, ((0, 0, 0),))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON .* line 1"),
        ("[1]", 'of the form {"strokes"'),
        ('{"strokes": 3}', 'of the form {"strokes"'),
        ('{"strokes": [5]}', "stroke 1: expected an object"),
        ('{"strokes": [{"points_mm": [[1, 2, 3]]}]}', "stroke 1: label is missing"),
        ('{"strokes": [{"label": 1, "points_mm": [[1, 2, 3]]}, {"label": 1}]}', "stroke 2: points_mm is missing"),
        ('{"strokes": [{"label": 1, "points_mm": []}]}', "stroke 1: a stroke needs at least one point"),
        ('{"strokes": [{"label": 1, "points_mm": "here"}]}', "stroke 1: points_mm is a list"),
        ('{"strokes": [{"label": "LV", "points_mm": [[1, 2, 3]]}]}', "stroke 1: unknown label 'LV'; known are LA"),
        ('{"strokes": [{"label": 1, "points_mm": [[1, 2, 3]], "radius_mm": "2"}]}', "stroke 1: radius_mm is a number"),
        ('{"strokes": [], "scan_sha256": 5}', "scan_sha256 .* is text"),
        ('{"strokes": [{"label": 1, "points_mm": [[true, 2, 3]]}]}', "stroke 1: points_mm holds True"),
        ('{"strokes": [{"label": 1, "points_mm": [["1", 2, 3]]}]}', "stroke 1: points_mm holds '1', which is no"),
        ('{"strokes": [{"label": 1, "points_mm": [[1' + 400 * "0" + ", 2, 3]]}]}", "stroke 1: .* finite numbers"),
        ('{"strokes": [{"label": 1, "points_mm": [[1' + 5000 * "0" + ", 2, 3]]}]}", "holds a number that is too long"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "strokes.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words) as caught:
        read_strokes(path, LABELS)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "strokes.json"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        read_strokes(path, LABELS)
