"""From a scan to its mask, whatever its grid, its size and the memory that is there."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from small_data import stored_otherwise
from small_models import random_bundle, threshold_bundle, threshold_localization

from mper.dataloading.preprocessing import WorkingGrid, normalise
from mper.inference import predictor as predictor_module
from mper.inference import regions
from mper.inference.localization import Localizer, Search
from mper.inference.plausibility import neighbour_correlation
from mper.inference.prediction import Prediction, QualityFlag
from mper.inference.predictor import WANTED, Predictor
from mper.inference.sliding_window import Runner
from mper.labels import Segmentation
from mper.models.calibration import Calibration
from mper.progress import Cancelled, Progress
from mper.roi import extent_of
from mper.training.planning import plan
from mper.volume import Geometry, Volume

CPU = torch.device("cpu")
BlobVolume = tuple[Volume, Segmentation]


def _box(volume: Volume) -> tuple[float, ...]:
    low, high = extent_of(volume.geometry)
    return tuple(np.stack([low, high], axis=1).reshape(-1))


def _random_scan(geometry: Geometry, seed: int = 0) -> Volume:
    noise = np.random.default_rng(seed).normal(100, 20, geometry.shape)
    return Volume(noise.astype(np.float32), geometry)


def test_a_bright_structure_is_found_where_it_lies(blob_volume: BlobVolume) -> None:
    scan, truth = blob_volume
    found = Predictor(threshold_bundle(), "cpu").predict(scan)
    assert found.segmentation.labelmap.geometry is scan.geometry
    mask, reference = found.segmentation.labelmap.array == 1, truth.labelmap.array == 1
    assert 2 * (mask & reference).sum() / (mask.sum() + reference.sum()) > 0.85  # the working grid is coarser
    assert found.confidence > 0.8
    assert found.roi_mm is None and found.method == "whole" and found.seconds > 0


def test_the_mask_carries_the_labels_of_the_card(blob_volume: BlobVolume) -> None:
    bundle = threshold_bundle()
    label = replace(bundle.card.labels[0], value=7)
    bundle = type(bundle)(replace(bundle.card, labels=(label,)), bundle.state)
    mask = Predictor(bundle, "cpu").predict(blob_volume[0]).segmentation
    assert mask.labels == (label,)
    assert np.unique(mask.labelmap.array).tolist() == [0, 7] and mask.labelmap.array.dtype == np.uint8


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("flips", [(), (1,), (0, 2)])
def test_every_result_moves_with_the_scan(
    oblique_geometry: Geometry, axes: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    scan = _random_scan(oblique_geometry)
    predictor = Predictor(random_bundle(), "cpu")
    low, high = extent_of(scan.geometry)
    roi = [v for a, b in zip(low * 0.7 + high * 0.3, low * 0.2 + high * 0.8, strict=True) for v in (a, b)]
    for box in (None, roi):
        still = predictor.predict(scan, want=WANTED, roi=box)
        moved = predictor.predict(stored_otherwise(scan, axes, flips), want=WANTED, roi=box)
        assert still.segmentation.labelmap.array.any()
        for a, b in (
            (still.segmentation.labelmap, moved.segmentation.labelmap),
            (still.label_probability, moved.label_probability),
            (still.prototype_map, moved.prototype_map),
            (still.similarity_map, moved.similarity_map),
        ):
            assert a is not None and b is not None
            expected = stored_otherwise(a, axes, flips)
            np.testing.assert_array_equal(b.array, expected.array)
            assert b.geometry.is_close(expected.geometry)
        assert moved.confidence == pytest.approx(still.confidence, abs=1e-6)
        assert still.probabilities is not None and moved.probabilities is not None
        for p, q in zip(still.probabilities, moved.probabilities, strict=True):
            np.testing.assert_array_equal(q, stored_otherwise(scan.with_array(p), axes, flips).array)


def test_a_planned_model_says_the_same_in_each_of_the_48_orders_of_axes() -> None:
    """A sagittal scan: its slices, three times as thick as its pixels, lie along the patient's left."""
    scan = _random_scan(Geometry.from_axes((0, 0, 0), (1.0, 1.0, 3.0), np.eye(3)[:, ::-1], (20, 24, 10)))
    made = plan([scan], [None], "plus", kinds={3: "vnet"})
    predictor = Predictor(random_bundle(preprocessing=asdict(made.preprocessing)), "cpu")
    expected = predictor.predict(scan).segmentation.labelmap
    assert made.preprocessing.spacing_mm == (1.0, 1.0, 3.0) and expected.array.any()
    for axes in itertools.permutations(range(3)):
        for flips in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in range(4)):
            found = predictor.predict(stored_otherwise(scan, axes, flips)).segmentation.labelmap
            np.testing.assert_array_equal(found.array, stored_otherwise(expected, axes, flips).array)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_network_of_slices_finds_them_along_any_axis(axes: tuple[int, int, int], backwards: bool) -> None:
    scan = _random_scan(Geometry.from_axes((0, 0, 0), (8.0, 1.5, 1.5), np.eye(3)[:, ::-1], (5, 40, 32)))
    predictor = Predictor(random_bundle("unet", preprocessing={"spacing_mm": (8.0, 1.5, 1.5)}), "cpu")
    expected = predictor.predict(scan).segmentation.labelmap
    flips = (axes.index(0),) if backwards else ()
    found = predictor.predict(stored_otherwise(scan, axes, flips)).segmentation.labelmap
    np.testing.assert_array_equal(found.array, stored_otherwise(expected, axes, flips).array)
    assert expected.array.any()


@pytest.mark.parametrize("kind", ["vnet", "unet"])
def test_an_roi_of_the_whole_scan_equals_none(blob_volume: BlobVolume, kind: str) -> None:
    scan = blob_volume[0]
    predictor = Predictor(random_bundle(kind, classes=3), "cpu")
    plain, boxed = predictor.predict(scan, want=WANTED), predictor.predict(scan, want=WANTED, roi=_box(scan))
    np.testing.assert_array_equal(boxed.segmentation.labelmap.array, plain.segmentation.labelmap.array)
    np.testing.assert_array_equal(boxed.probabilities, plain.probabilities)
    assert boxed.roi_mm is None and boxed.notes == plain.notes


def test_an_roi_equals_cutting_the_scan_first() -> None:
    geometry = Geometry.from_axes((5, 6, 7), (2, 1, 1), np.eye(3)[:, ::-1], (14, 40, 30))
    scan = _random_scan(geometry)
    start, stop = (2, 10, 5), (12, 37, 28)
    corners = geometry.to_world([start, [n - 1 for n in stop]])
    box = np.stack([corners.min(0), corners.max(0)], axis=1).reshape(-1)
    predictor = Predictor(random_bundle(), "cpu")
    inside = predictor.predict(scan, roi=box, want=WANTED)
    alone = predictor.predict(scan.crop(start, stop), want=WANTED)
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    for a, b in (
        (inside.segmentation.labelmap, alone.segmentation.labelmap),
        (inside.prototype_map, alone.prototype_map),
    ):
        assert a is not None and b is not None
        np.testing.assert_array_equal(a.array[window], b.array)
        outside = a.array.copy()
        outside[window] = 0
        assert not outside.any()
    assert inside.roi_mm == pytest.approx((9.5, 32.5, 15.5, 42.5, 10, 30))


def test_nothing_is_drawn_outside_an_roi_on_an_oblique_scan(oblique_geometry: Geometry) -> None:
    scan = _random_scan(oblique_geometry)
    low, high = extent_of(oblique_geometry)
    middle, half = (low + high) / 2, (high - low) / 5
    box = np.stack([middle - half, middle + half], axis=1).reshape(-1)
    found = Predictor(random_bundle(), "cpu").predict(scan, roi=box, want=WANTED)
    world = oblique_geometry.to_world(np.moveaxis(np.indices(oblique_geometry.shape), 0, -1))
    inside = (np.abs(world - middle) <= half + 1e-4).all(-1)
    assert found.prototype_map is not None and found.label_probability is not None and found.probabilities is not None
    np.testing.assert_array_equal(found.prototype_map.array > 0, inside)
    np.testing.assert_array_equal(found.label_probability.array > 0, inside)
    assert not found.segmentation.labelmap.array[~inside].any() and not found.probabilities[:, ~inside].any()


def test_the_maps_agree_with_the_mask(blob_volume: BlobVolume) -> None:
    found = Predictor(random_bundle(classes=4), "cpu").predict(blob_volume[0], want=WANTED)
    mask = found.segmentation.labelmap.array
    assert len(np.unique(mask)) > 2
    assert found.prototype_map is not None and found.label_probability is not None and found.similarity_map is not None
    np.testing.assert_array_equal((found.prototype_map.array - 1) // 3, mask)
    assert found.prototype_map.array.dtype == np.uint8
    assert np.abs(found.similarity_map.array).max() <= 1
    assert found.probabilities is not None
    own = np.take_along_axis(found.probabilities, mask[None].astype(np.int64), axis=0)[0]
    np.testing.assert_array_equal(found.label_probability.array, own)
    np.testing.assert_allclose(found.probabilities.astype(np.float32).sum(0), 1, atol=5e-3)


def test_only_what_is_wanted_is_given(blob_volume: BlobVolume) -> None:
    predictor = Predictor(threshold_bundle(), "cpu")
    fields = {
        "label_probability": ["label_probability"],
        "probabilities": ["probabilities"],
        "prototypes": ["prototype_map", "similarity_map"],
        "embeddings": ["embeddings"],
    }
    for wanted in [(), *((name,) for name in WANTED)]:
        found = predictor.predict(blob_volume[0], want=wanted)
        given = [name for names in fields.values() for name in names if getattr(found, name) is not None]
        assert given == [name for want in wanted for name in fields[want]]


def test_a_model_without_prototypes_has_no_map(blob_volume: BlobVolume) -> None:
    bundle = random_bundle()
    vectors = torch.zeros_like(bundle.state["prototypes.vectors"])
    bundle = replace(bundle, state={**bundle.state, "prototypes.vectors": vectors})
    found = Predictor(bundle, "cpu").predict(blob_volume[0], want=("prototypes",))
    assert found.prototype_map is None and found.similarity_map is None
    assert any("no prototypes" in note for note in found.notes)


def test_embeddings_lie_on_the_working_grid_of_the_crop(blob_volume: BlobVolume) -> None:
    scan = blob_volume[0]
    found = Predictor(threshold_bundle(), "cpu").predict(scan, want=("embeddings", "prototypes")).embeddings
    assert found is not None
    assert found.values.shape == (2, *found.grid.size) and found.values.dtype == torch.float16
    assert found.values.device.type == "cpu"
    assert (found.start, found.stop) == ((0, 0, 0), scan.array.shape)
    assert found.grid.back(found.values.float()).shape == (2, *scan.array.shape)


def test_tiles_equal_the_whole_for_a_model_that_sees_single_voxels(blob_volume: BlobVolume) -> None:
    scan = blob_volume[0]
    whole = Predictor(threshold_bundle(), "cpu").predict(scan, want=WANTED)
    tiles = Predictor(threshold_bundle(), "cpu", free=lambda _: 0).predict(scan, want=WANTED)
    assert (whole.method, tiles.method) == ("whole", "tiles")
    np.testing.assert_array_equal(tiles.segmentation.labelmap.array, whole.segmentation.labelmap.array)
    assert tiles.confidence == pytest.approx(whole.confidence, abs=1e-4)
    assert tiles.prototype_map is not None and whole.prototype_map is not None
    assert (tiles.prototype_map.array != whole.prototype_map.array).mean() < 0.01  # ties between prototypes, rounding


def test_want_of_memory_leads_to_tiles_and_is_told(blob_volume: BlobVolume) -> None:
    heard: list[str] = []
    predictor = Predictor(random_bundle(), "cpu", free=lambda _: 0)
    found = predictor.predict(blob_volume[0], report=lambda progress: heard.append(progress.message))
    assert found.method == "tiles"
    short = [note for note in found.notes if note.startswith("memory is short: ")]
    assert len(short) == 2 and short[0].startswith("memory is short: the whole volume at once on cpu needs about")
    assert set(found.notes) <= set(heard)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("MPS backend out of memory")]
)
def test_running_out_of_memory_leads_to_tiles_and_is_told(
    blob_volume: BlobVolume, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    scan, bundle = blob_volume[0], random_bundle()
    whole = WorkingGrid.plan(scan.geometry, bundle.preprocessing, 3).size
    forward, calls = Runner.__call__, []

    def scarce(self: Runner, image: torch.Tensor, embed: Any = None) -> Any:
        calls.append(tuple(image.shape))
        if image.shape == whole:
            raise error
        return forward(self, image, embed)

    monkeypatch.setattr(Runner, "__call__", scarce)
    found = Predictor(bundle, "cpu").predict(scan)
    assert whole in calls and calls[-1] == (16, 32, 32)
    assert found.method == "tiles"
    assert "memory ran out with the whole volume at once on cpu; went on with the volume in tiles on cpu" in found.notes


def test_an_operation_that_a_device_lacks_leads_to_the_next_way_and_is_told(
    blob_volume: BlobVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, bundle = blob_volume[0], random_bundle()
    whole = WorkingGrid.plan(scan.geometry, bundle.preprocessing, 3).size
    forward = Runner.__call__

    def unable(self: Runner, image: torch.Tensor, embed: Any = None) -> Any:
        if image.shape == whole:
            raise NotImplementedError("aten::some_operator is not implemented for MPS")
        return forward(self, image, embed)

    monkeypatch.setattr(Runner, "__call__", unable)
    found = Predictor(bundle, "cpu").predict(scan)
    assert found.method == "tiles"
    assert any(note.startswith("cpu lacks an operation of this network with the whole volume") for note in found.notes)


def test_an_operation_that_the_localisation_or_the_warm_up_lacks_leads_to_the_cpu(
    blob_volume: BlobVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    locate, runner = Localizer.search, Predictor._runner
    devices = []

    def unable(self: Localizer, scan: Volume) -> Search:
        if len(devices) == 1:
            raise NotImplementedError("aten::some_operator is not implemented for MPS")
        return locate(self, scan)

    def localizer(source: Any, device: torch.device, dtype: torch.dtype) -> Localizer:
        devices.append(device.type)
        return Localizer(source, CPU, dtype)

    def no_runner(self: Predictor, device: torch.device) -> Runner:
        if device.type == "mps":
            raise NotImplementedError("aten::some_operator is not implemented for MPS")
        return runner(self, device)

    monkeypatch.setattr(Localizer, "search", unable)
    monkeypatch.setattr(regions, "Localizer", localizer)
    monkeypatch.setattr(Predictor, "_runner", no_runner)
    for module in (regions, predictor_module):
        monkeypatch.setattr(module, "release_memory", lambda device: None)
    monkeypatch.setattr(predictor_module, "pick_device", torch.device)
    bundle = replace(random_bundle(), localization=threshold_localization(), calibration=Calibration({}))
    predictor = Predictor(bundle, "mps", free=lambda _: 2**40)
    predictor.warm_up()
    found = predictor.predict(blob_volume[0])
    assert devices == ["mps", "cpu"] and found.search is not None and found.device.startswith("CPU")
    line = "mps lacks an operation of this network with the localisation on mps; went on with the localisation on cpu"
    assert found.notes[0] == line
    assert np.array_equal(
        found.segmentation.labelmap.array, Predictor(bundle, "cpu").predict(blob_volume[0]).segmentation.labelmap.array
    )


@pytest.mark.parametrize("error", [0.0, 1e-3, 0.3, float("nan")])
def test_an_apple_gpu_that_computes_something_else_than_the_cpu_is_left(
    blob_volume: BlobVolume, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    class AppleRunner(Runner):
        """Stands for a GPU whose logits are off by a share of them."""

        def __call__(self, image: torch.Tensor, embed: Any = None) -> Any:
            scores = super().__call__(image, embed)
            return scores._replace(logits=scores.logits * (1 + error))

    def runner(network: Any, device: torch.device, dtype: torch.dtype) -> Runner:
        return (AppleRunner if device.type == "mps" else Runner)(network, CPU, dtype)

    monkeypatch.setattr(predictor_module, "Runner", runner)
    monkeypatch.setattr(predictor_module, "pick_device", torch.device)
    bundle = random_bundle()
    predictor = Predictor(bundle, "mps", free=lambda _: 2**40)
    predictor.warm_up()
    found = [predictor.predict(blob_volume[0]) for _ in range(2)]
    wrong = not error < 0.05
    for each in found:
        assert each.device.startswith("CPU" if wrong else "Apple GPU")
        assert any("the Apple GPU computes this network wrongly" in note for note in each.notes) == wrong
    if wrong:
        on_cpu = Predictor(bundle, "cpu").predict(blob_volume[0])
        assert np.array_equal(found[0].segmentation.labelmap.array, on_cpu.segmentation.labelmap.array)


def test_other_failures_are_not_taken_for_want_of_memory(
    blob_volume: BlobVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Runner, "__call__", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Predictor(random_bundle(), "cpu").predict(blob_volume[0])


def test_mirroring_keeps_to_the_axes_of_the_card(blob_volume: BlobVolume) -> None:
    scan = blob_volume[0]
    never = Predictor(random_bundle(), "cpu")
    plain, asked = never.predict(scan, want=("probabilities",)), never.predict(scan, want=("probabilities",), tta=True)
    np.testing.assert_array_equal(asked.probabilities, plain.probabilities)
    assert set(asked.notes) - set(plain.notes) == {
        "the model was trained without mirrored scans; no mirrored copies are averaged"
    }
    mirrored = Predictor(random_bundle(mirror_axes=(2,)), "cpu").predict(scan, want=("probabilities",), tta=True)
    assert mirrored.notes == plain.notes
    assert (mirrored.probabilities != plain.probabilities).any()
    always = Predictor(random_bundle(mirror_axes=(2,), always_mirrored=True), "cpu")
    np.testing.assert_array_equal(always.predict(scan, want=("probabilities",)).probabilities, mirrored.probabilities)


def test_an_unknown_spacing_is_assumed_and_told(blob_volume: BlobVolume) -> None:
    bundle = random_bundle(preprocessing={"spacing_mm": (1.5, 1, 1), "assumed_spacing_mm": (2.5, 0.7, 0.9)})
    known = Volume(
        blob_volume[0].array, Geometry.from_axes((0, 0, 0), (2.5, 0.7, 0.9), np.eye(3)[:, ::-1], (12, 30, 26))
    )
    unknown = Volume(known.array, Geometry.unknown(known.array.shape))
    predictor = Predictor(bundle, "cpu")
    first, second = predictor.predict(known), predictor.predict(unknown)
    np.testing.assert_array_equal(second.segmentation.labelmap.array, first.segmentation.labelmap.array)
    assert second.segmentation.labelmap.geometry.spacing_mm is None
    assert any("assumed: 2.5 x 0.7 x 0.9 mm" in note for note in second.notes)
    with pytest.raises(ValueError, match="voxel spacing is unknown"):
        Predictor(random_bundle(), "cpu").predict(unknown)


def test_a_mask_that_touches_the_border_is_told(blob_volume: BlobVolume) -> None:
    scan, _ = blob_volume
    predictor = Predictor(threshold_bundle(largest_component=False), "cpu")
    bright = np.zeros(scan.array.shape, dtype=np.float32)
    bright[5:7, 10:20, :8] = 100
    edge = predictor.predict(scan.with_array(bright))
    assert edge.notes == ("the mask touches the border of the scan; the structure may reach beyond it",)
    geometry = Geometry.from_axes((0, 0, 0), (1, 1, 1), np.eye(3)[:, ::-1], (20, 40, 40))
    block = np.zeros(geometry.shape, dtype=np.float32)
    block[8:12, 10:20, 15:25] = 100
    cut = predictor.predict(Volume(block, geometry), roi=(10, 19.9, 5, 25, 5, 15))
    assert cut.notes == ("the mask touches the border of the region; a larger ROI may show more of it",)


def test_intensities_unlike_the_training_scans_are_told(blob_volume: BlobVolume) -> None:
    scan = blob_volume[0]
    usual = Predictor(random_bundle(about={"intensity": {"50": [-1, 1], "95": [0, 4]}}), "cpu").predict(scan)
    odd = Predictor(random_bundle(about={"intensity": {"50": [-1, 1], "95": [8, 9]}}), "cpu").predict(scan)
    assert any("distributed unlike those of the training scans" in note for note in odd.notes)
    assert not any("unlike" in note for note in usual.notes)
    bundle = random_bundle()
    grid = WorkingGrid.plan(scan.geometry, bundle.preprocessing, 3)
    median = float(normalise(grid.forward(scan.array), bundle.preprocessing).median())
    near = {"intensity": {"50": [median + 0.3, median + 0.3]}}
    told = [
        any("unlike" in note for note in Predictor(random_bundle(about=about), "cpu").predict(scan).notes)
        for about in (near, {**near, "training": {"labelled_cases": 2, "unlabelled_cases": 1}})
    ]
    assert told == [True, False]  # three scans do not tell what is usual
    window = {"spacing_mm": (1.5, 1, 1), "normalisation": "window", "window": (-1000, 1000)}
    ct = Predictor(random_bundle(preprocessing=window), "cpu")
    assert not any("Hounsfield" in note for note in ct.predict(scan).notes)
    scaled = ct.predict(scan.with_array((scan.array / 300).astype(np.float32)))
    assert any("check that the scan is in Hounsfield units" in note for note in scaled.notes)


def test_an_empty_mask_is_flagged(blob_volume: BlobVolume) -> None:
    scan = blob_volume[0]
    empty = Predictor(threshold_bundle(level=1e6), "cpu").predict(scan)
    assert not empty.segmentation.labelmap.array.any() and empty.confidence == 0
    words = "the mask is empty: structure 1 was not found; check the scan and the model"
    assert empty.flags == (QualityFlag("empty", words),) and words in empty.notes


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_noise_is_flagged_and_a_smooth_scan_is_not(blob_volume: BlobVolume, dtype: npt.DTypeLike) -> None:
    scan = blob_volume[0]
    noise = np.random.default_rng(0).normal(100, 10, scan.array.shape).astype(dtype)
    predictor = Predictor(random_bundle(), "cpu")
    found = predictor.predict(scan.with_array(noise))
    assert "noise" in [flag.code for flag in found.flags]
    smooth = ndimage.gaussian_filter(noise.astype(np.float32), 1)
    assert "noise" not in [flag.code for flag in predictor.predict(scan.with_array(smooth)).flags]


def test_neighbours_correlate_as_they_are_made(blob_volume: BlobVolume) -> None:
    rng = np.random.default_rng(1)
    white = rng.normal(size=(40, 50, 60))
    assert abs(neighbour_correlation(white)) < 0.02
    mean_of_two = white[:, 1:] + white[:, :-1]  # neighbours share half of their variance
    assert neighbour_correlation(mean_of_two) == pytest.approx(0.5, abs=0.02)
    assert neighbour_correlation(np.repeat(white, 2, axis=0)) > 0.4
    assert neighbour_correlation(np.full((3, 4, 5), 7)) == 1


def test_a_volume_unlike_the_training_labels_is_told(blob_volume: BlobVolume) -> None:
    scan = blob_volume[0]
    found = Predictor(threshold_bundle(), "cpu").predict(scan)
    ml = float((found.segmentation.labelmap.array == 1).sum() * np.prod(scan.geometry.spacing_mm or ())) / 1000

    def flagged(least: float, most: float) -> Prediction:
        about = {"volume_ml": {"structure 1": [least, most], "another": [0, 1]}}
        return Predictor(threshold_bundle(about=about), "cpu").predict(scan)

    for least, most in ((1, 1), (1.4, 3), (0.5, 0.7)):
        assert flagged(least * ml, most * ml).flags == found.flags
    for least, most in ((1.6 * ml, 2 * ml), (0.5 * ml, 0.6 * ml)):
        (flag,) = set(flagged(least, most).flags) - set(found.flags)
        assert flag.code == "volume" and flag.words in flagged(least, most).notes
        assert flag.words.startswith(f"the volume of structure 1 ({ml:.3g} mL) is unlike")
    unknown = Volume(scan.array, Geometry.unknown(scan.geometry.shape))
    bundle = threshold_bundle(
        about={"volume_ml": {"structure 1": [1e6, 1e7]}},
        preprocessing={"spacing_mm": (1.5, 1, 1), "assumed_spacing_mm": (2, 1, 1)},
    )
    assert not any("volume" in note for note in Predictor(bundle, "cpu").predict(unknown).notes)


def test_integers_and_foreign_byte_order_give_the_same_mask(blob_volume: BlobVolume) -> None:
    scan = blob_volume[0]
    rounded = np.round(scan.array)
    predictor = Predictor(random_bundle(), "cpu")
    masks = [
        predictor.predict(scan.with_array(rounded.astype(dtype))).segmentation.labelmap.array
        for dtype in (np.float32, np.int16, np.uint16, ">i2", ">f4", np.float64)
    ]
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_progress_rises_and_cancelling_goes_through(blob_volume: BlobVolume) -> None:
    beats: list[Progress] = []
    predictor = Predictor(random_bundle(window=(16, 16, 16)), "cpu", free=lambda _: 0)
    predictor.predict(blob_volume[0], report=beats.append)
    fractions = [beat.fraction for beat in beats if beat.fraction is not None]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1 and len(fractions) > 5

    def cancel(progress: Progress) -> None:
        if progress.fraction:
            raise Cancelled

    with pytest.raises(Cancelled):
        predictor.predict(blob_volume[0], report=cancel)


def test_a_wrong_device_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown device 'gpu'; known are auto, cpu, cuda, mps"):
        Predictor(random_bundle(), "gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="there is no device 'cuda': torch finds 0 CUDA GPUs"):
            Predictor(random_bundle(), "cuda")


def test_scans_that_hold_no_image_are_refused(blob_volume: BlobVolume) -> None:
    scan, predictor = blob_volume[0], Predictor(random_bundle(), "cpu")
    with pytest.raises(ValueError, match="every voxel is 0"):
        predictor.predict(scan.with_array(np.zeros(scan.array.shape, dtype=np.uint8)))
    hole = scan.array.copy()
    hole[3, 3, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        predictor.predict(scan.with_array(hole))


def test_a_constant_region_is_refused() -> None:
    geometry = Geometry.from_axes((0, 0, 0), (1, 1, 1), np.eye(3)[:, ::-1], (20, 30, 30))
    array = np.zeros(geometry.shape, dtype=np.int16)
    array[:, 20:] = 50
    with pytest.raises(ValueError, match="region to segment is constant"):
        Predictor(random_bundle(), "cpu").predict(Volume(array, geometry), roi=(0, 29, 0, 10, 0, 19))


def test_unknown_results_are_refused(blob_volume: BlobVolume) -> None:
    with pytest.raises(ValueError, match="unknown results maps wanted; known are label_probability, probabilities"):
        Predictor(random_bundle(), "cpu").predict(blob_volume[0], want=("maps",))
