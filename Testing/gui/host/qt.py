"""``import qt``: all of Qt's wrapped classes in one flat module, as PythonQt_QtAll gives them to Slicer."""

from __future__ import annotations

import types
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtNetwork, QtUiTools, QtWidgets

from .pythonqt import wrapper_of

_MODULES = (QtCore, QtGui, QtWidgets, QtNetwork, QtUiTools)
# PySide6 and Qt 6 have them; PythonQt with Qt 5.15 or Qt 6 as Slicer builds it does not.
_MISSING = {"Signal", "Slot", "Property", "QThreadPool", "QRunnable"}


class QtModule(types.ModuleType):
    """The flat module; a class is wrapped when it is first asked for."""

    def __init__(self, replaced: dict[str, type]) -> None:
        super().__init__("qt")
        self._replaced = replaced
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in _MISSING:
            raise AttributeError(f"module 'qt' has no attribute '{name}'")
        raw = self._replaced.get(name) or next((getattr(m, name) for m in _MODULES if hasattr(m, name)), None)
        if not isinstance(raw, type) or not (issubclass(raw, shiboken6.Shiboken.Object) or name == "Qt"):
            raise AttributeError(f"module 'qt' has no attribute '{name}'")
        wrapper = wrapper_of(raw)
        setattr(self, name, wrapper)
        return wrapper
