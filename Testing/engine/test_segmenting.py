"""Uploads, segment jobs and what can be asked of predictions, over HTTP."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import MODEL, Served, array_header, served, until
from small_models import threshold_bundle

from mper.engine.settings import Limits
from mper.inference.explanation import probe
from mper.inference.localization import Localizer
from mper.inference.predictor import Predictor
from mper.io import read_volume
from mper.measurement.measures import measure
from mper.models.bundle import ModelBundle
from mper.models.references import References
from mper.progress import Progress
from mper.resources import sample_scan
from mper.roi import Region
from mper.volume import Geometry, Volume


@pytest.fixture(scope="module")
def predictor(root: Path) -> Predictor:
    return Predictor(ModelBundle.load(root / "mine" / "models" / "small" / "1"), "cpu")


@pytest.fixture(scope="module")
def segmented(engine: Served, scan: Volume) -> dict:
    """The result for the small scan."""
    return engine.segment(engine.upload(scan), MODEL)


@pytest.fixture(scope="module")
def direct(predictor: Predictor, scan: Volume):
    """The same, without an engine."""
    return predictor.predict(scan, want=("label_probability", "prototypes", "embeddings"))


def placed(engine: Served, result: dict, what: str) -> np.ndarray:
    """An array of a prediction on the whole scan's grid, 0 around it."""
    answer = engine.get(f"/predictions/{result['prediction']}/{what}")
    part, start = answer.array(), answer.array_header()["start"]
    whole = np.zeros(result["shape"], part.dtype)
    whole[tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))] = part
    return whole


def test_the_mask_is_the_predictors_own(engine: Served, segmented: dict, direct) -> None:
    mask = direct.segmentation.labelmap.array
    assert 0 < np.count_nonzero(mask) < mask.size
    assert np.array_equal(placed(engine, segmented, "mask"), mask)


def test_the_mask_comes_cropped_to_what_is_not_empty(engine: Served, segmented: dict, direct) -> None:
    answer = engine.get(f"/predictions/{segmented['prediction']}/mask")
    found = np.argwhere(direct.segmentation.labelmap.array)
    low, high = found.min(0).tolist(), (found.max(0) + 1).tolist()
    assert segmented["extent"] == [low, high]
    assert answer.array_header() == {
        "shape": [b - a for a, b in zip(low, high, strict=True)],
        "dtype": "uint8",
        "start": low,
    }


def test_maps_are_the_predictors_own(engine: Served, segmented: dict, direct) -> None:
    assert np.array_equal(placed(engine, segmented, "prototypes"), direct.prototype_map.array)
    assert np.array_equal(placed(engine, segmented, "similarity"), direct.similarity_map.array)
    probability = direct.label_probability.array.astype(np.float32)
    assert np.abs(placed(engine, segmented, "uncertainty") - 100 * (1 - probability)).max() <= 0.5


def test_the_result_tells_what_the_protocol_says(engine: Served, segmented: dict, scan: Volume, direct, root) -> None:
    card = json.loads((root / "mine" / "models" / "small" / "1" / "card.json").read_text(encoding="utf-8"))
    assert segmented["model"] == card["name"] == "small"
    assert segmented["model_version"] == card["version"]
    assert segmented["model_sha256"] == card["weights"]["sha256"]
    assert segmented["labels"] == json.loads(json.dumps(card["labels"]))
    assert segmented["shape"] == list(scan.array.shape)
    assert segmented["confidence"] == pytest.approx(direct.confidence)
    assert segmented["notes"] == list(direct.notes)
    assert segmented["roi_mm"] is None and segmented["method"] == "whole" and "CPU" in segmented["device"]
    assert segmented["seconds"] > 0
    measured = [asdict(found) for found in measure(direct.segmentation, direct.structure_confidence)]
    assert [pytest.approx(found) for found in measured] == segmented["structures"]


def test_flags_say_why_to_look_with_care(segmented: dict, direct) -> None:
    codes = {flag["code"] for flag in segmented["flags"]}
    assert ("border" in codes) == any("touches the border" in note for note in direct.notes)
    assert "border" in codes  # a random network's mask does
    lines = {*segmented["notes"], *(flag["words"] for flag in segmented["flags"])}
    assert set(segmented["line_codes"]) >= lines and all(lines), "for words of other languages"
    assert {"at-scan-border"} <= {coded["code"] for coded in segmented["line_codes"].values()}


def test_prototypes_tell_their_voxels_and_typical_places(segmented: dict, scan: Volume, direct) -> None:
    rows = {row["value"]: row for row in segmented["prototypes"]}
    assert sorted(rows) == [1, 2, 3, 4, 5, 6]
    assert [rows[n]["class"] for n in sorted(rows)] == [0, 0, 0, 1, 1, 1]
    for value, row in rows.items():
        own = direct.prototype_map.array == value
        assert row["voxels"] == np.count_nonzero(own)
        if row["voxels"]:
            assert own[tuple(row["typical_index"])]
            assert row["typical_mm"] == pytest.approx(scan.geometry.to_world(row["typical_index"]).tolist())
            assert row["mean_intensity"] == pytest.approx(scan.array[own].mean(), rel=1e-6)


def test_a_probe_says_what_the_library_says(engine: Served, segmented: dict, predictor: Predictor, direct) -> None:
    vectors = predictor.bundle.state["prototypes.vectors"]
    for index in ((3, 20, 18), (0, 0, 0), (13, 39, 35)):
        expected = probe(direct, vectors, index)
        k, j, i = index
        told = engine.get(f"/predictions/{segmented['prediction']}/probe?k={k}&j={j}&i={i}").json()
        assert told["value"] == expected.value and told["name"] == expected.name
        assert [row["value"] for row in told["prototypes"]] == [value for value, _, _ in expected.prototypes]
        assert told["margin"] == pytest.approx(expected.margin, abs=1e-6)
        assert told["probability"] == pytest.approx(expected.probability, abs=1e-6)


def test_a_probe_outside_the_scan_is_empty(engine: Served, segmented: dict) -> None:
    for place in ("k=99&j=0&i=0", "k=-1&j=0&i=0"):
        assert engine.get(f"/predictions/{segmented['prediction']}/probe?{place}").json() == {"value": None}


def test_a_scatter_has_a_point_for_each_voxel_asked_for(engine: Served, segmented: dict) -> None:
    told = engine.get(f"/predictions/{segmented['prediction']}/scatter?points=100").json()
    assert len(told["x"]) == len(told["y"]) == len(told["value"]) == len(told["index"]) == 100
    assert set(told["value"]) <= {1, 2, 3, 4, 5, 6}
    assert 0 < sum(told["explained"]) <= 1.0001
    assert {row["value"] for row in told["prototypes"]} == {1, 2, 3, 4, 5, 6}


def test_uncertain_places_lie_where_the_map_is_uncertain(engine: Served, segmented: dict, scan: Volume) -> None:
    assert segmented["uncertain_places"]
    percent = placed(engine, segmented, "uncertainty")
    for place in segmented["uncertain_places"]:
        assert percent[tuple(place["index"])] > 20
        assert place["mm"] == pytest.approx(scan.geometry.to_world(place["index"]).tolist())
        assert place["words"]


def test_a_region_is_computed_alone_and_lies_where_it_should(
    engine: Served, scan: Volume, predictor: Predictor
) -> None:
    corners = scan.geometry.to_world([[3, 8, 6], [11, 33, 30]])
    low, high = corners.min(0), corners.max(0)
    roi = [float(v) for pair in zip(low, high, strict=True) for v in pair]
    result = engine.segment(engine.upload(scan), MODEL, roi_mm=roi)
    alone = predictor.predict(scan, roi=roi, want=("label_probability", "prototypes", "embeddings"))
    assert result["start"] == list(alone.embeddings.start) != [0, 0, 0]
    assert result["roi_mm"] == pytest.approx(list(alone.roi_mm))
    assert np.array_equal(placed(engine, result, "mask"), alone.segmentation.labelmap.array)
    assert np.array_equal(placed(engine, result, "prototypes"), alone.prototype_map.array)
    assert placed(engine, result, "uncertainty")[0, 0, 0] == 0
    own = [row for row in result["prototypes"] if row["voxels"]]
    for row in own:
        assert alone.prototype_map.array[tuple(row["typical_index"])] == row["value"]
        assert row["typical_mm"] == pytest.approx(scan.geometry.to_world(row["typical_index"]).tolist())
    told = engine.get(f"/predictions/{result['prediction']}/probe?k=0&j=0&i=0").json()
    assert told == {"value": None}
    k, j, i = own[0]["typical_index"]
    told = engine.get(f"/predictions/{result['prediction']}/probe?k={k}&j={j}&i={i}").json()
    assert told["value"] == alone.segmentation.labelmap.array[k, j, i]


def test_a_region_outside_the_scan_fails_with_one_line(engine: Served, scan: Volume) -> None:
    body = {"scan": engine.upload(scan), "model": MODEL, "roi_mm": [900, 910, 900, 910, 900, 910]}
    last = engine.ended(engine.post("/jobs/segment", body).json()["job"])
    assert last["state"] == "failed" and last["result"] is None
    assert "\n" not in last["error"] and "ROI" in last["error"]
    coded = last["line_codes"][last["error"]]
    assert coded["code"] == "roi-outside" and coded["values"]["box"] in last["error"]


def test_figures_in_mm_are_null_where_the_spacing_is_unknown(engine: Served, scan: Volume) -> None:
    unknown = Volume(scan.array, Geometry.unknown(scan.array.shape))
    result = engine.segment(engine.upload(unknown), "Data/mine/flat")
    assert all(row["volume_ml"] is None and row["surface_mm2"] is None for row in result["structures"])
    assert all(row["volume_ml"] is None for row in result["prototypes"])
    assert all(row["typical_mm"] is None for row in result["prototypes"])
    assert all(place["mm"] is None and place["volume_ml"] is None for place in result["uncertain_places"])


def test_a_model_for_slices_answers_as_well(engine: Served, scan: Volume) -> None:
    result = engine.segment(engine.upload(scan), "Data/mine/flat")
    k, j, i = result["prototypes"][0]["typical_index"] or (0, 0, 0)
    assert engine.get(f"/predictions/{result['prediction']}/probe?k={k}&j={j}&i={i}").json()["prototypes"]


def test_a_model_without_prototypes_says_so(tmp_path: Path, root: Path, scan: Volume) -> None:
    bundle = ModelBundle.load(root / "mine" / "models" / "small" / "1")
    state = {**bundle.state, "prototypes.vectors": torch.zeros_like(bundle.state["prototypes.vectors"])}
    with served(tmp_path, [root]) as engine:
        engine.engine.models.predictor = lambda *_: Predictor(replace(bundle, state=state), "cpu")
        result = engine.segment(engine.upload(scan), MODEL)
        assert result["prototypes"] == []
        home = f"/predictions/{result['prediction']}"
        for what in ("prototypes", "similarity", "scatter"):
            answer = engine.get(f"{home}/{what}")
            assert answer.status == 409 and "no prototypes" in answer.error()
        told = engine.get(f"{home}/probe?k=1&j=2&i=3").json()
        assert told["prototypes"] == [] and told["margin"] is None and told["probability"] > 0


def test_a_model_that_keeps_labelled_voxels_names_the_nearest_and_their_cases(
    tmp_path: Path, root: Path, scan: Volume
) -> None:
    bundle = ModelBundle.load(root / "mine" / "models" / "small" / "1")
    number = torch.arange(6)
    vectors = torch.nn.functional.normalize(torch.randn(6, bundle.network.filters), dim=1)
    kept = References(vectors, number % 2, number % 2, torch.stack([number] * 3, dim=1), ("Huber", "Maier"))
    predictor = Predictor(replace(bundle, references=kept), "cpu")
    found = predictor.predict(scan, want=("embeddings",))
    expected = probe(found, bundle.state["prototypes.vectors"], (3, 20, 18), kept)
    assert expected is not None
    with served(tmp_path, [root]) as engine:
        engine.engine.models.predictor = lambda *_: predictor
        home = f"/predictions/{engine.segment(engine.upload(scan), MODEL)['prediction']}"
        told = engine.get(f"{home}/probe?k=3&j=20&i=18").json()["labelled"]
    assert [row["case"] for row in told] == [voxel.case for voxel in expected.labelled]
    assert [tuple(row["index"]) for row in told] == [voxel.index for voxel in expected.labelled]
    assert len(told) == 3 and told[0]["similarity"] == max(row["similarity"] for row in told)


def test_an_empty_mask_is_one_voxel_and_a_flag(tmp_path: Path, root: Path, scan: Volume) -> None:
    predictor = Predictor(threshold_bundle(level=1e6), "cpu")
    with served(tmp_path, [root]) as engine:
        engine.engine.models.predictor = lambda *_: predictor
        result = engine.segment(engine.upload(scan), MODEL)
        assert result["extent"] is None
        assert "empty" in {flag["code"] for flag in result["flags"]}
        answer = engine.get(f"/predictions/{result['prediction']}/mask")
        assert answer.array().tolist() == [[[0]]] and answer.array_header()["start"] == [0, 0, 0]


def test_a_wide_scan_in_which_nothing_is_located_gives_an_empty_mask_that_says_what_to_do(
    tmp_path: Path, root: Path
) -> None:
    geometry = Geometry.from_axes((0, 0, 0), (10, 4, 4), np.eye(3)[:, ::-1], (8, 60, 60))
    noise = np.random.default_rng(0).normal(100, 5, geometry.shape).astype(np.float32)
    predictor = Predictor(threshold_bundle(), "cpu", localizer=threshold_bundle(level=1e3))
    with served(tmp_path, [root]) as engine:
        engine.engine.models.predictor = lambda *_: predictor
        result = engine.segment(engine.upload(Volume(noise, geometry)), MODEL)
        home = f"/predictions/{result['prediction']}"
        assert {flag["code"] for flag in result["flags"]} == {"empty"} and result["roi_mm"] is None
        assert {"nothing-located", "empty-mask"} <= {coded["code"] for coded in result["line_codes"].values()}
        assert not result["uncertain_places"] and not any(row["voxels"] for row in result["prototypes"])
        for what in ("mask", "prototypes", "similarity", "uncertainty"):
            assert not engine.get(f"{home}/{what}").array().any()
        assert engine.get(f"{home}/probe?k=1&j=2&i=3").json() == {"value": None}
        stroke = {"value": 1, "points_mm": [[80.0, 80.0, 40.0]]}
        for answer in (engine.get(f"{home}/scatter"), engine.call("PUT", f"{home}/strokes", {"strokes": [stroke]})):
            assert answer.status == 422 and "segment it with an ROI" in answer.error()


def test_models_are_listed_with_what_a_button_says(engine: Served) -> None:
    models = {entry["id"]: entry for entry in engine.get("/models").json()}
    assert models["la"]["button"] == "Segment LA" and models["la"]["origin"] == "bundled"
    assert models["acdc"]["button"] == "Segment RV/MYO/LV"
    assert models["la"]["labels"][0]["type"] == {"scheme": "SCT", "value": "82471001", "meaning": "Left atrium"}
    assert models["la"]["card"]["intended_use"] and models["la"]["card"]["limits"]
    assert "la-locator" not in models  # it finds the region for others
    own = {name: models[name]["origin"] for name in models if "/" in name}
    assert own == {
        f"Data/mine/{name}/{version}": {
            "dataset": "Data/mine",
            "name": name,
            "version": version,
            "current": version == "1",
        }
        for name, version in (("flat", "1"), ("small", "1"), ("small", "2"))
    }


@pytest.mark.parametrize("model", ["Data/mine/small", "Data~mine/small/2", "la"])
def test_a_model_is_loaded_ahead_of_its_use(engine: Served, model: str) -> None:
    result = engine.result(engine.post("/models/load", {"model": model}).json())
    assert result["model"] == model and result["device"] == "cpu"


@pytest.mark.parametrize(
    "model", ["nothing", "", "Data/mine/small/9", "Data/mine/small/x", "Data/mine", "../mine/small/1"]
)
def test_an_unknown_model_is_refused_before_a_job_is_made(engine: Served, scan: Volume, model: str) -> None:
    before = len(engine.get("/jobs").json())
    for path, body in (("/models/load", {}), ("/jobs/segment", {"scan": engine.upload(scan)})):
        answer = engine.post(path, {**body, "model": model})
        assert answer.status == 404 and "no model" in answer.error()
    assert len(engine.get("/jobs").json()) == before


def test_models_stay_loaded_and_only_so_many(engine: Served) -> None:
    models = engine.engine.models
    engine.result(engine.post("/models/load", {"model": MODEL}).json())
    assert models.predictor(MODEL, "cpu") is models.predictor(MODEL, "cpu")
    for model in ("la", "la-8", "acdc", "Data/mine/flat"):
        models.predictor(model, "cpu")
    assert len(models._loaded) == 4


def test_a_forgotten_scan_is_gone_from_the_disk_once_no_job_needs_it(tmp_path: Path, scan: Volume) -> None:
    with served(tmp_path) as engine:
        one = engine.upload(scan)
        with engine.engine.scans.using("local", one) as held:
            assert engine.delete(f"/scans/{one}").status == 200
            assert engine.delete(f"/scans/{one}").status == 404
            assert np.array_equal(held.volume().array, scan.array)
            assert list(tmp_path.glob("upload-*"))
        assert not list(tmp_path.glob("upload-*"))


def test_scans_are_bounded_and_the_least_recently_used_makes_room(tmp_path: Path, scan: Volume) -> None:
    with served(tmp_path, limits=Limits(scans_bytes=int(2.5 * scan.array.nbytes)), names=("a", "b")) as engine:
        other = engine.as_client("b")
        first, second = engine.upload(scan), engine.upload(scan)
        theirs = other.call("POST", "/scans", scan.array.tobytes(), {"MPER-Array": array_header(scan)}).json()["scan"]
        engine.engine.scans.get("a", first)  # used again
        third = engine.upload(scan)
        found = [engine.delete(f"/scans/{one}").status for one in (first, second, third)]
        assert found == [200, 404, 200]
        assert other.delete(f"/scans/{theirs}").status == 200
        assert not list(tmp_path.glob("upload-*"))


def test_a_scan_that_jobs_need_makes_no_room(tmp_path: Path, scan: Volume) -> None:
    with served(tmp_path, limits=Limits(scans_bytes=scan.array.nbytes)) as engine:
        one = engine.upload(scan)
        with engine.engine.scans.using("local", one):
            answer = engine.call("POST", "/scans", scan.array.tobytes(), {"MPER-Array": array_header(scan)})
            assert answer.status == 409 and "no room" in answer.error()
        assert len(list(tmp_path.glob("upload-*"))) == 1


def test_predictions_are_bounded_in_bytes(tmp_path: Path, root: Path, scan: Volume, segmented: dict) -> None:
    with served(tmp_path, [root], Limits(predictions_bytes=1)) as engine:
        one = engine.upload(scan)
        first, second = engine.segment(one, MODEL)["prediction"], engine.segment(one, MODEL)["prediction"]
        assert engine.get(f"/predictions/{first}/mask").status == 404
        assert engine.get(f"/predictions/{second}/mask").status == 200  # the newest stays, however large
        assert engine.delete(f"/predictions/{second}").status == 200
        assert engine.get(f"/predictions/{second}/mask").status == 404


def test_what_nobody_uses_is_forgotten(tmp_path: Path, root: Path, scan: Volume) -> None:
    with served(tmp_path, [root], Limits(keep_s=3600)) as engine:
        one = engine.upload(scan)
        prediction = engine.segment(one, MODEL)["prediction"]
        parts = engine.engine.scans, engine.engine.predictions
        for kept in (parts[0]._scans[one], parts[1]._stored[prediction]):
            kept.used -= 3601
        assert engine.get(f"/predictions/{prediction}/mask").status == 200  # used again
        for part in parts:
            part.expire()
        assert engine.delete(f"/scans/{one}").status == 404
        assert not list(tmp_path.glob("upload-*"))
        assert engine.get(f"/predictions/{prediction}/mask").status == 200
        parts[1]._stored[prediction].used -= 3601
        parts[1].expire()
        assert engine.get(f"/predictions/{prediction}/mask").status == 404


def test_an_upload_leaves_room_on_the_disk(tmp_path: Path, scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mper.engine.services.uploads._SPARE", 2**62)
    with served(tmp_path) as engine:
        answer = engine.call("POST", "/scans", scan.array.tobytes(), {"MPER-Array": array_header(scan)})
        assert answer.status == 409 and "disk" in answer.error()
        assert list(tmp_path.iterdir()) == []


def test_a_broken_torch_is_told_by_every_job_and_in_the_diagnostics(
    tmp_path: Path, root: Path, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ImportError("libtorch.so: cannot open shared object file", name="torch")

    monkeypatch.setattr("mper.engine.services.devices._list_devices", broken)
    with served(tmp_path, [root]) as engine:
        last = engine.ended(engine.post("/jobs/segment", {"scan": engine.upload(scan), "model": MODEL}).json()["job"])
        assert last["state"] == "failed" and "pip install torch" in last["error"]
        told = engine.get("/info").json()
        assert told["ready"] is False and "pip install torch" in told["diagnostics"]


def test_a_cancelled_segmentation_leaves_no_prediction(tmp_path: Path, root: Path, scan: Volume) -> None:
    class Slow(Predictor):
        def predict(self, *args, report, **more):
            for n in range(10_000):
                report(Progress("looking", n / 10_000))
                time.sleep(0.01)
            raise AssertionError("nobody cancelled")

    bundle = ModelBundle.load(root / "mine" / "models" / "small" / "1")
    with served(tmp_path, [root]) as engine:
        engine.engine.models.predictor = lambda *_: Slow(bundle, "cpu")
        one = engine.upload(scan)
        job = engine.post("/jobs/segment", {"scan": one, "model": MODEL}).json()["job"]
        until(lambda: engine.get(f"/jobs/{job}").json()["fraction"])
        assert engine.delete(f"/jobs/{job}").status == 200
        assert engine.ended(job)["state"] == "cancelled"
        assert engine.engine.predictions._stored == {}
        assert engine.delete(f"/scans/{one}").status == 200
        until(lambda: not list(tmp_path.glob("upload-*")))  # the job let go of it


def test_the_bundled_model_segments_the_sample_scan_and_again_in_a_box_without_another_search(
    engine: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = engine.upload(read_volume(sample_scan()))
    result = engine.segment(scan, "la")
    assert result["confidence"] > 0.9 and result["flags"] == []
    (atrium,) = result["structures"]
    assert atrium["name"] == "LA" and 25 < atrium["volume_ml"] < 60 and atrium["components"] == 1
    assert result["prototypes"] and result["uncertain_places"]
    monkeypatch.setattr(Localizer, "search", lambda *_: pytest.fail("the scan was searched again"))
    box = Region((4, 4, 4), (84, 134, 173)).box_mm(read_volume(sample_scan()).geometry)
    again = engine.segment(scan, "la", roi_mm=list(box))
    assert again["start"] == [4, 4, 4] and again["quality"]["level"] == "good"
    store = engine.engine.predictions
    kept = store._stored[again["prediction"]]
    assert store.search(kept.client, kept.scan, kept.model, kept.localization) is kept.prediction.search is not None
    assert store.search(kept.client, kept.scan, kept.model, "another") is None, "the same weights, other places"
