"""Surfaces that `mper measure` writes, loaded by 3D Slicer's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mper.io.surfaces import SURFACE_ENDINGS, write_surface
from mper.measurement.surface import extract_surface
from mper.volume import Geometry


@pytest.mark.parametrize("ending", SURFACE_ENDINGS)
def test_slicer_places_a_surface_where_its_mask_is(scene: Any, tmp_path: Path, ending: str) -> None:
    geometry = Geometry.from_axes((30, -40, 500), (2.0, 1.0, 1.0), np.eye(3)[:, ::-1], (12, 24, 24))
    mask = np.zeros(geometry.shape, bool)
    mask[3:9, 4:20, 6:18] = True
    write_surface(tmp_path / f"wall{ending}", extract_surface(mask, geometry))
    model = scene.AddNewNodeByClass("vtkMRMLModelNode")
    storage = scene.AddNewNodeByClass("vtkMRMLModelStorageNode")
    storage.SetFileName(str(tmp_path / f"wall{ending}"))
    assert storage.ReadData(model) == 1
    x, y, z = geometry.to_world(np.argwhere(mask).mean(axis=0))
    bounds = np.zeros(6)
    model.GetRASBounds(bounds)
    assert bounds.reshape(3, 2).mean(axis=1) == pytest.approx([-x, -y, z], abs=0.2)  # RAS
