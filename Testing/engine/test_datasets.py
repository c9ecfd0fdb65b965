"""Datasets over HTTP: cases, revisions of labels, the hold-out, ranking, comparison, promotion; and nothing outside."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from engines import Answer, Served, array_header, served
from PIL import Image
from small_models import random_bundle

from mper.datasets.dataset import Dataset
from mper.datasets.maintenance import set_region
from mper.datasets.scan_record import voxels_sha256
from mper.engine.services.training_plan import duration_in_words
from mper.evaluation import active_learning
from mper.evaluation.metrics import dice
from mper.inference.predictor import Predictor
from mper.labels import make_label
from mper.training.runs import RunFolder
from mper.volume import Geometry, Volume

ROOT = "Räu me"


def volume(seed: int = 0, shape: tuple[int, int, int] = (12, 20, 24)) -> Volume:
    """A bright box in noise, on a grid of its own that is turned by a quarter."""
    rng = np.random.default_rng(seed)
    array = rng.normal(100, 10, shape).astype(np.int16)
    array[3:9, 5:15, 6:18] += 120
    directions = np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]], float)
    return Volume(array, Geometry.from_axes((3.5, -20, 7), (2.0, 1.5, 1.25), directions, shape))


def mask_of(scan: Volume, value: int = 1) -> Volume:
    mask = np.zeros(scan.array.shape, np.uint8)
    mask[3:9, 5:15, 6:18] = value
    return scan.with_array(mask)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("roots") / ROOT
    home.mkdir()
    return home


@pytest.fixture(scope="module")
def engine(root: Path) -> Iterator[Served]:
    with served(root.parent / "spool", [root], names=("local", "other")) as found:
        yield found


_NUMBERS = itertools.count()


@pytest.fixture
def data(engine: Served, root: Path, request: pytest.FixtureRequest) -> str:
    """The route of a new dataset with the labels LA and Scar."""
    name = f"{request.node.originalname} {next(_NUMBERS)}"
    made = engine.post("/datasets", {"root": ROOT, "folder": f"of/{name}", "labels": ["LA", "Scar"]}).json()
    assert made["id"] == f"{ROOT}/of/{name}"
    return "/datasets/" + quote(made["id"].replace("/", "~"))


def opened(root: Path, made: dict[str, Any]) -> Dataset:
    return Dataset.open(root / Path(*made["id"].split("/")[1:]))


def add(engine: Served, data: str, scan: Volume, **more: Any) -> dict[str, Any]:
    return engine.post(f"{data}/cases", {"scan": engine.upload(scan), **more}).json()


def send(engine: Served, data: str, case: str, mask: Volume, query: str = "author=me&how=hand", **more: Any) -> Answer:
    headers = {"MPER-Array": array_header(mask, **more)}
    return engine.call("POST", f"{data}/cases/{case}/labels?{query}", mask.array.tobytes(), headers)


# ---------------------------------------------------------------------- datasets and roots


def test_a_dataset_is_made_with_codes_and_found_again(engine: Served, data: str, root: Path) -> None:
    made = engine.get(data).json()
    assert [(label["value"], label["name"]) for label in made["labels"]] == [(1, "LA"), (2, "Scar")]
    assert made["labels"][0]["type"] == {"scheme": "SCT", "value": "82471001", "meaning": "Left atrium"}
    assert (made["splits"], made["holdout"], made["models"], made["runs"]) == ({}, None, [], [])
    entry = next(each for each in engine.get("/datasets").json() if each["id"] == made["id"])
    assert entry == {"id": made["id"], "name": made["name"], "cases": 0, "labelled": 0}
    assert opened(root, made).labels == (make_label(1, "LA"), make_label(2, "Scar"))


def test_labels_of_ones_own_keep_value_code_and_colour(engine: Served) -> None:
    label = {"value": 7, "name": "Tumour", "type": {"scheme": "SCT", "value": "1", "meaning": "T"}, "colour": [1, 2, 3]}
    made = engine.post("/datasets", {"root": ROOT, "folder": "tumours", "name": "Ours", "labels": [label]}).json()
    (found,) = made["labels"]
    assert {name: found[name] for name in label} == label and made["name"] == "Ours"
    told = next(entry["labels"] for entry in engine.get("/models").json() if entry["id"] == "acdc")
    again = engine.post("/datasets", {"root": ROOT, "folder": "from a model", "labels": told}).json()
    assert again["labels"] == told


@pytest.mark.parametrize(
    ("folder", "status"),
    [
        *[("of", 409), ("../beside", 403), ("of/../../beside", 403), ("/etc/mper", 403), ("C:\\data", 403)],
        *[("c:/data", 403), ("con", 403), ("a/nul.txt", 403), ("a//b", 403), (".hidden", 403)],
        *[("out/inner", 403), ("a~b", 422)],
    ],
)
def test_no_dataset_is_made_where_it_must_not_be(
    engine: Served, data: str, root: Path, folder: str, status: int
) -> None:
    link = root / "out"
    if folder.startswith("out") and not link.exists():
        (root.parent / "outside").mkdir(exist_ok=True)
        try:
            link.symlink_to(root.parent / "outside", target_is_directory=True)
        except OSError:
            pytest.skip("this account may make no links")
    answer = engine.post("/datasets", {"root": ROOT, "folder": folder, "labels": ["LA"]})
    assert answer.status == status and str(root) not in answer.error()
    assert not (root.parent / "beside").exists() and not list((root.parent).glob("outside/*"))


def test_nothing_lies_inside_a_dataset_but_what_it_knows(engine: Served, data: str) -> None:
    inside = engine.get(data).json()["id"].split("/", 1)[1] + "/cases"
    answer = engine.post("/datasets", {"root": ROOT, "folder": inside, "labels": ["LA"]})
    assert answer.status == 409 and "inside a dataset" in answer.error()


@pytest.mark.parametrize(
    "route",
    [
        *["", "/cases", "/cases/none/labels", "/cases/../x/image", "/cases/%2e%2e/image", "/cases/C%3A/labels"],
        *["/runs/none", "/runs/..%2F..%2Fother/log", "/cases/none/thumbnail", "/models/none/use"],
    ],
)
def test_what_is_not_there_is_404(engine: Served, data: str, route: str) -> None:
    if route in ("", "/cases"):
        assert engine.get(f"/datasets/nowhere~at~all{route}").status == 404
        assert engine.get(f"/datasets/{quote(ROOT)}~..~beside{route}").status == 404
    elif route.startswith("/models"):
        assert engine.post(data + route, {"version": 1}).status == 404
    else:
        assert engine.get(data + route).status == 404


def test_a_case_that_is_a_link_to_elsewhere_is_not_opened(engine: Served, data: str, root: Path) -> None:
    home = opened(root, engine.get(data).json()).path / "cases"
    (root.parent / "private").mkdir(exist_ok=True)
    (root.parent / "private" / "case.json").write_text("{}")
    home.mkdir()
    try:
        (home / "linked").symlink_to(root.parent / "private", target_is_directory=True)
    except OSError:
        pytest.skip("this account may make no links")
    answer = engine.get(f"{data}/cases/linked/image")
    assert answer.status == 404 and "leads out" in answer.error()


def test_roots_are_added_by_who_started_the_engine_alone(engine: Served, root: Path) -> None:
    other = root.parent / "more" / ROOT
    assert engine.as_client("other").post("/roots", {"path": str(other)}).status == 403 and not other.exists()
    name = engine.post("/roots", {"path": str(other)}).json()["root"]
    assert name == f"{ROOT}-2" and other.is_dir() and name in engine.get("/info").json()["roots"]
    assert engine.post("/roots", {"path": str(other)}).json() == {"root": name}
    assert engine.post("/roots", {"path": "relative/folder"}).status == 422


# ---------------------------------------------------------------------- cases


def test_a_scan_becomes_a_case_and_comes_back_voxel_by_voxel(engine: Served, data: str, root: Path) -> None:
    scan = volume()
    made = add(engine, data, scan, id="first", source={"format": "test"})
    assert (made["id"], made["split"], made["labelled"], made["duplicates"]) == ("first", "train", False, [])
    assert made["shape"] == [12, 20, 24] and made["spacing_mm"] == [2.0, 1.5, 1.25]
    answer = engine.get(f"{data}/cases/first/image")
    assert answer.array().dtype == np.int16 and np.array_equal(answer.array(), scan.array)
    assert np.allclose(answer.array_header()["affine"], scan.geometry.affine)
    case = opened(root, engine.get(data).json()).case("first")
    assert case.source == {"format": "test"} and case.geometry.is_close(scan.geometry)


def test_a_scan_of_unknown_spacing_stays_so(engine: Served, data: str) -> None:
    scan = Volume(volume().array, Geometry.unknown((12, 20, 24)))
    made = add(engine, data, scan)
    assert made["spacing_mm"] is None
    assert engine.get(f"{data}/cases/{made['id']}/image").array_header()["spacing_known"] is False
    assert send(engine, data, made["id"], mask_of(scan)).status == 200


def test_cases_are_numbered_and_duplicates_told(engine: Served, data: str) -> None:
    first, second = (add(engine, data, volume(n)) for n in (0, 1))
    assert (first["id"], second["id"], second["notices"]) == ("case-001", "case-002", [])
    same = volume(0)
    moved = Volume(same.array.astype(np.float32), same.geometry.crop((1, 0, 0), (13, 20, 24)))
    third = add(engine, data, moved)
    assert third["duplicates"] == ["case-001"] and "already, as case-001" in third["notices"][0]
    taken = engine.post(f"{data}/cases", {"scan": engine.upload(volume(2)), "id": "case-001"})
    assert taken.status == 409 and "already" in taken.error()
    bad = engine.post(f"{data}/cases", {"scan": engine.upload(volume(2)), "id": "../x"})
    assert bad.status == 422 and [case["id"] for case in engine.get(f"{data}/cases").json()] == [
        *("case-001", "case-002", "case-003")
    ]


def test_a_case_as_scan_is_the_scan(engine: Served, data: str, root: Path) -> None:
    add(engine, data, volume(), id="one")
    scan = engine.post(f"{data}/cases/one/scan").json()["scan"]
    kept = engine.engine.scans.get("local", scan).volume()
    assert np.array_equal(kept.array, volume().array) and kept.geometry.is_close(volume().geometry)


def test_thumbnail_is_a_small_picture_that_follows_the_label(engine: Served, data: str) -> None:
    add(engine, data, volume(), id="one")
    plain = engine.get(f"{data}/cases/one/thumbnail")
    assert plain.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(plain.body)) as picture:
        assert picture.size == (128, 128)  # 24 x 1.25 mm by 20 x 1.5 mm
        assert len({band for band in np.asarray(picture.convert("RGB")).std(axis=-1).ravel()}) == 1  # grey
    send(engine, data, "one", mask_of(volume()))
    coloured = engine.get(f"{data}/cases/one/thumbnail").body
    with Image.open(io.BytesIO(coloured)) as picture:
        rgb = np.asarray(picture.convert("RGB")).astype(int)
    share = (rgb[..., 0] - rgb[..., 2] > 20).mean()
    assert share == pytest.approx(10 * 12 / (20 * 24), abs=0.05)
    assert engine.get(f"{data}/cases/one/thumbnail").body == coloured


def test_one_damaged_case_does_not_hide_the_others(engine: Served, data: str, root: Path) -> None:
    for name in ("bad", "good"):
        add(engine, data, volume(), id=name)
    (opened(root, engine.get(data).json()).path / "cases" / "bad" / "case.json").write_text("{")
    bad, good = engine.get(f"{data}/cases").json()
    assert "damaged" in bad["error"] and str(root) not in bad["error"] and good["shape"] == [12, 20, 24]


def test_a_large_dataset_is_listed_page_by_page(engine: Served, data: str) -> None:
    for n in range(3):
        add(engine, data, volume(n), id=f"case{n}")
    whole = engine.get(f"{data}/cases").json()
    pages = [engine.get(f"{data}/cases?first={first}&count=2").json() for first in (0, 2, 4)]
    assert [len(page) for page in pages] == [2, 1, 0] and [*pages[0], *pages[1]] == whole
    assert engine.get(f"{data}/cases?count=0").status == 422
    engine.call("PUT", f"{data}/cases/case1/name", {"name": "Zweite", "author": "me"})
    found = [engine.get(f"{data}/cases?contains={text}&count=2").json() for text in ("SE2", "zwei", "case", "no")]
    assert [[case["id"] for case in page] for page in found] == [["case2"], ["case1"], ["case0", "case1"], []]
    assert engine.get(f"{data}/cases/case2").json() == whole[2]
    send(engine, data, "case0", mask_of(volume()))
    send(engine, data, "case2", mask_of(volume()))
    engine.post(f"{data}/holdout", {"cases": ["case2"]})
    about = engine.get(data).json()
    assert (about["cases"], about["labelled"], about["trainable"]) == (3, 2, 1)


# ---------------------------------------------------------------------- labels


def test_every_revision_stays_and_an_old_one_can_be_the_newest(engine: Served, data: str) -> None:
    scan = volume()
    add(engine, data, scan, id="one")
    first = send(engine, data, "one", mask_of(scan), "author=A&how=model&model=la&version=1.0.0").json()
    query = "author=B%20C&how=strokes&edited=true&seconds=12.5&parent=1"
    second = send(engine, data, "one", mask_of(scan, 2), query).json()
    assert (first["model"], first["edited"]) == ({"name": "la", "version": "1.0.0"}, False)
    assert (second["author"], second["how"], second["edited"]) == ("B C", "strokes", True)
    assert (second["seconds"], second["parent"], second["partial"]) == (12.5, 1, False)
    restored = engine.post(f"{data}/cases/one/restore", {"number": 1, "author": "D"}).json()
    assert (restored["number"], restored["parent"], restored["author"], restored["how"]) == (3, 1, "D", "model")
    assert [r["number"] for r in engine.get(f"{data}/cases/one/labels").json()] == [1, 2, 3]
    for number, value in ((1, 1), (2, 2), (3, 1)):
        answer = engine.get(f"{data}/cases/one/labels/{number}")
        assert np.array_equal(answer.array(), mask_of(scan, value).array)
        assert np.allclose(answer.array_header()["affine"], scan.geometry.affine)
    (case,) = engine.get(f"{data}/cases").json()
    assert (case["labelled"], case["revisions"], case["author"], case["partial"]) == (True, 3, "D", False)
    assert engine.post(f"{data}/cases/one/restore", {"number": 9, "author": "D"}).status == 404
    assert engine.get(f"{data}/cases/one/labels/9").status == 404


@pytest.mark.parametrize("outside", ["background", "unlabelled"])
def test_a_part_of_a_label_is_put_in_its_place(engine: Served, data: str, outside: str) -> None:
    scan = volume()
    add(engine, data, scan, id="one")
    start, stop = (2, 4, 5), (10, 17, 20)
    part = mask_of(scan).crop(start, stop)
    made = send(engine, data, "one", part, f"author=me&how=hand&outside={outside}", start=start).json()
    found = engine.get(f"{data}/cases/one/labels/1").array()
    whole = np.full(scan.array.shape, 255 if outside == "unlabelled" else 0, np.uint8)
    whole[2:10, 4:17, 5:20] = part.array
    assert np.array_equal(found, whole) and made["partial"] == (outside == "unlabelled")
    assert engine.get(f"{data}/cases").json()[0]["partial"] == (outside == "unlabelled")


def test_the_part_of_a_label_that_holds_something_can_be_asked_for(engine: Served, data: str) -> None:
    scan = volume()
    add(engine, data, scan, id="one")
    send(engine, data, "one", mask_of(scan))
    send(engine, data, "one", scan.with_array(np.zeros(scan.array.shape, np.uint8)))
    answer = engine.get(f"{data}/cases/one/labels/1?cropped=true")
    header = answer.array_header()
    assert header["start"] == [3, 5, 6] and answer.array().shape == (6, 10, 12) and (answer.array() == 1).all()
    assert np.allclose(header["affine"], scan.geometry.crop((3, 5, 6), (9, 15, 18)).affine)
    assert engine.get(f"{data}/cases/one/labels/2?cropped=true").array().tolist() == [[[0]]]


def test_a_label_that_does_not_fit_is_refused_and_leaves_nothing(engine: Served, data: str) -> None:
    scan = volume()
    add(engine, data, scan, id="one")
    mask = mask_of(scan)
    whole = {
        "a value that no label has": (mask_of(scan, 9), {}),
        "another shape": (mask.crop((0, 0, 0), (11, 20, 24)), {}),
        "beyond the grid": (mask, {"start": (1, 0, 0)}),
        "elsewhere": (Volume(mask.array, mask.geometry.crop((1, 0, 0), (13, 20, 24))), {}),
        "broken numbers": (mask.with_array(mask.array.astype(np.float32)), {}),
        "negative": (mask.with_array(-mask.array.astype(np.int16)), {}),
    }
    for what, (wrong, more) in whole.items():
        answer = send(engine, data, "one", wrong, **more)
        assert answer.status == 422 and answer.error(), what
    assert send(engine, data, "one", mask, "author=me&how=hand&parent=4").status == 422
    assert send(engine, data, "one", mask, "author=me&how=guess").status == 422
    assert send(engine, data, "one", mask, "how=hand").status == 422
    assert engine.get(f"{data}/cases/one/labels").json() == []
    assert not list(engine.engine.scans.folder.glob("upload-*"))[len(engine.engine.scans._scans) :]


def test_a_label_that_was_drawn_on_another_image_of_the_same_grid_is_refused(engine: Served, data: str) -> None:
    scan, other = volume(1), volume(2)
    add(engine, data, scan, id="one")
    query = "author=me&how=hand&scan_sha256="
    refused = send(engine, data, "one", mask_of(scan), query + voxels_sha256(other))
    assert refused.status == 409
    assert "drawn on another image than the scan of one" in refused.error()
    assert engine.get(f"{data}/cases/one/labels").json() == []
    assert send(engine, data, "one", mask_of(scan), query + voxels_sha256(scan).upper()).json()["number"] == 1


# ---------------------------------------------------------------------- hold-out and splits


def test_a_copy_of_a_held_out_scan_is_locked_with_it(engine: Served, data: str) -> None:
    for seed, case_id in ((1, "one"), (2, "two"), (1, "copy")):
        engine.post(f"{data}/cases", {"scan": engine.upload(volume(seed)), "id": case_id, "split": "train"})
    locked = engine.post(f"{data}/holdout", {"cases": ["one"]}).json()
    assert locked["cases"] == ["one", "copy"]
    assert "copy: the same scan" in locked["notices"][0]
    assert engine.get(data).json()["splits"] == {"train": ["two"], "holdout": ["one", "copy"]}


def region_mm(scan: Volume) -> list[float]:
    """The box of a scan's bright box, with a rim."""
    low, high = np.sort(scan.geometry.to_world([(1.6, 4.6, 5.6), (9.4, 14.4, 17.4)]), axis=0)
    return [round(float(value), 2) for pair in zip(low, high, strict=True) for value in pair]


def test_cases_are_excluded_renamed_and_removed_given_a_region_and_more_are_held_out(engine: Served, data: str) -> None:
    for seed, case_id in enumerate(("one", "two", "three", "four")):
        add(engine, data, volume(seed), id=case_id)
    engine.post(f"{data}/holdout", {"cases": ["one"]})

    def cases() -> dict[str, Any]:
        return {case["id"]: case for case in engine.get(f"{data}/cases").json()}

    def put(route: str, **body: Any) -> Answer:
        return engine.call("PUT", f"{data}/cases/{route}", {**body, "author": "me"})

    assert put("two/name", name="Second").json()["display_name"] == "Second"
    assert put("three/name", name="second").status == 422
    assert put("two/excluded", excluded=True).json()["split"] is None
    assert cases()["two"]["excluded"] and not cases()["three"]["excluded"]
    assert put("two/excluded", excluded=False).json()["split"] == "train"
    assert put("one/excluded", excluded=True).status == 422  # the hold-out never changes
    x0, x1, y0, y1, z0, z1 = box = region_mm(volume())
    assert put("two/region", region_mm=box).json()["region_mm"] == box == cases()["two"]["region_mm"]
    plan = engine.post(f"{data}/plan", {}).json()
    assert "two: only the region is used" in plan["warnings"] and "regions" in [c["code"] for c in plan["codes"]]
    away = put("two/region", region_mm=[x0 + 500, x1 + 500, y0, y1, z0, z1])
    assert away.status == 422 and "contains no voxel of the scan" in away.error()
    assert put("two/region", region_mm=[x0, x1]).status == 422 and cases()["two"]["region_mm"] == box
    send(engine, data, "two", mask_of(volume(1)))
    put("two/region", region_mm=[x0 + 1.5, x1, y0, y1, z0, z1])
    (line,) = [line for line in engine.post(f"{data}/plan", {}).json()["warnings"] if "outside its region" in line]
    assert line.startswith("10 % of the label of two lies outside its region")
    assert put("two/region", region_mm=None).json()["region_mm"] is None
    gone = engine.call("DELETE", f"{data}/cases/three?author=me").json()
    assert gone["id"] == "three" and gone["folder"].startswith("recycled/three-")
    assert set(cases()) == {"one", "two", "four"}
    assert engine.call("DELETE", f"{data}/cases/three?author=me").status == 404
    more = engine.post(f"{data}/holdout", {"cases": ["four"], "second": True}).json()
    assert (more["holdout"], more["cases"]) == ("holdout-2", ["four"])
    assert engine.get(data).json()["locked"] == ["holdout", "holdout-2"]
    labels = engine.post(f"{data}/labels", {"label": "RA", "author": "me"}).json()["labels"]
    assert [(label["value"], label["name"]) for label in labels] == [(1, "LA"), (2, "Scar"), (3, "RA")]
    assert labels[2]["type"]["meaning"] == "Right atrium"


def test_the_hold_out_is_locked_for_good(engine: Served, data: str) -> None:
    for n in range(3):
        add(engine, data, volume(n))
    send(engine, data, "case-001", mask_of(volume()))
    locked = engine.post(f"{data}/holdout", {"cases": ["case-001", "case-003"]}).json()
    assert (locked["holdout"], locked["cases"]) == ("holdout", ["case-001", "case-003"])
    assert locked["notices"] == ["case-003: no label yet, and nothing is measured on it before"]
    found = engine.get(data).json()
    assert found["splits"] == {"train": ["case-002"], "holdout": ["case-001", "case-003"]}
    assert engine.post(f"{data}/holdout", {"cases": ["case-002"]}).status == 422
    assert engine.post(f"{data}/splits", {"name": "train", "cases": ["case-001"]}).status == 422
    again = engine.post(f"{data}/cases", {"scan": engine.upload(volume(0))})
    assert again.status == 409 and "case-001 of the locked hold-out" in again.error()
    into = engine.post(f"{data}/cases", {"scan": engine.upload(volume(5)), "split": "holdout"})
    assert into.status == 409 and len(engine.get(f"{data}/cases").json()) == 3
    plan = engine.post(f"{data}/plan", {"split": "holdout"})
    assert plan.status == 422 and "never trained on" in plan.error()


def test_a_hold_out_that_only_a_model_drew_is_told(engine: Served, data: str) -> None:
    for n in range(3):
        add(engine, data, volume(n))
    send(engine, data, "case-001", mask_of(volume()), "author=me&how=model&model=la&version=1.0.0")
    send(engine, data, "case-002", mask_of(volume()), "author=me&how=model&model=la&version=1.0.0&edited=true")
    notices = engine.post(f"{data}/holdout", {"cases": ["case-001", "case-002"]}).json()["notices"]
    assert [line.partition(":")[0] for line in notices] == ["case-001"] and "labelled by a model alone" in notices[0]
    warnings = engine.post(f"{data}/plan", {}).json()["warnings"]
    assert any("case-001: labelled by a model alone" in line for line in warnings)
    send(engine, data, "case-001", mask_of(volume()))
    warnings = engine.post(f"{data}/plan", {}).json()["warnings"]
    assert not any("by a model alone" in line for line in warnings)
    send(engine, data, "case-003", mask_of(volume()), "author=me&how=model&model=la&version=1.0.0")
    warnings = engine.post(f"{data}/plan", {}).json()["warnings"]
    assert any(line.startswith("case-003: labelled by a model alone, and learned from") for line in warnings)


def test_cases_labelled_in_part_are_counted_as_such_and_told_in_the_hold_out(engine: Served, data: str) -> None:
    for n in range(4):
        add(engine, data, volume(n))
    part = mask_of(volume()).crop((3, 5, 6), (6, 9, 12))
    only = "author=me&how=strokes&outside=unlabelled"
    send(engine, data, "case-001", mask_of(volume()))
    send(engine, data, "case-002", part, only, start=(3, 5, 6))
    send(engine, data, "case-003", part, only, start=(3, 5, 6))
    plan = engine.post(f"{data}/plan", {}).json()
    assert (plan["labelled"], plan["partly"], plan["unlabelled"], plan["ready"]) == (3, 2, 1, True)
    by_strokes = "2 of the labelled cases are labelled by strokes alone"
    assert not any(by_strokes in line for line in plan["warnings"])
    supervised = engine.post(f"{data}/plan", {"method": "supervised"}).json()
    assert any(line.startswith(by_strokes) for line in supervised["warnings"])
    notices = engine.post(f"{data}/holdout", {"cases": ["case-001", "case-003"]}).json()["notices"]
    assert len(notices) == 1 and notices[0].startswith("case-003: labelled only in part")
    plan = engine.post(f"{data}/plan", {}).json()
    assert (plan["labelled"], plan["partly"]) == (1, 1)
    told = [line for line in plan["warnings"] if "only in part" in line or "drawn in no" in line]
    assert any("hold-out, case-003: labelled only in part" in line for line in told)
    assert any(line.startswith("background, Scar: drawn in no labelled case") for line in told)


def test_a_structure_that_no_label_shows_is_told(engine: Served, data: str) -> None:
    for n in range(2):
        add(engine, data, volume(n))
    send(engine, data, "case-001", mask_of(volume(), 1))

    def told() -> list[str]:
        return [line for line in engine.post(f"{data}/plan", {}).json()["warnings"] if "drawn in no" in line]

    assert [line.partition(":")[0] for line in told()] == ["Scar"]
    send(engine, data, "case-002", mask_of(volume(1), 2))
    assert told() == []


def test_a_structure_that_some_cases_lack_is_named_with_them(engine: Served, data: str) -> None:
    both = mask_of(volume())
    both.array[0, 0, 0] = 2
    for n, mask in enumerate((both, mask_of(volume()), mask_of(volume()))):
        add(engine, data, volume(n))
        send(engine, data, f"case-00{n + 1}", mask)
    lacking = "Scar is not drawn in case-002, case-003: the model learns that it is absent there; draw it, too."
    assert lacking in [line.rstrip(".") + "." for line in engine.post(f"{data}/plan", {}).json()["warnings"]]
    for n in (2, 3):
        send(engine, data, f"case-00{n}", both)
    assert not any("is not drawn in" in line for line in engine.post(f"{data}/plan", {}).json()["warnings"])


def test_a_structure_that_is_labelled_in_several_parts_is_told_where_masks_keep_the_largest(
    engine: Served, data: str
) -> None:
    mask = mask_of(volume())
    mask.array[0, 0, 0] = mask.array[-1, -1, -1] = 2
    add(engine, data, volume())
    send(engine, data, "case-001", mask)

    def told(body: dict[str, Any]) -> list[str]:
        return [line for line in engine.post(f"{data}/plan", body).json()["warnings"] if "several parts" in line]

    assert [line.partition(":")[0] for line in told({})] == ["Scar"]
    assert told({"keep_largest": False}) == []


def test_a_model_of_other_structures_ranks_nothing(engine: Served, root: Path) -> None:
    made = engine.post("/datasets", {"root": ROOT, "folder": "aortas", "name": "Aortas", "labels": ["Aorta"]}).json()
    route = "/datasets/" + quote(made["id"].replace("/", "~"))
    answer = engine.post(f"{route}/rank", {"model": "la", "device": "cpu"})
    assert answer.status == 409 and "none of which this dataset has" in answer.error()


def test_cases_go_into_splits(engine: Served, data: str) -> None:
    for n in range(2):
        add(engine, data, volume(n), split=None)
    assert engine.get(data).json()["splits"] == {}
    assert engine.post(f"{data}/splits", {"name": "later", "cases": ["case-002"]}).json() == {"later": ["case-002"]}
    assert engine.post(f"{data}/splits", {"name": "later", "cases": ["none"]}).status == 422


# ---------------------------------------------------------------------- plans


def test_a_plan_chooses_what_is_left_open(engine: Served, root: Path) -> None:
    made = engine.post("/datasets", {"root": ROOT, "folder": "plans", "labels": ["Left atrium"]}).json()
    data = "/datasets/" + quote(made["id"].replace("/", "~"))
    empty = engine.post(f"{data}/plan", {}).json()
    assert (empty["ready"], empty["labelled"], empty["words"]) == (False, 0, "label a case first")
    assert engine.post(f"{data}/runs", {}).status == 409
    for n in range(3):
        add(engine, data, volume(n))
    for n in (1, 2):
        send(engine, data, f"case-00{n}", mask_of(volume(n)))
    plan = engine.post(f"{data}/plan", {}).json()
    assert (plan["labelled"], plan["unlabelled"], plan["holdout"], plan["ready"]) == (2, 1, 0, True)
    assert (plan["method"], plan["recipe"], plan["start_from"], plan["name"]) == ("mper", "plus", "la", "left-atrium")
    assert any("no hold-out is locked" in line for line in plan["warnings"])
    assert plan["words"].startswith(f"{duration_in_words(plan['budget_s'])} on this computer, about ")
    assert plan["words"].endswith(" steps")
    send(engine, data, "case-003", mask_of(volume(2)))
    scratch = engine.post(f"{data}/plan", {"start_from": None, "device": "cpu"}).json()
    assert (scratch["method"], scratch["unlabelled"], scratch["start_from"]) == ("supervised", 0, None)
    assert scratch["budget_s"] > plan["budget_s"]
    few = engine.post(f"{data}/plan", {"labeled": 1, "method": "bcp", "steps": 50}).json()
    assert (few["labelled"], few["unlabelled"], few["steps"], few["budget_s"]) == (1, 2, 50, None)
    assert any("overfit" in line for line in few["warnings"]) and "no run has been measured" in few["words"]
    many = engine.post(f"{data}/plan", {"labeled": 5}).json()
    assert not many["ready"] and "there are 3" in many["warnings"][0]
    assert engine.post(f"{data}/plan", {"steps": 5, "budget_s": 5.0}).status == 422
    auto = engine.post(f"{data}/plan", {"method": "auto"}).json()
    assert (auto["method"], auto["reason"]) == ("supervised", "there are no scans without labels")
    assert auto["line_codes"][auto["reason"]] == {"code": "auto-none-unlabelled", "values": {}}
    assert plan["reason"] is None
    assert engine.post(f"{data}/plan", {"start_from": "nobody"}).status == 404
    assert engine.post(f"{data}/plan", {"optimizer": "adam"}).status == 422


def test_a_plan_learns_from_several_splits_and_says_when_the_scans_are_unlike_those_of_the_start(
    engine: Served, root: Path
) -> None:
    made = engine.post("/datasets", {"root": ROOT, "folder": "two splits", "labels": ["Left atrium"]}).json()
    data = "/datasets/" + quote(made["id"].replace("/", "~"))
    for n, split in enumerate(["train", "other"]):
        scan = volume(n)
        flat = scan.with_array((scan.array > 160).astype(np.int16))  # two grey values: no scan of a heart
        add(engine, data, scan if split == "train" else flat, split=split)
        send(engine, data, f"case-00{n + 1}", mask_of(volume(n)))
    plan = engine.post(f"{data}/plan", {"split": "train", "also": ["other"], "cross_scanner": True}).json()
    assert (plan["labelled"], plan["also"], plan["ready"]) == (2, ["other"], True)
    unlike = [line for line in plan["warnings"] if "unlike those of the scans that la was trained on" in line]
    assert len(unlike) == 1 and unlike[0].startswith("the intensities of case-002 are unlike")
    wrong = engine.post(f"{data}/plan", {"split": "train", "also": ["nowhere"]})
    assert wrong.status == 422 and "there is no split 'nowhere'; choose of" in wrong.error()
    twice = engine.post(f"{data}/runs", {"split": "train", "also": ["train"]})
    assert twice.status == 422 and "named twice" in twice.error()


def test_what_a_training_would_refuse_is_not_ready_and_leaves_no_run(engine: Served, root: Path) -> None:
    made = engine.post("/datasets", {"root": ROOT, "folder": "refused", "labels": ["Left atrium"]}).json()
    data = "/datasets/" + quote(made["id"].replace("/", "~"))
    for n, split in enumerate(["train", "train", "other", "bare", "bare"]):
        add(engine, data, volume(n), split=split)
        if split != "bare":
            send(engine, data, f"case-00{n + 1}", mask_of(volume(n)))
    scratch = {"start_from": None, "device": "cpu"}
    for body, status, code, words in (
        ({"also": ["bare"], "method": "auto"}, 409, "split-unlabelled", "label a case first"),
        ({"also": ["other"], "labeled": 2}, 409, "too-few-labels-of", "label a case first"),
        ({"start_from": "la", "patch": [1, 160, 160]}, 409, "patch-unfit", "choose other options"),
        ({"start_from": "la", "network": "unet3d"}, 409, "start-backbone", "choose other options"),
        ({"patch": [16, 16, 20]}, 422, "patch-unfit", "choose other options"),
        ({"cross_scanner": True, "recipe": "paper"}, 422, None, "choose other options"),
        ({"name": "a/b"}, 422, None, "choose other options"),
    ):
        body = {"split": "train", **scratch, **body}
        plan = engine.post(f"{data}/plan", body).json()
        assert not plan["ready"] and plan["words"] == words
        assert code is None or plan["line_codes"][plan["warnings"][0]]["code"] == code
        answer = engine.post(f"{data}/runs", body)
        assert answer.status == status and answer.error() == plan["warnings"][0]
    stacks = engine.post("/datasets", {"root": ROOT, "folder": "stacks", "labels": ["Left atrium"]}).json()
    thick = Volume(volume().array, Geometry.from_axes((0, 0, 0), (8.0, 1.0, 1.0), np.eye(3), (12, 20, 24)))
    flat = "/datasets/" + quote(stacks["id"].replace("/", "~"))
    add(engine, flat, thick)
    send(engine, flat, "case-001", mask_of(thick))
    plan = engine.post(f"{flat}/plan", {"method": "dk-uxnet", **scratch}).json()
    assert not plan["ready"] and plan["warnings"][0].startswith("method dk-uxnet segments volumes, and these scans are")
    assert engine.post(f"{flat}/plan", {"method": "dk-uxnet", "network": "ux-net", **scratch}).json()["ready"]
    assert engine.get(f"{data}/runs").json() == [] == engine.get(f"{flat}/runs").json()
    assert engine.post(f"{data}/plan", {"split": "train", **scratch, "also": ["other"], "labeled": 1}).json()["ready"]


def test_structures_that_no_model_knows_start_from_scratch_or_are_told(engine: Served, data: str) -> None:
    add(engine, data, volume())
    send(engine, data, "case-001", mask_of(volume()))
    plan = engine.post(f"{data}/plan", {}).json()
    assert (plan["start_from"], plan["name"]) == (None, "la-scar")
    told = engine.post(f"{data}/plan", {"start_from": "la"}).json()["warnings"]
    assert any(line.startswith("model la segments LA, not LA, Scar") for line in told)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *[(20, "less than a minute"), (70, "about 1 minute"), (1500, "about 25 minutes"), (5100, "about 85 minutes")],
        *[(7200, "about 2 hours"), (9300, "about 2.5 hours")],
    ],
)
def test_times_are_told_as_people_say_them(seconds: float, words: str) -> None:
    assert duration_in_words(seconds) == words


# ---------------------------------------------------------------------- judging


@pytest.fixture(scope="module")
def judged(engine: Served, root: Path) -> tuple[str, Dataset]:
    """Two labelled and two unlabelled cases, two held out and a copy of one, and two versions of a model."""
    dataset = Dataset.create(root / "judged", "judged", [make_label(1, "structure 1")])
    for n in range(6):
        case = dataset.add_case(f"case{n}", volume(n, (14, 32, 36)), {})
        if n < 4:
            case.add_label(mask_of(volume(n, (14, 32, 36))), author="t", how="hand")
    dataset.add_to_split("train", [f"case{n}" for n in range(6)])
    dataset.lock_holdout(["case2", "case3"])
    dataset.add_case("copy", volume(2, (14, 32, 36)), {})  # of the scan of a held-out case
    for n, name in enumerate(("one", "two")):
        bundle = random_bundle("vnet", preprocessing={"spacing_mm": (2.0 + n, 1.5, 1.25)})
        dataset.publish_model("small", bundle.save(root.parent / name))
    return f"/datasets/{quote(ROOT)}~judged", dataset


def test_unlabelled_cases_are_ranked_once_a_model(
    engine: Served, judged: tuple[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, dataset = judged
    looked: list[tuple[int, ...]] = []
    summarise_case = active_learning.summarise_case
    monkeypatch.setattr(
        active_learning,
        "summarise_case",
        lambda *given: (looked.append(given[1].array.shape), summarise_case(*given))[1],
    )
    body = {"model": f"{ROOT}/judged/small", "device": "cpu"}
    found = engine.result(engine.post(f"{data}/rank", body).json())
    assert {each["id"] for each in found["cases"]} == {"case4", "case5"} and found["labelled"] == 2
    scores = [each["score"] for each in found["cases"]]
    assert scores == sorted(scores, reverse=True)
    assert all(each["words"] in found["line_codes"] for each in found["cases"])
    predictor = Predictor(random_bundle("vnet", preprocessing={"spacing_mm": (2.0, 1.5, 1.25)}), "cpu")
    cases = {case["id"]: case for case in engine.get(f"{data}/cases").json()}
    for each in found["cases"]:
        wanted = predictor.predict(dataset.case(each["id"]).image()).confidence
        assert each["confidence"] == cases[each["id"]]["confidence"] == pytest.approx(wanted, abs=0.01)
    assert cases["case4"]["predicted_by"]["version"] == "1" and cases["case2"]["confidence"] is None
    assert len(looked) == 4
    assert engine.result(engine.post(f"{data}/rank", body).json()) == found and len(looked) == 4
    engine.result(engine.post(f"{data}/rank", {**body, "model": f"{ROOT}/judged/small/2"}).json())
    assert len(looked) == 8
    for box, shape in ((region_mm(volume()), (8, 10, 12)), (None, (14, 32, 36))):
        set_region(dataset, "case4", box, "me")
        engine.result(engine.post(f"{data}/rank", {**body, "model": f"{ROOT}/judged/small/2"}).json())
        assert looked.pop() == shape and len(looked) == 8  # that case alone, in its region


def test_versions_are_compared_on_the_hold_out_and_their_masks_kept(
    engine: Served, judged: tuple[str, Dataset]
) -> None:
    data, dataset = judged
    body = {"old": f"{ROOT}/judged/small/1", "new": f"{ROOT}/judged/small/2", "device": "cpu"}
    job = engine.post(f"{data}/compare", body).json()
    found = engine.result(job)
    assert {case["id"] for case in found["cases"]} == {"case2", "case3"} and found["split"] == "holdout"
    assert "On 2 held-out cases" in found["words"]
    coded = found["line_codes"]
    assert coded[coded[found["words"]]["values"]["part1"]]["values"]["n"] == 2
    for case in found["cases"]:
        truth = dataset.case(case["id"]).label().array == 1  # type: ignore[union-attr]
        for when in ("before", "after"):
            answer = engine.get(f"/jobs/{job['job']}/masks/{case['id']}/{when}")
            part, header = answer.array(), answer.array_header()
            window = tuple(slice(a, a + n) for a, n in zip(header["start"], part.shape, strict=True))
            mask = np.zeros(truth.shape, np.uint8)
            mask[window] = part
            assert dice(mask == 1, truth) == pytest.approx(case[when])
            crop = dataset.case(case["id"]).geometry.crop(header["start"], [w.stop for w in window])
            assert np.allclose(header["affine"], crop.affine)
    assert engine.get(f"/jobs/{job['job']}/masks/case0/after").status == 404
    assert engine.get(f"/jobs/{job['job']}/masks/case2/then").status == 422
    assert engine.as_client("other").get(f"/jobs/{job['job']}/masks/case2/after").status == 404


def test_comparing_needs_a_hold_out(engine: Served, data: str) -> None:
    answer = engine.post(f"{data}/compare", {"old": "la", "new": "la"})
    assert answer.status == 409 and "no locked hold-out" in answer.error()


def test_a_model_that_saw_the_hold_out_is_named(engine: Served, judged: tuple[str, Dataset]) -> None:
    data, dataset = judged
    run = dataset.new_run("old")
    for name, entry in (
        ("config.json", {"name": "small", "dataset": str(dataset.path)}),
        ("published.json", {"name": "small", "version": 1}),
        ("cases.json", {"trained_on": ["case3", "case0"]}),
        ("status.json", {"state": "finished", "heartbeat": 0}),
    ):
        (run / name).write_text(json.dumps(entry))
    body = {"old": f"{ROOT}/judged/small/1", "new": f"{ROOT}/judged/small/2", "device": "cpu"}
    notices = engine.ended(engine.post(f"{data}/compare", body).json()["job"])["notices"]
    assert [line for line in notices if "trained on" in line] == [
        f"model {ROOT}/judged/small/1 was trained on case3 before they were held out: its figures are too good there"
    ]
    assert RunFolder(run).state() == "finished"
    for start, known in ((1, True), (2, False)):
        body = {"start_from": f"{ROOT}/judged/small/{start}", "device": "cpu"}
        told = engine.post(f"{data}/plan", body).json()["warnings"]
        assert [line.startswith("case3: held out, and the model that") for line in told].count(True) == known


def test_a_version_is_used_and_one_click_goes_back(engine: Served, judged: tuple[str, Dataset]) -> None:
    data, dataset = judged
    (model,) = engine.get(data).json()["models"]
    assert (model["name"], model["current"], model["previous"]) == ("small", 1, None)
    assert [version["id"] for version in model["versions"]] == [f"{ROOT}/judged/small/{n}" for n in (1, 2)]
    used = engine.post(f"{data}/models/small/use", {"version": 2}).json()
    assert used == {"name": "small", "current": 2, "previous": 1} and dataset.current_version("small") == 2
    listed = {entry["id"]: entry["origin"] for entry in engine.get("/models").json() if entry["origin"] != "bundled"}
    assert listed[f"{ROOT}/judged/small/2"]["current"] and not listed[f"{ROOT}/judged/small/1"]["current"]
    back = engine.post(f"{data}/models/small/use", {"version": used["previous"]}).json()
    assert back == {"name": "small", "current": 1, "previous": 2}
    assert engine.post(f"{data}/models/small/use", {"version": 5}).status == 422
