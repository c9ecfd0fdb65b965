"""Which scan becomes which file, and that no scan is ever replaced."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from disk_faults import make_dead
from hypothesis import given, settings
from hypothesis import strategies as st

from mper.cli.outputs import cohort_tasks, is_older_mask, mirrored_names, probability_files, single_task, stem
from mper.io import write_segmentation, write_volume
from mper.labels import Segmentation
from mper.utils.errors import UsageError
from mper.utils.files import temporary_sibling
from mper.volume import Geometry, Volume


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scan.nrrd", "scan"),
        ("scan.nii.gz", "scan"),
        ("scan.SEG.nrrd", "scan"),
        ("a.b.mha", "a.b"),
        ("series 5", "series 5"),
        ("0001.2.3", "0001.2.3"),
    ],
)
def test_a_name_loses_its_ending_and_nothing_else(name: str, expected: str) -> None:
    assert stem(Path(name)) == expected


def test_names_mirror_the_folders_that_tell_scans_apart(tmp_path: Path) -> None:
    scans = [tmp_path / "a" / "lge.nrrd", tmp_path / "b" / "lge.nrrd", tmp_path / "c.nii.gz"]
    assert mirrored_names(scans) == ["a/lge", "b/lge", "c"]
    assert mirrored_names(scans[:1]) == ["lge"]


def test_scans_that_differ_only_by_ending_keep_both_results(tmp_path: Path) -> None:
    scans = [tmp_path / "x.nrrd", tmp_path / "x.nii.gz", tmp_path / "y.nrrd"]
    assert mirrored_names(scans) == ["x.nrrd", "x.nii.gz", "y"]


_NAMES = st.text("aAbB._ 1", min_size=1, max_size=5).filter(lambda name: name.strip(". ") != "")


@settings(deadline=None)
@given(st.lists(st.tuples(_NAMES, st.sampled_from([".nrrd", ".nii.gz", ".nii", ".mha", ""])), min_size=1, unique=True))
def test_no_two_scans_ever_share_a_result(names: list[tuple[str, str]]) -> None:
    results = mirrored_names([Path("/scans") / f"{name}{ending}" for name, ending in names])
    assert len({f"{result}.seg.nrrd".casefold() for result in results}) == len(results)


def test_an_output_folder_takes_the_name_of_the_scan(tmp_path: Path) -> None:
    assert single_task(Path("x") / "scan.nii.gz", tmp_path, None, None).mask == tmp_path / "scan.seg.nrrd"


@pytest.mark.parametrize("name", ["mask.seg.dcm.gz", "mask", "mask.nhdr", "mask.seg", "mask.gz"])
def test_an_ending_that_cannot_be_written_names_those_that_can(name: str) -> None:
    with pytest.raises(UsageError, match=r"\.seg\.nrrd, \.nrrd, \.nii\.gz, \.nii, \.mha or \.dcm"):
        single_task(Path("scan.nrrd"), Path(name), None, None)


def test_a_result_never_replaces_a_scan(tmp_path: Path) -> None:
    scan = tmp_path / "scan.nrrd"
    scan.write_bytes(b"a scan")
    with pytest.raises(UsageError, match="would replace a scan"):
        single_task(scan, tmp_path / "." / "scan.nrrd", None, None)
    with pytest.raises(UsageError, match="would replace a scan"):
        single_task(scan, tmp_path / "mask.nrrd", None, scan)
    (tmp_path / "link.nrrd").hardlink_to(scan)
    with pytest.raises(UsageError, match="would replace a scan"):
        single_task(scan, tmp_path / "link.nrrd", None, None)
    with pytest.raises(UsageError, match="would replace a scan"):
        cohort_tasks([scan, tmp_path / "drawn.seg.nrrd"], tmp_path, None, None)


def test_the_plan_of_a_cohort_asks_for_each_file_once_and_not_once_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = [tmp_path / f"scan{n}.nrrd" for n in range(40)]
    for scan in scans:
        scan.write_bytes(b"a scan")
    asked: list[Path] = []
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **named: asked.append(path) or stat(path, **named))
    assert len(cohort_tasks(scans, tmp_path / "masks", None, None)) == 40
    assert len(asked) <= 8 * len(scans)


def test_two_results_never_share_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two results"):
        single_task(Path("scan.nrrd"), tmp_path / "a.nrrd", tmp_path / "a.nrrd", None)


def test_a_cohort_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mask.nrrd").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file"):
        cohort_tasks([Path("a.nrrd"), Path("b.nrrd")], tmp_path / "mask.nrrd", None, None)


def test_several_structures_have_a_file_each() -> None:
    assert probability_files(Path("p.nii.gz"), ["LA"]) == [Path("p.nii.gz")]
    assert probability_files(Path("p.nii.gz"), ["RV", "left v/x"]) == [Path("p-RV.nii.gz"), Path("p-left_v_x.nii.gz")]


def test_an_older_mask_is_known_from_a_scan(
    tmp_path: Path, blob_volume: tuple[Volume, Segmentation], oblique_geometry: Geometry
) -> None:
    scan, mask = blob_volume
    ramp = np.arange(np.prod(oblique_geometry.shape)).reshape(oblique_geometry.shape) % 256
    for name, volume, expected in [
        ("mask.nrrd", mask.labelmap, True),
        ("mask.nii.gz", mask.labelmap, True),
        ("scan.nrrd", scan, False),
        ("eight-bits.nii.gz", scan.with_array(ramp.astype(np.uint8)), False),
    ]:
        write_volume(tmp_path / name, volume)
        assert is_older_mask(tmp_path / name) is expected, name
    write_segmentation(tmp_path / "mask.seg.nrrd", mask)
    assert is_older_mask(tmp_path / "mask.seg.nrrd")
    (tmp_path / "notes.nrrd").write_text("no volume", encoding="utf-8")
    assert not is_older_mask(tmp_path / "notes.nrrd")


def test_what_a_killed_program_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    mask, theirs = tmp_path / "mask.nrrd", tmp_path / ".download.part"
    left, running = temporary_sibling(mask), temporary_sibling(mask)
    left.write_bytes(b"half")
    make_dead(tmp_path)
    running.write_bytes(b"half")
    theirs.mkdir()
    os.utime(theirs, (0, 0))
    task = single_task(tmp_path / "scan.nrrd", mask, None, None)
    task.make_folders()
    assert sorted(tmp_path.iterdir()) == sorted([running, theirs])
