"""The area that a stroke covers in a slice view, without overlaps, so that it can be drawn semi-transparent."""

from __future__ import annotations

import numpy as np
import vtk
from vtk.util import numpy_support

_CELL_PX = 2  # finer steps are not visible


class BrushOutline:
    """The section of a stroke's balls with a slice, as rows of pixels.

    Attributes
    ----------
    mesh : vtkPolyData
        In pixels of the view.
    """

    def __init__(self) -> None:
        self.mesh = vtk.vtkPolyData()
        self._covered = np.zeros((0, 0), bool)

    def clear(self, width: int, height: int) -> None:
        """Nothing is covered, in a view of this size."""
        self._covered = np.zeros((height // _CELL_PX + 1, width // _CELL_PX + 1), bool)
        self.mesh.Initialize()

    def add(self, discs: np.ndarray) -> None:
        """Cover discs: (n, 3) of x, y and radius in pixels; those of radius 0 or less are not in the slice."""
        for x, y, radius in discs / _CELL_PX:
            if radius > 0:
                self._disc(x, y, max(radius, 0.5))
        self._draw()

    def _disc(self, x: float, y: float, radius: float) -> None:
        rows, columns = self._covered.shape
        low_y, high_y = max(0, int(y - radius)), min(rows, int(y + radius) + 1)
        low_x, high_x = max(0, int(x - radius)), min(columns, int(x + radius) + 1)
        if low_y >= high_y or low_x >= high_x:
            return
        away_y = np.arange(low_y, high_y)[:, None] + 0.5 - y
        away_x = np.arange(low_x, high_x) + 0.5 - x
        self._covered[low_y:high_y, low_x:high_x] |= away_y**2 + away_x**2 <= radius**2

    def _draw(self) -> None:
        """One rectangle for each run of covered cells in a row."""
        padded = np.pad(self._covered, ((0, 0), (1, 1))).astype(np.int8)
        steps = np.diff(padded, axis=1)
        row, begins = np.nonzero(steps > 0)
        _row, ends = np.nonzero(steps < 0)
        corners = np.stack(
            [np.stack(corner, axis=1) for corner in ((begins, row), (ends, row), (ends, row + 1), (begins, row + 1))],
            axis=1,
        )
        points = np.zeros((4 * len(row), 3), np.float32)
        points[:, :2] = _CELL_PX * corners.reshape(-1, 2)
        vertices = vtk.vtkPoints()
        vertices.SetData(numpy_support.numpy_to_vtk(points, deep=True))
        cells = vtk.vtkCellArray()
        offsets = np.arange(0, 4 * len(row) + 1, 4, dtype=np.int64)
        cells.SetData(
            numpy_support.numpy_to_vtkIdTypeArray(offsets, deep=True),
            numpy_support.numpy_to_vtkIdTypeArray(np.arange(4 * len(row), dtype=np.int64), deep=True),
        )
        self.mesh.SetPoints(vertices)
        self.mesh.SetPolys(cells)
        self.mesh.Modified()
