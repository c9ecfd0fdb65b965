"""Panel Install: installs the engine's missing packages on the user's click, and removes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from MPERLib import callbacks, install, settings
from MPERLib.callbacks import slot
from MPERLib.panel_context import PanelContext
from MPERLib.python_process import PythonProcess
from slicer.i18n import tr as _

_REMOVE_TRIES, _REMOVE_AGAIN_MS = 30, 250  # longer than an engine takes to end


class InstallPanel:
    """Hidden unless packages are missing.

    Parameters
    ----------
    context : PanelContext
    installed : callable
        Called when all packages are installed.
    """

    def __init__(self, context: PanelContext, installed: Callable[[], None]):
        self._context, self._installed = context, installed
        self._work: PythonProcess | install.Installation | None = None
        self._missing: install.MissingPackages | None = None
        ui = context.ui
        ui.installFrame.visible = False
        ui.installLog.visible = ui.installBar.visible = False
        ui.installDetailsButton.connect("toggled(bool)", slot(self._onDetails))
        ui.installButton.connect("clicked()", slot(self._onInstall))
        ui.installFolderButton.connect("clicked()", slot(self._onFolder))
        ui.removeButton.connect("clicked()", slot(self._onRemove))

    def check(self) -> None:
        """Check whether packages are missing, and offer to install them."""

        def done(missing: install.MissingPackages) -> None:
            self._work = None
            if missing:
                self._offer(missing)

        def failed(_message: str) -> None:  # without Python, the engine's own message is better
            self._work = None

        if self._work is None:
            self._work = install.check(done, failed)

    def stop(self) -> None:
        """Cancel the installation; what was installed before stays."""
        if self._work is not None:
            self._work.stop()
            self._work = None

    def _offer(self, missing: install.MissingPackages) -> None:
        self._missing = missing
        ui = self._context.ui
        self._context.clearMessage()
        own = _ownPython()
        ui.installLog.plainText = missing.details()
        if own is None or not missing.installable:
            ui.installLabel.text = missing.text()
        else:
            ui.installLabel.text = _(
                "The engine uses {python}, which you chose. It lacks {names}; install mper there."
            ).format(python=own, names=missing.names)
        ui.installButton.visible = ui.installFolderButton.visible = own is None and missing.installable
        ui.installFrame.visible = True
        self._showButtons()

    def _showButtons(self) -> None:
        ui = self._context.ui
        ui.installButton.text = _("Cancel") if self._work else _("Install")
        ui.installFolderButton.enabled = self._work is None
        ui.installBar.visible = self._work is not None

    def _onDetails(self, checked: bool) -> None:
        self._context.ui.installLog.visible = checked

    def _onProgress(self, share: float | None, text: str) -> None:
        ui = self._context.ui
        ui.installLabel.text = text
        ui.installBar.maximum = 0 if share is None else 1000  # without a maximum the bar moves by itself
        ui.installBar.value = 0 if share is None else round(1000 * share)

    def _onInstall(self) -> None:
        if self._work is None:
            self._begin(None)
        else:
            self.stop()
            text = _("Cancelled. Nothing was changed. {text}").format(text=self._missing.text())
            self._context.ui.installLabel.text = text
            self._showButtons()

    def _onFolder(self) -> None:
        with callbacks.dialog():
            folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder of wheels (*.whl)"))
        if folder:
            self._begin(Path(str(folder)))

    def _begin(self, wheels: Path | None) -> None:
        """The click is the consent: what is installed, and where, is written above the button."""
        ui = self._context.ui
        self._onProgress(None, _("The installation begins."))
        self._work = install.Installation(
            self._missing, wheels, ui.installLog.appendPlainText, self._onDone, self._onFailed, self._onProgress
        )
        self._showButtons()

    def _onDone(self) -> None:
        self._work = None
        self._context.ui.installFrame.visible = False
        self._installed()

    def _onFailed(self, message: str) -> None:
        self._work = None
        self._context.ui.installLabel.text = message
        self._showButtons()

    # ---- removing

    def _onRemove(self) -> None:
        """Remove the engine's packages, once the user has confirmed it."""
        folder = settings.packagesFolder()
        if not folder.is_dir():
            message = _("There are no packages of the engine in {folder}.")
            self._context.showMessage(message.format(folder=folder))
            return
        question = _(
            "Delete the engine's packages (folder {folder})? Scans, datasets, trained models, Slicer and other "
            "extensions are not changed. Scans cannot be segmented until the packages are installed again."
        ).format(folder=folder)
        with callbacks.dialog():
            agreed = slicer.util.confirmYesNoDisplay(question, windowTitle=_("Remove the engine's packages"))
        if agreed:
            self.stop()
            engine = getattr(slicer, "mperEngine", None)
            if engine is not None and not engine.isRemote:
                engine.stop()
            self._remove(_REMOVE_TRIES)

    def _remove(self, tries: int) -> None:
        """Try until the engine, which needs a moment to end, has released the files."""
        try:
            install.uninstall()
        except OSError as error:
            if tries:
                callbacks.after(_REMOVE_AGAIN_MS, lambda: self._remove(tries - 1), "remove packages")
            else:
                message = _("The packages are in use and were not removed ({error}). Close other Slicer windows.")
                self._context.showMessage(message.format(error=error))
            return
        self._context.ui.installFrame.visible = False
        self._context.showMessage(_("The engine's packages were removed."))


def _ownPython() -> Path | None:
    """The Python that the user chose for the engine and manages; None where its packages are ours to install."""
    try:
        python = settings.enginePython()
    except OSError:
        return None
    return None if settings.isSlicers(python) or settings.chosenPackages() is not None else python
