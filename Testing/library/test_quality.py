"""The Dice to expect of a mask: evidence, calibration, and what a person is told."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import threshold_bundle, threshold_localization

from mper.dataloading.degraded import degraded
from mper.dataloading.preprocessing import Preprocessing, WorkingGrid
from mper.inference.evidence import of_mask
from mper.inference.predictor import Predictor
from mper.models.bundle import ModelBundle
from mper.models.calibration import CHECK, GOOD, REASONS, WRONG, Calibration, Quality, Term
from mper.progress import ignore_progress
from mper.training.calibration import Sample, calibrate, collect, cross_validate, figures, fit, usual_shapes
from mper.volume import Geometry, Volume

SPACING = (3.0, 2.0, 2.0)
TERMS = {"confidence": Term(2.0, 0.5, 0.6), "shape": Term(-1.0, 0.5, 0.4)}


def blob(shape: tuple[int, int, int] = (24, 40, 48), middle: tuple[int, int, int] = (12, 18, 28)) -> np.ndarray:
    """A lopsided bright body, as a bool array."""
    k, j, i = np.ogrid[: shape[0], : shape[1], : shape[2]]
    body = ((k - middle[0]) / 5) ** 2 + ((j - middle[1]) / 8) ** 2 + ((i - middle[2]) / 11) ** 2 <= 1
    body[middle[0] : middle[0] + 7, middle[1] - 2 : middle[1] + 2, middle[2] : middle[2] + 4] = True
    return body


def grid_of(body: np.ndarray) -> Geometry:
    return Geometry.from_axes((-50, -30, 20), SPACING, np.eye(3)[:, ::-1], body.shape)


def scan_of(body: np.ndarray, seed: int = 0) -> Volume:
    """The body in grey noise."""
    array = np.where(body, 200.0, 40.0) + np.random.default_rng(seed).normal(0, 8, body.shape)
    return Volume(array.astype(np.float32), grid_of(body))


def usual() -> dict[str, tuple[float, float]]:
    bodies = [blob(middle=(12, 18 + n, 26 + n)) for n in range(4)]
    labels = [(WorkingGrid.plan(grid_of(body), Preprocessing(SPACING), 3), body.astype(np.uint8)) for body in bodies]
    return usual_shapes(labels, 3, 1)


def calibrated(**about: object) -> ModelBundle:
    calibration = Calibration(usual(), {**TERMS, "size": Term(-1.0, 0.5, 0.5)}, 2.0, {GOOD: (-0.05, 0.03)})
    bundle = threshold_bundle(preprocessing={"spacing_mm": SPACING}, **about)
    return replace(bundle, calibration=calibration)


def test_the_expected_dice_is_the_logistic_of_the_weighted_evidence() -> None:
    calibration = Calibration({}, TERMS, 2.0, {GOOD: (-0.1, 0.05)})
    quality = calibration.quality({"confidence": 2.5, "shape": -1.5, "unknown": 7.0})
    assert quality is not None and quality.level == GOOD and quality.reasons == ()
    assert quality.expected_dice == pytest.approx(1 / (1 + np.exp(-(2.0 + 0.6 - 0.4))))
    assert (quality.low, quality.high) == pytest.approx((quality.expected_dice - 0.1, quality.expected_dice + 0.05))
    missing = calibration.quality({"confidence": 2.0, "shape": float("nan")})
    assert missing is not None and missing.expected_dice == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_worse_evidence_never_raises_the_expected_dice_and_is_named() -> None:
    calibration = Calibration({}, TERMS, 2.0)
    values = np.linspace(-20, 20, 41)
    for name in TERMS:
        found = [calibration.quality({"confidence": 2.0, "shape": -1.0, name: value}) for value in values]
        dices = [quality.expected_dice for quality in found if quality is not None]
        assert len(dices) == 41 and (np.diff(dices) >= 0).all() and dices[0] < dices[-1]
        worst = found[0]
        assert worst is not None and worst.level != GOOD
        assert worst.reasons[0] == REASONS[name] and REASONS[name] in worst.words


@pytest.mark.parametrize(
    ("expected", "level"), [(0.95, GOOD), (0.8, GOOD), (0.79, CHECK), (0.5, CHECK), (0.49, WRONG), (0.0, WRONG)]
)
def test_there_are_three_levels(expected: float, level: str) -> None:
    bias = float(np.log(max(expected, 1e-9) / (1 - expected)))
    quality = Calibration({}, {"confidence": Term(0.0, 1.0, 1.0)}, bias + 1e-9).quality({})
    assert quality is not None and quality.level == level


def test_a_calibration_travels_in_the_bundle_and_damage_is_noticed(tmp_path: Path) -> None:
    bundle = replace(calibrated(), localization=threshold_localization())
    bundle.save(tmp_path / "model")
    assert ModelBundle.load(tmp_path / "model").calibration == bundle.calibration
    card = json.loads((tmp_path / "model" / "card.json").read_text(encoding="utf-8"))
    assert card["format"] == 2 and set(card["calibration"]) == {"file", "sha256"}
    file = tmp_path / "model" / "calibration.json"
    file.write_text(file.read_text(encoding="utf-8").replace("2.0", "3.0", 1), encoding="utf-8")
    with pytest.raises(ValueError, match=r"calibration.json is not the file that the model's card describes"):
        ModelBundle.load(tmp_path / "model")
    for text in ("{}", "[]", json.dumps({**json.loads(bundle.calibration.to_json()), "bias": float("nan")})):  # type: ignore[union-attr]
        with pytest.raises(ValueError, match="calibration of the model is damaged"):
            Calibration.from_json(text)


def test_a_good_mask_is_told_from_one_of_another_size_and_shape() -> None:
    predictor = Predictor(calibrated(), "cpu")
    good = predictor.predict(scan_of(blob()))
    assert good.quality is not None and good.quality.level == GOOD
    assert good.evidence["size"] > -1.5 and good.evidence["shape"] > -1.5
    assert "quality" not in [flag.code for flag in good.flags]
    bar = np.zeros(blob().shape, bool)
    bar[2:22, 4:7, 6:9] = True
    other = predictor.predict(scan_of(bar))
    assert other.quality is not None and other.quality.level == WRONG
    assert other.flags[0].code == "quality" and other.flags[0].words == other.quality.words
    assert other.quality.words.startswith("likely wrong (expected Dice 0.") and other.quality.words in other.notes
    assert other.quality.short in repr(other) and "expected" not in repr(good)


def test_the_evidence_is_the_same_in_all_axis_orders() -> None:
    predictor = Predictor(calibrated(), "cpu")
    scan = scan_of(blob())
    expected = predictor.predict(scan).evidence
    assert {"confidence", "similarity", "prototype_agreement", "size", "shape", "free_border"} <= set(expected)
    orders = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))
    for axes, mirrored in orders[5::9]:
        flips = tuple(axis for axis in range(3) if mirrored[axis])
        array = np.ascontiguousarray(np.flip(scan.array.transpose(axes), flips))
        found = predictor.predict(Volume(array, scan.geometry.reordered(axes, flips))).evidence
        assert found == pytest.approx(expected, abs=2e-2)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_size_in_voxels_is_compared_with_no_size_in_mm(dimensions: int) -> None:
    """Of public sets without a spacing a model knows the size in voxels, and later meets scans of known spacing."""
    bodies = [blob(middle=(12, 18 + n, 26 + n)) for n in range(4)]
    unknown, known = Geometry.unknown(bodies[0].shape), grid_of(bodies[0])
    found = {}
    for trained_on in (unknown, known):
        labels = [(WorkingGrid.plan(trained_on, Preprocessing(), dimensions), body.astype(np.uint8)) for body in bodies]
        calibration = Calibration(usual_shapes(labels, dimensions, 1))
        for scan in (unknown, known):
            grid = WorkingGrid.plan(scan, Preprocessing(), dimensions)
            seen = of_mask(bodies[1].astype(np.uint8), grid, dimensions, 1, calibration)
            found[trained_on is known, scan is known] = {name: seen[name] for name in ("size", "shape") if name in seen}
    for same in (True, False):
        assert set(found[same, same]) == {"size", "shape"} and min(found[same, same].values()) > -1
        assert "size" not in found[same, not same] and found[same, not same].get("shape", 0) > -1


def test_a_model_without_calibration_says_nothing() -> None:
    found = Predictor(replace(calibrated(), calibration=None), "cpu").predict(scan_of(blob()))
    assert found.quality is None and found.evidence == {}


def test_an_empty_mask_has_no_quality() -> None:
    bundle = replace(calibrated(), level=99.0)  # type: ignore[call-arg]
    found = Predictor(bundle, "cpu").predict(scan_of(blob()))
    assert found.quality is None and found.evidence == {} and [flag.code for flag in found.flags] == ["empty"]


def test_the_other_candidates_are_tried_where_the_first_mask_is_not_good() -> None:
    field = np.zeros((24, 120, 120), bool)
    field[4:20, 4:16, 4:30] = True  # larger, and no body
    field[:, 60:100, 40:88] |= blob()
    bundle = replace(calibrated(), localization=threshold_localization(1.0))
    found = Predictor(bundle, "cpu").predict(scan_of(field))
    assert found.quality is not None and found.quality.level == GOOD
    mask = np.asarray(found.segmentation.labelmap.array) > 0
    assert mask[:, 60:100, 40:88].sum() == mask.sum() > 0.9 * blob().sum()
    blind = Predictor(replace(bundle, calibration=None), "cpu").predict(scan_of(field))
    assert not (np.asarray(blind.segmentation.labelmap.array) > 0)[:, 60:100, 40:88].any()


@pytest.mark.parametrize("with_calibration", [True, False])
def test_the_other_candidates_are_tried_where_the_first_mask_is_empty(
    monkeypatch: pytest.MonkeyPatch, with_calibration: bool
) -> None:
    field = np.zeros((24, 120, 120), bool)
    field[4:20, 4:16, 4:30] = True
    field[:, 60:100, 40:88] |= blob()
    segment, regions = Predictor._segment, []

    def empty_at_first(self: Predictor, scan: Volume, region: Any, *others: Any) -> Any:
        found = segment(self, scan, region, *others)
        if not regions:
            found.decision.classes[...] = 0
            found.quality, found.evidence = None, {}
        regions.append(region)
        return found

    monkeypatch.setattr(Predictor, "_segment", empty_at_first)
    bundle = replace(calibrated(), localization=threshold_localization(1.0))
    found = Predictor(bundle if with_calibration else replace(bundle, calibration=None), "cpu").predict(scan_of(field))
    mask = np.asarray(found.segmentation.labelmap.array) > 0
    assert len(regions) == 2 and mask[:, 60:100, 40:88].sum() == mask.sum() > 0.9 * blob().sum()
    assert "empty" not in [flag.code for flag in found.flags]


def test_a_point_in_the_structure_is_enough() -> None:
    field = np.zeros((24, 120, 120), bool)
    field[4:20, 4:16, 4:30] = True
    field[:, 60:100, 40:88] |= blob()
    scan = scan_of(field)
    middle = scan.geometry.position_mm((12, 78, 68))
    predictor = Predictor(calibrated(), "cpu")
    assert middle is not None
    found = predictor.predict(scan, at=middle)
    mask = np.asarray(found.segmentation.labelmap.array) > 0
    assert mask[:, 60:100, 40:88].sum() == mask.sum() > 0.9 * blob().sum()
    assert found.roi_mm is not None and all(found.roi_mm[2 * n] < middle[n] < found.roi_mm[2 * n + 1] for n in range(3))
    with pytest.raises(ValueError, match=r"an ROI and a point .* give one of them"):
        predictor.predict(scan, at=middle, roi=(0, 10, 0, 10, 0, 10))
    with pytest.raises(ValueError, match=r"a point is x,y,z in LPS mm, got 1,2"):
        predictor.predict(scan, at=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"the point 9999,0,25 lies outside the scan, whose extent is x -51 to 189"):
        predictor.predict(scan, at=(9999.0, 0.0, 25.0))


@pytest.mark.parametrize("degrees", [0, 5, 30])
def test_a_mask_that_the_region_cuts_says_so_however_the_scan_lies(degrees: float) -> None:
    turn = np.deg2rad(degrees)
    turned = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    straight = scan_of(blob())
    grid = straight.geometry
    geometry = Geometry.from_axes(turned @ np.array(grid.origin_mm), SPACING, turned @ grid.directions, grid.shape)
    scan, predictor = Volume(straight.array, geometry), Predictor(calibrated(), "cpu")
    x, y, z = geometry.to_world((12, 18, 28))
    holds = predictor.predict(scan, roi=(x - 32, x + 32, y - 32, y + 32, z - 30, z + 30))
    cuts = predictor.predict(scan, roi=(x - 32, x, y - 32, y + 32, z - 30, z + 30))
    assert holds.evidence["free_border"] == 0 and "border" not in {flag.code for flag in holds.flags}
    assert cuts.evidence["free_border"] < -0.4
    assert [flag.words.code for flag in cuts.flags if flag.code == "border"] == ["at-region-border"]


def test_degraded_scans_keep_true_labels() -> None:
    body = blob(middle=(12, 18, 31)).astype(np.uint8)
    image = scan_of(body > 0)
    found = {kind: (scan, truth) for kind, scan, truth in degraded(image, body, np.random.default_rng(0))}
    assert next(iter(found)) == "as it is" and found["as it is"][0] is image
    for kind, (scan, truth) in found.items():
        assert scan.array.shape == truth.shape, kind
        inside = truth > 0
        if kind in (
            "half of the structure",
            "most of the structure",
            "too small",
            "mirrored along j",
            "exchanged axes",
        ):
            assert np.asarray(scan.array)[inside].min() > np.asarray(scan.array)[~inside].max()
    low, high = np.percentile(image.array, (1, 99))
    for kind in ("inverted contrast", "darker", "blurred"):  # CT is clipped to a window in HU
        changed = np.asarray(found[kind][0].array)
        assert low - 1e-3 <= changed.min() < low + 40 and high - 80 < changed.max() <= high + 1e-3, kind
    assert not found["beside the structure"][1].any()
    assert 0 < found["half of the structure"][1].sum() < 0.7 * body.sum() < found["most of the structure"][1].sum()
    composed, truth = found["in a wide field"]
    assert composed.geometry.extent_mm is not None and max(composed.geometry.extent_mm) > 250
    here = composed.geometry.to_world(np.argwhere(truth).mean(0))
    np.testing.assert_allclose(here, image.geometry.to_world(np.argwhere(body).mean(0)), atol=0.5)


def test_what_is_collected_and_fitted_tells_good_masks_from_bad_ones() -> None:
    shapes = usual()
    bundle = threshold_bundle(preprocessing={"spacing_mm": SPACING})
    cases = [
        (f"case {n}", scan_of(blob(middle=(12, 18 + n, 26 + n)), n), blob(middle=(12, 18 + n, 26 + n)))
        for n in range(3)
    ]
    labelled = [(name, image, body.astype(np.uint8)) for name, image, body in cases]
    samples = collect(bundle, shapes, [*labelled, ("air", scan_of(np.zeros((24, 40, 48), bool)), None)], device="cpu")
    assert {"as it is", "shuffled voxels", "no structure"} <= {sample.kind for sample in samples}
    assert all(sample.dice > 0.95 for sample in samples if sample.kind == "as it is")
    assert all(sample.dice == 0 for sample in samples if sample.kind in ("random clouds", "no structure"))
    calibration = fit(samples, shapes)
    assert all(term.weight > 0 for term in calibration.terms.values()) and calibration.about["scans"] == 4
    judged = {sample.kind: calibration.quality(sample.evidence) for sample in samples if sample.scan == "case 0"}
    good, bad = judged["as it is"], judged["random clouds"]
    assert good is not None and bad is not None
    assert good.level == GOOD and bad.level == WRONG and good.expected_dice - bad.expected_dice > 0.5


@dataclass(frozen=True)
class Case:
    """A case of a hold-out."""

    id: str
    body: np.ndarray
    unknown: bool = False

    def image(self) -> Volume:
        return scan_of(self.body, int(self.id))

    def label(self) -> Volume:
        label = self.body.astype(np.uint8)
        label[0, 0, 0] = 255 * self.unknown
        return Volume(label, grid_of(self.body))


def test_a_model_is_calibrated_on_a_hold_out_of_three_cases_within_its_time() -> None:
    bundle = threshold_bundle(preprocessing={"spacing_mm": SPACING})
    cases = [Case(str(n), blob(middle=(12, 18 + n, 26 + n))) for n in range(3)]
    told: list[str] = []
    made = calibrate(bundle, usual(), cases, "cpu", 30.0, lambda progress: told.append(progress.message))
    assert made is not None and made.about["scans"] == 3 and told[0] == "measuring the quality of masks (0, as it is)"
    assert calibrate(bundle, usual(), cases[:2], "cpu", 30.0, ignore_progress) is None
    assert (
        calibrate(bundle, usual(), [*cases[:2], replace(cases[2], unknown=True)], "cpu", 30.0, ignore_progress) is None
    )
    assert calibrate(bundle, usual(), cases, "cpu", 0.0, ignore_progress) is None


def test_cross_validation_never_uses_the_scan_itself() -> None:
    rng = np.random.default_rng(0)
    samples = []
    for n in range(40):
        true = float(rng.uniform(0, 1))
        samples.append(Sample(f"scan {n // 4}", "", {"confidence": true * 4, "shape": float(rng.normal())}, true))
    before = cross_validate(samples)
    lies = [replace(sample, dice=1 - sample.dice) if sample.scan == "scan 3" else sample for sample in samples]
    after = cross_validate(lies)
    for sample, one, other in zip(samples, before, after, strict=True):
        if sample.scan == "scan 3":
            assert one == other
    found = figures(np.array([s.dice for s in samples]), np.array(before))
    assert found["auroc_below_0.7"] is not None and found["auroc_below_0.7"] > 0.95
    with pytest.raises(ValueError, match="at least 10 masks"):
        fit(samples[:9], {})


def test_evidence_that_does_not_rise_with_the_dice_is_told_and_that_of_some_scans_is_no_fault() -> None:
    dice = np.linspace(0.2, 0.95, 18).tolist()
    falling = [Sample(f"scan {n % 3}", "", {"shape": -true}, true) for n, true in enumerate(dice)]
    with pytest.raises(ValueError, match="no quality measure of 18 masks rises with their Dice; label more cases"):
        fit(falling, {})
    one = [replace(s, evidence={"shape": 20 * s.dice}) if s.scan == "scan 0" else s for s in falling]
    without = [sample for sample in one if sample.scan != "scan 0"]
    assert fit(one, {}).terms and len(set(cross_validate(one)[::3])) == 1, "the rest tells nothing of this scan"
    assert cross_validate(one)[0] == pytest.approx(np.mean([sample.dice for sample in without]), abs=0.01)


def test_figures_are_those_of_the_definition() -> None:
    true, expected = np.array([0.9, 0.85, 0.2, 0.5, 0.75]), np.array([0.95, 0.45, 0.85, 0.4, 0.7])
    assert figures(true, expected) == {
        "auroc_below_0.7": pytest.approx(4 / 6, abs=1e-4),
        "mean_error": pytest.approx((0.05 + 0.4 + 0.65 + 0.1 + 0.05) / 5),
        "bias": pytest.approx((0.05 - 0.4 + 0.65 - 0.1 - 0.05) / 5),
        "below_0.3_not_flagged": 1,
        "good_called_likely_wrong": 0.5,
    }


def test_the_words_of_a_quality() -> None:
    assert Quality(0.912, 0.87, 0.95, GOOD).words == "good (expected Dice 0.91, 0.87 to 0.95)"
    doubtful = Quality(0.31, 0.1, 0.6, WRONG, (REASONS["similarity"], REASONS["size"]))
    assert doubtful.words == (
        "likely wrong (expected Dice 0.31, 0.10 to 0.60): the tissue in the mask is unlike that of the training scans "
        "and the volume is unlike that of the training labels"
    )
