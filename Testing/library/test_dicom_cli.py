"""DICOM at the command line: a study in, one mask out; phases of a cine; options anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid
from small_models import threshold_bundle
from small_series import bright_ball, mark_localiser, write_cine, write_classic, write_report

from mper.cli import main
from mper.datasets.layouts import find_source
from mper.dicom.seg_read import open_seg, read_seg
from mper.dicom.series import read_series
from mper.inference.predictor import Predictor
from mper.io import read_labelmap, write_volume
from mper.labels import make_label
from mper.models.bundle import ModelBundle
from mper.progress import ignore_notice
from mper.utils import errors
from mper.utils.errors import FAILED, OK, USAGE
from mper.volume import Geometry, Volume

Run = Callable[..., int]
RADII = (1.0, 0.8, 0.6, 0.7)  # of the ventricle, by phase


@pytest.fixture(autouse=True)
def own_log(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("logs")
    monkeypatch.setattr(errors, "log_folder", lambda: folder)


def model_of(label: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`mper segment` with a model that takes what is bright for that structure."""
    bundle = threshold_bundle()
    bundle = replace(bundle, card=replace(bundle.card, labels=(make_label(1, label),)))
    saved = bundle.save(folder / "model")
    monkeypatch.setattr(ModelBundle, "load", staticmethod(lambda _: bundle))

    def run(*words: str | Path) -> int:
        return main([*map(str, words), "--model", str(saved), "--device", "cpu"])

    return run


@pytest.fixture
def mper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return model_of("LV", tmp_path, monkeypatch)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def assert_of(seg: Path, uid: str) -> None:
    """A DICOM-SEG of that series, and a file."""
    assert seg.is_file()
    assert {str(one.SeriesInstanceUID) for one in open_seg(seg).ReferencedSeriesSequence} == {uid}


# A study as `mper pull` leaves it


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, str]:
    """One scan, a localiser, a report and a damaged file, each series in a folder named by its UID."""
    folder, uid = tmp_path / "Köln study", generate_uid()
    write_classic(folder / uid, bright_ball(), series=uid)
    scout = generate_uid()
    write_classic(folder / scout, bright_ball(shape=(3, 30, 26)), mark_localiser, scout)
    write_report(folder / "report" / "1.dcm")
    (folder / "broken").mkdir()
    (folder / "broken" / "1.dcm").write_bytes((folder / scout / "IM0000").read_bytes()[:900])
    return folder, uid


def test_a_study_becomes_one_segmentation_of_its_only_scan(
    study: tuple[Path, str], tmp_path: Path, mper: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, uid = study
    assert mper("segment", folder, tmp_path / "seg.dcm") == OK
    assert_of(tmp_path / "seg.dcm", uid)
    notes = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(notes) == 2 and "(localiser)" in notes[0] and "1.dcm is truncated" in notes[1]
    assert mper("segment", folder, tmp_path / "mask.nii.gz") == OK
    series = read_series(folder)
    mask = read_labelmap(tmp_path / "mask.nii.gz")
    assert mask.geometry.is_close(series.volume.geometry) and mask.array.any()
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", series).labelmap.array, mask.array)


def test_a_study_as_a_cohort_is_one_mask_a_scan_and_no_failure(
    study: tuple[Path, str], tmp_path: Path, mper: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, uid = study
    write_classic(folder / "other", bright_ball(), lambda k, _: "leave out" if k > 4 else None, "1.2.3", prefix="a")
    write_classic(
        folder / "parts" / "b", bright_ball(), lambda k, _: "leave out" if k < 5 else None, "1.2.3", prefix="b"
    )
    assert mper("segment", folder, tmp_path / "masks", "--json") == OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["failed"] == 0 and len(answer["cases"]) == 2 and len(answer["notes"]) == 2
    written = {path.name: read_labelmap(path).array.shape for path in (tmp_path / "masks").rglob("*.seg.nrrd")}
    assert written == {f"{uid}.seg.nrrd": (12, 30, 26), f"{folder.name}.seg.nrrd": (12, 30, 26)}


def test_a_study_is_imported_as_its_scans(study: tuple[Path, str]) -> None:
    folder, _ = study
    write_classic(folder / "a", bright_ball(), lambda k, _: "leave out" if k > 4 else None, "1.2.3", prefix="a")
    write_classic(folder / "b", bright_ball(), lambda k, _: "leave out" if k < 5 else None, "1.2.3", prefix="b")
    source = find_source(folder)
    assert [case.read(ignore_notice)[0].array.shape for case in source.cases.values()] == [(12, 30, 26)] * 2
    assert sum("(localiser)" in note or "truncated" in note for note in source.notices) == 2


def test_series_reaches_into_a_study_and_options_stand_anywhere(
    study: tuple[Path, str], tmp_path: Path, mper: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, uid = study
    write_classic(folder / "t1", bright_ball(), lambda _, image: setattr(image, "SeriesDescription", "T1"), "1.2.3.4")
    seg = tmp_path / "seg.dcm"
    assert mper("segment", folder, seg) == FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 series, take one of them with --series UID" in line and uid in line and "1.2.3.4 MR 'T1'" in line
    assert not seg.exists()
    for words in (
        [folder, seg, "--series", uid],
        [folder, "--series", "1.2.3.4", seg],
        ["--series", uid, "--json", folder, seg],
    ):
        seg.unlink(missing_ok=True)
        assert mper("segment", *words) == OK
        assert_of(seg, words[words.index("--series") + 1])


@pytest.mark.parametrize("name", ["seg.dcm", "mask.nii.gz", "mask.seg.nrrd", "mask.mha", "MASK.NRRD", "seg.DCM"])
def test_the_name_of_a_file_never_becomes_a_folder(
    name: str, study: tuple[Path, str], tmp_path: Path, mper: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = study
    write_classic(folder / "t1", bright_ball(), series="1.2.3.4")
    (tmp_path / "files").mkdir()
    for one in ("a", "b"):
        write_volume(tmp_path / "files" / f"{one}.nrrd", bright_ball())
    before = files_below(tmp_path)
    for inputs in ([folder], [tmp_path / "files"], [tmp_path / "files" / "*.nrrd"], [folder, tmp_path / "files"]):
        assert mper("segment", *inputs, tmp_path / name) in (FAILED, USAGE)
        said = capsys.readouterr()
        assert said.err.count("mper: error: ") == 1 and "\n" not in said.err.split("mper: error: ")[1].strip()
    assert mper("segment", tmp_path / "files", tmp_path / "masks", "--prototypes", tmp_path / name) == USAGE
    assert files_below(tmp_path) == before


def test_one_scan_in_a_folder_goes_into_one_file(tmp_path: Path, mper: Run) -> None:
    (tmp_path / "files").mkdir()
    write_volume(tmp_path / "files" / "a.nrrd", bright_ball())
    for output in (tmp_path / "mask.nii.gz", tmp_path / "files" / "mask.nii.gz", tmp_path / "files" / "mask.nii.gz"):
        assert mper("segment", tmp_path / "files", output) == OK
        assert output.is_file()
    assert mper("segment", tmp_path / "files" / "a*.nrrd", tmp_path / "one.nrrd") == OK
    assert (tmp_path / "one.nrrd").is_file()


def test_options_stand_anywhere_in_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_classic(tmp_path / "dicom", bright_ball())
    write_volume(tmp_path / "mask.nrrd", bright_ball().with_array((bright_ball().array > 200).astype(np.uint8)))
    words = ["--source", tmp_path / "dicom", "--manual", "--labels", "LA", "--out", tmp_path / "seg.dcm"]
    assert main(list(map(str, ["export-seg", *words, tmp_path / "mask.nrrd"]))) == OK
    assert main(list(map(str, ["export-seg", *words[:3], tmp_path / "mask.nrrd", *words[3:]]))) == OK
    back = tmp_path / "back.nrrd"
    assert main(list(map(str, ["import-seg", tmp_path / "seg.dcm", "--source", tmp_path / "dicom", back]))) == OK
    np.testing.assert_array_equal(read_labelmap(back).array, read_labelmap(tmp_path / "mask.nrrd").array)
    capsys.readouterr()
    assert main(["segment", "a", "--bogus", "b", "c"]) == USAGE
    assert "--bogus" in capsys.readouterr().err
    assert main(["segment", "--device", "cpu", "--", "-gone.nrrd", str(tmp_path / "mask.nrrd")]) == FAILED
    assert "-gone.nrrd does not exist" in capsys.readouterr().err


# Masks of other programs


OTHER_MASKS: dict[str, tuple[Callable[[Volume], Volume], str]] = {
    "on the grid": (lambda mask: mask, ""),
    "rows and columns reversed": (lambda mask: turned(mask, (1, 2)), ""),
    "slices reversed": (lambda mask: turned(mask, (0,)), ""),
    "off by a rounding": (lambda mask: moved(mask, 0.01), ""),
    "cropped": (lambda mask: mask.crop((2, 3, 4), (11, 29, 25)), ""),
    "almost whole numbers": (lambda mask: mask.with_array(mask.array * np.float32(0.99999)), ""),
    "0 and 255": (lambda mask: mask.with_array(mask.array * np.uint8(255)), ""),
    "off by most of a voxel": (lambda mask: moved(mask, 0.6), "lies on another grid than the scan"),
    "without a place": (lambda mask: Volume(mask.array, Geometry.unknown(mask.array.shape)), "no position and spacing"),
    "other values": (lambda mask: mask.with_array(mask.array * np.uint8(3)), "holds values [3] that no label names"),
    "empty": (lambda mask: mask.with_array(mask.array * 0), "the mask is empty"),
}


def turned(mask: Volume, axes: tuple[int, ...]) -> Volume:
    """The same voxels, stored the other way round."""
    affine, last = mask.geometry.affine.copy(), np.zeros(3)
    for axis in axes:
        affine[:3, axis] *= -1
        last[axis] = mask.array.shape[axis] - 1
    affine[:3, 3] = mask.geometry.to_world(last)
    return Volume(np.flip(mask.array, axes), Geometry(affine, mask.array.shape))


def moved(mask: Volume, mm: float) -> Volume:
    affine = mask.geometry.affine.copy()
    affine[0, 3] += mm
    return Volume(mask.array, Geometry(affine, mask.array.shape))


@pytest.mark.parametrize("kind", OTHER_MASKS)
def test_masks_of_other_programs_become_the_right_voxels_or_are_refused(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, told = OTHER_MASKS[kind]
    write_classic(tmp_path / "scan", bright_ball())
    series = read_series(tmp_path / "scan")
    mask = series.volume.with_array((series.volume.array > 200).astype(np.uint8))
    write_volume(tmp_path / "mask.nii.gz", change(mask))
    words = ["export-seg", tmp_path / "mask.nii.gz", "--source", tmp_path / "scan", "--labels", "LA", "--manual"]
    code = main([*map(str, words), "--out", str(tmp_path / "seg.dcm")])
    if told:
        assert code == FAILED and told in capsys.readouterr().err
        assert not (tmp_path / "seg.dcm").exists()
    else:
        assert code == OK
        np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", series).labelmap.array, mask.array)


# Phases


@pytest.fixture
def cine(tmp_path: Path) -> Path:
    write_cine(tmp_path / "cine", [bright_ball(radius) for radius in RADII])
    return tmp_path / "cine"


def volumes_of(*paths: Path) -> list[int]:
    return [int(read_labelmap(path).array.sum()) for path in paths]


def test_without_a_choice_a_cine_is_listed_in_one_line(
    cine: Path, tmp_path: Path, mper: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "predict", None)
    for choice, told in (
        ([], "time series of 4 phases (trigger times 0, 90, 180, 270 ms); choose with --phase 1 to 4, ED, ES or all"),
        (["--phase", "5"], "no phase 5"),
    ):
        assert mper("segment", cine, tmp_path / "mask.nrrd", *choice) == FAILED
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
    assert mper("segment", cine, tmp_path / "mask.nrrd", "--phase", "diastole") == USAGE
    assert "is no phase" in capsys.readouterr().err
    assert not (tmp_path / "mask.nrrd").exists()


def test_one_phase_all_phases_ed_and_es(
    cine: Path, tmp_path: Path, mper: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mper("segment", cine, tmp_path / "all.nii.gz", "--phase", "all", "--json") == OK
    answer = json.loads(capsys.readouterr().out)
    masks = [tmp_path / f"all-phase{n}.nii.gz" for n in (1, 2, 3, 4)]
    assert [Path(one["mask"]) for one in answer["phases"]] == masks
    assert [(one["phase"], one["trigger_time_ms"]) for one in answer["phases"]] == [(1, 0), (2, 90), (3, 180), (4, 270)]
    sizes = volumes_of(*masks)
    assert sizes[0] > sizes[1] > sizes[3] > sizes[2] > 0
    for choice, number in (("3", 3), ("ED", 1), ("es", 3)):
        assert mper("segment", cine, tmp_path / "one.seg.nrrd", "--phase", choice, "--json") == OK
        answer = json.loads(capsys.readouterr().out)
        assert (answer["phase"], answer["trigger_time_ms"]) == (number, 90 * (number - 1))
        assert volumes_of(tmp_path / "one.seg.nrrd") == [sizes[number - 1]]
        by_volume = [note for note in answer["notes"] if "left ventricle is" in note]
        assert len(by_volume) == (choice != "3")
    (cine / "Info.cfg").write_text("ED: 2\nES: 4\n", encoding="utf-8")
    assert mper("segment", cine, tmp_path / "seg.dcm", "--phase", "ED", "--json") == OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["phase"] == 2 and answer["check"]["passed"]
    assert answer["notes"] == ["ED and ES are those of Info.cfg: ED 2, ES 4"]
    assert volumes_of(tmp_path / "all-phase2.nii.gz") == [
        int(read_seg(tmp_path / "seg.dcm", read_series(cine, phase=2)).labelmap.array.sum())
    ]


def test_a_model_without_a_left_ventricle_refuses_to_look_for_ed(
    cine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = model_of("LA", tmp_path, monkeypatch)
    monkeypatch.setattr(Predictor, "predict", None)
    assert run("segment", cine, tmp_path / "mask.nrrd", "--phase", "ED") == FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert "no left ventricle (LV)" in line and "--phase 1 to 4" in line


def test_phases_of_a_cohort_are_files_of_their_own(
    cine: Path, tmp_path: Path, mper: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cohort" / "one").mkdir(parents=True)
    cine.rename(tmp_path / "cohort" / "one" / "cine")
    write_classic(tmp_path / "cohort" / "two", bright_ball())
    assert mper("segment", tmp_path / "cohort", tmp_path / "masks", "--phase", "all", "--json") == OK
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["cases"]) == 5 and answer["failed"] == 0
    masks = {name for name in files_below(tmp_path / "masks") if name.endswith(".nrrd")}
    assert masks == {"two.seg.nrrd", *(f"one/cine-phase{n}.seg.nrrd" for n in (1, 2, 3, 4))}


def test_a_mask_of_one_phase_goes_out_and_comes_back(
    cine: Path, tmp_path: Path, mper: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    mask, seg, back = (tmp_path / name for name in ("mask.seg.nrrd", "seg.dcm", "back.nrrd"))
    assert mper("segment", cine, mask, "--phase", "3") == OK
    for command, output in (("export-seg", ["--out", seg]), ("import-seg", [back])):
        words = [command, mask if command == "export-seg" else seg, "--source", cine, *output]
        assert main(list(map(str, words))) == FAILED
        assert "time series of 4 phases" in capsys.readouterr().err
        assert main([*map(str, words), "--phase", "3"]) == OK
    np.testing.assert_array_equal(read_labelmap(back).array, read_labelmap(mask).array)


def test_strokes_correct_one_phase(cine: Path, tmp_path: Path, mper: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "strokes.json").write_text('{"strokes": []}', encoding="utf-8")
    words = ["refine", cine, tmp_path / "strokes.json", tmp_path / "mask.nrrd"]
    for choice, told in (([], "time series of 4 phases"), (["--phase", "ED"], "does not say which phase is ED")):
        assert mper(*words, *choice) == FAILED
        assert told in capsys.readouterr().err
    assert mper(*words, "--phase", "all") == USAGE
    assert mper(*words, "--phase", "3") == OK
    assert mper("segment", cine, tmp_path / "plain.nrrd", "--phase", "3") == OK
    np.testing.assert_array_equal(
        read_labelmap(tmp_path / "mask.nrrd").array, read_labelmap(tmp_path / "plain.nrrd").array
    )


def test_one_of_several_image_types_is_segmented(tmp_path: Path, mper: Run, capsys: pytest.CaptureFixture[str]) -> None:
    uid = write_classic(
        tmp_path / "dicom", bright_ball(), lambda _, i: setattr(i, "ImageType", ["ORIGINAL", "PRIMARY", "M"])
    )
    write_classic(
        tmp_path / "dicom",
        bright_ball(0.5),
        lambda _, i: setattr(i, "ImageType", ["ORIGINAL", "PRIMARY", "P"]),
        uid,
        prefix="p",
    )
    mask = tmp_path / "mask.nrrd"
    assert mper("segment", tmp_path / "dicom", mask) == FAILED
    assert "2 image types: M (12 images), P (12 images); choose one with --image-type" in capsys.readouterr().err
    sizes = []
    for name in ("M", "P"):
        assert mper("segment", tmp_path / "dicom", "--image-type", name, mask) == OK
        sizes += volumes_of(mask)
    assert sizes[0] > 4 * sizes[1] > 0
    write_volume(tmp_path / "scan.nrrd", bright_ball())
    assert mper("segment", tmp_path / "scan.nrrd", mask, "--image-type", "M") == FAILED
    assert "leave --image-type out" in capsys.readouterr().err
