"""Figures of masks over HTTP: of a prediction as strokes have left it, and of masks that a client has edited."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engines import MODEL, Served, until

from mper.labels import Segmentation, make_label
from mper.measurement.atrium import measure_atrium
from mper.measurement.case import CaseSettings, measure_case
from mper.measurement.wall import WallSettings
from mper.volume import Volume

LA = [{"value": 1, "name": "LA"}]


@pytest.fixture(scope="module")
def mask(scan: Volume) -> Volume:
    return scan.with_array((scan.array > 180).astype(np.uint8))


def values(answer: dict[str, Any]) -> dict[str, Any]:
    return {figure["key"]: figure["value"] for figure in answer["figures"]}


def measured(engine: Served, **body: Any) -> dict[str, Any]:
    answer = engine.post("/measurements", body)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


def test_figures_are_those_of_the_library(engine: Served, scan: Volume, mask: Volume) -> None:
    body = {"masks": [engine.upload(mask)], "labels": LA, "scan": engine.upload(scan)}
    settings = CaseSettings(wall=WallSettings(2.0, 1.0, "mean"))
    atrium = Segmentation(mask, (make_label(1, "LA"),))
    direct, usual = ({f.key: f.value for f in measure_case([atrium], scan, s).figures} for s in (settings, None))
    found = measured(engine, **body, wall_mm=2.0, pool_mm=1.0, sampling="mean")
    assert values(found) == pytest.approx(direct)
    assert values(measured(engine, **body)) == pytest.approx(usual)
    assert all(direct[key] != usual[key] for key in ("la_shell_volume", "la_pool_mean", "la_wall_iir_median"))
    assert all(figure["method"] for figure in found["figures"])


def test_an_edit_is_a_new_mask_and_a_part_of_the_scan_will_do(engine: Served, scan: Volume, mask: Volume) -> None:
    one = engine.upload(scan)
    edited = mask.array.copy()
    edited[:, :, :18] = 0
    part = mask.with_array(edited).crop((0, 0, 10), mask.array.shape)
    before, after = (
        values(measured(engine, masks=[engine.upload(sent)], labels=LA, scan=one))["la_volume"] for sent in (mask, part)
    )
    voxel_ml = scan.geometry.voxel_ml
    assert voxel_ml is not None
    assert after == pytest.approx(np.count_nonzero(edited) * voxel_ml) and after < before


def test_a_scan_that_is_removed_meanwhile_stays_until_it_is_measured(
    engine: Served, scan: Volume, mask: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [engine.upload(sent) for sent in (mask, scan)]
    before = len(list(engine.engine.scans.folder.glob("upload-*")))

    def measure(*arguments: Any) -> Any:
        assert [engine.delete(f"/scans/{one}").status for one in ids] == [200, 200]
        assert len(list(engine.engine.scans.folder.glob("upload-*"))) == before
        return measure_case(*arguments)

    monkeypatch.setattr("mper.measurement.case.measure_case", measure)
    assert values(measured(engine, masks=[ids[0]], labels=LA, scan=ids[1]))["la_volume"]
    assert len(list(engine.engine.scans.folder.glob("upload-*"))) == before - 2


def test_many_measurements_leave_threads_to_other_requests(
    engine: Served, mask: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, open_now, at_once, go_on = engine.upload(mask), [], [], threading.Event()

    def measure(*arguments: Any) -> Any:
        open_now.append(1)
        at_once.append(len(open_now))
        go_on.wait(30)
        open_now.pop()
        return measure_case(*arguments)

    monkeypatch.setattr("mper.measurement.case.measure_case", measure)
    with ThreadPoolExecutor(45) as pool:
        asked = [pool.submit(measured, engine, masks=[one], labels=LA) for _ in range(45)]
        try:
            until(lambda: len(at_once) == 2)
            assert engine.get("/models").status == 200, "40 requests have a thread at a time"
        finally:
            go_on.set()
        assert all(values(each.result())["la_volume"] for each in asked)
    assert max(at_once) == 2


def test_a_prediction_is_measured_as_strokes_have_left_it(engine: Served, scan: Volume) -> None:
    one = engine.upload(scan)
    result = engine.segment(one, MODEL)
    p = result["prediction"]
    name = result["labels"][0]["name"]
    key = "".join(c if c.isalnum() else "_" for c in name.lower()) + "_volume"
    before = values(measured(engine, prediction=p, scan=one))[key]
    stroke = {"value": 0, "points_mm": [scan.geometry.to_world((7, 20, 18)).tolist()], "radius_mm": 4.0}
    assert engine.call("PUT", f"/predictions/{p}/strokes", {"strokes": [stroke]}).status == 200
    after = values(measured(engine, prediction=p, scan=one))[key]
    structures = engine.get(f"/predictions/{p}/structures").json()
    assert after == pytest.approx(structures[0]["volume_ml"]) and after != before
    assert values(measured(engine, prediction=p))[key] == pytest.approx(after), "on the grid of the scan, not given"


def test_the_surface_is_a_file_of_the_same_client(engine: Served, mask: Volume) -> None:
    from mper.io.surfaces import encode_surface

    key = measured(engine, masks=[engine.upload(mask)], labels=LA)["surface"]
    direct = measure_atrium(mask.array > 0, mask.geometry).surface
    assert direct is not None
    assert engine.get(f"/surfaces/{key}").body == encode_surface(".vtp", direct)
    for _ in range(4):
        measured(engine, masks=[engine.upload(mask)], labels=LA)
    assert engine.get(f"/surfaces/{key}").status == 404


def test_phases_have_a_curve_and_a_fraction(engine: Served, mask: Volume) -> None:
    smaller = mask.array.copy()
    smaller[:, :20] = 0
    masks = [engine.upload(mask), engine.upload(mask.with_array(smaller))]
    found = measured(engine, masks=masks, labels=[{"value": 1, "name": "LV"}])
    ed, es = found["curves"][0]["ml"]
    assert (found["end_diastole"], found["end_systole"]) == (1, 2)
    assert values(found)["lv_ef"] == pytest.approx(100 * (ed - es) / ed)
    values_of = {"ed": 1, "es": 2, "structure": "LV"}
    assert [found["line_codes"][note] for note in found["notes"]] == [{"code": "phases-chosen", "values": values_of}]
    assert found["line_codes"][found["figures"][0]["group"]]["code"] == "left-ventricle"


@pytest.mark.parametrize(
    ("change", "status", "line"),
    [
        ({"masks": []}, 422, "give either a prediction, or the ids of uploaded masks"),
        ({"labels": []}, 422, "uploaded masks need labels"),
        ({"masks": ["none"]}, 404, "there is no scan 'none'"),
        ({"ranges": True}, 422, "ranges need the probabilities of a prediction"),
        ({"height_cm": 1.8, "weight_kg": 80.0}, 422, "is not a person's"),
        ({"wall_mm": 99.0}, 422, "thickness_mm must be from 0.5 to 10 mm"),
        ({"clips": [{"kind": "cube"}]}, 422, "clips.0"),
        ({"clips": [{"kind": "sphere", "name": "s", "center_mm": [0, 0, 900], "radius_mm": 2.0}]}, 422, "no voxel"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_one_line(
    engine: Served, mask: Volume, change: dict[str, Any], status: int, line: str
) -> None:
    body = {"masks": [engine.upload(mask)], "labels": LA, **change}
    answer = engine.post("/measurements", body)
    assert answer.status == status
    assert line in answer.body.decode("utf-8")


def test_ranges_are_those_of_the_masks_at_other_probabilities(engine: Served, scan: Volume) -> None:
    one = engine.upload(scan)
    p = engine.segment(one, MODEL)["prediction"]
    stored = engine.engine.predictions.get("local", p)
    atrium = (make_label(1, "LA"),)  # the small model's structure has another name
    stored.prediction = replace(
        stored.prediction, segmentation=Segmentation(stored.prediction.segmentation.labelmap, atrium)
    )
    found = {figure["key"]: figure for figure in measured(engine, prediction=p, scan=one, ranges=True)["figures"]}
    low, high = found["la_volume"]["range"]
    assert low < high and low <= found["la_volume"]["value"] <= high
    assert found["la_volume"]["value"] == values(measured(engine, prediction=p, scan=one))["la_volume"]
