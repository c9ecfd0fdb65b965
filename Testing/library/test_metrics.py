"""Metrics are those of medpy, on any masks and spacings; what medpy does not define is said plainly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medpy.metric import binary
from scipy import ndimage

from mper.evaluation.metrics import CaseMetrics, case_metrics, cohort_metrics, figures
from mper.labels import make_label

LA = make_label(1, "LA")
DISTANCES = ("hd95_voxel", "asd_voxel", "hd95_mm", "asd_mm")

spacings = st.tuples(*[st.floats(0.2, 10)] * 3)


@st.composite
def two_masks(draw: st.DrawFn) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Two related random blobs, neither empty, that may touch the border of the image."""
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    smoothness = draw(st.floats(0, 2))
    field = ndimage.gaussian_filter(random.normal(size=shape), smoothness)
    other = field + draw(st.floats(0, 1)) * ndimage.gaussian_filter(random.normal(size=shape), smoothness)
    return field >= np.quantile(field, draw(st.floats(0, 1))), other >= np.quantile(other, draw(st.floats(0, 1)))


@given(two_masks(), spacings)
@settings(max_examples=150)
def test_all_figures_equal_those_of_medpy(masks, spacing_mm) -> None:
    prediction, reference = masks
    result = figures(prediction, reference, spacing_mm)
    assert result["dice"] == pytest.approx(binary.dc(prediction, reference), rel=1e-12)
    assert result["jaccard"] == pytest.approx(binary.jc(prediction, reference), rel=1e-12)
    assert result["hd95_voxel"] == pytest.approx(binary.hd95(prediction, reference), rel=1e-12)
    assert result["asd_voxel"] == pytest.approx(binary.asd(prediction, reference), rel=1e-12)
    assert result["hd95_mm"] == pytest.approx(binary.hd95(prediction, reference, spacing_mm), rel=1e-9)
    assert result["asd_mm"] == pytest.approx(binary.asd(prediction, reference, spacing_mm), rel=1e-9)


@given(two_masks(), st.floats(0.2, 10))
@settings(max_examples=30)
def test_cubic_voxels_scale_distances_from_voxels_to_mm(masks, size_mm) -> None:
    result = figures(*masks, (size_mm, size_mm, size_mm))
    assert result["hd95_mm"] == pytest.approx(binary.hd95(*masks, (size_mm,) * 3), rel=1e-9)
    assert result["asd_mm"] == pytest.approx(binary.asd(*masks, (size_mm,) * 3), rel=1e-9)


@given(two_masks(), st.integers(0, 6), spacings)
@settings(max_examples=30)
def test_empty_margin_changes_nothing_where_masks_do_not_touch_the_border(masks, margin, spacing_mm) -> None:
    prediction, reference = (np.pad(mask, 1) for mask in masks)
    wider = figures(np.pad(prediction, margin), np.pad(reference, margin), spacing_mm)
    assert wider == figures(prediction, reference, spacing_mm)


def test_shift_by_two_voxels_along_an_axis_of_3_mm_is_6_mm() -> None:
    reference = np.zeros((12, 12, 12), bool)
    reference[3:7, 5, 5] = True
    prediction = np.roll(reference, 2, axis=1)
    assert figures(prediction, reference, (1, 3, 0.5)) == {
        "dice": 0,
        "jaccard": 0,
        "hd95_voxel": 2,
        "asd_voxel": 2,
        "hd95_mm": 6,
        "asd_mm": 6,
    }


def test_average_surface_distance_goes_from_prediction_to_reference() -> None:
    reference = np.zeros((1, 1, 12), bool)
    reference[0, 0, :2] = True
    prediction = np.zeros_like(reference)
    prediction[0, 0, 0] = True
    assert figures(prediction, reference, None)["asd_voxel"] == 0
    assert figures(reference, prediction, None)["asd_voxel"] == 0.5


def test_unknown_spacing_gives_no_distance_in_mm() -> None:
    mask = np.ones((3, 3, 3), np.uint8)
    result = case_metrics(mask, mask, [LA], None)["mean"]
    assert result["hd95_voxel"] == result["asd_voxel"] == 0
    assert result["hd95_mm"] is None
    assert result["asd_mm"] is None


@pytest.mark.parametrize(("prediction", "reference", "overlap"), [(0, 1, 0), (1, 0, 0), (0, 0, 1)])
def test_empty_mask_has_an_overlap_and_no_distance(prediction: int, reference: int, overlap: int) -> None:
    shape = (4, 5, 6)
    case = case_metrics(np.full(shape, prediction, np.uint8), np.full(shape, reference, np.uint8), [LA], (1, 1, 1))
    result = case["labels"]["LA"]
    assert result["dice"] == result["jaccard"] == overlap
    assert [result[name] for name in DISTANCES] == [None] * 4
    assert case["mean"]["without_distance"] == 1


def test_identical_masks_are_perfect_for_every_label(blob_volume) -> None:
    mask = blob_volume[1].labelmap.array.copy()
    mask[mask.shape[0] // 2 :] *= 3
    case = case_metrics(mask, mask, [LA, make_label(3, "LV")], (2.5, 0.7, 0.9))
    for result in (*case["labels"].values(), case["mean"]):
        assert (result["dice"], result["jaccard"], *(result[name] for name in DISTANCES)) == (1, 1, 0, 0, 0, 0)


def test_unlabelled_voxels_count_in_nothing(blob_volume) -> None:
    """Whatever is predicted where nobody has drawn, the figures are those of the rest."""
    reference = blob_volume[1].labelmap.array.copy()
    prediction = np.roll(reference, 2, axis=2)
    reference[6:] = 255
    elsewhere = prediction.copy()
    elsewhere[6:] = 1 - elsewhere[6:]
    first, second = (case_metrics(p, reference, [LA], (2.5, 0.7, 0.9)) for p in (prediction, elsewhere))
    assert first == second
    assert first["mean"]["dice"] == pytest.approx(binary.dc(prediction[:6], reference[:6] == 1))


def test_cut_along_unlabelled_voxels_is_no_surface() -> None:
    """A long bar, labelled in its first half: its cut end is no part of its surface."""
    reference = np.zeros((5, 5, 20), np.uint8)
    reference[1:4, 1:4, 2:] = 1
    reference[:, :, 10:] = 255
    prediction = np.zeros_like(reference)
    prediction[2, 2, 4:] = 1
    # Every surface voxel of the prediction is at distance 1 of the bar's side, also beside the cut.
    assert figures(prediction == 1, reference == 1, None, reference == 255)["asd_voxel"] == pytest.approx(1)


def test_mean_leaves_missing_distances_out_and_counts_them() -> None:
    reference = np.zeros((4, 4, 8), np.uint8)
    reference[1:3, 1:3, 1:3] = 1
    reference[1:3, 1:3, 5:7] = 2
    only_first = np.where(reference == 1, 1, 0).astype(np.uint8)
    case = case_metrics(only_first, reference, [LA, make_label(2, "RA")], None)
    assert case["mean"]["dice"] == 0.5
    assert case["mean"]["hd95_voxel"] == 0
    assert case["mean"]["without_distance"] == 1

    perfect = case_metrics(reference, reference, [LA, make_label(2, "RA")], None)
    cohort = cohort_metrics([case, perfect, case])
    assert cohort["mean"]["dice"] == pytest.approx(2 / 3)
    assert cohort["mean"]["without_distance"] == 2
    assert cohort["labels"]["RA"]["dice"] == pytest.approx(1 / 3)
    assert cohort["labels"]["RA"]["without_distance"] == 2
    assert cohort["labels"]["LA"]["without_distance"] == 0


def test_cohort_mean_is_the_mean_over_cases_of_the_mean_over_labels() -> None:
    random = np.random.default_rng(1)
    labels = [make_label(n, name) for n, name in ((1, "RV"), (2, "MYO"), (3, "LV"))]
    cases: list[CaseMetrics] = []
    expected = []
    for _ in range(3):
        prediction, reference = random.integers(0, 4, size=(2, 4, 6, 6)).astype(np.uint8)
        cases.append(case_metrics(prediction, reference, labels, (5, 1, 1)))
        expected.append(np.mean([binary.asd(prediction == n, reference == n, (5, 1, 1)) for n in (1, 2, 3)]))
    assert cohort_metrics(cases)["mean"]["asd_mm"] == pytest.approx(np.mean(expected), rel=1e-9)


def test_masks_of_different_grids_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 3, 3\).*\(3, 3, 4\).*same grid"):
        case_metrics(np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 4), np.uint8), [LA], None)


def test_spacing_of_another_number_of_axes_is_refused() -> None:
    mask = np.zeros((3, 3, 3), np.uint8)
    with pytest.raises(ValueError, match="has 2 axes, the arrays have 3"):
        case_metrics(mask, mask, [LA], (1, 1))


def test_no_label_and_no_case_are_refused() -> None:
    mask = np.zeros((3, 3, 3), np.uint8)
    with pytest.raises(ValueError, match="at least one label"):
        case_metrics(mask, mask, [], None)
    with pytest.raises(ValueError, match="one case"):
        cohort_metrics([])


def test_real_atrium_gets_the_figures_of_medpy(la_data: Path) -> None:
    import SimpleITK as sitk

    case = (la_data / "train.list").read_text(encoding="utf-8").split()[72]
    image = sitk.ReadImage(str(la_data / case / "laendo.nrrd"))
    reference = (sitk.GetArrayFromImage(image) > 0).astype(np.uint8)
    prediction = np.roll(ndimage.binary_dilation(reference), 3, axis=1).astype(np.uint8)
    result = case_metrics(prediction, reference, [LA], image.GetSpacing())["mean"]
    assert result["hd95_voxel"] == pytest.approx(binary.hd95(prediction, reference), rel=1e-12)
    assert result["asd_mm"] == pytest.approx(binary.asd(prediction, reference, 0.625), rel=1e-9)
