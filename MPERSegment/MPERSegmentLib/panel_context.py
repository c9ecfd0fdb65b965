"""What every panel of the module works with, and how it speaks to the user outside its own lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from MPERLib.callbacks import slot

from MPERSegmentLib.parameters import Parameters


def sentence(message: str) -> str:
    """A line of the engine's, which begins small and has no end, as it stands alone."""
    message = message.strip()
    return message[:1].upper() + message[1:] + ("" if message[-1:] in ("", *".!?\N{HORIZONTAL ELLIPSIS}") else ".")


class PanelContext:
    """The widgets of the .ui file, the user's choices, and one message bar that all panels share.

    Parameters
    ----------
    ui : namespace
        Widgets by name.
    parameters : callable
        Gives the `Parameters` of the scene, None while a scene is being closed.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Parameters | None]):
        self.ui = ui
        self._parameters = parameters
        self._action: Callable[[], object] | None = None
        ui.messageButton.connect("clicked()", slot(self._act))
        ui.messageClose.connect("clicked()", slot(self.hush))
        self.hush()

    @property
    def parameters(self) -> Parameters | None:
        return self._parameters()

    def say(self, message: str, button: str = "", action: Callable[[], object] | None = None) -> None:
        """Show a message above the panel, with a button for what to do about it."""
        self._action = action
        self.ui.messageLabel.text = sentence(message)
        self.ui.messageButton.text = button
        self.ui.messageButton.visible = action is not None
        self.ui.messageFrame.visible = True

    def hush(self) -> None:
        """Take the message away."""
        self._action = None
        self.ui.messageFrame.visible = False

    def _act(self) -> None:
        action = self._action
        self.hush()
        if action is not None:
            action()
