"""`mper stage`: what it lays down is the scan, and it waits to be asked."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from small_data import blob_dataset
from small_series import stack, write_cine, write_classic

from mper.cli import main
from mper.cli.stage import stage
from mper.dicom.series import list_series
from mper.io import read_volume, write_segmentation, write_volume
from mper.labels import Segmentation, make_label
from mper.provenance import Provenance
from mper.utils.errors import UsageError
from mper.volume import Geometry, Volume

PUBLIC = Path(pydicom.data.__file__).parent / "test_files"  # small series that come with pydicom


def _ask(
    out: Path, sources: list[dict[str, Any]], labels: tuple[str, ...] = ("LA",), more: int = 99
) -> list[dict[str, Any]]:
    out.mkdir(exist_ok=True)
    told = [asdict(make_label(n, name)) for n, name in enumerate(labels, start=1)]
    request = json.dumps({"sources": sources, "labels": told}) + "\n" + "next\n" * more
    answers = io.StringIO()
    assert stage(io.StringIO(request), answers, out) == 0
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def _array(entry: dict[str, Any]) -> np.ndarray:
    return np.fromfile(entry["file"], np.dtype(entry["dtype"])).reshape(entry["shape"])


@pytest.fixture
def scan(tmp_path: Path, blob_volume: tuple[Volume, Segmentation]) -> Path:
    write_volume(tmp_path / "scan one.nrrd", blob_volume[0])
    return tmp_path / "scan one.nrrd"


@pytest.fixture
def challenge(tmp_path: Path, blob_volume: tuple[Volume, Segmentation]) -> Path:
    """One case as the LA challenge lays it out; its mask is 255 in the atrium."""
    case = tmp_path / "la" / "CASE1"
    case.mkdir(parents=True)
    image, mask = blob_volume
    write_volume(case / "lgemri.nrrd", image)
    write_volume(case / "laendo.nrrd", image.with_array((255 * mask.labelmap.array).astype(np.uint8)))
    return tmp_path / "la"


def test_a_file_comes_back_voxel_for_voxel_with_its_grid(scan: Path, tmp_path: Path) -> None:
    told = _ask(tmp_path / "out", [{"path": str(scan)}])
    assert [entry["event"] for entry in told] == ["found", "case", "finished"]
    volume = read_volume(scan)
    assert told[1]["id"] == "scan one"
    np.testing.assert_array_equal(_array(told[1]["image"]), volume.array)
    np.testing.assert_allclose(told[1]["image"]["affine"], volume.geometry.affine)
    assert told[1]["mask"] is None
    assert set(told[1]["source"]) == {"format", "sha256", "file"}


def test_nothing_is_read_before_it_is_asked_for(scan: Path, tmp_path: Path) -> None:
    told = _ask(tmp_path / "out", [{"path": str(scan)}], more=0)
    assert [entry["event"] for entry in told] == ["found"]
    assert not (tmp_path / "out").exists()


def test_no_array_stays_when_the_program_that_asked_is_killed(scan: Path, tmp_path: Path) -> None:
    told = _ask(tmp_path / "out", [{"path": str(scan)}] * 2, more=1)
    assert [entry["event"] for entry in told] == ["found", "case"]
    assert not (tmp_path / "out").exists()
    told = _ask(tmp_path / "out", [{"path": str(scan)}] * 2, more=2)
    assert told[-1]["event"] == "finished" and len(list((tmp_path / "out").iterdir())) == 2


def test_masks_take_the_values_of_the_dataset_by_name(
    challenge: Path, tmp_path: Path, blob_volume: tuple[Volume, Segmentation]
) -> None:
    told = _ask(tmp_path / "out", [{"path": str(challenge)}], labels=("RA", "LA"))
    np.testing.assert_array_equal(_array(told[1]["mask"]), 2 * blob_volume[1].labelmap.array)
    assert told[1]["notices"] == []


def test_a_mask_of_other_structures_is_left_out_and_told(challenge: Path, tmp_path: Path) -> None:
    told = _ask(tmp_path / "out", [{"path": str(challenge)}], labels=("Scar",))
    assert told[1]["mask"] is None
    assert "LA" in told[1]["notices"][0]


def test_a_mask_of_another_grid_is_resampled_to_where_it_lies_in_the_scan(
    challenge: Path, tmp_path: Path, blob_volume: tuple[Volume, Segmentation]
) -> None:
    """Every voxel eightfold, in half the spacing, is the same mask."""
    mask = blob_volume[1].labelmap
    fine = mask.array.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    affine = mask.geometry.affine.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] -= affine[:3, :3].sum(axis=1) / 2
    write_volume(challenge / "CASE1" / "laendo.nrrd", Volume(255 * fine, Geometry(affine, fine.shape)))
    (answer,) = (entry for entry in _ask(tmp_path / "out", [{"path": str(challenge)}]) if "image" in entry)
    np.testing.assert_array_equal(_array(answer["mask"]), mask.array)
    assert "resampled" in answer["notices"][-1] and "100%" in answer["notices"][-1]


@pytest.mark.parametrize(("shift_mm", "drawn", "notice"), [(500, 255, "outside of the scan"), (0, 0, "is empty")])
def test_a_mask_that_lies_elsewhere_or_is_empty_is_no_label(
    challenge: Path,
    tmp_path: Path,
    blob_volume: tuple[Volume, Segmentation],
    shift_mm: float,
    drawn: int,
    notice: str,
) -> None:
    mask = blob_volume[1].labelmap
    affine = mask.geometry.affine.copy()
    affine[0, 3] += shift_mm
    moved = Volume((drawn * mask.array).astype(np.uint8), Geometry(affine, mask.array.shape))
    write_volume(challenge / "CASE1" / "laendo.nrrd", moved)
    (answer,) = (entry for entry in _ask(tmp_path / "out", [{"path": str(challenge)}]) if "image" in entry)
    assert answer["mask"] is None
    assert notice in answer["notices"][-1] and "without a label" in answer["notices"][-1]
    assert answer["line_codes"][answer["notices"][-1]]["code"] == "added-without-label"


@pytest.mark.parametrize(("labels", "notice"), [(("LA",), "255 is taken as LA"), (("LA", "RA"), "without a label")])
def test_a_mask_of_0_and_255_is_the_only_structure_of_the_dataset(
    challenge: Path, tmp_path: Path, blob_volume: tuple[Volume, Segmentation], labels: tuple[str, ...], notice: str
) -> None:
    scan, mask = challenge / "scan.nrrd", challenge / "scan_gt.nrrd"
    (challenge / "CASE1" / "lgemri.nrrd").rename(scan)
    (challenge / "CASE1" / "laendo.nrrd").rename(mask)
    (answer,) = (entry for entry in _ask(tmp_path / "out", [{"path": str(challenge)}], labels) if "image" in entry)
    assert notice in answer["notices"][0]
    if len(labels) == 1:
        np.testing.assert_array_equal(_array(answer["mask"]), blob_volume[1].labelmap.array)
    else:
        assert answer["mask"] is None


def test_a_mask_that_lies_next_to_a_chosen_scan_is_its_mask_and_never_a_scan(
    tmp_path: Path, blob_volume: tuple[Volume, Segmentation]
) -> None:
    scan, mask = tmp_path / "pat 1.nrrd", tmp_path / "pat 1_seg.nrrd"
    write_volume(scan, blob_volume[0])
    write_volume(mask, blob_volume[1].labelmap)
    for chosen in ([scan, mask], [mask, scan], [scan]):
        out = tmp_path / f"out {len(list(tmp_path.iterdir()))}"
        told = _ask(out, [{"path": str(path)} for path in chosen])
        assert [entry["event"] for entry in told] == ["found", "case", "finished"]
        assert told[1]["id"] == "pat 1"
        np.testing.assert_array_equal(_array(told[1]["mask"]), blob_volume[1].labelmap.array)
    told = _ask(tmp_path / "alone", [{"path": str(mask)}])
    assert told[0]["event"] == "failed" and "choose the scan that it belongs to" in told[0]["message"]
    mask.rename(scan.with_name("nameless.nrrd"))
    told = _ask(tmp_path / "nameless", [{"path": str(scan.with_name("nameless.nrrd"))}])
    assert told[1]["event"] == "failed" and "looks like a mask" in told[1]["message"]
    assert told[1]["line_codes"][told[1]["message"]]["code"] == "looks-like-a-mask"


def test_a_segment_is_known_by_its_code_and_a_structure_by_its_long_name(
    tmp_path: Path, blob_volume: tuple[Volume, Segmentation]
) -> None:
    labelmap, scan = blob_volume[1].labelmap, tmp_path / "pat.nrrd"
    write_volume(scan, blob_volume[0])
    segment = replace(make_label(1, "LA"), name="Segment_1")
    write_segmentation(scan.with_name("pat.seg.nrrd"), Segmentation(labelmap, (segment,)))
    told = _ask(tmp_path / "out", [{"path": str(scan)}], labels=("RA", "Left atrium"))
    np.testing.assert_array_equal(_array(told[1]["mask"]), 2 * labelmap.array)


def test_an_unedited_mask_of_a_model_is_no_label(tmp_path: Path, blob_volume: tuple[Volume, Segmentation]) -> None:
    write_volume(tmp_path / "pat.nrrd", blob_volume[0])
    made = Provenance.of_model("la", "2.0.1", "8d969eef")
    mask = replace(blob_volume[1], provenance={label.value: made for label in blob_volume[1].labels})
    write_segmentation(tmp_path / "pat.seg.nrrd", mask)
    (answer,) = (entry for entry in _ask(tmp_path / "out", [{"path": str(tmp_path / "pat.nrrd")}]) if "image" in entry)
    assert answer["mask"] is None
    line = "pat.seg.nrrd is an unedited mask of MPER la 2.0.1, no person's label; added without a label"
    assert answer["notices"] == [line] and answer["line_codes"][line]["code"] == "added-without-label"
    first = {"sources": [{"path": str(tmp_path / "pat.nrrd")}], "labels": [asdict(make_label(1, "LA"))]}
    answers = io.StringIO()
    assert stage(io.StringIO(json.dumps({**first, "preview": True}) + "\nnext\n"), answers, tmp_path / "again") == 0
    about = json.loads(answers.getvalue().splitlines()[1])
    assert about["mask"]["unedited"] and not about["mask"]["usable"]


def test_a_draft_of_an_exported_dataset_is_no_label_until_it_is_changed(tmp_path: Path) -> None:
    dataset = blob_dataset(tmp_path / "data", 2, labelled=1)
    (draft,) = (case for case in map(dataset.case, dataset.cases) if not case.is_labelled)
    mask = draft.image().with_array((draft.image().array > 0).astype(np.uint8))
    draft.add_label(mask, author="me", how="model", model=("la", "2.0.1"))
    assert main(["export-dataset", str(dataset.path), str(tmp_path / "export"), "--layout", "nnunet"]) == 0
    name = f"{draft.id}.nii.gz"
    line = f"{name} is an unedited mask of la 2.0.1, no person's label; added without a label"

    def masks(out: str) -> dict[str, bool]:
        told = _ask(tmp_path / out, [{"path": str(tmp_path / "export")}])
        assert (line in str(told)) == (out == "out")
        return {entry["id"]: entry["mask"] is not None for entry in told if entry["event"] == "case"}

    assert masks("out") == {case_id: case_id != draft.id for case_id in dataset.cases}
    first = {"sources": [{"path": str(tmp_path / "export")}], "labels": [asdict(dataset.labels[0])], "preview": True}
    answers = io.StringIO()
    assert stage(io.StringIO(json.dumps(first) + "\nnext\nnext\n"), answers, tmp_path / "preview") == 0
    told = [entry for line in answers.getvalue().splitlines() if (entry := json.loads(line))["event"] == "preview"]
    assert {entry["id"]: entry["mask"].get("unedited", False) for entry in told} == {
        case_id: case_id == draft.id for case_id in dataset.cases
    }
    array = mask.array.copy()
    array[0] = 0
    write_volume(tmp_path / "export" / "labelsTr" / name, mask.with_array(array))
    assert masks("changed") == dict.fromkeys(dataset.cases, True)


def test_a_preview_describes_scans_and_masks_and_only_what_is_chosen_is_staged(
    tmp_path: Path, blob_volume: tuple[Volume, Segmentation]
) -> None:
    """A mask of 0 and 7 is mapped by a person; another scan is not wanted."""
    image, mask = blob_volume[0], blob_volume[1].labelmap
    write_volume(tmp_path / "pat 1.nrrd", image)
    write_volume(tmp_path / "pat 1_seg.nrrd", Volume((7 * mask.array).astype(np.uint8), mask.geometry))
    write_volume(tmp_path / "other.nrrd", image.with_array(image.array + 1))
    told = asdict(make_label(1, "LA"))
    request = {"sources": [{"path": str(tmp_path)}], "labels": [told], "preview": True}
    chosen = {"add": [{"number": 1, "structures": {"7": 1}}]}
    out, answers = tmp_path / "out", io.StringIO()
    out.mkdir()
    lines = [json.dumps(request), "next", "next", json.dumps(chosen), "next"]
    assert stage(io.StringIO("\n".join(lines) + "\n"), answers, out) == 0
    heard = [entry for entry in map(json.loads, answers.getvalue().splitlines()) if entry["event"] != "notice"]
    events = ["found", "preview", "preview", "previewed", "case", "finished"]
    assert [entry["event"] for entry in heard] == events
    other, one = heard[1:3]
    assert (other["id"], other["mask"]) == ("other", None)
    count = int(np.count_nonzero(mask.array))
    value = {"value": 7, "voxels": count, "name": "", "meaning": "", "structure": None}
    assert one["mask"] == {"values": [value], "empty": False, "usable": True}
    assert one["shape"] == list(image.array.shape) and len(one["spacing_mm"]) == 3
    assert heard[4]["id"] == "pat 1" and heard[4]["voxels_sha256"] == one["voxels_sha256"]
    np.testing.assert_array_equal(_array(heard[4]["mask"]), mask.array)


def test_one_series_of_a_folder_can_be_asked_for(tmp_path: Path) -> None:
    folder = PUBLIC / "dicomdirtests" / "98892001"
    series = list_series(folder / "CT5N")[0].uid
    told = _ask(tmp_path / "out", [{"path": str(folder), "series": series}])
    assert [entry["event"] for entry in told] == ["found", "case", "finished"]
    assert told[1]["image"]["shape"] == [5, 16, 16]
    assert "file" not in told[1]["source"]


def test_a_series_that_is_gone_is_told(tmp_path: Path) -> None:
    told = _ask(tmp_path / "out", [{"path": str(PUBLIC / "dicomdirtests" / "98892001"), "series": "1.2.3"}])
    assert [entry["event"] for entry in told] == ["failed", "found", "finished"]


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(scan: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.nrrd"
    bad.write_bytes(b"no scan")
    told = _ask(tmp_path / "out", [{"path": str(bad)}, {"path": str(tmp_path / "missing.nrrd")}, {"path": str(scan)}])
    assert sorted(entry["event"] for entry in told) == ["case", "failed", "failed", "finished", "found"]


def test_a_request_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no request"):
        stage(io.StringIO("what\n"), io.StringIO(), tmp_path)


def test_phases_of_a_time_series_are_asked_for_and_each_is_a_case(tmp_path: Path) -> None:
    import SimpleITK as sitk

    frames = [100 * n + np.arange(12 * 14 * 16, dtype=np.int16).reshape(12, 14, 16) for n in (1, 2, 3)]
    cine = sitk.JoinSeries([sitk.GetImageFromArray(frame) for frame in frames])
    sitk.WriteImage(cine, str(tmp_path / "cine.nii.gz"))
    (tmp_path / "out").mkdir()
    first = {"sources": [{"path": str(tmp_path / "cine.nii.gz")}], "labels": []}

    def ask(request: dict[str, Any], *lines: str) -> list[dict[str, Any]]:
        answers = io.StringIO()
        text = "\n".join([json.dumps(request), *lines]) + "\n"
        assert stage(io.StringIO(text), answers, tmp_path / "out") == 0
        return [json.loads(line) for line in answers.getvalue().splitlines()]

    told = ask({**first, "phases": True}, "next", '{"phases": [1, 3]}', "next")
    assert [entry["event"] for entry in told] == ["found", "phases", "case", "case", "finished"]
    assert [text.partition(" (")[0] for text in told[1]["phases"]] == ["Phase 1", "Phase 2", "Phase 3"]
    assert [entry["id"] for entry in told[2:4]] == ["cine-phase-1", "cine-phase-3"]
    assert [entry["source"]["phase"] for entry in told[2:4]] == ["1", "3"]
    assert [_array(entry["image"]).min() for entry in told[2:4]] == [100, 300]
    for reply, word in (
        ('{"phases": []}', "no phase"),
        ('{"phases": [4]}', "no phase 4"),
        ("next", "no phase was chosen"),
    ):
        told = ask({**first, "phases": True}, "next", reply)
        assert [entry["event"] for entry in told] == ["found", "phases", "failed", "finished"], reply
        assert word in told[2]["message"]
    assert [entry["event"] for entry in ask(first, "next")] == ["found", "failed", "finished"]


def test_phases_can_be_looked_at_before_some_are_chosen(tmp_path: Path) -> None:
    volume = stack((5, 16, 16))
    write_cine(tmp_path / "cine", [volume.with_array(volume.array + np.int16(100 * n)) for n in range(3)])
    (tmp_path / "cine" / "Info.cfg").write_text("ED: 1\nES: 2\n", encoding="utf-8")
    request = {"sources": [{"path": str(tmp_path / "cine")}], "phases": True}
    lines = [json.dumps(request), "next", '{"look": 3}', '{"look": 1}', '{"look": 3}', '{"phases": [2]}']
    answers = io.StringIO()
    (tmp_path / "out").mkdir()
    stage(io.StringIO("\n".join(lines) + "\n"), answers, tmp_path / "out")
    told = [entry for line in answers.getvalue().splitlines() if (entry := json.loads(line))["event"] != "notice"]
    assert [entry["event"] for entry in told] == ["found", "phases", "phase", "phase", "phase", "case", "finished"]
    assert told[1]["marked"] == [1, 2]
    assert [entry["number"] for entry in told[2:5]] == [3, 1, 3]
    np.testing.assert_array_equal(_array(told[3]["image"]), volume.array)
    np.testing.assert_array_equal(_array(told[4]["image"]), volume.array + 200)
    np.testing.assert_array_equal(_array(told[5]["image"]), volume.array + 100)


def test_image_types_are_asked_for_and_each_is_a_case_or_a_time_series(tmp_path: Path) -> None:
    volume, series = stack((5, 16, 16)), None
    for n, (name, time) in enumerate((("M", 0), ("M", 50), ("P", 0), ("NORM", 0))):

        def of_type(_k: int, image: Any, name: str = name, time: int = time) -> None:
            image.ImageType, image.TriggerTime = ["ORIGINAL", "PRIMARY", name], time

        series = write_classic(
            tmp_path / "mixed", volume.with_array(volume.array + np.int16(100 * n)), of_type, series, prefix=f"p{n}-"
        )

    def ask(more: dict[str, Any], *lines: str) -> list[dict[str, Any]]:
        request = {"sources": [{"path": str(tmp_path / "mixed")}], **more}
        answers, out = io.StringIO(), tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        stage(io.StringIO("\n".join([json.dumps(request), "next", *lines]) + "\n"), answers, out)
        return [entry for line in answers.getvalue().splitlines() if (entry := json.loads(line))["event"] != "notice"]

    both = {"phases": True, "types": True}
    told = ask(both, '{"types": [1, 2, 3]}', '{"phases": [2]}', "next", "next")
    assert [entry["event"] for entry in told] == ["found", "types", "phases", "case", "case", "case", "finished"]
    assert sorted(told[1]["types"]) == ["M (10 images)", "NORM (5 images)", "P (5 images)"]
    order = [text.split()[0] for text in told[1]["types"]]
    found = {entry["source"]["image_type"]: entry for entry in told if entry["event"] == "case"}
    assert order == list(found) and found["M"]["source"]["phase"] == "2"
    for name, added, ending in (("M", 100, "-M-phase-2"), ("P", 200, "-P"), ("NORM", 300, "-NORM")):
        np.testing.assert_array_equal(_array(found[name]["image"]), volume.array + added)
        assert found[name]["id"] == told[1]["id"] + ending
    _, _, failed, _ = ask(both, '{"types": [4]}')
    assert "no image type 4: there are 3" in failed["message"]
    _, failed, _ = ask({"phases": True})
    assert "3 image types" in failed["message"]


def test_a_time_series_with_masks_is_refused_with_the_line_of_mper_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import SimpleITK as sitk

    home = tmp_path / "set"
    for name, kind in (("imagesTr", np.int16), ("labelsTr", np.uint8)):
        (home / name).mkdir(parents=True)
        phases = [sitk.GetImageFromArray(np.full((4, 6, 8), n, kind)) for n in (0, 1)]
        sitk.WriteImage(sitk.JoinSeries(phases), str(home / name / "p1.nii.gz"))
    pair = {"image": "./imagesTr/p1.nii.gz", "label": "./labelsTr/p1.nii.gz"}
    about = {"labels": {"0": "background", "1": "LA"}, "numTraining": 1, "training": [pair], "test": []}
    (home / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    (failed,) = [entry for entry in _ask(tmp_path / "out", [{"path": str(home)}]) if entry["event"] == "failed"]
    assert failed["message"].endswith("2 volumes of 8x6x4 voxels; write the one that is wanted to a file of its own")
    assert main(["import", str(home), str(tmp_path / "data")]) != 0
    assert failed["message"] in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_phases_of_a_dicom_cine_are_listed_with_their_trigger_times(tmp_path: Path) -> None:
    volume = stack((5, 16, 16))
    write_cine(tmp_path / "cine", [volume.with_array(volume.array + np.int16(100 * n)) for n in range(3)])
    series = list_series(tmp_path / "cine")[0].uid
    request = {"sources": [{"path": str(tmp_path / "cine"), "series": series}], "phases": True}
    answers = io.StringIO()
    (tmp_path / "out").mkdir()
    stage(io.StringIO(json.dumps(request) + '\nnext\n{"phases": [2]}\n'), answers, tmp_path / "out")
    told = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert [entry["event"] for entry in told] == ["found", "phases", "case", "finished"]
    assert told[1]["phases"] == ["Phase 1 (0 ms)", "Phase 2 (90 ms)", "Phase 3 (180 ms)"]
    assert told[2]["id"] == told[1]["id"] + "-phase-2"
    np.testing.assert_array_equal(_array(told[2]["image"]), stack((5, 16, 16)).array + 100)
    assert "file" not in told[2]["source"]  # names of DICOM files may tell who the patient is
