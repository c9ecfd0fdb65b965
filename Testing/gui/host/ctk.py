"""The few widgets of CTK that the modules use; each shows what its header in CTK/Libs/Widgets declares, no more."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Property, QEvent, QSize, Qt, Signal
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QGroupBox,
    QStyle,
    QStyleOptionButton,
    QStyleOptionComboBox,
    QStylePainter,
    QWidget,
)

from .properties import stored


class _Contents:
    """Hides and shows the children of a collapsible widget as ctkCollapsibleButton does.

    A child that was hidden on purpose stays hidden when the widget opens; one that is shown meanwhile waits for it
    (ctkCollapsibleButton.cpp: eventFilter and setChildVisibility with the property "ctkVisible").
    """

    def __init__(self, owner: Any):
        self._owner, self._busy = owner, False

    def watch(self, child: Any) -> None:
        if isinstance(child, QWidget) and not child.isWindow():
            child.installEventFilter(self._owner)
            if self._owner._is_collapsed():
                self._set(child, False)

    def apply(self) -> None:
        for child in self._owner.children():
            if isinstance(child, QWidget) and not child.isWindow():
                self._set(child, not self._owner._is_collapsed() and not child.property("_host_hidden"))

    def filter(self, child: Any, event: Any) -> None:
        if self._busy or event.type() not in (QEvent.Type.ShowToParent, QEvent.Type.HideToParent):
            return
        child.setProperty("_host_hidden", event.type() == QEvent.Type.HideToParent)
        if self._owner._is_collapsed():
            self._set(child, False)

    def _set(self, child: QWidget, visible: bool) -> None:
        self._busy = True
        child.setVisible(visible)
        self._busy = False


class ctkCollapsibleButton(QAbstractButton):
    """ctkCollapsibleButton.h: a header that folds its contents away."""

    contentsCollapsed = Signal(bool)

    def __init__(self, parent: QWidget | None = None):
        if isinstance(parent, str):  # PythonQt offers only the constructor with a parent
            raise ValueError("Could not find matching overload for given arguments")
        self._contents = _Contents(self)
        super().__init__(parent)
        self.setCheckable(True)
        self.setChecked(True)
        self._fit()
        self.toggled.connect(self._on_toggled)

    def _is_collapsed(self) -> bool:
        return not self.isChecked()

    def _set_collapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = Property(bool, _is_collapsed, _set_collapsed)
    collapsedHeight = stored(int, "collapsedHeight", 14)
    flat = stored(bool, "flat", False)

    def _header(self) -> int:
        return self.fontMetrics().height() + 8

    def _fit(self) -> None:
        self.setContentsMargins(0, self._header(), 0, 0)

    def _on_toggled(self, checked: bool) -> None:
        self._contents.apply()
        self.updateGeometry()
        self.contentsCollapsed.emit(not checked)

    def childEvent(self, event: Any) -> None:
        if event.added():
            self._contents.watch(event.child())
        super().childEvent(event)

    def eventFilter(self, child: Any, event: Any) -> bool:
        self._contents.filter(child, event)
        return False

    def hitButton(self, position: Any) -> bool:
        return position.y() <= self._header()

    def sizeHint(self) -> QSize:
        layout = self.layout()
        width = self.fontMetrics().horizontalAdvance(self.text()) + 40
        if self._is_collapsed() or layout is None:
            return QSize(max(width, layout.sizeHint().width() if layout else 0), self._header())
        return layout.sizeHint().expandedTo(QSize(width, self._header()))

    def minimumSizeHint(self) -> QSize:
        layout = self.layout()
        if self._is_collapsed() or layout is None:
            return QSize(0, self._header())
        return layout.minimumSize()

    def paintEvent(self, _event: Any) -> None:
        painter = QStylePainter(self)
        option = QStyleOptionButton()
        option.initFrom(self)
        option.rect.setHeight(self._header())
        option.state |= QStyle.StateFlag.State_Raised if self._is_collapsed() else QStyle.StateFlag.State_Sunken
        painter.drawControl(QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = QStyle.PrimitiveElement.PE_IndicatorArrowRight
        if not self._is_collapsed():
            arrow = QStyle.PrimitiveElement.PE_IndicatorArrowDown
        option.rect.setRect(6, self._header() // 2 - 5, 10, 10)
        painter.drawPrimitive(arrow, option)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.drawText(22, 0, self.width() - 24, self._header(), Qt.AlignmentFlag.AlignVCenter, self.text())


class ctkCollapsibleGroupBox(QGroupBox):
    """ctkCollapsibleGroupBox.h: a group box whose check mark folds its contents away."""

    def __init__(self, parent: QWidget | None = None):
        if isinstance(parent, str):
            raise ValueError("Could not find matching overload for given arguments")
        self._contents = _Contents(self)
        super().__init__(parent)
        self.setCheckable(True)
        self.toggled.connect(lambda _checked: (self._contents.apply(), self.updateGeometry()))

    def _is_collapsed(self) -> bool:
        return not self.isChecked()

    def _set_collapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = Property(bool, _is_collapsed, _set_collapsed)
    collapsedHeight = stored(int, "collapsedHeight", 14)

    def childEvent(self, event: Any) -> None:
        if event.added():
            self._contents.watch(event.child())
        super().childEvent(event)

    def eventFilter(self, child: Any, event: Any) -> bool:
        self._contents.filter(child, event)
        return False

    def sizeHint(self) -> QSize:
        return self._hint(super().sizeHint())

    def minimumSizeHint(self) -> QSize:
        return self._hint(super().minimumSizeHint())

    def _hint(self, size: QSize) -> QSize:
        return QSize(size.width(), self.fontMetrics().height() + 10) if self._is_collapsed() else size


class ctkComboBox(QComboBox):
    """ctkComboBox.h: a combo box that shortens the text it shows to what there is room for."""

    elideMode = stored(int, "elideMode", 3, QComboBox.update)  # Qt.ElideNone

    def paintEvent(self, event: Any) -> None:
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        part = QStyle.SubControl.SC_ComboBoxEditField
        room = self.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, option, part, self)
        mode = Qt.TextElideMode(self.elideMode)
        option.currentText = option.fontMetrics.elidedText(option.currentText, mode, room.width())
        painter = QStylePainter(self)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()


WIDGETS = {cls.__name__: cls for cls in (ctkCollapsibleButton, ctkCollapsibleGroupBox, ctkComboBox)}
