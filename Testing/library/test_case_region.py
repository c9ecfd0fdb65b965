"""The region of a case: stored beside its labels, and all that a training sees of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_data import blob_dataset

from mper.cli import main
from mper.datasets.dataset import Dataset
from mper.datasets.events import read_events
from mper.datasets.export import RECORD, ExportOptions, export_dataset
from mper.datasets.importer import import_source
from mper.datasets.maintenance import remove_case, set_region
from mper.datasets.packed import open_dataset, pack
from mper.labels import make_label
from mper.training.calibration import labels_of, usual_shapes
from mper.training.checks import check_training_data
from mper.training.config import TrainConfig
from mper.training.data import TrainingData, load_training_data
from mper.training.run_evaluation import RunEvaluation
from mper.training.runs import RunFolder

BOX = (11.0, 45.0, 9.0, 47.0, 3.0, 39.0)  # x, y, z in mm: voxels 2 to 19, 5 to 23 and 6 to 22 of scans of 2 mm
START, STOP = (2, 5, 6), (20, 24, 23)
CPU = torch.device("cpu")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two labelled cases and an unlabelled one, of 20 x 24 x 24 voxels of 2 mm."""
    return blob_dataset(tmp_path / "Däta", labelled=2)


def loaded(dataset: Path, **more: object) -> TrainingData:
    return load_training_data(TrainConfig(str(dataset), method="mper", steps=1, **more), CPU)


def notices(data: TrainingData) -> list[str]:
    from mper.methods.registry import find_method

    recipe = TrainConfig("", method="mper", steps=1).make_recipe()
    return check_training_data(data, find_method("mper"), 4, recipe)


def test_a_region_is_set_shown_and_cleared_without_touching_what_older_programs_read(
    dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in dataset.path.rglob("*") if path.is_file()}
    folder, words = str(dataset.path), ",".join(f"{value:g}" for value in BOX)
    assert main(["region", folder, "case1", f"--set={words}", "--author", "A. Reader"]) == 0
    assert capsys.readouterr().out == f"case1: {words}\n"
    assert Dataset.open(dataset.path).regions == {"case1": BOX}
    assert all(path.read_bytes() == data for path, data in before.items() if path.name != ".dataset.lock")
    (event,) = read_events(dataset.path)
    assert (event["case"], event["by"], event["region_mm"]) == ("case1", "A. Reader", list(BOX))
    assert main(["region", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"regions": {"case1": list(BOX)}}
    assert main(["region", folder, "case1", "--clear", "--author", "B"]) == 0
    assert capsys.readouterr().out == "case1: the whole scan\n" and not dataset.regions
    assert len(read_events(dataset.path)) == 2  # the first one stays
    set_region(dataset, "case1", None, "B")
    assert len(read_events(dataset.path)) == 2  # nothing has changed


@pytest.mark.parametrize(
    ("box", "line"),
    [
        ((100, 120, 100, 120, 100, 120), "case case0: the ROI .* contains no voxel of the scan"),
        ((5, 5, 0, 40, 0, 40), "case case0: an ROI is x0,x1,y0,y1,z0,z1 in LPS mm, each first number below its second"),
        ((0, 40, 0, 40, 10, 14), r"case case0: the region holds only 3x21x21 voxels .* at least 8 voxels along each"),
        ((0, 40, 0, float("nan"), 0, 40), "each first number below its second"),
    ],
)
def test_a_region_that_nothing_can_be_learned_from_is_one_line_and_changes_nothing(
    dataset: Dataset, box: tuple[float, ...], line: str
) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        set_region(dataset, "case0", box, "me")
    assert "\n" not in str(caught.value) and not read_events(dataset.path)


def test_a_training_sees_a_case_as_if_its_scan_ended_where_its_region_ends(dataset: Dataset, tmp_path: Path) -> None:
    for case_id in ("case1", "case2"):  # one with a label, one without
        set_region(dataset, case_id, BOX, "me")
    cropped = Dataset.create(tmp_path / "cropped", "cropped", [make_label(1, "LA")])
    for case in dataset.split("train"):
        whole = case.id == "case0"
        image, label = (
            None if volume is None else volume if whole else volume.crop(START, STOP)
            for volume in (case.image(), case.label())
        )
        assert image is not None
        made = cropped.add_case(case.id, image, {})
        if label is not None:
            made.add_label(label, author="me", how="hand")
    cropped.add_to_split("train", ["case0", "case1", "case2"])
    pack(dataset, tmp_path / "packed", 50)
    wanted = loaded(cropped.path)
    for found in (loaded(dataset.path), loaded(tmp_path / "packed")):
        assert found.plan == wanted.plan
        for one, other in zip(
            (*found.sampler.labelled, *found.sampler.unlabelled),
            (*wanted.sampler.labelled, *wanted.sampler.unlabelled),
            strict=True,
        ):
            assert one.id == other.id and torch.equal(one.image, other.image)
            assert (one.label is None) == (other.label is None)
            assert one.label is None or torch.equal(one.label, other.label)
            assert one.start == ((0, 0, 0) if one.id == "case0" else START)
        assert "case1, case2: only the region is used" in notices(found)


def test_a_label_that_reaches_out_of_its_region_is_named_with_how_much(dataset: Dataset) -> None:
    mask = dataset.case("case1").label()
    assert mask is not None
    set_region(dataset, "case1", (0, 48, 0, 48, 0, 21), "me")  # slices 0 to 10
    share = float((mask.array[11:] == 1).sum() / (mask.array == 1).sum())
    assert 0.05 < share < 0.95
    data = loaded(dataset.path, patch=(16, 32, 32))
    assert data.regions == {"case1": pytest.approx(share)}
    line = f"{100 * share:.0f} % of the label of case1 lies outside its region and is not learned from"
    assert any(text.startswith(line) for text in notices(data))
    case0, case1 = data.sampler.labelled  # a part of a structure says nothing of its usual size and shape
    assert usual_shapes(labels_of([case0, case1]), 3, 1) == usual_shapes(labels_of([case0]), 3, 1) != {}
    assert usual_shapes(labels_of([case1]), 3, 1) == {}
    edge = np.zeros(mask.array.shape, np.uint8)
    edge[:2] = 1
    dataset.case("case1").add_label(mask.with_array(edge), author="me", how="hand")
    set_region(dataset, "case1", (0, 48, 0, 48, 21, 40), "me")
    with pytest.raises(ValueError, match="the whole label of case1 lies outside its region; draw the region around it"):
        loaded(dataset.path)


def test_a_region_of_less_than_half_a_patch_is_refused_before_the_first_step(dataset: Dataset) -> None:
    set_region(dataset, "case2", (0, 17, 0, 17, 0, 40), "me")
    line = r"the region of case2 is too small for a patch: it has 20x9x9 voxels .* a patch has 16x32x32; draw a larger"
    with pytest.raises(ValueError, match=line):
        loaded(dataset.path, patch=(16, 32, 32))


def test_regions_come_back_from_an_export_and_from_shards(dataset: Dataset, tmp_path: Path) -> None:
    set_region(dataset, "case2", BOX, "me")
    export_dataset(dataset, tmp_path / "bids", ExportOptions("bids"))
    import_source(tmp_path / "bids", tmp_path / "again")
    pack(dataset, tmp_path / "shards", 50, ["train"])
    for place in ("again", "shards"):
        assert open_dataset(tmp_path / place).regions == {"case2": BOX}
    record = tmp_path / "bids" / RECORD
    changed = record.read_text(encoding="utf-8").replace(f"{BOX[1]:g}", "900").replace(f"{BOX[0]:g}.0", "890.0")
    record.write_text(changed, encoding="utf-8")
    summary = import_source(tmp_path / "bids", tmp_path / "elsewhere")
    assert list(summary.failed) == ["case2"] and "contains no voxel of the scan" in summary.failed["case2"]
    assert Dataset.open(tmp_path / "elsewhere").cases == ("case0", "case1")  # and no case without its region


def test_a_hold_out_is_measured_on_whole_scans_and_a_removed_case_has_no_region(
    dataset: Dataset, tmp_path: Path
) -> None:
    for case_id in ("case1", "case2"):
        set_region(dataset, case_id, BOX, "me")
    dataset.lock_holdout(["case1"])
    remove_case(dataset, "case2", "me")
    assert dataset.regions == {"case1": BOX}
    folder = RunFolder(tmp_path)
    log, config = SimpleNamespace(folder=folder), TrainConfig(str(dataset.path), method="mper", steps=1)
    data = SimpleNamespace(labels=dataset.labels)
    curve = RunEvaluation(config, data, log, None, None, CPU).curve  # type: ignore[arg-type]
    assert curve is not None
    (case,) = curve.cases
    assert case.image().array.shape == (20, 24, 24)


def test_an_import_gives_its_scans_a_region_and_takes_none_that_lies_elsewhere(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = dataset.case("case0").image_file
    words, target = ",".join(f"{value:g}" for value in BOX), tmp_path / "new"
    command = ["import", str(scan), str(target), "--labels", "LA"]
    assert main([*command, "--region=500,540,0,40,0,40"]) == 1
    assert "contains no voxel of the scan" in capsys.readouterr().err and not target.exists()
    assert main([*command, f"--region={words}"]) == 0
    (found,) = Dataset.open(target).regions.values()
    assert found == BOX
    assert main([*command, "--region=500,540,0,40,0,40"]) == 0  # it has one already
    assert list(Dataset.open(target).regions.values()) == [BOX]
