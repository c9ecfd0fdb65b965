"""Questions that the user must agree to before something is lost, or cannot be undone, and for a line of text."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from MPERLib import callbacks


def agreed(question: str, title: str) -> bool:
    """Whether the user agrees; in testing mode always.

    In testing mode Slicer's own question answers itself with True, which it then takes for "not OK".
    """
    with callbacks.dialog():
        return bool(slicer.app.testingEnabled() or slicer.util.confirmOkCancelDisplay(question, windowTitle=title))


def emptyAgreed() -> bool:
    """Whether the user agrees that a mask without a voxel becomes a label."""
    question = _(
        "The mask is empty. As a label it says that this scan shows none of the structures, and a training learns "
        "that. Save it?"
    )
    return agreed(question, _("Save an empty mask"))


def textOf(question: str, title: str, value: str = "", echo: int = qt.QLineEdit.Normal) -> str | None:
    """The line that the user types; None if the user cancels, which `QInputDialog.getText` does not tell from ""."""
    with callbacks.dialog():
        dialog = qt.QInputDialog(slicer.util.mainWindow())
        dialog.setWindowTitle(title)
        dialog.setLabelText(question)  # in Qt 5 label, text and echo mode are methods, not properties
        dialog.setTextValue(value)
        dialog.setTextEchoMode(echo)
        accepted = dialog.exec_()
        text = str(dialog.textValue())
        dialog.deleteLater()
    return text.strip() if accepted else None
