"""``slicer.ScriptedLoadableModule``, ``parameterNodeWrapper`` and ``i18n``, which the wheel slicer-core leaves out.

The same names and effects as the files of these names in Base/Python/slicer of Slicer's sources.
"""

from __future__ import annotations

import functools
import importlib
import types
import typing
import unittest
import weakref
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
        return node or slicer.mrmlScene.AddNode(self.createParameterNode())

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


class _Parameter:
    """_CachedParameterWrapper of parameterNodeWrapper/wrapper.py with the serializers of numbers, texts and nodes: a
    parameter that is missing is written with its default, a node is a reference besides an empty parameter of its name.
    """

    def __init__(self, node: Any, name: str, kind: type, default: Any):
        self._node, self._name, self._kind, self._default = node, name, kind, default
        self._is_node = issubclass(kind, slicer.vtkMRMLNode)
        self._read()
        me = weakref.ref(self)
        self._tag = node.AddObserver("ModifiedEvent", lambda *_: me()._read())

    def __del__(self) -> None:
        self._node.RemoveObserver(self._tag)

    def _read(self) -> None:
        if not self._node.HasParameter(self._name):
            self.write(self._default)
        elif self._is_node:
            self.value = self._node.GetNodeReference(self._name)
        else:
            self.value = self._kind(self._node.GetParameter(self._name))

    def write(self, value: Any) -> None:
        if not isinstance(value, self._kind) and not (self._is_node and value is None):
            raise TypeError(f"Value must be of type '{self._kind}', is type '{type(value)}' value '{value}'")
        with slicer.util.NodeModify(self._node):
            self._node.SetParameter(self._name, "" if self._is_node else str(value))
            if self._is_node:
                self._node.SetNodeReferenceID(self._name, value.GetID() if value is not None else None)
            self.value = value


def parameterNodeWrapper(cls: type) -> type:
    kinds = typing.get_type_hints(cls)
    defaults = {name: getattr(cls, name, None) for name in kinds}

    def __init__(self: Any, node: Any) -> None:
        self.parameterNode = node
        self._parameters = {name: _Parameter(node, name, kind, defaults[name]) for name, kind in kinds.items()}

    cls.__init__ = __init__  # type: ignore[misc]
    for name in kinds:
        get = functools.partial(lambda name, self: self._parameters[name].value, name)
        put = functools.partial(lambda name, self, value: self._parameters[name].write(value), name)
        setattr(cls, name, property(get, put))
    return cls


def translate(context: str, text: str) -> str:
    """Host and tests speak English."""
    if not isinstance(text, str):
        raise TypeError(f"expected string or bytes-like object, got {type(text).__name__!r}")
    return text


def tr(text: str) -> str:
    """As in Base/Python/slicer/i18n.py, the context is the file that asks; here there is one language."""
    return translate("", text)


def modules() -> dict[str, types.ModuleType]:
    """The modules by the names under which Slicer's scripts import them."""
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
    wrapper = types.ModuleType("slicer.parameterNodeWrapper")
    wrapper.parameterNodeWrapper = parameterNodeWrapper  # type: ignore[attr-defined]
    return {"slicer.ScriptedLoadableModule": scripted, "slicer.i18n": i18n, wrapper.__name__: wrapper}
