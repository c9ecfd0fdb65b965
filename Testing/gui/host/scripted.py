"""``slicer.ScriptedLoadableModule`` and ``slicer.i18n``, which the wheel slicer-core leaves out.

The same names and effects as Base/Python/slicer/ScriptedLoadableModule.py and i18n.py in Slicer's sources.
"""

from __future__ import annotations

import importlib
import types
import unittest
from pathlib import Path
from typing import Any

import slicer


class ScriptedLoadableModule:
    def __init__(self, parent: Any):
        super().__init__()
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title = ""
        parent.categories = []
        parent.dependencies = []
        parent.contributors = []
        parent.helpText = ""
        parent.acknowledgementText = ""
        import qt

        for extension in (".svg", ".png"):
            icon = Path(parent.path).parent / "Resources" / "Icons" / f"{self.moduleName}{extension}"
            if icon.is_file():
                parent.icon = qt.QIcon(str(icon))
                break

    def resourcePath(self, filename: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        return f"<p>For more information, see the <a href='{docPage or self.moduleName}'>online documentation</a>.</p>"

    def runTest(self, msec: int = 100, **keywords: Any) -> None:
        test_class = getattr(importlib.import_module(type(self).__module__), self.moduleName + "Test")
        test = test_class()
        test.messageDelay = msec
        test.runTest(**keywords)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        import qt

        if not parent:
            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        else:
            self.parent = parent
        self.layout = self.parent.layout()
        if not parent:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename: str) -> str:
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def cleanup(self) -> None:
        pass

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def setupDeveloperSection(self) -> None:
        pass

    def setup(self) -> None:
        self.setupDeveloperSection()

    def onReload(self) -> None:
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node:
                node.SetAttribute("ModuleName", self.moduleName)
        else:
            node = next(iter(self.getAllParameterNodes()), None)
        return node or slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self) -> list[Any]:
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> Any:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, *args: Any, **keywords: Any):
        super().__init__(*args, **keywords)
        self.enableScreenshots = False

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        slicer.app.processEvents()

    def runTest(self) -> None:
        for name in dir(self):
            if name.startswith("test"):
                self.setUp()
                getattr(self, name)()
                self.tearDown()


def translate(context: str, text: str) -> str:
    """Host and tests speak English."""
    if not isinstance(text, str):
        raise TypeError(f"expected string or bytes-like object, got {type(text).__name__!r}")
    return text


def tr(text: str) -> str:
    """As in Base/Python/slicer/i18n.py, the context is the file that asks; here there is one language."""
    return translate("", text)


def modules() -> dict[str, types.ModuleType]:
    """The two modules by the names under which Slicer's scripts import them."""
    scripted = types.ModuleType("slicer.ScriptedLoadableModule")
    names = [
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ]
    scripted.__all__ = [cls.__name__ for cls in names]  # type: ignore[attr-defined]
    for cls in names:
        setattr(scripted, cls.__name__, cls)
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr, i18n.translate = tr, translate  # type: ignore[attr-defined]
    return {"slicer.ScriptedLoadableModule": scripted, "slicer.i18n": i18n}
