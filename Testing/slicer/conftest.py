"""Real MRML without Slicer's windows: the wheel `slicer-core`, and the modules' logic on it."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "MPERSegment"), str(Path(__file__).parent)]

try:
    import slicer
    import slicer.util
except ImportError:
    if os.environ.get("CI") == "true":
        raise
    slicer = None

if slicer is not None:
    try:
        import slicer.i18n
    except ImportError:  # slicer-core brings no translations: texts stand as they are, as in an English Slicer
        i18n = types.ModuleType("slicer.i18n")
        i18n.tr = lambda text: text  # type: ignore[attr-defined]
        sys.modules["slicer.i18n"] = slicer.i18n = i18n


class _Skipped(pytest.Module):
    def collect(self) -> Any:
        pytest.skip("needs 3D Slicer's MRML: pip install slicer-core", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    """Without Slicer's library the tests of its scene cannot even be imported."""
    needs_slicer = slicer is None and "slicer" in module_path.read_text(encoding="utf-8").split("import", 1)[1]
    return _Skipped.from_parent(parent, path=module_path) if needs_slicer else None


@pytest.fixture
def scene() -> Iterator[Any]:
    """An empty scene with the converters from masks to surfaces."""
    made = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(made)
    yield made
    made.Clear(1)
