"""QUiLoader as it works inside Slicer, where designer plugins bring CTK's and MRML's widgets."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import scripted
from .pythonqt import exposed


def loader_class(custom: dict[str, type]) -> type:
    """A QUiLoader that knows the widgets in `custom` by name; any other class that is not Qt's is an error."""

    class QUiLoader(QtUiTools.QUiLoader):
        def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
            if class_name not in custom:
                if not hasattr(QtWidgets, class_name) and class_name != "Line":
                    raise ValueError(f"the host has no widget {class_name}; add it, with its header in Slicer at hand")
                return super().createWidget(class_name, parent, name)
            widget = custom[class_name](parent)
            widget.setObjectName(name)
            return widget

        @exposed
        def load(self, device: Any, parent: Any = None) -> Any:
            root = ElementTree.fromstring(bytes(device.readAll().data()))
            for text in root.iterfind(".//property/string"):  # those of a stringlist are names of types here
                if text.text and text.get("notr") != "true":
                    text.text = scripted.translate("", text.text)
            unknown = [w.get("class") for w in root.iter("widget") if not _known(w.get("class") or "", custom)]
            if unknown:
                raise ValueError(f"the host has no widget {', '.join(map(str, unknown))}")
            links = []
            connections = root.find("connections")
            for element in list(connections if connections is not None else ()):
                link = {tag: element.findtext(tag, "") for tag in ("sender", "signal", "receiver", "slot")}
                if "vtk" in link["signal"]:  # Qt's own connect knows no MRML types here
                    links.append(link)
                    connections.remove(element)  # type: ignore[union-attr]
            buffer = QtCore.QBuffer()
            buffer.setData(ElementTree.tostring(root))
            buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
            widget = super().load(buffer, parent)
            for link in links:
                _link(widget, link)
            return widget

    return QUiLoader


def _known(class_name: str, custom: dict[str, type]) -> bool:
    return class_name in custom or hasattr(QtWidgets, class_name) or class_name == "Line"


def _link(top: Any, link: dict[str, str]) -> None:
    def named(name: str) -> Any:
        return top if top.objectName() == name else top.findChild(QtCore.QObject, name)

    sender, receiver = named(link["sender"]), named(link["receiver"])
    signal = getattr(type(sender), "SIGNATURES", {}).get(link["signal"])
    slot = getattr(receiver, link["slot"].partition("(")[0], None)
    if signal is None or not getattr(slot, "_exposed", False):
        raise ValueError(f"the .ui file connects what does not exist: {link}")
    getattr(sender, signal.partition("(")[0]).connect(slot)
