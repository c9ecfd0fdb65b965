"""The same window in a real Slicer: what `SlicerWindow` asks of the host, asked of Slicer itself; see in_slicer.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import qt
import slicer


class Slicer:
    """A running Slicer with its main window."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self._ended: set[str] = set()
        sys.excepthook = self._keep  # PythonQt prints exceptions of callbacks through it

    def _keep(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        self.errors.append(error)
        sys.__excepthook__(kind, error, trace)

    def load(self, path: Path) -> None:
        """Load a scripted module, as the module paths of the settings would."""
        name = path.stem
        if slicer.app.moduleManager().module(name) is None:
            factory = slicer.app.moduleManager().factoryManager()
            factory.registerModule(qt.QFileInfo(str(path)))
            if not factory.loadModules([name]):
                raise RuntimeError(f"Slicer did not load {path}")

    def show(self, name: str) -> Any:
        """Select a module and return the Python widget of its panel."""
        if name in self._ended:  # a panel of its own for each test, set up when the test asks for it
            self._ended.remove(name)
            self._renew(name)
        slicer.util.selectModule(name)
        return slicer.util.getModuleWidget(name)

    def unload(self, name: str) -> None:
        """End a panel: Slicer unloads modules only when it quits, but reloads them."""
        slicer.util.selectModule("Welcome")
        self._renew(name)
        fresh = slicer.util.getModuleWidget(name)
        fresh.cleanup()  # the panel of the reload would follow the scenes of the tests to come
        fresh.panel = None
        self._ended.add(name)

    def _renew(self, name: str) -> None:
        panel = slicer.app.moduleManager().module(name).widgetRepresentation()
        old = [child for child in panel.children() if child.inherits("QWidget")]
        slicer.util.reloadScriptedModule(name)
        for child in old:  # a reload only hides them, with all their connections
            child.deleteLater()

    def holders(self, target: object) -> list[str] | None:
        """Nothing can be told: what QTimer.singleShot called lives until Slicer is back in its own event loop."""
        return None

    def forget_settings(self) -> None:
        """Forget what the modules keep in the user's settings."""
        for key in slicer.app.userSettings().allKeys():
            if key.startswith("MPER"):
                slicer.app.userSettings().remove(key)
