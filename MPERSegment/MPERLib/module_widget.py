"""The widget class that both modules derive theirs from."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic, ScriptedLoadableModuleWidget


class ModuleWidget(ScriptedLoadableModuleWidget):
    """Makes the panel when the module is first opened, and calls it when the user opens and leaves the module.

    Attributes
    ----------
    package : str
        The module's own package, with a class ``ModulePanel`` in ``module_panel``; set by the derived class.
    panel : ModulePanel or None
    """

    package = ""

    def __init__(self, parent: Any = None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        self.logic: ScriptedLoadableModuleLogic | None = None
        self.panel: Any = None
        self._heights: Any = None

    def makeLogic(self) -> ScriptedLoadableModuleLogic:
        """The module's logic, which has its parameter node."""
        raise NotImplementedError

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        # Slicer runs the module's file at its start. What the panel needs is imported here, so that the start does not
        # wait for it, and so that Reload takes the files as they are now.
        panels = importlib.import_module(f"{self.package}.module_panel")
        widgets = importlib.import_module("MPERLib.widgets")
        uiWidget = slicer.util.loadUI(self.resourcePath(f"UI/{self.moduleName}.ui"))
        self.layout.addWidget(uiWidget)
        self._heights = widgets.HeightRefresher(self.parent)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = self.makeLogic()
        self.panel = panels.ModulePanel(uiWidget, self.logic)
        if self.parent.isEntered:  # reloaded
            self.enter()

    def cleanup(self) -> None:
        if self._heights is not None:
            self._heights.close()
        if self.panel is not None:
            self.panel.cleanup()

    def enter(self) -> None:
        if self.panel is not None:  # else its set-up failed, which Slicer has reported; other modules work on
            self.panel.enter()

    def exit(self) -> None:
        if self.panel is not None:
            self.panel.exit()

    def onReload(self) -> None:
        """Reload the module with its own package; MPERLib, which both modules share, stays loaded."""
        for name in [name for name in sys.modules if name.split(".")[0] == self.package]:
            del sys.modules[name]
        importlib.invalidate_caches()
        ScriptedLoadableModuleWidget.onReload(self)
