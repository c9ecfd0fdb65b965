"""``slicer.app``, ``slicer.modules`` and the main window: a scene with Slicer's logics, and how modules are loaded.

Interfaces from qSlicerCoreApplication.h, qSlicerApplication.h, qSlicerModuleManager.h, qSlicerScriptedLoadableModule.h
and qSlicerScriptedLoadableModuleWidget.h in Slicer's sources.
"""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import shiboken6
import slicer
import vtk
from PySide6.QtCore import Property, QObject, QSettings, Qt, Signal
from PySide6.QtGui import QIcon
from PySide6.QtWidgets import QApplication, QDockWidget, QMainWindow, QScrollArea, QVBoxLayout, QWidget

from .files import qSlicerCoreIOManager
from .mrml_widgets import SceneWidget
from .properties import stored
from .pythonqt import connections_to, errors, exposed, wrap
from .views import qSlicerLayoutManager

# Module name in slicer.modules, and the class of its logic. Each registers its node classes with the scene.
LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Models": "vtkSlicerModelsLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Units": "vtkSlicerUnitsLogic",
}


class qSlicerModuleManager(QObject):
    """qSlicerModuleManager.h: modules by name."""

    moduleLoaded = Signal(str)
    moduleAboutToBeUnloaded = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._modules: dict[str, Any] = {}

    @exposed
    def module(self, name: str) -> Any:
        return self._modules.get(name)


class qSlicerCoreModule(QObject):
    """A module written in C++: its name and its logic (qSlicerAbstractCoreModule.h)."""

    def __init__(self, name: str, logic: Any):
        super().__init__()
        self._module_name, self._logic = name, logic

    name = Property(str, lambda self: self._module_name)

    @exposed
    def logic(self) -> Any:
        return self._logic

    @exposed
    def mrmlScene(self) -> Any:
        return slicer.mrmlScene


class qSlicerScriptedLoadableModule(QObject):
    """qSlicerScriptedLoadableModule.h: what a module's Python class sets in its constructor."""

    def __init__(self, path: str):
        super().__init__()
        self._source = path
        self._representation: Any = None

    name = Property(str, lambda self: Path(self._source).stem)
    path = Property(str, lambda self: self._source)
    title = stored(str, "title", "")
    categories = stored("QStringList", "categories", [])
    dependencies = stored("QStringList", "dependencies", [])
    contributors = stored("QStringList", "contributors", [])
    helpText = stored(str, "helpText", "")
    acknowledgementText = stored(str, "acknowledgementText", "")
    icon = stored(QIcon, "icon", QIcon())
    hidden = stored(bool, "hidden", False)
    index = stored(int, "index", -1)

    @exposed
    def logic(self) -> Any:
        return None

    @exposed
    def widgetRepresentation(self) -> Any:
        if self._representation is None:
            self._representation = qSlicerScriptedLoadableModuleWidget(self._source)
            self._representation.setMRMLScene(slicer.mrmlScene)
            self._representation._python.setup()
        return self._representation


class qSlicerScriptedLoadableModuleWidget(SceneWidget):
    """qSlicerScriptedLoadableModuleWidget.h: the panel that a module's widget class fills."""

    def __init__(self, path: str):
        super().__init__()
        QVBoxLayout(self)
        self._source, self._entered = path, False
        self._create()

    moduleName = Property(str, lambda self: Path(self._source).stem)
    isEntered = Property(bool, lambda self: self._entered)

    def _create(self) -> None:
        name = Path(self._source).stem + "Widget"
        self._python = getattr(sys.modules[Path(self._source).stem], name)(wrap(self))
        setattr(slicer.modules, name, self._python)

    @exposed
    def self(self) -> Any:
        return self._python

    @exposed
    def reload(self) -> None:
        self._create()
        self._python.setup()

    @exposed
    def enter(self) -> None:
        self._entered = True
        if hasattr(self._python, "enter"):
            self._python.enter()

    @exposed
    def exit(self) -> None:
        self._entered = False
        if hasattr(self._python, "exit"):
            self._python.exit()


class qSlicerModuleSelectorToolBar(QObject):
    """The main window's module selector: selectModule(name)."""

    moduleSelected = Signal(str)

    @exposed
    def selectModule(self, name: str) -> None:
        self.parent()._select(name)

    selectedModule = Property(str, lambda self: self.parent()._selected)


class qSlicerMainWindow(QMainWindow):
    """The main window: module panel on the left, views on the right (qSlicerMainWindow.h)."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.setWindowTitle("3D Slicer (host for tests)")
        self._selected = ""
        self._selector = qSlicerModuleSelectorToolBar(self)
        dock = QDockWidget("Module", self)
        dock.setObjectName("PanelDockWidget")
        self._panel = QScrollArea()
        self._panel.setWidgetResizable(True)
        self._panel.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._panel.setMinimumWidth(470)
        dock.setWidget(self._panel)
        self.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, dock)
        self._viewport = QWidget()
        self.setCentralWidget(self._viewport)

    @exposed
    def moduleSelector(self) -> Any:
        return self._selector

    def _select(self, name: str) -> None:
        old = slicer.app.moduleManager().module(self._selected) if self._selected else None
        if old is not None:
            old.widgetRepresentation().exit()
        self._panel.takeWidget()
        self._selected = name
        module = slicer.app._host_raw._manager.module(name)
        if module is not None:
            self._panel.setWidget(module.widgetRepresentation())
            module.widgetRepresentation().show()
            module.widgetRepresentation().enter()
        self._selector.moduleSelected.emit(name)


class qSlicerApplication(QApplication):
    """qSlicerCoreApplication.h and qSlicerApplication.h."""

    startupCompleted = Signal()

    def __init__(self, home: Path):
        super().__init__(["Slicer"])
        self._home = home
        self.setApplicationName("Slicer")
        self.setOrganizationName("MPER")
        QSettings.setDefaultFormat(QSettings.Format.IniFormat)
        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(home))
        self._manager = qSlicerModuleManager()
        self._settings = QSettings()
        self._files = qSlicerCoreIOManager()
        self._layout_manager: Any = None
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._testing = True
        self.paused_renders = 0

    slicerHome = Property(str, lambda self: str(self._home))

    @exposed
    def mrmlScene(self) -> Any:
        return slicer.mrmlScene

    @exposed
    def applicationLogic(self) -> Any:
        return self._logic

    @exposed
    def moduleManager(self) -> Any:
        return self._manager

    @exposed
    def coreIOManager(self) -> Any:
        return self._files

    @exposed
    def ioManager(self) -> Any:
        return self._files

    @exposed
    def layoutManager(self) -> Any:
        return self._layout_manager

    @exposed
    def settings(self) -> Any:
        return self._settings

    @exposed
    def userSettings(self) -> Any:
        return self._settings

    @exposed
    def testingEnabled(self) -> bool:
        return self._testing

    @exposed
    def pauseRender(self) -> None:
        """The host has no views that could render; qSlicerApplication counts, too, and warns below zero."""
        self.paused_renders += 1

    @exposed
    def resumeRender(self) -> None:
        assert self.paused_renders, "Cannot resume rendering, pause render count is already 0!"
        self.paused_renders -= 1


class Host:
    """The running host: one application, one scene, one window."""

    def __init__(self, home: Path):
        self.application = qSlicerApplication(home)
        slicer.app = wrap(self.application)
        slicer.modules = types.SimpleNamespace()
        slicer.moduleNames = types.SimpleNamespace()
        scene = slicer.mrmlScene = slicer.vtkMRMLScene()
        logic = self.application._logic
        (home / "share" / "ColorFiles").mkdir(parents=True)  # empty, but without it Slicer's logic complains
        logic.SetHomeDirectory(str(home))
        logic.SetShareDirectory("share")
        logic.SetMRMLScene(scene)
        for name, class_name in LOGICS.items():
            module_logic = getattr(slicer, class_name)()
            module_logic.SetMRMLApplicationLogic(logic)
            module_logic.SetMRMLScene(scene)
            logic.SetModuleLogic(name, module_logic)
            self._register(name, qSlicerCoreModule(name, module_logic))
            if name == "Colors":
                logic.SetColorLogic(module_logic)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        crosshair = scene.CreateNodeByClass("vtkMRMLCrosshairNode")
        crosshair.UnRegister(None)
        crosshair.SetSingletonTag("default")
        scene.AddNode(crosshair)
        self.window = qSlicerMainWindow()
        self.application._layout_manager = qSlicerLayoutManager(self.window._viewport, logic)
        atexit.register(self.close)

    def close(self) -> None:
        """Windows go before the logics behind them, and these before the scene that they watch."""
        vtk.vtkObject.GlobalWarningDisplayOff()  # a scene that is taken away is always worth a warning to Slicer
        for name in list(self.application._manager._modules):
            if isinstance(self.application._manager.module(name), qSlicerScriptedLoadableModule):
                self.unload(name)
        views = self.application._layout_manager
        views._observers.clear()
        logics = [widget._logic for widget in views._slices.values()] + [views._logic]
        for widget in views._slices.values():
            widget._observers.clear()
        shiboken6.delete(self.window)
        for widget in self.application.topLevelWidgets():
            if shiboken6.isValid(widget) and widget.parent() is None:
                shiboken6.delete(widget)
        modules = self.application._manager._modules.values()
        application_logic = self.application._logic
        application_logic.SetSliceLogics(None)
        for logic in [*logics, *[module._logic for module in modules], application_logic]:
            logic.SetMRMLScene(None)
        slicer.mrmlScene = None
        self.application.processEvents()
        shutil.rmtree(self.application._home, ignore_errors=True)

    def _register(self, name: str, module: Any) -> None:
        self.application._manager._modules[name] = module
        setattr(slicer.modules, name.lower(), wrap(module))
        setattr(slicer.moduleNames, name, name)

    @property
    def errors(self) -> list[BaseException]:
        """Exceptions that left callbacks."""
        return errors

    def holders(self, target: object) -> list[str]:
        """The connections that keep an object alive."""
        return connections_to(target)

    def forget_settings(self) -> None:
        """A new user begins."""
        self.application._settings.clear()

    def load(self, path: Path) -> None:
        """Load a scripted module as Slicer does (qSlicerScriptedLoadableModule.cxx), unless it is there already."""
        name = path.stem
        if self.application._manager.module(name) is not None:
            return
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None and spec.loader is not None
            source = importlib.util.module_from_spec(spec)
            sys.modules[name] = source
            spec.loader.exec_module(source)
        module = qSlicerScriptedLoadableModule(str(path))
        instance = getattr(sys.modules[name], name)(wrap(module))
        missing = [other for other in module.dependencies if self.application._manager.module(other) is None]
        if missing:
            raise RuntimeError(f"When loading module {name}, the dependency {missing[0]} failed to be loaded.")
        setattr(slicer.modules, name + "Instance", instance)
        self._register(name, module)
        if hasattr(instance, "setup"):
            instance.setup()
        self.application._manager.moduleLoaded.emit(name)

    def show(self, name: str) -> Any:
        """Select a loaded module in the window, and return the Python widget that fills its panel."""
        self.window._select(name)
        return self.application._manager.module(name).widgetRepresentation()._python

    def unload(self, name: str) -> None:
        """End a module as the application does when it closes."""
        manager = self.application._manager
        if self.window._selected == name:
            self.window._select("")
        manager.moduleAboutToBeUnloaded.emit(name)
        module = manager._modules.pop(name)
        for attribute in (name.lower(), name + "Instance", name + "Widget"):
            if hasattr(slicer.modules, attribute):
                delattr(slicer.modules, attribute)
        if module._representation is not None:
            module._representation._python = None
            module._representation.deleteLater()
        module._representation = None
        module.deleteLater()
