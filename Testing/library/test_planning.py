"""What data sets of each kind are planned to be trained as."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from small_data import LPS, stored_otherwise

from mper.nets.registry import find_backbones
from mper.training.planning import Plan, plan
from mper.volume import Geometry, Volume


def scans(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float] | None, count: int = 3, level: float = 0.0
) -> list[Volume]:
    """Scans of one size; their voxels hold `level` alone (planning looks at values of CT only)."""
    geometry = Geometry.unknown(shape) if spacing_mm is None else Geometry.from_axes((0, 0, 0), spacing_mm, LPS, shape)
    return [Volume(np.broadcast_to(np.float32(level), shape), geometry)] * count


def planned(images: list[Volume], recipe: str = "plus", network: str | None = None, **more: object) -> Plan:
    if network is not None:
        more["kinds"] = {n: entry.kind for n, entry in find_backbones(network).items()}
    return plan(images, [None] * len(images), recipe, **more)  # type: ignore[arg-type]


LEFT_ATRIUM = scans((88, 195, 142), (0.625, 0.625, 0.625))
SHORT_AXIS = scans((9, 216, 256), None)


def test_left_atrium_is_a_volume_at_one_millimetre_in_large_patches() -> None:
    found = planned(LEFT_ATRIUM)
    assert found.network == "vnet"
    assert found.preprocessing.spacing_mm == (1.0, 1.0, 1.0) and found.preprocessing.in_plane_pixels is None
    assert found.preprocessing.assumed_spacing_mm == (0.625, 0.625, 0.625)
    assert found.preprocessing.normalisation == "zscore"
    assert found.patch == (48, 128, 96)  # of 55 x 122 x 89 working voxels


def test_paper_takes_the_left_atrium_as_it_is_in_the_published_patch() -> None:
    found = planned(LEFT_ATRIUM, "paper")
    assert (found.network, found.patch) == ("vnet", (80, 112, 112))
    assert found.preprocessing.spacing_mm == (0.625, 0.625, 0.625)


def test_thick_slices_of_unknown_spacing_are_segmented_one_by_one() -> None:
    found = planned(SHORT_AXIS)
    assert (found.network, found.patch) == ("unet", (1, 192, 224))
    assert found.preprocessing.in_plane_pixels == 224
    assert found.preprocessing.spacing_mm is None and found.preprocessing.assumed_spacing_mm is None


def test_paper_takes_slices_at_256_pixels() -> None:
    found = planned(SHORT_AXIS, "paper")
    assert (found.network, found.patch, found.preprocessing.in_plane_pixels) == ("unet", (1, 256, 256), 256)


def test_thick_slices_of_known_spacing_keep_their_number() -> None:
    found = planned(scans((12, 256, 256), (8.0, 1.25, 1.25)))
    assert found.network == "unet" and found.patch[0] == 1
    assert found.preprocessing.spacing_mm == (8.0, 1.25, 1.25)


def test_slices_finer_than_a_millimetre_are_not_worked_on_finer() -> None:
    assert planned(scans((12, 256, 256), (8.0, 0.7, 0.7))).preprocessing.spacing_mm == (8.0, 1.0, 1.0)


def test_volume_coarser_than_a_millimetre_stays_coarse() -> None:
    assert planned(scans((60, 100, 100), (2.0, 1.5, 0.8))).preprocessing.spacing_mm == (2.0, 1.5, 1.0)


def test_many_slices_of_unknown_spacing_are_a_volume_as_it_comes() -> None:
    found = planned(scans((60, 96, 96), None))
    assert (found.network, found.patch) == ("vnet", (64, 96, 96))
    assert found.preprocessing.spacing_mm is None and found.preprocessing.in_plane_pixels is None


def test_one_scan_of_unknown_spacing_makes_spacing_unknown() -> None:
    found = planned([*LEFT_ATRIUM, *scans((88, 195, 142), None, count=1)])
    assert found.preprocessing.spacing_mm is None and found.preprocessing.assumed_spacing_mm is None


def test_spacing_is_the_median() -> None:
    images = [*scans((60, 96, 96), (2.0, 2.0, 2.0), 2), *scans((60, 96, 96), (4.0, 2.0, 1.5), 1)]
    assert planned(images).preprocessing.spacing_mm == (2.0, 2.0, 2.0)


def test_patch_is_never_too_large_nor_too_small_for_the_network() -> None:
    rng = np.random.default_rng(0)
    for _ in range(15):
        k, j, i = (int(n) for n in np.exp(rng.uniform(np.log((1, 10, 10)), np.log((250, 400, 400)))))
        for network, limit in (("vnet", 600_000), ("unet", 224 * 224)):
            patch = planned(scans((k, j, i), (1.0, 1.0, 1.0), 1), network=network).patch
            sides = patch if network == "vnet" else patch[1:]
            assert np.prod(patch) <= limit and all(n >= 16 and n % 16 == 0 for n in sides) and max(sides[-2:]) >= 32
            assert network == "vnet" or patch[0] == 1


def ct() -> tuple[list[Volume], list[np.ndarray | None]]:
    """Air at -1000, tissue at 40, a structure of 100 to 300 HU in half of the scans."""
    (image,) = scans((40, 60, 60), (1.5, 1.0, 1.0), 1, level=-1000)
    array = image.array.copy()
    array[5:35, 10:50, 10:50] = 40
    mask = np.zeros(array.shape, dtype=np.uint8)
    mask[10:20, 20:30, 20:30] = 1
    array[mask == 1] = np.linspace(100, 300, int(mask.sum()))
    mask[0] = 255
    return [image.with_array(array)] * 2, [mask, None]


def test_ct_gets_the_window_of_its_labelled_structures_and_half_of_it_more() -> None:
    found = plan(*ct(), "plus").preprocessing
    assert found.normalisation == "window" and found.window is not None
    assert found.window == pytest.approx((0, 400), abs=3)


def test_window_that_the_user_knows_better_wins() -> None:
    assert plan(*ct(), "plus", (-50, 50)).preprocessing.window == (-50, 50)
    assert planned(LEFT_ATRIUM, window=(0.0, 9.0)).preprocessing.normalisation == "window"


def test_ct_without_a_labelled_voxel_is_normalised_like_mr() -> None:
    images, _ = ct()
    assert planned(images).preprocessing.normalisation == "zscore"


def test_network_that_the_user_wants_wins() -> None:
    assert planned(LEFT_ATRIUM, network="unet").patch[0] == 1
    assert planned(SHORT_AXIS, network="vnet").network == "vnet"


def test_a_backbone_for_volumes_and_slices_takes_what_the_scans_are() -> None:
    assert planned(LEFT_ATRIUM, network="resenc").network == "resenc"
    assert planned(SHORT_AXIS, network="resenc").network == "resenc2d"
    assert planned(SHORT_AXIS, network="unet3d").patch[0] > 1
    with pytest.raises(ValueError, match="unknown backbone 'resenc2d'; known are vnet"):
        planned(LEFT_ATRIUM, network="resenc2d")


ORDERS = [
    (axes, flips)
    for axes in itertools.permutations(range(3))
    for n in range(4)
    for flips in itertools.combinations(range(3), n)
]


@pytest.mark.parametrize("recipe", ["plus", "paper"])
@pytest.mark.parametrize(
    ("shape", "spacing_mm", "expected"),
    [
        ((60, 200, 180), (2.4, 0.8, 0.8), (2.4, 1.0, 1.0)),
        ((150, 160, 50), (0.8, 0.8, 2.4), (1.0, 1.0, 2.4)),  # a sagittal scan, its slices along the patient's i
        ((12, 256, 240), (8.0, 1.25, 1.25), (8.0, 1.25, 1.25)),
    ],
)
def test_the_plan_is_the_same_in_each_of_the_48_orders_of_axes(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    expected: tuple[float, float, float],
    recipe: str,
) -> None:
    scan = scans(shape, spacing_mm, 1)[0]
    found = {planned([stored_otherwise(scan, axes, flips)], recipe) for axes, flips in ORDERS}
    assert len(ORDERS) == 48 and len(found) == 1
    if recipe == "plus":
        assert found.pop().preprocessing.spacing_mm == expected
