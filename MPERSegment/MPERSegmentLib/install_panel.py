"""Panel Install: what the engine still needs, fetched on the user's click, with a log of what happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from MPERLib import callbacks, install, settings
from MPERLib.callbacks import slot
from slicer.i18n import tr as _

from MPERSegmentLib.panel_context import PanelContext

_REMOVE_TRIES, _REMOVE_AGAIN_MS = 30, 250  # longer than an engine takes to end


class InstallPanel:
    """Hidden for as long as nothing is missing.

    Parameters
    ----------
    context : PanelContext
    installed : callable
        Called when everything is there.
    """

    def __init__(self, context: PanelContext, installed: Callable[[], None]):
        self._context, self._installed = context, installed
        self._work: Any = None
        self._missing: install.MissingPackages | None = None
        ui = context.ui
        ui.installFrame.visible = False
        ui.installLog.visible = False
        ui.installButton.connect("clicked()", slot(self._onInstall))
        ui.installFolderButton.connect("clicked()", slot(self._onFolder))
        ui.removeButton.connect("clicked()", slot(self._onRemove))

    def look(self) -> None:
        """See whether packages are missing, and offer them."""

        def found(missing: install.MissingPackages) -> None:
            self._work = None
            if missing:
                self._offer(missing)

        def failed(_message: str) -> None:  # without a Python that can be asked, the engine's own words tell more
            self._work = None

        if self._work is None:
            self._work = install.check(found, failed)

    def drop(self) -> None:
        """Give up what is under way; what was installed before stays."""
        if self._work is not None:
            self._work.abort()
            self._work = None

    def _offer(self, missing: install.MissingPackages) -> None:
        self._missing = missing
        ui = self._context.ui
        self._context.hush()
        theirs = _ownPython()
        if theirs is None:
            ui.installLabel.text = missing.words()
        else:
            ui.installLabel.text = _(
                "The engine runs with {python}, which you chose and which lacks {names}; install mper there."
            ).format(python=theirs, names=", ".join([*missing.packages, *(["torch"] if missing.torch else [])]))
        ui.installButton.visible = ui.installFolderButton.visible = theirs is None
        ui.installFrame.visible = True
        self._showButtons()

    def _showButtons(self) -> None:
        ui = self._context.ui
        ui.installButton.text = _("Cancel") if self._work else _("Install")
        ui.installFolderButton.enabled = self._work is None

    def _onInstall(self) -> None:
        if self._work is None:
            self._begin(None)
        else:
            self.drop()
            self._context.ui.installLabel.text = _("Cancelled; nothing was changed. {words}").format(
                words=self._missing.words()
            )
            self._showButtons()

    def _onFolder(self) -> None:
        with callbacks.dialog():
            folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("A folder of wheels (*.whl)"))
        if folder:
            self._begin(Path(str(folder)))

    # ---- removing

    def _onRemove(self) -> None:
        """Ask, and take the engine's packages away."""
        folder = settings.packagesFolder()
        if not folder.is_dir():
            self._context.say(_("No packages of the engine are installed in {folder}.").format(folder=folder))
            return
        question = _(
            "Delete the engine's packages, the folder {folder}? Scans, datasets, trained models, Slicer and other "
            "extensions are left as they are. Nothing can be segmented until the packages are installed again."
        ).format(folder=folder)
        with callbacks.dialog():
            agreed = slicer.util.confirmYesNoDisplay(question, windowTitle=_("Remove the engine's packages"))
        if agreed:
            self.drop()
            engine = getattr(slicer, "mperEngine", None)
            if engine is not None and not engine.isRemote:
                engine.stop()
            self._remove(_REMOVE_TRIES)

    def _remove(self, tries: int) -> None:
        """As soon as the engine, which needs a moment to end, has let go of the files."""
        try:
            install.uninstall()
        except OSError as error:
            if tries:
                qt.QTimer.singleShot(_REMOVE_AGAIN_MS, slot(lambda: self._remove(tries - 1), "remove packages"))
            else:
                self._context.say(
                    _("The packages are in use and were not removed ({error}); close other Slicers.").format(
                        error=error
                    )
                )
            return
        self._context.ui.installFrame.visible = False
        self._context.say(_("The engine's packages were removed."))

    def _begin(self, wheels: Path | None) -> None:
        """The click is the consent: what comes, and where to, stands above the button."""
        ui = self._context.ui
        ui.installLog.clear()
        ui.installLog.visible = True
        ui.installLabel.text = _("Installing; this can take some minutes.")
        self._work = install.Installation(
            self._missing, wheels, ui.installLog.appendPlainText, self._onDone, self._onFailed
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


def _ownPython() -> Path | None:
    """The Python that the user brought for the engine, and fills; None where its packages are ours to install."""
    try:
        python = settings.enginePython()
    except OSError:
        return None
    return None if settings.isSlicers(python) or settings.chosenPackages() is not None else python
