"""The prototypes behind a prediction, and where it is unsure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import random_bundle, threshold_bundle

from mper.inference.embedding_scatter import scatter
from mper.inference.explanation import probe, prototype_figures
from mper.inference.prediction import Prediction
from mper.inference.predictor import Predictor
from mper.inference.uncertainty import uncertain_regions
from mper.labels import Segmentation, make_label
from mper.models.bundle import ModelBundle
from mper.volume import Geometry, Volume

WANT = ("label_probability", "prototypes", "embeddings")
OBLIQUE = np.array([[0.1, 0.0, 0.8, -30.0], [-0.6, 0.96, 0.06, 12.0], [1.9, 0.3, -0.04, 7.0], [0, 0, 0, 1.0]])


def _scan(shape: tuple[int, int, int] = (16, 32, 48)) -> Volume:
    axes, _ = np.linalg.qr(OBLIQUE[:3, :3])
    affine = np.eye(4)
    affine[:3, :3] = axes * [1.5, 1.0, 0.8]
    affine[:3, 3] = OBLIQUE[:3, 3]
    noise = np.random.default_rng(1).normal(100, 20, shape)
    return Volume(noise.astype(np.float32), Geometry(affine, shape))


def _predict(bundle: ModelBundle, scan: Volume) -> tuple[Prediction, torch.Tensor]:
    return Predictor(bundle, "cpu").predict(scan, want=WANT), bundle.state["prototypes.vectors"]


@pytest.mark.parametrize("kind", ["vnet", "unet"])
def test_figures_of_prototypes_are_those_of_the_map(kind: str) -> None:
    scan = _scan()
    prediction, vectors = _predict(random_bundle(kind, classes=3), scan)
    assert prediction.prototype_map is not None and prediction.similarity_map is not None
    rows = prototype_figures(prediction, scan, vectors.shape[1])
    assert [row.value for row in rows] == list(range(1, 10))
    assert [row.of for row in rows] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sum(row.voxels for row in rows) == scan.array.size
    for row in rows:
        own = prediction.prototype_map.array == row.value
        assert row.voxels == own.sum()
        if not row.voxels:
            assert row.mean_similarity is None and row.typical_index is None and row.volume_ml == 0
            continue
        assert row.volume_ml == pytest.approx(row.voxels * 1.2e-3)
        assert row.mean_intensity == pytest.approx(scan.array[own].mean(), rel=1e-4)
        similarity = prediction.similarity_map.array.astype(np.float32)
        assert row.mean_similarity == pytest.approx(similarity[own].mean(), abs=1e-3)
        assert row.typical_index is not None and own[row.typical_index]
        assert similarity[row.typical_index] >= similarity[own].max() - 2e-3
        assert row.typical_mm == pytest.approx((scan.geometry.affine @ [*row.typical_index, 1])[:3])


@pytest.mark.parametrize("kind", ["vnet", "unet"])
def test_a_probe_agrees_with_the_maps_everywhere(kind: str) -> None:
    scan = _scan()
    preprocessing = {"spacing_mm": (3.0, 2.0, 2.0)}  # coarser than the scan, so cosines are interpolated
    prediction, vectors = _predict(random_bundle(kind, classes=3, preprocessing=preprocessing), scan)
    assert prediction.prototype_map is not None and prediction.similarity_map is not None
    assert prediction.label_probability is not None
    checked = 0
    for index in map(tuple, np.random.default_rng(0).integers(0, scan.geometry.shape, (200, 3)).tolist()):
        found = probe(prediction, vectors, index)
        assert found is not None
        assert found.value == prediction.segmentation.labelmap.array[index]
        assert found.probability == pytest.approx(float(prediction.label_probability.array[index]))
        cosines = [cosine for _, _, cosine in found.prototypes]
        assert cosines == sorted(cosines, reverse=True) and len(cosines) == 3
        nearest = int(prediction.prototype_map.array[index])
        if found.margin > 2e-3:  # its own class is the nearest, so the map names the nearest of all
            assert found.prototypes[0][2] == pytest.approx(float(prediction.similarity_map.array[index]), abs=2e-3)
            assert found.prototypes[0][0] == nearest or cosines[0] - cosines[1] < 2e-3
            checked += 1
        elif found.margin < -2e-3:
            assert found.prototypes[0][0] != nearest
    assert checked > 20


def test_a_probe_outside_the_region_finds_nothing() -> None:
    scan = _scan()
    bundle = random_bundle()
    low = scan.geometry.affine @ [4, 8, 8, 1]
    high = scan.geometry.affine @ [10, 24, 40, 1]
    box = [v for pair in zip(np.minimum(low, high)[:3], np.maximum(low, high)[:3], strict=True) for v in pair]
    prediction = Predictor(bundle, "cpu").predict(scan, roi=box, want=WANT)
    vectors = bundle.state["prototypes.vectors"]
    assert prediction.embeddings is not None
    assert probe(prediction, vectors, prediction.embeddings.start) is not None
    outside = tuple(n for n in prediction.embeddings.stop)
    assert probe(prediction, vectors, outside) is None  # type: ignore[arg-type]


def test_a_scatter_shows_both_sides_and_the_prototypes() -> None:
    scan = _scan()
    prediction, vectors = _predict(threshold_bundle(), scan)
    found = scatter(prediction, vectors, points=300)
    assert len(found.x) == len(found.y) == len(found.value) == 300
    assert {value > 3 for value in found.value.tolist()} == {False, True}
    assert (found.value > 3).sum() == 150
    assert sum(found.explained) == pytest.approx(1.0, abs=1e-4)  # this embedding has two channels
    # Two axes of two: distances are those of the directions, so unit vectors lie on a circle.
    prototypes = np.array([(x, y) for _, x, y in found.prototypes])
    centre = np.linalg.lstsq(2 * (prototypes[1:] - prototypes[0]), (prototypes[1:] ** 2 - prototypes[0] ** 2).sum(1))[0]
    radii = np.hypot(found.x - centre[0], found.y - centre[1])
    assert radii == pytest.approx(np.ones(300), abs=2e-3)
    again = scatter(prediction, vectors, points=300)
    assert np.array_equal(found.x, again.x)
    mask = prediction.segmentation.labelmap.array[tuple(found.index.T)]
    assert ((mask > 0) == (found.value > 3)).all()  # each point stands for a voxel of its side


def _doubtful(places: list[tuple[int, int, int]], sizes: list[int]) -> Prediction:
    shape = (40, 60, 60)
    certain = np.ones(shape, np.float16)
    for (k, j, i), n in zip(places, sizes, strict=True):
        certain[k - n : k + n + 1, j - n : j + n + 1, i - n : i + n + 1] = 0.5
    scan = Volume(np.zeros(shape, np.uint8), Geometry(np.eye(4), shape))
    mask = np.zeros(shape, np.uint8)
    mask[:, :, 30:] = 1
    segmentation = Segmentation(scan.with_array(mask), (make_label(1, "LA"),))
    return Prediction(segmentation, 0.9, label_probability=scan.with_array(certain))


def test_uncertain_places_come_largest_first_and_apart() -> None:
    middles = [(20, 10, 10), (20, 40, 50), (20, 40, 20)]
    found = uncertain_regions(_doubtful(middles, [1, 4, 2]))
    assert [place.index for place in found] == [middles[1], middles[2], middles[0]]
    assert found[0].uncertainty > found[1].uncertainty > found[2].uncertainty
    assert found[2].volume_ml == pytest.approx(0.027)
    assert "LA" in found[0].words and "outside all structures" in found[1].words
    assert found[0].mm == (20.0, 40.0, 50.0)
    assert len(uncertain_regions(_doubtful(middles, [1, 4, 2]), count=2)) == 2


def test_a_large_place_of_doubt_comes_before_a_small_one_of_more() -> None:
    prediction = _doubtful([(20, 12, 12), (20, 40, 45)], [1, 5])
    assert prediction.label_probability is not None
    certain = prediction.label_probability.array
    certain[19:22, 11:14, 11:14] = 0.01
    certain[15:26, 35:46, 40:51] = 0.6
    first, second = uncertain_regions(prediction)
    assert np.abs(np.subtract(first.index, (20, 40, 45))).max() <= 1 and second.index == (20, 12, 12)


def test_a_sure_prediction_has_no_uncertain_place() -> None:
    assert uncertain_regions(_doubtful([], [])) == ()


def test_what_a_prediction_lacks_is_said() -> None:
    bare = replace(_doubtful([], []), label_probability=None)
    scan = bare.segmentation.labelmap
    with pytest.raises(ValueError, match="no label probabilities"):
        uncertain_regions(bare)
    with pytest.raises(ValueError, match="no prototype map"):
        prototype_figures(bare, scan, 3)
    for prediction, reason in (
        (bare, "nothing of this scan was segmented"),
        (replace(bare, method="whole"), "no embeddings"),
    ):
        with pytest.raises(ValueError, match=reason):
            probe(prediction, torch.zeros(2, 3, 16), (0, 0, 0))
        with pytest.raises(ValueError, match=reason):
            scatter(prediction, torch.zeros(2, 3, 16))
