"""Figures of a left atrium: phantoms with values by formula, invariances, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from phantoms import BLOOD, BRIGHT, RADIUS, SPACINGS, THICKNESS, TURN, atrium, ball, grid, positions

from mper.labels import Segmentation, make_label
from mper.measurement.atrium import Atrium, measure_atrium, sphericity, stages
from mper.measurement.case import measure_case
from mper.measurement.clipping import ClipPlane, ClipSphere, clips_from_dicts, read_clips, write_clips
from mper.measurement.figures import body_surface_m2, with_ranges
from mper.measurement.surface import extract_surface, is_stack
from mper.measurement.wall import WallSettings, blood_pool, otsu, shell
from mper.volume import Geometry, Volume

MEAN = WallSettings(sampling="mean")


def values(found: Atrium) -> dict[str, float | None]:
    return {figure.key: figure.value for figure in found.figures}


def value(found: Atrium, key: str) -> float:
    number = values(found)[key]
    assert number is not None
    return number


@pytest.fixture(scope="module", params=SPACINGS, ids=str)
def phantom(request: pytest.FixtureRequest) -> Atrium:
    mask, scan = atrium(grid(RADIUS + 6, request.param, TURN, (30, -40, 500)), centre=(30, -40, 500))
    return measure_atrium(mask, scan.geometry, scan, body_m2=2.0)


def test_volume_of_a_ball_is_within_half_a_percent(phantom: Atrium) -> None:
    exact = 4 / 3 * math.pi * RADIUS**3 / 1000
    assert value(phantom, "la_volume") == pytest.approx(exact, rel=0.005)
    assert value(phantom, "la_volume_index") == value(phantom, "la_volume") / 2


def test_surface_of_a_ball_is_within_two_percent(phantom: Atrium) -> None:
    assert value(phantom, "la_wall_area") == pytest.approx(4 * math.pi * RADIUS**2, rel=0.02)


def test_shell_of_a_ball_is_within_two_percent(phantom: Atrium) -> None:
    exact = 4 / 3 * math.pi * ((RADIUS + THICKNESS) ** 3 - RADIUS**3) / 1000
    assert value(phantom, "la_shell_volume") == pytest.approx(exact, rel=0.02)


def test_a_ball_is_a_sphere_and_a_blood_pool_has_its_mean(phantom: Atrium) -> None:
    assert value(phantom, "la_sphericity") > 98
    assert value(phantom, "la_pool_mean") == BLOOD
    assert value(phantom, "la_pool_sd") == 0


def test_the_surface_has_the_distance_from_the_centroid(phantom: Atrium) -> None:
    assert phantom.surface is not None
    assert np.allclose(phantom.surface.scalars["distance"], RADIUS, atol=0.7)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_extent_at_a_threshold_is_the_share_of_the_wall_that_is_bright(share: float) -> None:
    mask, scan = atrium(grid(RADIUS + 6, (0.8, 0.8, 0.8), TURN), share)
    found = measure_atrium(mask, scan.geometry, scan)
    for key in ("la_iir_1_20_extent", "la_iir_1_32_extent", "la_otsu_extent"):
        assert value(found, key) == pytest.approx(100 * share, abs=1)
    assert value(found, "la_iir_1_61_extent") == 0


def test_each_threshold_finds_what_is_brighter_and_nothing_else() -> None:
    geometry = grid(RADIUS + 6)
    for ratio, above in ((0.9, 0), (1.1, 1), (1.25, 2), (1.45, 3), (1.8, 4)):
        mask, scan = atrium(geometry, 0.3, bright=ratio * BLOOD)
        found = measure_atrium(mask, geometry, scan, settings=MEAN)
        extents = [value(found, f"la_iir_{number}_extent") for number in ("0_97", "1_20", "1_32", "1_61")]
        assert [extent > 25 for extent in extents] == [number < above for number in range(4)]


def test_mean_plus_sd_thresholds_are_those_of_the_blood_pool() -> None:
    geometry = grid(RADIUS + 6)
    mask, scan = atrium(geometry)
    noisy = Volume(np.where(mask, np.random.default_rng(0).normal(BLOOD, 10, mask.shape), scan.array), geometry)
    wall = measure_atrium(mask, geometry, noisy).wall
    assert wall is not None
    assert wall.pool_sd == pytest.approx(10, rel=0.05)
    limits = {each.parameter: each.threshold for each in wall.extents if each.method == "SD"}
    assert limits == {n: pytest.approx(wall.pool_mean + n * wall.pool_sd) for n in (2, 3, 3.3, 4)}


def test_figures_do_not_depend_on_origin_axis_order_or_direction_of_the_axes() -> None:
    geometry = grid(RADIUS + 5, SPACINGS[1], TURN)
    mask, scan = atrium(geometry)
    here = values(measure_atrium(mask, geometry, scan))
    moved = replace(
        geometry, affine=geometry.affine + np.array([[0, 0, 0, 800], [0, 0, 0, -60], [0, 0, 0, 7], [0] * 4])
    )
    other = geometry.reordered((2, 0, 1), (1,))
    turned_mask, turned_scan = (np.flip(a.transpose(2, 0, 1), 1) for a in (mask, scan.array))
    for found in (
        measure_atrium(mask, moved, Volume(scan.array, moved)),
        measure_atrium(turned_mask, other, Volume(turned_scan, other)),
    ):
        assert values(found) == {key: pytest.approx(number, rel=2e-3, abs=0.05) for key, number in here.items()}


def test_figures_do_not_depend_on_rotation_of_the_patient() -> None:
    straight, turned = (grid(RADIUS + 5, (1.0, 1.0, 1.0), angles) for angles in ((0, 0, 0), TURN))
    one, other = (
        values(measure_atrium(mask, scan.geometry, scan)) for mask, scan in (atrium(straight), atrium(turned))
    )
    assert one["la_volume"] == pytest.approx(other["la_volume"], rel=0.002)
    assert one["la_wall_area"] == pytest.approx(other["la_wall_area"], rel=0.005)
    for key in ("la_iir_1_20_extent", "la_otsu_extent"):
        assert one[key] == pytest.approx(other[key], abs=1)


def test_ratios_do_not_depend_on_the_scale_of_intensities() -> None:
    geometry = grid(RADIUS + 5)
    mask, scan = atrium(geometry)
    one = values(measure_atrium(mask, geometry, scan))
    seven = values(measure_atrium(mask, geometry, Volume(7 * scan.array, geometry)))
    for key, number in one.items():
        if "iir" in key or "sd_" in key or "otsu" in key:
            assert seven[key] == pytest.approx(number, abs=1e-6)


def test_an_ellipsoid_has_the_sphericity_of_its_radii() -> None:
    geometry = grid(32, (1.0, 1.0, 1.0))
    axes = np.array([28.0, 20.0, 16.0])
    mask = ((positions(geometry) / axes) ** 2).sum(-1) <= 1
    rng = np.random.default_rng(1)
    unit = rng.normal(size=(200_000, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    area = np.linalg.norm(unit / axes, axis=1)  # of an ellipsoid's surface for each point of a sphere's
    assert value(measure_atrium(mask, geometry), "la_sphericity") == pytest.approx(
        sphericity(unit * axes, area, (0, 0, 0)), abs=0.5
    )


TUBE = 6.0
HEIGHT = math.sqrt(RADIUS**2 - TUBE**2)  # where a tube of that radius leaves the ball
VEIN = ClipPlane("vein", (HEIGHT, 0, 0), (1, 0, 0), 10)


@pytest.fixture(scope="module")
def with_vein() -> tuple[np.ndarray, Geometry]:
    geometry = grid(RADIUS + 14, (1.0, 1.0, 1.0))
    x, y, z = np.moveaxis(positions(geometry), -1, 0)
    return ball(geometry) | ((np.hypot(y, z) <= TUBE) & (x > 0) & (x < RADIUS + 12)), geometry


def test_a_clipped_vein_leaves_the_ball_without_its_cap(with_vein: tuple[np.ndarray, Geometry]) -> None:
    found = measure_atrium(*with_vein, clips=[VEIN])
    cap = RADIUS - HEIGHT
    ml = (4 / 3 * math.pi * RADIUS**3 - math.pi * cap**2 * (3 * RADIUS - cap) / 3) / 1000
    assert value(found, "la_volume") == pytest.approx(ml, rel=0.005)
    assert value(found, "la_wall_area") == pytest.approx(4 * math.pi * RADIUS**2 - 2 * math.pi * RADIUS * cap, rel=0.02)
    assert value(found, "la_sphericity") > 98


def test_the_shell_is_open_where_a_vein_was_clipped(with_vein: tuple[np.ndarray, Geometry]) -> None:
    mask, geometry = with_vein
    found = measure_atrium(mask, geometry, clips=[VEIN])
    assert found.surface is not None
    wall = found.surface.scalars["wall"] > 0
    x, y, z = np.moveaxis(positions(geometry), -1, 0)
    beyond = shell(found.surface, wall, found.kept, geometry, THICKNESS)[(x > HEIGHT + 2) & (np.hypot(y, z) < TUBE)]
    assert not beyond.any()


def test_a_disc_leaves_the_opposite_wall_alone_and_a_plane_without_radius_does_not() -> None:
    geometry = grid(26)
    x, y, _ = np.moveaxis(positions(geometry), -1, 0)
    mask = (np.abs(x) < 24) & (np.hypot(y - 10 * np.sign(x), positions(geometry)[..., 2]) < 5) & (np.abs(x) > 4)
    mask |= (np.abs(x) <= 6) & (np.abs(y) < 18) & (np.abs(positions(geometry)[..., 2]) < 6)
    mask |= (x > 0) & (x < 24) & (np.hypot(y + 10, positions(geometry)[..., 2]) < 5)
    disc = ClipPlane("vein", (8, 10, 0), (1, 0, 0), 8)
    one = measure_atrium(mask, geometry, clips=[disc]).kept
    both = measure_atrium(mask, geometry, clips=[replace(disc, radius_mm=None)]).kept
    assert not one[(x > 8) & (y > 0)].any() and one[(x > 8) & (y < 0)].any()
    assert not both[x > 8].any()


def test_what_a_sphere_cuts_off_is_removed_with_it(with_vein: tuple[np.ndarray, Geometry]) -> None:
    mask, geometry = with_vein
    kept = measure_atrium(mask, geometry, clips=[ClipSphere("vein", (25, 0, 0), 7)]).kept
    assert not kept[positions(geometry)[..., 0] > 29].any()


def test_clips_survive_their_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("clips") / "Vorhof größer.json"
    clips = (VEIN, ClipPlane("mitral valve", (1, 2, 3), (0, 0, -1)), ClipSphere("LAA", (1.5, 2, 3), 4))
    write_clips(path, clips)
    assert read_clips(path) == clips


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"kind": "cube"}], 'clip 1 has no kind; expected "kind": "plane" or "sphere"'),
        ([{"kind": "plane", "normal": [0, 0, 1]}], "clip 1, a plane, lacks point_mm"),
        ([{"kind": "sphere", "center_mm": [0, 0], "radius_mm": 3}], "position that is not three numbers"),
        ([{"kind": "sphere", "center_mm": [0, 0, 0], "radius_mm": -3}], "must be above zero"),
        ([{"kind": "plane", "point_mm": [0, 0, 0], "normal": [0, 0, 0]}], "normal of length zero"),
        ([{"kind": "sphere", "name": "a", "center_mm": [0, 0, 0], "radius_mm": 3}] * 2, "two clips have the name 'a'"),
    ],
    ids=str,
)
def test_a_bad_clip_is_refused(entries: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clips_from_dicts(entries)


def test_a_clip_that_removes_nothing_or_everything_is_refused() -> None:
    geometry = grid(12)
    mask = ball(geometry, 8)
    with pytest.raises(ValueError, match="the clip 'vein' removes no voxel of the mask"):
        measure_atrium(mask, geometry, clips=[VEIN])
    with pytest.raises(ValueError, match=r"the clips \(all\) remove the whole mask"):
        measure_atrium(mask, geometry, clips=[ClipSphere("all", (0, 0, 0), 20)])


def test_other_components_are_left_out_and_said() -> None:
    geometry = grid(26)
    mask = ball(geometry, 12) | ball(geometry, 3, (20, 0, 0))
    found = measure_atrium(mask, geometry)
    assert value(found, "la_volume") == value(measure_atrium(ball(geometry, 12), geometry), "la_volume")
    assert found.notes == ("the mask has 2 components; the largest is measured, the others (0.12 mL) are left out",)


def test_thick_slices_are_a_stack_without_surface() -> None:
    geometry = grid(RADIUS + 12, (10.0, 1.4, 1.4))
    assert is_stack(geometry) and not is_stack(grid(10, (2.5, 0.625, 0.625)))
    found = measure_atrium(ball(geometry), geometry, Volume(np.ones(geometry.shape), geometry))
    assert value(found, "la_volume") == pytest.approx(np.count_nonzero(ball(geometry)) * 10 * 1.4**2 / 1000)
    assert values(found)["la_wall_area"] is None and found.surface is None
    assert "10 mm apart" in found.notes[0]


def test_unknown_spacing_other_grids_and_empty_masks_are_refused() -> None:
    geometry = grid(12)
    mask = ball(geometry, 8)
    with pytest.raises(ValueError, match="spacing of the mask is unknown"):
        measure_atrium(mask, Geometry.unknown(mask.shape))
    with pytest.raises(ValueError, match="lie on different grids"):
        measure_atrium(mask, geometry, Volume(np.ones(mask.shape), grid(12, centre=(0, 0, 5))))
    with pytest.raises(ValueError, match="the mask is empty"):
        measure_atrium(np.zeros_like(mask), geometry)


def test_a_mask_without_a_cavity_has_a_volume_and_no_wall() -> None:
    geometry = grid(RADIUS + 6)
    hollow = ball(geometry) & ~ball(geometry, RADIUS - 3)
    found = measure_atrium(hollow, geometry, Volume(np.ones(geometry.shape), geometry))
    assert value(found, "la_volume") > 0 and found.wall is None
    assert "the mask has no cavity" in found.notes[0]


def test_a_wall_that_leaves_the_scan_is_said() -> None:
    geometry = grid(RADIUS + 6)
    mask, scan = atrium(geometry)
    window = (0, 0, 10), geometry.shape  # the ball ends where the scan does
    part = Volume(scan.array, geometry).crop(*window)
    found = measure_atrium(mask[:, :, 10:], part.geometry, part)
    assert found.wall is not None and 1 < found.wall.outside_percent < 40
    assert "% of the wall lies outside the scan" in found.notes[-1]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.4, 0.8, 0.8)], ids=str)
def test_the_face_at_which_the_scan_cuts_an_atrium_is_no_wall(spacing: tuple[float, float, float]) -> None:
    whole = grid(RADIUS + 6, spacing)
    start = (whole.shape[0] // 2, 0, 0)  # the first slice goes through the middle of the ball
    mask, scan = atrium(whole)
    mask, part = mask[start[0] :], scan.crop(start, whole.shape)
    found = measure_atrium(mask, part.geometry, part)
    in_scan = 2 * math.pi * RADIUS * (RADIUS + spacing[0] / 2)
    assert value(found, "la_wall_area") == pytest.approx(in_scan, rel=0.03)
    assert found.wall is not None and found.wall.area_mm2 == pytest.approx(value(found, "la_wall_area"), rel=0.02)
    outer, half = RADIUS + THICKNESS, spacing[0] / 2
    shell_mm3 = 2 / 3 * math.pi * (outer**3 - RADIUS**3) + math.pi * (outer**2 - RADIUS**2) * half
    assert value(found, "la_shell_volume") == pytest.approx(shell_mm3 / 1000, rel=0.04)
    assert values(found)["la_sphericity"] is None
    assert "volume is a lower bound" in found.notes[0]
    methods = {figure.key: figure.method for figure in found.figures}
    assert "border of the scan left out" in methods["la_wall_area"]
    clipped = measure_atrium(mask, part.geometry, clips=[ClipPlane("vein", (0, 0, 6), (0, 0, -1))])
    assert clipped.notes == () and value(clipped, "la_sphericity") > 50, "what the clip leaves is not cut"
    cropped = measure_atrium(mask, part.geometry, whole_scan=False)
    assert cropped.notes == () and value(cropped, "la_wall_area") > in_scan + 0.9 * math.pi * RADIUS**2


def test_a_thick_stack_that_the_scan_cuts_says_that_its_volume_is_a_lower_bound() -> None:
    geometry = grid(RADIUS + 12, (10.0, 1.4, 1.4))
    mask = ball(geometry)
    assert not any("lower bound" in note for note in measure_atrium(mask, geometry).notes)
    middle = geometry.shape[0] // 2
    found = measure_atrium(mask[middle:], geometry.crop((middle, 0, 0), geometry.shape))
    assert "lower bound" in found.notes[0]


def test_the_grid_of_a_file_that_is_cropped_to_its_mask_is_not_the_border_of_a_scan() -> None:
    geometry = grid(RADIUS)
    mask = Segmentation(Volume(ball(geometry).astype(np.uint8), geometry), (make_label(1, "LA"),))
    assert not any("lower bound" in note for note in measure_case([mask]).notes)
    scan = Volume(np.where(ball(geometry), BLOOD, BRIGHT), geometry)
    assert any("lower bound" in note for note in measure_case([mask], scan).notes)


def test_a_wall_is_bright_by_its_mean_or_its_maximum() -> None:
    geometry = grid(RADIUS + 6)
    radius = np.linalg.norm(positions(geometry), axis=-1)
    scan = Volume(np.where(radius <= RADIUS, BLOOD, np.where(radius < RADIUS + 1.5, BRIGHT, 0)), geometry)
    by_mean, by_max = (
        value(measure_atrium(ball(geometry), geometry, scan, settings=WallSettings(sampling=how)), "la_iir_1_20_extent")
        for how in ("mean", "max")
    )
    assert by_mean == 0 and by_max > 95


def test_the_blood_pool_keeps_its_distance() -> None:
    geometry = grid(14, (0.5, 0.5, 0.5))
    pool = blood_pool(ball(geometry, 12), geometry, 2.0)
    radius = np.linalg.norm(positions(geometry), axis=-1)[pool].max()
    assert radius == pytest.approx(10, abs=0.4)


@pytest.mark.parametrize("steps", [(2.5, 0.625, 0.625), (0.625, 3.0, 1.0), (1.25, 0.5, 2.0)])
def test_the_blood_pool_keeps_its_distance_from_every_side_of_a_block(steps: tuple[float, float, float]) -> None:
    block = np.zeros((40, 40, 40), bool)
    block[5:35, 5:35, 5:35] = True
    pool = blood_pool(block, Geometry.from_axes((0, 0, 0), steps, np.eye(3)[:, ::-1], block.shape), 2.0)
    for axis, step in enumerate(steps):
        inside = np.flatnonzero(pool.any(axis=tuple(other for other in range(3) if other != axis)))
        kept = inside[0] - 5 + 0.5  # voxels between the surface and the centre of the outermost one
        assert (kept - 1) * step <= 2.0 < kept * step and inside[-1] == 39 - inside[0]


def test_the_median_of_the_wall_is_that_of_its_area_on_every_grid() -> None:
    found = []
    for spacing in ((1.0, 1.0, 1.0), (2.4, 0.8, 0.8)):
        geometry = grid(23, spacing)
        places = positions(geometry)
        radius = np.maximum(np.linalg.norm(places, axis=-1), 1e-6)
        scan = np.where(radius <= 17, 100, 100 + 100 * np.abs(places[..., 2]) / radius)
        mask = ball(geometry, 17)
        found.append(value(measure_atrium(mask, geometry, Volume(scan, geometry)), "la_wall_iir_median"))
    assert found[0] == pytest.approx(found[1], abs=0.03)
    assert found[0] == pytest.approx(1.5, abs=0.03)  # |cos| is uniform over the area of a sphere


def test_otsu_parts_two_groups_by_area() -> None:
    numbers = np.concatenate([np.full(50, 10.0), np.full(50, 30.0)])
    assert otsu(numbers, np.ones(100)) == pytest.approx(20, abs=0.2)


def test_the_surface_is_closed_and_holds_the_volume_of_its_mask() -> None:
    geometry = grid(14, (1.25, 0.625, 0.625), TURN)
    mask = ball(geometry, 12)
    surface = extract_surface(mask, geometry)
    voxel_mm3 = float(np.prod(geometry.step_lengths))
    assert surface.volume_mm3() == pytest.approx(np.count_nonzero(mask) * voxel_mm3, rel=0.01)
    assert (np.einsum("ni,ni->n", surface.normals, surface.points_mm) > 0).all()
    edges = np.sort(surface.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


@pytest.mark.parametrize(
    ("percent", "decaaf", "utah"),
    [(0, 1, 1), (5, 1, 1), (5.1, 1, 2), (10, 2, 2), (20, 3, 2), (30, 4, 3), (35, 4, 3), (35.1, 4, 4)],
)
def test_stages_are_those_of_their_schemes(percent: float, decaaf: int, utah: int) -> None:
    assert stages(percent) == {"DECAAF 2014": f"{decaaf} of 4", "Utah 2010": f"{utah} of 4"}


def test_body_surface_follows_mosteller_and_refuses_other_units() -> None:
    assert body_surface_m2(180, 80) == pytest.approx(2.0)
    with pytest.raises(ValueError, match=r"a height of 1\.8 cm is not a person's"):
        body_surface_m2(1.8, 80)


def test_a_range_holds_the_value_and_those_of_the_other_masks() -> None:
    geometry = grid(16)
    small, middle, large = (measure_atrium(ball(geometry, r), geometry).figures for r in (9, 10, 11))
    volume = with_ranges(middle, [small, large])[0]
    assert volume.range == (small[0].value, large[0].value)
