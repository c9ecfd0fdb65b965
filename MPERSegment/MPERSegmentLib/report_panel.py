"""The button for a report of measurements (HTML and CSV), and the line beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from MPERLib import callbacks, mrml, settings
from MPERLib.callbacks import slot
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from slicer.i18n import tr as _

from MPERSegmentLib.measure_inputs import ReportInputs
from MPERSegmentLib.report_job import ReportJob

_FOLDER_KEY = "MPER/ExportFolder"


class ReportPanel:
    """Writes a report of what is measured.

    Parameters
    ----------
    context : PanelContext
    inputs : callable
        Returns what is measured and how, None where nothing can be.
    settled : callable
        Takes a result: whether its mask includes all its strokes.
    """

    def __init__(
        self, context: PanelContext, inputs: Callable[[], ReportInputs | None], settled: Callable[[Any], bool]
    ):
        self._context, self._inputs, self._settled = context, inputs, settled
        self._job: ReportJob | None = None
        self._page: Path | None = None
        ui = context.ui
        ui.reportButton.connect("clicked()", slot(self._onReport, "report"))
        ui.openReportButton.connect("clicked()", slot(self._onOpen))
        self._say("")

    def show(self, possible: bool) -> None:
        """Enable the button where there is something to report."""
        self._context.ui.reportButton.enabled = possible and self._job is None

    def stop(self) -> None:
        """Cancel the report that is being written."""
        if self._job is not None:
            self._job.stop()
            self._job = None
        self._say("")

    def write(self, inputs: ReportInputs, folder: Path) -> None:
        """Write a report into a folder."""
        self.stop()
        if not all(map(mrml.alive, (*inputs.masks, inputs.scan))):
            self._onFailed(_("the segmentation or its scan is not in the scene any more"))
            return
        if not all(map(self._settled, inputs.masks)):
            self._onFailed(_("the last stroke is still being processed; wait, or undo it"))
            return
        self._say(_("Writing the report \N{HORIZONTAL ELLIPSIS}"))
        creator = self._context.ui.authorEdit.text.strip()
        try:
            self._job = ReportJob(inputs, folder, creator, self._onWritten, self._onFailed)
        except OSError as error:
            self._onFailed(str(error))
        self.show(True)

    def _onWritten(self, files: list[Path]) -> None:
        self._job = None
        self.show(True)
        names = ", ".join(file.name for file in files)
        page = next((file for file in files if file.suffix == ".html"), None)
        self._say(_("Written to {folder}: {names}.").format(folder=files[0].parent, names=names), page)

    def _onFailed(self, message: str) -> None:
        self._job = None
        self.show(True)
        self._say(_("No report was written: {reason}").format(reason=sentence(message)))

    def _onReport(self) -> None:
        inputs = self._inputs()  # of what is shown now: another result may come while a dialog is open
        if inputs is None:
            self._say(_("There is no segmentation with its scan in the scene; nothing can be reported."))
            return
        start = settings.setting(_FOLDER_KEY) or str(Path.home())
        with callbacks.dialog():
            name = qt.QFileDialog.getExistingDirectory(
                slicer.util.mainWindow(),
                _("Folder for the report"),
                start if Path(start).is_dir() else str(Path.home()),
            )
        if not name:
            return
        folder = Path(str(name))
        same = [each for each in ("report.html", "figures.csv") if (folder / each).exists()]
        if same:
            with callbacks.dialog():
                question = _("Replace {files} in {folder}?").format(files=", ".join(same), folder=folder)
                if not slicer.util.confirmYesNoDisplay(question, windowTitle=_("Report")):
                    return
        settings.setSetting(_FOLDER_KEY, str(folder))
        self.write(inputs, folder)

    def _onOpen(self) -> None:
        if self._page is not None:
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._page)))

    def _say(self, message: str, page: Path | None = None) -> None:
        ui = self._context.ui
        self._page = page
        ui.reportWords.text = message
        ui.reportWords.visible = bool(message)
        ui.openReportButton.visible = page is not None
