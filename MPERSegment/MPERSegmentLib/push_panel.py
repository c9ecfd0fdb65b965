"""The button that sends the DICOM files just written to an archive (PACS) over DICOMweb, with ``mper push``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import qt
from MPERLib import settings
from MPERLib.callbacks import slot
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from MPERLib.python_process import PythonProcess, module
from MPERLib.questions import textOf
from slicer.i18n import tr as _

_URL_KEY = "MPER/DicomWeb"
_LOGIN = "MPER_DICOMWEB_LOGIN"  # read by ``mper push``; an argument would be seen by all users of the computer


class PushPanel:
    """Sends files to an archive; segmentation and report go together.

    Parameters
    ----------
    context : PanelContext
    message : callable
        Takes a line for the user.
    """

    def __init__(self, context: PanelContext, message: Callable[[str], None]):
        self._context, self._message = context, message
        self._files: list[Path] = []
        self._process: PythonProcess | None = None
        self._lines: list[str] = []
        context.ui.exportPushButton.connect("clicked()", slot(self._onPush, "push"))
        self.offer(())

    def offer(self, files: Sequence[Path]) -> None:
        """The files that can be sent; none disables the button."""
        self._files = list(files)
        self._showButton()

    def stop(self) -> None:
        """Cancel what is under way, and forget the files."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        self.offer(())

    def push(self, files: Sequence[Path], url: str, login: str = "") -> None:
        """Send files to the DICOMweb service at `url`; `login` is ``user:password``, or empty."""
        words = ["push", *map(str, files), f"--dicomweb={url}", "--json"]
        self._lines = []
        self._message(_("Sending {n} files to {url} \N{HORIZONTAL ELLIPSIS}").format(n=len(files), url=url))
        try:
            self._process = PythonProcess(
                module("mper", *words),
                self._lines.append,
                lambda reason: self._onEnded(url, reason),
                added={_LOGIN: login},
            )
        except OSError as error:
            self._onEnded(url, str(error))
        self._showButton()

    def _onEnded(self, url: str, reason: str | None) -> None:
        self._process = None
        self._showButton()
        if reason is not None:
            reason = sentence(reason.removeprefix("mper: ").removeprefix("error: "))
            self._message(_("Not sent to {url}: {reason}").format(url=url, reason=reason))
            return
        settings.setSetting(_URL_KEY, url)
        try:
            answer = json.loads("\n".join(self._lines[self._lines.index("{") :]))
            text = _("Sent to {url}: {sent} files ({already} were there already).")
            self._message(text.format(url=url, sent=answer["sent"], already=answer["already"]))
        except (ValueError, KeyError, TypeError):
            self._message(_("Sent to {url}.").format(url=url))

    def _onPush(self) -> None:
        files, title = self._files, _("Send to PACS")  # other files, or none, may be offered while a dialog is open
        url = textOf(_("Address of the archive's DICOMweb service:"), title, settings.setting(_URL_KEY))
        if not url:
            return
        login = textOf(_("Login as user:password; empty for none:"), title, echo=qt.QLineEdit.Password)
        if login is not None:
            self.push(files, url, login)

    def _showButton(self) -> None:
        self._context.ui.exportPushButton.enabled = bool(self._files) and self._process is None
