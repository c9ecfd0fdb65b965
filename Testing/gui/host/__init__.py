"""A thin host of Slicer's Python API: real Qt (PySide6), real MRML (slicer-core), and just what MPER's modules use."""

from __future__ import annotations

import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

_running: Any = None


def start() -> Any:
    """Make ``qt``, ``ctk`` and the rest of ``slicer`` importable, once in a process; returns the `Host`.

    In a real Slicer all of that is there, and what is returned speaks to it.
    """
    global _running
    if _running is not None:
        return _running
    if "qt" in sys.modules and hasattr(sys.modules.get("slicer"), "app"):
        from .real import Slicer

        _running = Slicer()
        return _running
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    import slicer
    import slicer.util

    from . import application, ctk, mrml_widgets, qt, scripted, segment_editor, uiloader, views
    from .pythonqt import wrapper_of

    for name in list(vars(slicer.util)):  # the wheel shows them in both places, Slicer in slicer.util alone
        if not name.startswith("__") and getattr(slicer, name, None) is getattr(slicer.util, name):
            delattr(slicer, name)
    widgets = mrml_widgets.WIDGETS | {"qMRMLSegmentEditorWidget": segment_editor.qMRMLSegmentEditorWidget}
    loader = uiloader.loader_class(ctk.WIDGETS | widgets)
    sys.modules["qt"] = qt.QtModule({"QUiLoader": loader})
    sys.modules["ctk"] = ctk_module = types.ModuleType("ctk")
    for name, raw in ctk.WIDGETS.items():
        setattr(ctk_module, name, wrapper_of(raw))
    shown = [*widgets.values(), views.qMRMLSliceWidget, views.qMRMLThreeDWidget, views.qMRMLPlotWidget]
    shown += [application.qSlicerScriptedLoadableModule, application.qSlicerScriptedLoadableModuleWidget]
    for raw in shown:
        setattr(slicer, raw.__name__, wrapper_of(raw))
    for name, module in scripted.modules().items():
        sys.modules[name] = module
        setattr(slicer, name.rpartition(".")[2], module)
    _running = application.Host(Path(tempfile.mkdtemp(prefix="mper-host-")))
    return _running
