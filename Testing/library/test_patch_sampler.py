"""Patches: image and label move together, unlabelled stays unlabelled, and what is rare is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_data import blob_cases

from mper.dataloading import patch_sampler
from mper.dataloading.augmentation import intensities, published_turn, random_affine, random_flip
from mper.dataloading.patch_sampler import PatchSampler, TrainingCase
from mper.dataloading.preprocessing import WorkingGrid
from mper.labels import UNLABELLED


def numbered(shape: tuple[int, ...], label: np.ndarray | None = None, name: str = "case") -> TrainingCase:
    """Each voxel has its own value."""
    image = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)
    return TrainingCase(
        name, image, torch.zeros(shape, dtype=torch.uint8) if label is None else torch.from_numpy(label)
    )


def test_patch_of_the_scans_size_is_the_scan() -> None:
    case = numbered((16, 32, 48))
    patch = PatchSampler([case], [], (16, 32, 48)).labelled_patch(case, np.random.default_rng(0))
    torch.testing.assert_close(patch.image[0, 0], case.image, rtol=0, atol=0.02)
    assert patch.image.shape == (1, 1, 16, 32, 48) and (patch.label == 0).all()


def test_slice_is_a_slice_of_the_scan() -> None:
    case = numbered((5, 32, 32))
    sampler = PatchSampler([case], [], (1, 32, 32))
    seen = set()
    for seed in range(40):
        patch = sampler.labelled_patch(case, np.random.default_rng(seed)).image[0, 0]
        number = round(float(patch[0, 0])) // (32 * 32)
        torch.testing.assert_close(patch, case.image[number], rtol=0, atol=0.02)
        seen.add(number)
    assert seen == {0, 1, 2, 3, 4}


def test_patch_lies_within_the_scan_and_anywhere_in_it() -> None:
    case = numbered((20, 40, 40))
    sampler = PatchSampler([case], [], (16, 16, 16), affine=False)
    corners = []
    for seed in range(200):
        centre = sampler._centre(case, np.random.default_rng(seed), True)
        corners.append(centre - 7.5)
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    assert (low >= 0).all() and (high <= np.array([4, 24, 24])).all()
    assert (low < 1).all() and (high > np.array([3, 22, 22])).all()


def test_outside_of_the_scan_is_unlabelled() -> None:
    case = numbered((8, 16, 16))
    patch = PatchSampler([case], [], (16, 16, 16)).labelled_patch(case, np.random.default_rng(0))
    known = patch.label[0] != UNLABELLED
    assert known.sum() == 8 * 16 * 16 and known[4:12].all()
    torch.testing.assert_close(patch.image[0, 0, 0], case.image[0], rtol=0, atol=0.02)  # the border is repeated


@pytest.mark.parametrize("affine", [True, False])
def test_label_moves_with_the_image(affine: bool) -> None:
    image = torch.zeros(24, 40, 40)
    image[6:16, 8:30, 10:20] = 1
    case = TrainingCase("box", image, image.to(torch.uint8))
    sampler = PatchSampler([case], [], (16, 32, 32), affine=affine)
    for seed in range(10):
        batch = sampler.batch(1, 0, np.random.default_rng(seed))
        known = batch.label != UNLABELLED
        wrong = ((batch.image[:, 0] > 0.5) != (batch.label == 1)) & known
        assert wrong.sum() < 0.03 * known.sum()
        assert (batch.label == 1).any()


def test_labels_keep_their_values_when_turned() -> None:
    label = np.zeros((24, 24, 24), dtype=np.uint8)
    label[:, :12], label[:, 12:18], label[:, 18:] = 0, 3, UNLABELLED
    case = numbered((24, 24, 24), label)
    for seed in range(5):
        batch = PatchSampler([case], [], (16, 16, 16)).batch(1, 0, np.random.default_rng(seed))
        assert {3} < set(batch.label.unique().tolist()) <= {0, 3, UNLABELLED}


def test_published_turns_of_volumes_are_quarter_turns_with_a_flip() -> None:
    case = numbered((4, 8, 8))
    sampler = PatchSampler([case], [], (4, 8, 8), affine=False)
    allowed = [torch.rot90(case.image, n, (1, 2)).flip(axis) for n in range(4) for axis in (1, 2)]
    seen = set()
    for seed in range(60):
        patch = sampler.batch(1, 0, np.random.default_rng(seed)).image[0, 0]
        matches = [n for n, turned in enumerate(allowed) if torch.allclose(turned, patch, atol=0.02)]
        assert matches
        seen.add(matches[0])
    assert len(seen) == 4  # a quarter turn and a flip: the four mirrored positions of a square


def test_published_turns_of_slices_are_half_quarter_turns_a_quarter_rotations_and_a_quarter_nothing() -> None:
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(1000):
        matrix = published_turn(rng, 2)
        angle = np.degrees(np.arctan2(matrix[2, 1], matrix[1, 1]))
        mirrored = np.linalg.det(matrix) < 0
        kinds.append("flip" if mirrored else "none" if angle == 0 else "rotation")
        assert abs(angle) <= 20 or mirrored
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    shares = [kinds.count(kind) / 1000 for kind in ("flip", "rotation", "none")]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.05)


def test_affine_leaves_slices_in_their_plane_and_scales_within_bounds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        flat = random_affine(rng, 2)
        np.testing.assert_array_equal(flat[0], [1, 0, 0])
        np.testing.assert_array_equal(flat[1:, 0], [0, 0])
        solid = random_affine(rng, 3)
        scales = np.linalg.norm(solid, axis=0)
        assert (scales > 0.6).all() and (scales < 1.7).all() and np.linalg.det(solid) > 0


@pytest.mark.parametrize("patch", [(16, 16, 16), (1, 16, 16)], ids=["3-D", "2-D"])
def test_affine_shears_no_anatomy_where_voxels_are_no_cubes(patch: tuple[int, int, int]) -> None:
    steps, shape = np.array([2.5, 1.0, 1.6]), (40, 40, 40)
    grid = WorkingGrid(shape, (0, 1, 2), (), shape, (2.5, 1.0, 1.6))
    axes = range(3)[3 - sum(n > 1 for n in patch) :]
    places = np.indices(shape, np.float32) * steps[:, None, None, None]  # in mm
    for seed in range(8):
        directions = []
        for place in places[list(axes)].astype(np.float32):
            case = TrainingCase("case", torch.from_numpy(place), torch.zeros(shape, dtype=torch.uint8), grid=grid)
            image = PatchSampler([case], [], patch).batch(1, 0, np.random.default_rng(seed)).image[0, 0]
            middle = image[tuple(slice(7, 9) for _ in axes)].numpy()
            directions.append([float(np.diff(middle, axis=n).mean()) / steps[axis] for n, axis in enumerate(axes)])
        columns = np.array(directions) / np.linalg.norm(directions, axis=0)
        np.testing.assert_allclose(columns.T @ columns, np.eye(len(axes)), atol=2e-3)
        assert not np.allclose(columns, np.eye(len(axes)), atol=1e-2)


def test_only_named_axes_are_flipped_half_of_the_time() -> None:
    rng = np.random.default_rng(0)
    flips = np.array([np.diag(random_flip(rng, (2,))) for _ in range(400)])
    assert (flips[:, :2] == 1).all()
    assert 0.4 < (flips[:, 2] == -1).mean() < 0.6


def test_batch_has_labelled_patches_first_and_none_of_the_others_labels() -> None:
    sampler = PatchSampler(blob_cases(3, (16, 16, 16)), blob_cases(3, (16, 16, 16), labelled=False), (16, 16, 16))
    batch = sampler.batch(2, 3, np.random.default_rng(0))
    assert batch.image.shape == (5, 1, 16, 16, 16) and batch.label.dtype == torch.int64 and batch.labelled == 2
    assert (batch.label[:2] == 1).any() and (batch.label[2:] == UNLABELLED).all()


def test_labelled_scans_stand_in_for_missing_unlabelled_ones_without_their_labels() -> None:
    batch = PatchSampler(blob_cases(2, (16, 16, 16)), [], (16, 16, 16)).batch(1, 2, np.random.default_rng(0))
    assert (batch.label[1:] == UNLABELLED).all() and batch.image[1:].std() > 0


def test_scans_of_a_batch_differ_while_there_are_enough() -> None:
    cases = [
        TrainingCase(str(n), torch.full((16, 16, 16), float(n)), torch.zeros(16, 16, 16, dtype=torch.uint8))
        for n in range(4)
    ]
    sampler = PatchSampler(cases, [], (16, 16, 16))
    for seed in range(20):
        means = sampler.batch(4, 0, np.random.default_rng(seed)).image.mean((1, 2, 3, 4)).round()
        assert sorted(means.tolist()) == [0, 1, 2, 3]


def test_same_random_numbers_give_the_same_batch() -> None:
    sampler = PatchSampler(blob_cases(3, (20, 20, 20)), [], (16, 16, 16))
    one, two, other = (sampler.batch(2, 2, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(one.image, two.image) and torch.equal(one.label, two.label)
    assert not torch.equal(one.image, other.image)


@pytest.mark.parametrize("patch", [(1, 16, 16), (16, 16, 16)], ids=["2-D", "3-D"])
def test_patch_of_a_scan_that_is_labelled_here_and_there_holds_something_labelled(patch: tuple[int, int, int]) -> None:
    label = np.full((30, 64, 64), UNLABELLED, dtype=np.uint8)
    label[27, 5:12, 50:60] = 0  # a piece of one slice, without a structure
    case = numbered((30, 64, 64), label)
    sampler = PatchSampler([case], [], patch, affine=False)
    for seed in range(20):
        assert (sampler.labelled_patch(case, np.random.default_rng(seed)).label == 0).any()


@pytest.mark.parametrize("patch", [(1, 16, 16), (16, 16, 16)], ids=["2-D", "3-D"])
def test_every_third_patch_of_plus_holds_a_structure_however_small(patch: tuple[int, int, int]) -> None:
    label = np.zeros((40, 80, 80), dtype=np.uint8)
    label[10, 40, 70] = 1
    case = numbered((40, 80, 80), label)
    shares = {}
    for affine in (True, False):
        sampler = PatchSampler([case], [], patch, affine=affine)
        shares[affine] = np.mean(
            [bool((sampler.labelled_patch(case, np.random.default_rng(seed)).label == 1).any()) for seed in range(120)]
        )
    assert 0.2 < shares[True] < 0.5 and shares[False] < 0.1


def test_training_without_a_label_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one labelled case"):
        PatchSampler([], blob_cases(1, (16, 16, 16), labelled=False), (16, 16, 16))


@pytest.mark.parametrize("spatial", [(32, 32), (16, 16, 16)])
def test_intensities_change_and_geometry_stays(spatial: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    image = torch.zeros(20, 1, *spatial)
    image[..., : spatial[-1] // 2] = 3
    image = image + 0.1 * torch.randn_like(image)
    changed = intensities(image, np.random.default_rng(0))
    assert changed.shape == image.shape and changed.isfinite().all()
    assert sum(not torch.equal(a, b) for a, b in zip(changed, image, strict=True)) > 15
    halves = changed.flatten(1, -2).mean(1)
    assert (halves[:, 1] > halves[:, -2]).all()  # what was bright stays brighter


def test_intensities_repeat_with_the_same_random_numbers() -> None:
    image = torch.randn(4, 1, 16, 16, 16)
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        results.append(intensities(image, np.random.default_rng(1)))
    assert torch.equal(*results)


def test_groups_are_drawn_by_the_square_root_of_their_size() -> None:
    many = [replace(case, group=0) for case in blob_cases(9, (16, 16, 16))]
    few = [replace(case, group=1) for case in blob_cases(1, (16, 16, 16), seed=20)]
    sampler = PatchSampler([*many, *few], [], (16, 16, 16))
    rng = np.random.default_rng(0)
    drawn = [case.group for _ in range(200) for case in patch_sampler._choose(sampler.labelled, 3, rng)]
    assert np.mean(drawn) == pytest.approx(1 / (3 + 1), abs=0.05)
    seen = {case.id for _ in range(200) for case in patch_sampler._choose(sampler.labelled, 2, rng)}
    assert len(seen) == 10


@pytest.mark.parametrize("patch", [(16, 16, 16), (1, 16, 16)])
def test_another_field_of_view_only_shifts_and_scales_intensities(patch: tuple[int, int, int]) -> None:
    case = blob_cases(1, (24, 40, 40))[0]
    plain = PatchSampler([case], [], patch, other_fields=False)
    other = PatchSampler([case], [], patch, other_fields=True)
    changed = 0
    for seed in range(8):
        a, b = (sampler.batch(1, 0, np.random.default_rng(seed)) for sampler in (plain, other))
        assert torch.equal(a.label, b.label)
        known = a.label[0] != UNLABELLED
        x, y = a.image[0, 0][known], b.image[0, 0][known]
        slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
        torch.testing.assert_close(y, y.mean() + slope * (x - x.mean()), rtol=1e-4, atol=1e-4)
        assert slope > 0
        changed += not torch.allclose(x, y, atol=1e-3)
    assert changed >= 7


@pytest.mark.parametrize("patch", [(40, 48, 48), (1, 64, 64)])
def test_batches_tell_which_voxels_lie_in_the_scan(patch: tuple[int, int, int]) -> None:
    case = blob_cases(1, (24, 40, 40))[0]
    sampler = PatchSampler([case], [], patch)
    for seed in range(4):
        batch = sampler.batch(1, 1, np.random.default_rng(seed))
        assert batch.inside is not None
        assert torch.equal(batch.inside[0], batch.label[0] != UNLABELLED) and not batch.inside.all(0).all()
        assert (batch.label[1] == UNLABELLED).all() and 0.05 < batch.inside[1].float().mean() < 0.9


def test_another_field_ends_in_air_beyond_the_scan_alone() -> None:
    case = blob_cases(1, (24, 40, 40))[0]
    assert case.label is not None
    part = replace(case, label=torch.where(case.label == 1, 1, UNLABELLED).to(torch.uint8))
    plain, other = (PatchSampler([part], [], (32, 48, 48), other_fields=fields) for fields in (False, True))
    in_air = set()
    for seed in range(8):
        for counts in ((1, 0), (0, 1)):  # a labelled patch, and one whose label is hidden
            a, b = (sampler.batch(*counts, np.random.default_rng(seed)) for sampler in (plain, other))
            assert a.inside is not None
            x, y = a.image[0, 0][a.inside[0]], b.image[0, 0][a.inside[0]]
            slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
            torch.testing.assert_close(y, y.mean() + slope * (x - x.mean()), rtol=1e-4, atol=1e-4)
            beyond = b.image[0, 0][~a.inside[0]]
            in_air.add(bool(beyond.max() - beyond.min() < 1e-6 and beyond.max() <= y.min() + 1e-6))
    assert in_air == {False, True}, "in half of the patches the border of the scan goes on"


def test_augmentation_across_scanners_also_changes_the_order_of_grey_levels() -> None:
    torch.manual_seed(0)
    image = torch.zeros(40, 1, 32, 32)
    image[..., 16:] = 3
    image = image + 0.1 * torch.randn_like(image)
    changed = intensities(image, np.random.default_rng(0), cross_scanner=True)
    assert changed.isfinite().all()
    halves = changed.flatten(1, -2).mean(1)
    darker = int((halves[:, -2] < halves[:, 1]).sum())
    assert 1 <= darker < 20  # of 40: now and then, not always
