"""The working grid: there and back, whatever the scan's axes, and intensities as a bundle wants them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from small_data import LPS, labels_on_source

from mper.dataloading.preprocessing import Preprocessing, WorkingGrid, normalise
from mper.labels import UNLABELLED
from mper.volume import Geometry

SHAPE = (12, 30, 26)
SPACING = (2.5, 0.7, 0.9)


def grid(preprocessing: Preprocessing, geometry: Geometry | None = None, dimensions: int = 3) -> WorkingGrid:
    return WorkingGrid.plan(geometry or Geometry.from_axes((0, 0, 0), SPACING, LPS, SHAPE), preprocessing, dimensions)


def ramp(shape: tuple[int, ...], steps: tuple[float, ...]) -> np.ndarray:
    """Linear in space: 1 along k, 2 along j, 3 along i for each mm, 0 in the middle of the field of view."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, steps, strict=True)]
    k, j, i = np.meshgrid(*axes, indexing="ij")
    return (k + 2 * j + 3 * i).astype(np.float32)


WAYS = [
    Preprocessing(),
    Preprocessing((1.0, 1.0, 1.0)),
    Preprocessing((2.0, 0.5, 0.6)),
    Preprocessing((5.0, 2.1, 1.8)),
    Preprocessing(in_plane_pixels=64),
]
ALL_WAYS = pytest.mark.parametrize("preprocessing", WAYS, ids=["as it is", "1 mm", "finer", "coarser", "64 pixels"])


@ALL_WAYS
def test_constant_stays_constant_there_and_back(preprocessing: Preprocessing) -> None:
    working = grid(preprocessing)
    there = working.forward(np.full(SHAPE, 7, dtype=np.int16))
    assert there.shape == working.size
    torch.testing.assert_close(there, torch.full(working.size, 7.0))
    back = working.back(there[None])
    assert back.shape == (1, *SHAPE)
    torch.testing.assert_close(back, torch.full((1, *SHAPE), 7.0))


@ALL_WAYS
def test_working_voxels_fill_the_same_field_of_view(preprocessing: Preprocessing) -> None:
    working = grid(preprocessing)
    lengths = np.array(working.size) * working.step_lengths
    np.testing.assert_allclose(lengths, np.array(SHAPE) * SPACING)
    if preprocessing.spacing_mm:
        np.testing.assert_allclose(working.step_lengths, preprocessing.spacing_mm, rtol=0.05)


@pytest.mark.parametrize("preprocessing", WAYS[:3], ids=["as it is", "1 mm", "finer"])
def test_linear_ramp_is_preserved_inside(preprocessing: Preprocessing) -> None:
    working = grid(preprocessing)
    there = working.forward(ramp(SHAPE, SPACING)).numpy()
    inside = (slice(3, -3),) * 3
    np.testing.assert_allclose(there[inside], ramp(working.size, working.step_lengths)[inside], atol=1e-3)
    back = working.back(torch.from_numpy(there)[None])[0].numpy()
    coarser = working.size[0] > 1.5 * SHAPE[0]  # then some voxels are averages of two and some of three
    np.testing.assert_allclose(back[inside], ramp(SHAPE, SPACING)[inside], atol=0.26 if coarser else 1e-3)


def test_coarser_grid_averages_within_a_third_of_a_voxel() -> None:
    geometry = Geometry.from_axes((0, 0, 0), (0.625,) * 3, LPS, (64, 80, 48))
    working = grid(Preprocessing((1.0, 1.0, 1.0)), geometry)
    array = ramp((64, 80, 48), (0.625,) * 3)
    error = working.forward(array).numpy() - ramp(working.size, working.step_lengths)
    inside = (slice(2, -2),) * 3
    assert np.abs(error[inside]).max() < 0.625 / 3 * 6  # of the steepest slope, over the three axes
    assert abs(error[inside].mean()) < 0.01
    noise = np.random.default_rng(0).normal(size=(64, 80, 48)).astype(np.float32)
    assert working.forward(noise).std() < 0.6  # averaged, not picked


def turned(
    array: np.ndarray, geometry: Geometry, axes: tuple[int, ...], flips: tuple[int, ...]
) -> tuple[np.ndarray, Geometry]:
    """The same scan in the patient, stored with other axes."""
    origin = np.zeros(3)
    directions = geometry.directions.copy()
    for axis in flips:
        origin[axis] = geometry.shape[axis] - 1
        directions[:, axis] *= -1
    order = list(axes)
    spacing = np.array(geometry.step_lengths)[order]
    return np.flip(array, flips).transpose(axes), Geometry.from_axes(
        geometry.to_world(origin), spacing, directions[:, order], np.array(geometry.shape)[order]
    )


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_network_sees_the_same_however_the_scan_is_stored(axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    straight = Geometry.from_axes((5, -3, 8), SPACING, LPS, SHAPE)
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    preprocessing = Preprocessing((1.0, 1.0, 1.0))
    expected = grid(preprocessing, straight)
    other, geometry = turned(array, straight, axes, flips)
    working = grid(preprocessing, geometry)
    assert working.size == expected.size
    torch.testing.assert_close(working.forward(other), expected.forward(array))
    back, wanted = working.back(working.forward(other)[None])[0], expected.back(expected.forward(array)[None])[0]
    np.testing.assert_allclose(back.numpy(), turned(wanted.numpy(), straight, axes, flips)[0], atol=1e-5)
    labels = (other > 0).astype(np.uint8)
    np.testing.assert_array_equal(
        labels_on_source(working, working.forward_labels(labels, 2)),
        turned(
            labels_on_source(expected, expected.forward_labels((array > 0).astype(np.uint8), 2)),
            straight,
            axes,
            flips,
        )[0],
    )


def test_oblique_scan_is_taken_along_its_own_axes(oblique_geometry: Geometry) -> None:
    array = np.random.default_rng(0).normal(size=oblique_geometry.shape).astype(np.float32)
    working = grid(Preprocessing(), oblique_geometry)
    np.testing.assert_allclose(working.back(working.forward(array)[None])[0].numpy(), array)
    assert sorted(working.axes) == [0, 1, 2]


def test_slices_and_scans_of_unknown_orientation_stay_as_they_are() -> None:
    _, upside_down = turned(np.zeros(SHAPE), Geometry.from_axes((0, 0, 0), SPACING, LPS, SHAPE), (0, 1, 2), (0, 1))
    assert grid(Preprocessing(), upside_down).flips == (0, 1)
    assert grid(Preprocessing(), upside_down, dimensions=2).flips == ()
    unknown = grid(Preprocessing(), Geometry.unknown(SHAPE))
    assert (unknown.axes, unknown.flips, unknown.size) == ((0, 1, 2), (), SHAPE)


def test_slices_keep_their_number() -> None:
    assert grid(Preprocessing((1.0, 1.4, 1.8)), dimensions=2).size == (12, 15, 13)
    assert grid(Preprocessing(in_plane_pixels=60), dimensions=2).size[0] == 12


def test_in_plane_pixels_are_those_of_the_longer_side() -> None:
    assert grid(Preprocessing(in_plane_pixels=52)).size == (12, round(52 * 30 * 0.7 / (26 * 0.9)), 52)
    assert grid(Preprocessing(in_plane_pixels=60), Geometry.unknown(SHAPE)).size == (12, 60, 52)


def test_scan_of_unknown_spacing_takes_the_assumed_one_or_is_refused() -> None:
    unknown = Geometry.unknown(SHAPE)
    assumed = Preprocessing((1.25, 1.4, 1.8), assumed_spacing_mm=SPACING)
    assert grid(assumed, unknown).size == (24, 15, 13)
    with pytest.raises(ValueError, match="spacing is unknown and the model needs it"):
        grid(Preprocessing((1.0, 1.0, 1.0)), unknown)


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i2", "uint16", "int32", "float64", ">f4", "bool"])
def test_voxels_of_every_type_are_taken(dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 2, SHAPE).astype(dtype)
    there = grid(Preprocessing()).forward(array)
    assert there.dtype == torch.float32
    np.testing.assert_array_equal(there.numpy(), array.astype(np.float32))


def test_labels_of_the_same_grid_are_the_same() -> None:
    labels = np.random.default_rng(0).choice([0, 1, 2, UNLABELLED], SHAPE).astype(np.uint8)
    working = grid(Preprocessing())
    np.testing.assert_array_equal(working.forward_labels(labels, 3).numpy(), labels)
    np.testing.assert_array_equal(labels_on_source(working, torch.from_numpy(labels)), labels)


@ALL_WAYS
def test_labels_keep_unlabelled_and_no_class_is_invented(preprocessing: Preprocessing) -> None:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[:, :10], labels[:, 10:20, 5:], labels[6:, 20:] = 2, UNLABELLED, 1
    working = grid(preprocessing)
    there = working.forward_labels(labels, 3)
    assert there.shape == working.size and there.dtype == torch.uint8
    assert set(there.unique().tolist()) == {0, 1, 2, UNLABELLED}
    for value in (0, 1, 2, UNLABELLED):
        share = float((there == value).float().mean())
        excess = share - float((labels == value).mean())
        low, high = (-0.2, 0.04) if value == UNLABELLED else (-0.04, 0.12)  # what is labelled in part is labelled
        assert low < excess < high
    back = labels_on_source(working, there)
    known = labels != UNLABELLED
    assert back.shape == SHAPE and (back == labels)[known].mean() > 0.95 and (back == labels).mean() > 0.85


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (3.0, 1.5, 2.5), (5.0, 5.0, 5.0)])
@pytest.mark.parametrize("value", [0, 2])
def test_one_labelled_slice_and_a_thin_stroke_are_there_on_a_coarser_grid(
    spacing: tuple[float, float, float], value: int
) -> None:
    working = grid(Preprocessing(spacing))
    for where in (np.s_[7], np.s_[:, 11], np.s_[4:7, 10:13, 5:8]):
        labels = np.full(SHAPE, UNLABELLED, dtype=np.uint8)
        labels[where] = value
        there = working.forward_labels(labels, 3)
        assert set(there.unique().tolist()) == {value, UNLABELLED}, "nothing but what was drawn, and what was not"


def test_everything_unlabelled_stays_so() -> None:
    there = grid(Preprocessing((1.0, 1.0, 1.0))).forward_labels(np.full(SHAPE, UNLABELLED, dtype=np.uint8), 2)
    assert (there == UNLABELLED).all()


def test_zscore_has_mean_zero_and_deviation_one_without_extremes() -> None:
    image = torch.randn(20, 30, 30) * 50 + 400
    image[0, 0, :3] = 1e5
    scaled = normalise(image, Preprocessing())
    assert abs(scaled.mean()) < 1e-4 and scaled.std() == pytest.approx(1, abs=1e-4) and scaled.max() < 4


def test_percentiles_become_minus_one_and_one() -> None:
    scaled = normalise(torch.linspace(0, 1000, 27_000).reshape(30, 30, 30), Preprocessing(normalisation="percentile"))
    assert (scaled.min(), scaled.max()) == (-1, 1)
    assert scaled.flatten()[[135, 13_500]].tolist() == pytest.approx([-1, 0], abs=1e-3)


def test_window_becomes_minus_one_to_one() -> None:
    wanted = Preprocessing(normalisation="window", window=(-100, 300))
    scaled = normalise(torch.tensor([-1000.0, -100.0, 100.0, 300.0, 3000.0]), wanted)
    assert scaled.tolist() == [-1, -1, 0, 1, 1]


def test_region_that_holds_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="constant: it holds no image"):
        normalise(torch.full((4, 4, 4), 3.0), Preprocessing())


def test_region_that_is_almost_constant_is_still_seen() -> None:
    image = torch.zeros(20, 20, 20)
    image[0, 0, 0] = 5
    assert normalise(image, Preprocessing()).isfinite().all()


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"spacing_mm": (1, 1, 1), "in_plane_pixels": 3}, "not both"),
        ({"spacing_mm": (1, 0, 1)}, "above zero"),
        ({"spacing_mm": (1, 1)}, "three numbers"),
        ({"assumed_spacing_mm": (1, 1, -1)}, "above zero"),
        ({"normalisation": "minmax"}, "unknown normalisation 'minmax'"),
        ({"normalisation": "window"}, "window goes with"),
        ({"window": (0, 1)}, "window goes with"),
        ({"normalisation": "window", "window": (1, 1)}, "must rise"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused(wrong: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Preprocessing(**wrong)  # type: ignore[arg-type]
