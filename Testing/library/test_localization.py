"""Finding the structure in a field of view that was not cropped around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import random_bundle, threshold_bundle

from mper.dataloading.composed_field import Crop, place_in_field
from mper.dataloading.wide_field import field_of_view_mm
from mper.inference.localization import Localizer, _source_range
from mper.inference.predictor import WANTED, Predictor
from mper.io import read_labelmap, read_volume
from mper.models.bundle import ModelBundle
from mper.provenance import AUTOMATIC
from mper.refinement.refiner import Refiner
from mper.resources import models_dir
from mper.volume import Geometry, Volume

CPU = torch.device("cpu")
COARSE = {"spacing_mm": (4, 4, 4)}
MARGIN = {"margin_mm": (8, 12, 16)}
NO_MARGIN = {"margin_mm": (0, 0, 0)}


@pytest.fixture
def wide_scan() -> tuple[Volume, np.ndarray]:
    """A bright box in 240 mm of noise; its voxels."""
    geometry = Geometry.from_axes((-120, -100, -30), (4, 2.5, 2.5), np.eye(3)[:, ::-1], (20, 80, 96))
    truth = np.zeros(geometry.shape, dtype=bool)
    truth[6:14, 30:46, 60:76] = True
    noise = np.random.default_rng(0).normal(100, 5, geometry.shape)
    return Volume((noise + 100 * truth).astype(np.float32), geometry), truth


def _localizer(level: float = 1.0) -> ModelBundle:
    return threshold_bundle(level, preprocessing=COARSE, about=MARGIN)


def test_the_region_is_the_structure_with_its_margin(wide_scan: tuple[Volume, np.ndarray]) -> None:
    scan, truth = wide_scan
    region = Localizer(_localizer(), CPU, torch.float32).locate(scan)
    assert region is not None
    margin, step = np.array([8, 12, 16]), np.array([4, 2.5, 2.5])
    occupied = np.argwhere(truth)
    before = (occupied.min(0) - region.start) * step
    after = (np.array(region.stop) - 1 - occupied.max(0)) * step
    for found in (before, after):
        assert (found >= margin - 2).all() and (found <= margin + 6.5).all()  # a working voxel is 4 mm wide


def test_the_largest_structure_is_taken(wide_scan: tuple[Volume, np.ndarray]) -> None:
    scan, truth = wide_scan
    brighter = scan.array.copy()
    brighter[15:18, 4:10, 4:10] += 200
    localizer = Localizer(_localizer(), CPU, torch.float32)
    alone, both = localizer.locate(scan), localizer.locate(scan.with_array(brighter))
    assert alone is not None and both is not None
    assert truth[both.window].sum() == truth.sum() and not truth.all()
    assert (both.start, both.stop) == (alone.start, alone.stop)


@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_the_region_moves_with_the_scan(
    wide_scan: tuple[Volume, np.ndarray], axes: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    scan, _ = wide_scan
    affine = scan.geometry.affine[:, [*axes, 3]].copy()
    array = np.flip(scan.array.transpose(axes), flips)
    for axis in flips:
        affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
        affine[:, axis] *= -1
    moved = Volume(np.ascontiguousarray(array), Geometry(affine, array.shape))
    localizer = Localizer(_localizer(), CPU, torch.float32)
    here, there = localizer.locate(scan), localizer.locate(moved)
    assert here is not None and there is not None
    np.testing.assert_allclose(there.box_mm(moved.geometry), here.box_mm(scan.geometry), atol=1e-6)


def test_a_region_ends_with_the_scan_at_every_ratio_of_the_grids() -> None:
    for source in range(1, 200):
        for size in range(1, source + 1):
            assert _source_range(-3.0, size + 3.0, size, source) == (0, source)
            assert _source_range(0.0, size / 2, size, source)[1] == -(-source // 2)


def test_nothing_found_is_none(wide_scan: tuple[Volume, np.ndarray]) -> None:
    assert Localizer(_localizer(level=1e3), CPU, torch.float32).locate(wide_scan[0]) is None


def test_a_wide_field_is_cropped_and_the_person_told(wide_scan: tuple[Volume, np.ndarray]) -> None:
    scan, truth = wide_scan
    predictor = Predictor(threshold_bundle(), "cpu", localizer=_localizer())
    found = predictor.predict(scan, want=("prototypes",))
    assert found.roi_mm is not None and found.prototype_map is not None
    assert "the field of view is 240 mm wide: the region" in found.notes[0]
    assert "located automatically" in found.notes[0]
    region = Localizer(_localizer(), CPU, torch.float32).locate(scan)
    assert region is not None and found.roi_mm == region.box_mm(scan.geometry)
    outside = found.prototype_map.array.copy()
    outside[region.window] = 0
    assert not outside.any() and found.prototype_map.array[region.window].all()
    mask = found.segmentation.labelmap.array == 1
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9


def test_the_automatic_region_gives_what_the_same_roi_gives(wide_scan: tuple[Volume, np.ndarray]) -> None:
    scan, _ = wide_scan
    predictor = Predictor(random_bundle(), "cpu", localizer=_localizer())
    automatic = predictor.predict(scan)
    by_hand = predictor.predict(scan, roi=automatic.roi_mm)
    np.testing.assert_array_equal(by_hand.segmentation.labelmap.array, automatic.segmentation.labelmap.array)
    assert not any("automatically" in note for note in by_hand.notes)


def test_the_localisation_of_an_earlier_prediction_is_not_computed_again(
    wide_scan: tuple[Volume, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, _ = wide_scan
    predictor = Predictor(random_bundle(), "cpu", localizer=_localizer())
    first = predictor.predict(scan)
    monkeypatch.setattr(Localizer, "search", lambda *_: pytest.fail("the scan was searched again"))
    fresh = Predictor(random_bundle(), "cpu", localizer=_localizer())  # it has localised nothing yet
    for each in (predictor, fresh):
        again = each.predict(scan, search=first.search)
        np.testing.assert_array_equal(again.segmentation.labelmap.array, first.segmentation.labelmap.array)
        assert again.roi_mm == first.roi_mm and again.notes == first.notes


def test_a_region_without_an_image_is_no_candidate(wide_scan: tuple[Volume, np.ndarray]) -> None:
    scan, truth = wide_scan
    array = scan.array.copy()
    array[5:15, 8:24, 8:24] = 300  # a label that was burnt in, brighter and larger than the structure
    flat = Predictor(threshold_bundle(), "cpu", localizer=threshold_bundle(preprocessing=COARSE, about=NO_MARGIN))
    both = flat.predict(scan.with_array(array))
    assert both.roi_mm == flat.predict(scan).roi_mm is not None
    array[truth] = 100
    alone = flat.predict(scan.with_array(array))
    assert not alone.segmentation.labelmap.array.any() and "nothing in it looks like" in alone.notes[0]


def test_a_narrow_field_is_taken_whole(wide_scan: tuple[Volume, np.ndarray]) -> None:
    scan = wide_scan[0].crop((0, 10, 30), (20, 80, 96))
    found = Predictor(threshold_bundle(), "cpu", localizer=_localizer()).predict(scan)
    assert found.roi_mm is None and not any("field of view" in note for note in found.notes)


def test_a_field_in_which_nothing_is_found_gives_an_empty_mask_and_is_told(
    wide_scan: tuple[Volume, np.ndarray],
) -> None:
    found = Predictor(threshold_bundle(), "cpu", localizer=_localizer(level=1e3)).predict(wide_scan[0], want=WANTED)
    assert found.roi_mm is None and not found.segmentation.labelmap.array.any()
    assert "nothing in it looks like the structure; set an ROI" in found.notes[0]
    assert [flag.code for flag in found.flags] == ["empty"] and len(found.notes) == 2
    assert found.segmentation.provenance[1].type == AUTOMATIC
    maps = (found.label_probability, found.prototype_map, found.similarity_map)
    assert not any(each.array.any() for each in maps) and not found.probabilities.any()
    with pytest.raises(ValueError, match="the structure was not located in it; segment it with an ROI"):
        Refiner(found)


def test_a_model_without_finder_takes_a_wide_field_whole_and_tells(wide_scan: tuple[Volume, np.ndarray]) -> None:
    found = Predictor(threshold_bundle(), "cpu").predict(wide_scan[0])
    assert found.roi_mm is None and "this model has no localizer; the whole scan is segmented" in found.notes[0]


def test_slices_are_never_cropped(wide_scan: tuple[Volume, np.ndarray]) -> None:
    found = Predictor(random_bundle("unet"), "cpu", localizer=_localizer()).predict(wide_scan[0])
    assert found.roi_mm is None and not any("field of view" in note for note in found.notes)


def test_the_finder_that_the_card_names_is_taken(
    wide_scan: tuple[Volume, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, _ = wide_scan
    monkeypatch.setattr("mper.resources.models_dir", lambda: tmp_path)
    model = threshold_bundle(about={"locator": "small-locator"})
    missing = Predictor(model, "cpu").predict(scan)
    assert "its localizer 'small-locator' is not installed" in missing.notes[0]
    random_bundle(preprocessing=COARSE).save(tmp_path / "small-locator", "float32")
    there = Predictor(model, "cpu").predict(scan)
    given = Predictor(model, "cpu", localizer=random_bundle(preprocessing=COARSE)).predict(scan)
    assert "located automatically" in there.notes[0] and there.notes == given.notes


def test_the_field_of_view_is_that_of_the_axial_plane() -> None:
    axial = Geometry.from_axes((0, 0, 0), (5, 1, 1.5), np.eye(3)[:, ::-1], (60, 120, 100))
    assert field_of_view_mm(axial) == pytest.approx(150)
    coronal = Geometry(axial.affine[:, [1, 0, 2, 3]], (120, 60, 100))
    assert field_of_view_mm(coronal) == pytest.approx(150)
    assert field_of_view_mm(Geometry.unknown((60, 400, 400))) is None


@pytest.mark.slow
@pytest.mark.parametrize("case", [73, 77, 80])
def test_the_bundled_finder_holds_the_whole_atrium_of_held_back_scans(la_data: Path, case: int) -> None:
    names = (la_data / "train.list").read_text(encoding="utf-8").split()
    crops = []
    for name in (names[case - 1], names[71]):
        scan, mask = read_volume(la_data / name / "lgemri.nrrd"), read_labelmap(la_data / name / "laendo.nrrd")
        crops.append(Crop(scan.array[::2, ::2, ::2].astype(np.float32), mask.array[::2, ::2, ::2] > 0))
    spacing = (1.25, 1.25, 1.25)
    field = place_in_field(crops[0], crops[1:], spacing, np.random.default_rng(case))
    geometry = Geometry.from_axes((0, 0, 0), spacing, np.eye(3)[:, ::-1], field.image.shape)
    bundle = ModelBundle.load(models_dir() / "la-locator")
    region = Localizer(bundle, CPU, torch.float32).locate(Volume(field.image, geometry))
    assert region is not None
    assert field.mask[region.window].sum() == field.mask.sum()
    assert np.prod(np.subtract(region.stop, region.start)) < field.image.size / 3


def test_a_finder_with_another_margin_gives_another_region(wide_scan: tuple[Volume, np.ndarray]) -> None:
    narrow = _localizer()
    narrow = replace(narrow, card=replace(narrow.card, about={"margin_mm": (0, 0, 0)}))
    small = Localizer(narrow, CPU, torch.float32).locate(wide_scan[0])
    large = Localizer(_localizer(), CPU, torch.float32).locate(wide_scan[0])
    assert small is not None and large is not None
    assert all(a < b for a, b in zip(large.start, small.start, strict=True))
    assert all(a > b for a, b in zip(large.stop, small.stop, strict=True))
