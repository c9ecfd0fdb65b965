"""Panel Export: the segmentation as a file for Slicer, for other programs, for printing, or for the PACS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from MPERLib import callbacks, mrml, phases, segmentation_node, settings
from MPERLib.callbacks import slot
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from slicer.i18n import tr as _

from MPERSegmentLib import result_node
from MPERSegmentLib.dicom_export import DicomExport, Written, source_files, without_provenance
from MPERSegmentLib.measure_inputs import ReportInputs
from MPERSegmentLib.push_panel import PushPanel

_FOLDER_KEY = "MPER/ExportFolder"


class ExportPanel:
    """Writes the segmentation that is shown when a button is clicked, whatever is shown once its dialogs are answered.

    Parameters
    ----------
    context : PanelContext
    measured : callable
        Returns what is measured and how, for the structured report; None where nothing can be.
    settled : callable
        Takes a result: whether its mask includes all its strokes.
    """

    def __init__(
        self, context: PanelContext, measured: Callable[[], ReportInputs | None], settled: Callable[[Any], bool]
    ):
        self._context, self._measured, self._settled = context, measured, settled
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._dicom: DicomExport | None = None
        self.push = PushPanel(context, self._say)
        ui = context.ui
        ui.exportCheckText.setFont(qt.QFontDatabase.systemFont(qt.QFontDatabase.FixedFont))
        ui.exportCheckButton.connect("toggled(bool)", slot(self._onShowCheck))
        ui.exportCopyButton.connect("clicked()", slot(self._onCopy))
        self._buttons = {
            ui.exportSegNrrdButton: lambda: self._ask(".seg.nrrd", _("Slicer segmentation"), self.toSegNrrd),
            ui.exportNiftiButton: lambda: self._ask(".nii.gz", _("NIfTI label map"), self.toNifti),
            ui.exportStlButton: self._askFolder,
            ui.exportDicomButton: lambda: self._askDicom(self.toDicom),
            ui.exportReportButton: self._onReport,
        }
        for button, action in self._buttons.items():
            button.connect("clicked()", slot(action, f"export {button.name}"))
        self.show(None)

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Export another segmentation, or none."""
        if node is not self._node:
            self.push.offer(())
        self._node = node
        for button in self._buttons:
            button.enabled = node is not None
        self._say("" if node else _("There is no segmentation to export."))

    def stop(self) -> None:
        """Cancel what is being sent, and the export that is under way."""
        self.push.stop()
        self._stopDicom()

    def _stopDicom(self) -> None:
        if self._dicom is not None:
            self._dicom.stop()
            self._dicom = None

    # ---- formats; each function can be called without a dialog

    def toSegNrrd(self, segmentation: slicer.vtkMRMLSegmentationNode, path: Path) -> None:
        self._sayWritten(path, slicer.util.saveNode(segmentation, str(path)))

    def toNifti(self, segmentation: slicer.vtkMRMLSegmentationNode, path: Path) -> None:
        """A label map on the scan's whole grid, with the model's label values."""
        scan = result_node.scan_of(segmentation)
        if scan is None:
            self._say(_("The scan of this segmentation is not in the scene. Export .seg.nrrd instead."))
            return
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "MPER export")
        node.SetHideFromEditors(True)
        try:
            mrml.fill_volume(node, segmentation_node.mask_of(segmentation, scan), mrml.geometry_of(scan).affine)
            self._sayWritten(path, slicer.util.saveNode(node, str(path)))
        except ValueError as error:
            self._say(sentence(str(error)))
        finally:
            slicer.mrmlScene.RemoveNode(node)

    def toStl(self, segmentation: slicer.vtkMRMLSegmentationNode, folder: Path) -> None:
        """One surface for each structure, in LPS mm of the scan itself, as other programs expect it.

        A transform of the scene is left out, as it is of the other files: Slicer would apply it.
        """
        untransformed = slicer.vtkMRMLSegmentationNode()
        untransformed.SetName(segmentation.GetName())
        untransformed.SetAndObserveSegmentation(segmentation.GetSegmentation())
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        good = logic.ExportSegmentsClosedSurfaceRepresentationToFiles(
            str(folder), untransformed, None, "STL", True, 1.0, False
        )
        self._sayWritten(folder, good)

    def toDicom(
        self, segmentation: slicer.vtkMRMLSegmentationNode, path: Path, measured: ReportInputs | None = None
    ) -> None:
        """A DICOM segmentation that refers to the scan's own instances.

        With `measured` also a structured report of its measurements, beside it.
        """
        try:
            files = source_files(result_node.scan_of(segmentation), phases.of(segmentation))
        except ValueError as error:
            self._sayNoDicom(str(error))
            return
        unknown = without_provenance(segmentation)
        if unknown and not self._confirmManual(unknown):
            self._say(_("Nothing was written. A DICOM segmentation must say how each structure was made."))
            return
        self._stopDicom()
        self.push.offer(())  # what is being sent goes on
        self._say(_("Writing the DICOM segmentation \N{HORIZONTAL ELLIPSIS}"))
        self._enableDicom(False)
        creator = self._context.ui.authorEdit.text.strip()
        try:
            done = lambda written: self._onDicom(segmentation, written)  # noqa: E731
            self._dicom = DicomExport(
                segmentation, files, path, creator, bool(unknown), done, self._onDicomFailed, measured
            )
        except OSError as error:
            self._onDicomFailed(str(error))

    def _confirmManual(self, names: list[str]) -> bool:
        question = _(
            "It is unknown how these structures were made: {names}. Were they drawn manually? They are then marked "
            "MANUAL in the DICOM file; structures that a model made keep their own mark."
        ).format(names=", ".join(names))
        return _confirm(question, _("Export as DICOM segmentation"))

    def _onDicom(self, segmentation: slicer.vtkMRMLSegmentationNode, written: Written) -> None:
        lines = [_("Written: {file}").format(file=written.file), written.summary]
        if written.report_file is not None:
            lines.insert(1, _("Written: {file}").format(file=written.report_file))
        if segmentation is self._node:
            self.push.offer([file for file in (written.file, written.report_file) if file is not None])
        self._endDicom("\n".join([*lines, *map(sentence, written.notes)]))
        self._context.ui.exportCheckText.plainText = written.report
        self._context.ui.exportCheckFrame.visible = True

    def _onDicomFailed(self, message: str) -> None:
        self._endDicom("")
        self._sayNoDicom(message)

    def _endDicom(self, message: str) -> None:
        self._dicom = None
        self._enableDicom(self._node is not None)
        self._say(message)

    def _enableDicom(self, enabled: bool) -> None:
        ui = self._context.ui
        ui.exportDicomButton.enabled = ui.exportReportButton.enabled = enabled

    # ---- report of the comparison

    def _onShowCheck(self, shown: bool) -> None:
        ui = self._context.ui
        ui.exportCheckButton.text = _("Hide report") if shown else _("Show report")
        ui.exportCheckText.visible = ui.exportCopyButton.visible = shown

    def _onCopy(self) -> None:
        slicer.app.clipboard().setText(self._context.ui.exportCheckText.plainText)

    # ---- dialogs

    def _ask(self, suffix: str, kind: str, write: Callable[[Any, Path], None]) -> None:
        node = self._node
        start = self._lastFolder() / (_file_name(node.GetName()) + suffix)
        window = slicer.util.mainWindow()
        with callbacks.dialog():
            name = qt.QFileDialog.getSaveFileName(window, _("Export"), str(start), f"{kind} (*{suffix})")
        if not name:
            return
        path = Path(str(name))
        if not path.name.endswith(suffix):  # the dialog has asked about the other name only
            path = path.with_name(_stem(path.name, suffix) + suffix)
            if path.exists() and not _confirm(_("Replace {file}?").format(file=path), _("Export")):
                return
        self._remember(path.parent)
        self._write(write, node, path)

    def _askFolder(self) -> None:
        node = self._node
        with callbacks.dialog():
            name = qt.QFileDialog.getExistingDirectory(
                slicer.util.mainWindow(), _("Folder for STL files"), str(self._lastFolder())
            )
        if not name:
            return
        folder = Path(str(name))
        same = [file.name for file in sorted(folder.glob("*.stl")) if file.name.startswith(node.GetName() + "_")]
        if same and not _confirm(_("Replace {files}?").format(files=", ".join(same)), _("Export")):
            return
        self._remember(folder)
        self._write(self.toStl, node, folder)

    def _onReport(self) -> None:
        inputs = self._measured()
        if inputs is None:
            self._sayNoDicom(_("there is nothing to measure"))
        else:
            self._askDicom(lambda node, path: self.toDicom(node, path, inputs))

    def _askDicom(self, write: Callable[[Any, Path], None]) -> None:
        """Ask for a file name only if the scan's DICOM files are there."""
        try:
            source_files(result_node.scan_of(self._node), phases.of(self._node))
        except ValueError as error:
            self._sayNoDicom(str(error))
        else:
            self._ask(".dcm", _("DICOM segmentation"), write)

    def _write(self, write: Callable[[Any, Path], None], node: slicer.vtkMRMLSegmentationNode, path: Path) -> None:
        """Write a segmentation once the user has said where: answers of the engine come during a dialog, too."""
        if not mrml.alive(node):
            self._say(_("Nothing was written. The segmentation is not in the scene any more."))
        elif not self._settled(node):
            reason = _("the last stroke is still being processed; wait, or undo it")
            self._say(_("Nothing was written. {reason}").format(reason=sentence(reason)))
        else:
            write(node, path)

    def _lastFolder(self) -> Path:
        folder = Path(settings.setting(_FOLDER_KEY) or Path.home())
        return folder if folder.is_dir() else Path.home()

    def _remember(self, folder: Path) -> None:
        settings.setSetting(_FOLDER_KEY, str(folder))

    # ---- messages

    def _sayWritten(self, path: Path, good: bool) -> None:
        failed = _("{file} cannot be written. Check free disk space and permissions.")
        self._say((_("Written: {file}") if good else failed).format(file=path))

    def _sayNoDicom(self, reason: str) -> None:
        text = _("No DICOM file was written. {reason} Export .seg.nrrd or NIfTI instead.")
        self._say(text.format(reason=sentence(reason)))

    def _say(self, message: str) -> None:
        ui = self._context.ui
        ui.exportWords.text = message
        ui.exportCheckFrame.visible = False  # of an export before
        ui.exportCheckButton.checked = False
        self._onShowCheck(False)


def _confirm(question: str, title: str) -> bool:
    with callbacks.dialog():
        return bool(slicer.util.confirmYesNoDisplay(question, windowTitle=title))


def _stem(name: str, suffix: str) -> str:
    """`name` without the ending, or the part of it that a user or a file dialog has written (.nii, .gz, .NII.GZ)."""
    parts = suffix.split(".")[1:]
    endings = [suffix, *("." + part for part in parts)]
    found = next((ending for ending in endings if name.lower().endswith(ending) and len(name) > len(ending)), "")
    return name[: len(name) - len(found)]


def _file_name(name: str) -> str:
    allowed = "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in name).strip()
    return allowed or "segmentation"
