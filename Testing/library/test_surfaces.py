"""Surfaces in files, read back by VTK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from phantoms import TURN, ball, grid

from mper.io.surfaces import SURFACE_ENDINGS, write_surface
from mper.measurement.surface import METHOD, Surface, extract_surface


@pytest.fixture(scope="module")
def surface() -> Surface:
    geometry = grid(10, (1.25, 0.625, 0.625), TURN, (300, -40, 5))
    made = extract_surface(ball(geometry, 8, (300, -40, 5)), geometry)
    iir = np.linspace(0.5, 1.5, len(made.points_mm))
    iir[0] = np.nan
    return made.with_scalars(iir=iir)


@pytest.mark.parametrize("ending", SURFACE_ENDINGS)
def test_vtk_reads_points_triangles_and_scalars_back(tmp_path: Path, surface: Surface, ending: str) -> None:
    vtk = pytest.importorskip("vtk", reason="reading back needs VTK: pip install vtk")
    from vtk.util.numpy_support import vtk_to_numpy

    path = tmp_path / f"Vorhof größer{ending}"
    write_surface(path, surface)
    reader = {".vtp": vtk.vtkXMLPolyDataReader, ".ply": vtk.vtkPLYReader, ".stl": vtk.vtkSTLReader}[ending]()
    reader.SetFileName(str(path))
    reader.Update()
    found = reader.GetOutput()
    assert found.GetNumberOfPolys() == len(surface.triangles)
    size = vtk.vtkMassProperties()
    size.SetInputData(found)
    assert size.GetSurfaceArea() == pytest.approx(surface.area_mm2(), rel=1e-4)
    assert size.GetVolume() == pytest.approx(surface.volume_mm3(), rel=1e-4)
    assert found.GetCenter() == pytest.approx((300, -40, 5), abs=0.1)
    if ending != ".stl":  # it has no scalars, and lists every corner by itself
        assert np.allclose(vtk_to_numpy(found.GetPoints().GetData()), surface.points_mm, atol=1e-3)
    if ending == ".vtp":
        scalars = vtk_to_numpy(found.GetPointData().GetArray("iir"))
        assert np.allclose(scalars, surface.scalars["iir"], atol=1e-6, equal_nan=True)
        assert found.GetFieldData().GetAbstractArray("SPACE").GetValue(0) == "LPS"


def test_ply_holds_scalars_as_properties_of_its_points(tmp_path: Path, surface: Surface) -> None:
    path = tmp_path / "wall.ply"
    write_surface(path, surface)
    head, _, body = path.read_bytes().partition(b"end_header\n")
    assert head.decode("ascii").count("property float") == 7
    points = np.frombuffer(body, "<f4", 7 * len(surface.points_mm)).reshape(-1, 7)
    assert np.allclose(points[:, 6], surface.scalars["iir"], atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("ending", SURFACE_ENDINGS)
def test_files_state_coordinates_and_smoothing(tmp_path: Path, surface: Surface, ending: str) -> None:
    write_surface(tmp_path / f"wall{ending}", surface)
    text = (tmp_path / f"wall{ending}").read_bytes()[:1000].decode("latin-1")
    assert "SPACE=LPS" in text and METHOD[:40] in text


def test_other_endings_and_empty_surfaces_are_refused(tmp_path: Path, surface: Surface) -> None:
    with pytest.raises(ValueError, match=r"its name must end in \.vtp, \.ply, \.stl"):
        write_surface(tmp_path / "wall.obj", surface)
    with pytest.raises(ValueError, match="the surface has no triangle"):
        write_surface(tmp_path / "wall.ply", surface.kept(np.zeros(len(surface.points_mm), bool)))
    assert not list(tmp_path.iterdir())
