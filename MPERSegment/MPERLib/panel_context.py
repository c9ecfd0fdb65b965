"""What all panels of a module share: the widgets, the user's choices, and one message bar.

The message bar stands below the button that was pressed last, where the user looks. When it goes above that button,
its place stays empty, so that no button moves under the mouse. A message goes when the user closes it, when another
comes, and when the panel is about something else than it was: another scan, another result, an engine that runs again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from MPERLib.callbacks import onException, slot
from MPERLib.formatting import sentence
from MPERLib.widgets import gap_in_place_of, is_above, move, place_below


class PanelContext:
    """The widgets of the .ui file, the parameters of the scene, and the message bar above the panels.

    Parameters
    ----------
    ui : namespace
        Widgets by name.
    parameters : callable
        Returns the module's parameters, None while a scene is being closed or loaded.
    about : callable
        Returns what the panel is about now, to be compared with what it was when a message came.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any], about: Callable[[], object]):
        self.ui = ui
        self._parameters, self._about = parameters, about
        self._messageAbout: object = None
        self._action: Callable[[], object] | None = None
        self._pressed: Any = None  # the button that was pressed last
        self._gaps: list[Any] = []  # left by messages above it
        self._home = (ui.messageFrame.parent(), ui.messageFrame.parent().layout().indexOf(ui.messageFrame))
        for widget in list(vars(ui).values()):
            is_button = hasattr(widget, "autoExclusive")  # a property that only buttons have
            if is_button and widget not in (ui.messageButton, ui.messageClose):
                widget.connect("pressed()", slot(lambda widget=widget: self._onPressed(widget), "button pressed"))
        self.close = onException(self.showMessage)
        ui.messageButton.connect("clicked()", slot(self._act))
        ui.messageClose.connect("clicked()", slot(self.clearMessage))
        self.clearMessage()

    @property
    def parameters(self) -> Any:
        return self._parameters()

    def showMessage(self, message: str, button: str = "", action: Callable[[], object] | None = None) -> None:
        """Show a message below the button that was pressed last, else above the panels.

        With a button for what to do about it.
        """
        self._action = action
        self._messageAbout = self._about()
        if message:
            self._leave()
        if message and not (self._pressed is not None and place_below(self.ui.messageFrame, self._pressed)):
            parent, index = self._home
            move(self.ui.messageFrame, parent.layout(), index)
        self.ui.messageLabel.text = sentence(message)
        self.ui.messageButton.text = button
        self.ui.messageButton.visible = action is not None
        self.ui.messageFrame.visible = bool(message)

    def update(self) -> None:
        """The panel may be about something else now: a message about what it was before goes."""
        if self.ui.messageFrame.visible and self._about() != self._messageAbout:
            self.clearMessage()

    def clearMessage(self) -> None:
        """Hide the message."""
        self._action = None
        self._leave()
        self.ui.messageLabel.text = ""
        self.ui.messageFrame.visible = False

    def _leave(self) -> None:
        """Leave a gap where the message stands above the button that was pressed last."""
        if self.ui.messageFrame.visible and self._pressed is not None and is_above(self.ui.messageFrame, self._pressed):
            self._gaps.append(gap_in_place_of(self.ui.messageFrame))
            self.ui.messageFrame.visible = False

    def _onPressed(self, button: Any) -> None:
        self._pressed = button
        for gap in [gap for gap in self._gaps if not is_above(gap, button)]:  # these move nothing under the mouse
            self._gaps.remove(gap)
            gap.deleteLater()

    def _act(self) -> None:
        action = self._action
        self.clearMessage()
        if action is not None:
            action()
