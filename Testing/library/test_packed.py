"""A packed dataset reads back exactly, on a machine that has only numpy and h5py."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mper.datasets.dataset import Case, Dataset
from mper.datasets.packed import PackedCase, PackedDataset, open_dataset, pack
from mper.labels import Segmentation, make_label
from mper.progress import Cancelled, Progress
from mper.volume import Geometry, Volume

LABELS = (make_label(1, "LA"), make_label(4, "Lücke"))
SHAPE = (20, 64, 80)  # 100 kB of noise that nothing compresses


def noise(seed: int) -> npt.NDArray[np.generic]:
    return np.random.default_rng(seed).integers(0, 256, SHAPE).astype(np.uint8)


@pytest.fixture
def dataset(tmp_path: Path, blob_volume: tuple[Volume, Segmentation]) -> Dataset:
    """Cases of three types and grids, with no, one and two label revisions."""
    dataset = Dataset.create(tmp_path / "däta set", "my data", LABELS)
    image, segmentation = blob_volume
    case = dataset.add_case("öblique", image, {})
    case.add_label(segmentation.labelmap, author="a", how="hand")
    newest = np.where(segmentation.labelmap.array == 0, 255, 4).astype(np.uint8)
    case.add_label(image.with_array(newest), author="b", how="hand")
    unknown = Volume(np.random.default_rng(0).normal(size=SHAPE), Geometry.unknown(SHAPE))
    dataset.add_case("no spacing", unknown, {})
    for n in range(8):
        scan = dataset.add_case(
            f"c{n}", Volume(noise(n), Geometry.from_axes((n, 0, 0), (3, 2, 1), np.eye(3), SHAPE)), {}
        )
        scan.add_label(Volume((noise(n) > 250).astype(np.uint8), scan.geometry), author="a", how="hand")
    dataset.add_to_split("train", ["c7", "öblique", "no spacing", "c1"])
    dataset.add_to_split("val", ["c2", "c3"])
    dataset.lock_holdout("val")
    return dataset


def assert_same(packed: PackedDataset, dataset: Dataset) -> None:
    assert (packed.name, packed.labels, packed.holdout) == (dataset.name, dataset.labels, dataset.holdout)
    assert packed.splits == dataset.splits and list(packed.splits) == list(dataset.splits)
    for name in dataset.splits:
        assert [c.id for c in packed.split(name)] == [c.id for c in dataset.split(name)]
    assert packed.cases == dataset.cases
    for case_id in dataset.cases:
        assert_same_case(packed.case(case_id), dataset.case(case_id))


def assert_same_case(packed: PackedCase, case: Case) -> None:
    assert packed.is_labelled == case.is_labelled
    for one, other in ((packed.image(), case.image()), (packed.label(), case.label())):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.array.dtype == other.array.dtype
            np.testing.assert_array_equal(one.array, other.array)
            for geometry in (one.geometry, packed.geometry):
                np.testing.assert_array_equal(geometry.affine, other.geometry.affine)
                assert geometry.spacing_known == other.geometry.spacing_known


def test_packed_dataset_reads_back_exactly(dataset: Dataset, tmp_path: Path) -> None:
    paths = pack(dataset, tmp_path / "packed", 1)
    assert sorted(paths) == sorted((tmp_path / "packed").iterdir())
    assert len(paths) > 1
    assert all(path.stat().st_size <= 1_000_000 for path in paths)
    packed = open_dataset(tmp_path / "packed")
    assert isinstance(packed, PackedDataset)
    assert_same(packed, dataset)


def test_large_enough_shards_are_one_file(dataset: Dataset, tmp_path: Path) -> None:
    assert [p.name for p in pack(dataset, tmp_path / "packed", 100)] == ["shard-001-of-001.h5"]
    assert_same(PackedDataset.open(tmp_path / "packed"), dataset)


def test_open_dataset_takes_what_lies_there(dataset: Dataset, tmp_path: Path) -> None:
    assert isinstance(open_dataset(dataset.path), Dataset)
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="mper import"):
            open_dataset(path)
    with pytest.raises(FileNotFoundError, match="mper pack"):
        PackedDataset.open(tmp_path)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=5),
    )
)
def test_any_voxels_survive(tmp_path: Path, array: npt.NDArray[np.generic]) -> None:
    for name in ("d", "p"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    dataset = Dataset.create(tmp_path / "d", "d", LABELS)
    dataset.add_case("a", Volume(array, Geometry.unknown(array.shape)), {})
    pack(dataset, tmp_path / "p", 1)
    back = PackedDataset.open(tmp_path / "p").case("a").image().array
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()  # NaN and -0.0, too


def test_chosen_splits_alone_are_packed(dataset: Dataset, tmp_path: Path) -> None:
    pack(dataset, tmp_path / "packed", 2, splits=["train"])
    packed = PackedDataset.open(tmp_path / "packed")
    assert packed.splits == {"train": dataset.splits["train"]}
    assert packed.holdout is None
    assert packed.cases == tuple(sorted(dataset.splits["train"]))
    with pytest.raises(ValueError, match="no split 'test'; its splits: train, val"):
        pack(dataset, tmp_path / "other", 2, splits=["test"])


def test_the_newest_label_alone_is_packed(dataset: Dataset, tmp_path: Path) -> None:
    pack(dataset, tmp_path / "packed", 2)
    case = PackedDataset.open(tmp_path / "packed").case("öblique")
    label, newest = case.label(), case.label(2)
    assert label is not None and newest is not None
    assert np.unique(newest.array).tolist() == np.unique(label.array).tolist() == [4, 255]
    with pytest.raises(ValueError, match="label revision 2 only"):
        case.label(1)
    with pytest.raises(ValueError, match="packed with no label"):
        PackedDataset.open(tmp_path / "packed").case("no spacing").label(1)


def test_reading_needs_neither_torch_nor_simpleitk(dataset: Dataset, tmp_path: Path) -> None:
    pack(dataset, tmp_path / "packed", 2)
    code = (
        "import sys\n"
        "for name in ('SimpleITK', 'torch', 'scipy', 'skimage', 'pydicom', 'highdicom'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from mper.datasets.packed import open_dataset\n"
        "cases = open_dataset(Path(sys.argv[1])).split('train')\n"
        "print(sum(int(case.label().array.sum()) for case in cases if case.is_labelled))\n"
        "print(cases[0].image().array.sum())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "packed")]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    labels = [case.label() for case in dataset.split("train")]
    expected = sum(int(label.array.sum()) for label in labels if label is not None)
    assert result.stdout.split() == [str(expected), str(noise(7).sum())], result.stderr


def shards_of(dataset: Dataset, tmp_path: Path) -> list[Path]:
    paths = pack(dataset, tmp_path / "packed", 1)
    assert len(paths) > 1
    return paths


@pytest.mark.parametrize("which", [0, -1])
def test_a_missing_shard_is_named(dataset: Dataset, tmp_path: Path, which: int) -> None:
    lost = shards_of(dataset, tmp_path)[which]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=rf"lacks {lost.name}; copy all") as error:
        open_dataset(tmp_path / "packed")
    assert "\n" not in str(error.value)


def test_a_truncated_shard_is_named(dataset: Dataset, tmp_path: Path) -> None:
    short = shards_of(dataset, tmp_path)[1]
    short.write_bytes(short.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=rf"{short.name} is not a whole shard") as error:
        open_dataset(tmp_path / "packed")
    assert "\n" not in str(error.value)


def test_damaged_voxels_are_noticed(dataset: Dataset, tmp_path: Path) -> None:
    import h5py

    path = shards_of(dataset, tmp_path)[0]
    case_id = next(
        i for i, c in ((i, PackedDataset.open(tmp_path / "packed").case(i)) for i in dataset.cases) if c.shard == path
    )
    with h5py.File(path, "r") as file:
        chunk = file["cases"][case_id]["image"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is not a whole shard"):
        PackedDataset.open(tmp_path / "packed").case(case_id).image()


def test_a_flipped_byte_anywhere_in_a_shard_is_one_line_or_changes_nothing(dataset: Dataset, tmp_path: Path) -> None:
    path = shards_of(dataset, tmp_path)[0]
    data = path.read_bytes()

    def content() -> list[object]:
        packed = PackedDataset.open(tmp_path / "packed")
        found: list[object] = [packed.name, packed.labels, packed.splits, packed.holdout]
        for case in (packed.case(case_id) for case_id in packed.cases):
            label = case.label()
            found += [case.id, case.image().array.tobytes(), case.geometry.affine.tobytes()]
            found.append(None if label is None else label.array.tobytes())
        return found

    before, refused = content(), 0
    for at in np.random.default_rng(0).integers(0, len(data), 40):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert content() == before
        except (ValueError, FileNotFoundError) as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused


def test_shards_of_two_packs_are_not_mixed(dataset: Dataset, tmp_path: Path) -> None:
    paths = shards_of(dataset, tmp_path)
    other = pack(dataset, tmp_path / "other", 1)
    shutil.copyfile(other[1], paths[1])
    with pytest.raises(ValueError, match="belongs to another packed dataset"):
        open_dataset(tmp_path / "packed")


def test_a_case_larger_than_a_shard_is_refused(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "d", "d", LABELS)
    shape = (20, 256, 256)
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    dataset.add_case("a", Volume(array, Geometry.unknown(shape)), {})
    with pytest.raises(ValueError, match=r"case a alone takes 1\.3 MB packed, more than a shard may have \(1 MB\)"):
        pack(dataset, tmp_path / "packed", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_nothing_is_overwritten_and_an_empty_dataset_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine", encoding="utf-8")
    for out in (taken, taken / "notes.txt"):
        with pytest.raises(FileExistsError, match="not empty"):
            pack(dataset, out, 1)
    with pytest.raises(ValueError, match="no case to pack"):
        pack(Dataset.create(tmp_path / "e", "e", LABELS), tmp_path / "packed", 1)
    (tmp_path / "empty").mkdir()
    assert pack(dataset, tmp_path / "empty", 100)


def test_a_cancelled_pack_leaves_nothing(dataset: Dataset, tmp_path: Path) -> None:
    heard: list[float | None] = []

    def cancel(progress: Progress) -> None:
        heard.append(progress.fraction)
        if len(heard) == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        pack(dataset, tmp_path / "packed", 1, report=cancel)
    assert heard == [0, 0.1, 0.2, 0.3, 0.4]
    assert [p.name for p in tmp_path.iterdir()] == [dataset.path.name]


def test_an_unknown_case_or_split_is_named(dataset: Dataset, tmp_path: Path) -> None:
    pack(dataset, tmp_path / "packed", 100)
    packed = PackedDataset.open(tmp_path / "packed")
    with pytest.raises(ValueError, match="no case 'x'; it has 10 others"):
        packed.case("x")
    with pytest.raises(ValueError, match="no split 'x'; its splits: train, val"):
        packed.split("x")
