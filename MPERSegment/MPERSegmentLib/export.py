"""Panel Export: the result as a file for Slicer, for others, for printing, or for the PACS."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from MPERLib import install, mrml, places
from MPERLib.trace import slot
from slicer.i18n import tr as _

from MPERSegmentLib import results
from MPERSegmentLib.desk import Desk

_FOLDER_KEY = "MPER/ExportFolder"


class ExportPanel:
    """Writes the result that is shown.

    Parameters
    ----------
    desk : Desk
    """

    def __init__(self, desk: Desk):
        self._desk = desk
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._command: install.Run | None = None
        self._folder: Path | None = None
        ui = desk.ui
        self._buttons = {
            ui.exportSegNrrdButton: lambda: self._ask(
                ".seg.nrrd", _("Slicer segmentation (*.seg.nrrd)"), self.toSegNrrd
            ),
            ui.exportNiftiButton: lambda: self._ask(".nii.gz", _("NIfTI label map (*.nii.gz)"), self.toNifti),
            ui.exportStlButton: self._askFolder,
            ui.exportDicomButton: self._askDicom,
        }
        for button, action in self._buttons.items():
            button.connect("clicked()", slot(action, f"export {button.name}"))
        self.show(None)

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Export another result, or none."""
        self._node = node
        for button in self._buttons:
            button.enabled = node is not None
        self._tell("" if node else _("No result to export yet."))

    def drop(self) -> None:
        """Give up what is under way."""
        if self._command is not None:
            self._command.abort()
        self._cleanUp()

    # ---- what is written; each can be called without a dialog

    def toSegNrrd(self, path: Path) -> None:
        self._written(path, slicer.util.saveNode(self._node, str(path)))

    def toNifti(self, path: Path) -> None:
        """A label map on the scan's whole grid, with the model's own numbers for the structures."""
        scan = results.scan_of(self._node)
        if scan is None:
            self._tell(_("The scan of this result is no longer in the scene; .seg.nrrd still works."))
            return
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "MPER export")
        node.SetHideFromEditors(True)
        try:
            mrml.fill_volume(node, mrml.mask_of(self._node, scan), mrml.geometry_of(scan).affine)
            self._written(path, slicer.util.saveNode(node, str(path)))
        except ValueError as error:
            self._tell(str(error))
        finally:
            slicer.mrmlScene.RemoveNode(node)

    def toStl(self, folder: Path) -> None:
        """A surface a structure, in LPS mm, as other programs expect it."""
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        good = logic.ExportSegmentsClosedSurfaceRepresentationToFiles(
            str(folder), self._node, None, "STL", True, 1.0, False
        )
        self._written(folder, good)

    def toDicom(self, path: Path) -> None:
        """A DICOM segmentation that refers to the scan's own instances; written and checked by a process beside."""
        files, message = dicom_files(results.scan_of(self._node))
        if message:
            self._tell(message)
            return
        self._cleanUp()
        self._folder = Path(tempfile.mkdtemp(prefix="mper-dicom-"))
        mask = self._folder / "mask.seg.nrrd"
        source = self._folder / "source"
        source.mkdir()
        for number, file in enumerate(files):
            _link(Path(file), source / f"{number:06d}.dcm")
        if not slicer.util.exportNode(self._node, str(mask)):
            self._tell(_("The mask could not be written to {file}.").format(file=mask))
            return
        self._tell(_("Writing and checking the DICOM segmentation \N{HORIZONTAL ELLIPSIS}"))
        self._desk.ui.exportDicomButton.enabled = False
        try:
            self._command = install.Run(
                ["-m", "mper", "export-seg", str(mask), "--source", str(source), "--out", str(path)],
                self._tell,
                lambda: self._ended(_("Written: {file}").format(file=path)),
                self._ended,
            )
        except OSError as error:
            self._ended(str(error))

    # ---- dialogs

    def _ask(self, suffix: str, kind: str, write: Callable[[Path], None]) -> None:
        start = self._lastFolder() / (_file_name(self._node.GetName()) + suffix)
        pattern = f"{kind} (*{suffix})"
        chosen = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), _("Export"), str(start), pattern)
        if chosen:
            path = Path(str(chosen))
            if not path.name.endswith(suffix):
                path = path.with_name(path.name + suffix)
            self._remember(path.parent)
            write(path)

    def _askFolder(self) -> None:
        chosen = qt.QFileDialog.getExistingDirectory(
            slicer.util.mainWindow(), _("Export STL to"), str(self._lastFolder())
        )
        if chosen:
            self._remember(Path(str(chosen)))
            self.toStl(Path(str(chosen)))

    def _askDicom(self) -> None:
        """Ask for a file only where one can be written."""
        _files, message = dicom_files(results.scan_of(self._node))
        if message:
            self._tell(message)
        else:
            self._ask(".dcm", _("DICOM segmentation"), self.toDicom)

    def _lastFolder(self) -> Path:
        folder = Path(places.setting(_FOLDER_KEY) or Path.home())
        return folder if folder.is_dir() else Path.home()

    def _remember(self, folder: Path) -> None:
        places.setSetting(_FOLDER_KEY, str(folder))

    # ---- how it went

    def _written(self, path: Path, good: bool) -> None:
        words = (
            _("Written: {file}") if good else _("{file} could not be written; is there room, and may you write there?")
        )
        self._tell(words.format(file=path))

    def _ended(self, message: str) -> None:
        self._command = None
        self._cleanUp()
        self._desk.ui.exportDicomButton.enabled = self._node is not None
        self._tell(message)

    def _cleanUp(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _tell(self, message: str) -> None:
        self._desk.ui.exportWords.text = message


def dicom_files(scan: slicer.vtkMRMLVolumeNode | None) -> tuple[list[str], str]:
    """The files that a scan was loaded from, or one line that says why there are none.

    Slicer's DICOM module notes the instances in the volume, and its database knows their files.
    """
    other = _("Choose .seg.nrrd or NIfTI instead.")
    uids = (scan.GetAttribute("DICOM.instanceUIDs") or "").split() if scan else []
    if not uids:
        return [], _("This scan did not come from DICOM, so there is no series to refer to. {other}").format(
            other=other
        )
    database = getattr(slicer, "dicomDatabase", None)
    if database is None or not database.isOpen:
        return [], _("Slicer's DICOM database is not open. {other}").format(other=other)
    files = [str(database.fileForInstance(uid) or "") for uid in uids]
    missing = sum(not file or not Path(file).is_file() for file in files)
    if missing:
        return [], _(
            "{n} of the scan's {all} DICOM files are no longer there; import the series again. {other}"
        ).format(n=missing, all=len(files), other=other)
    return list(dict.fromkeys(files)), ""


def _link(file: Path, target: Path) -> None:
    """The file under another name without copying it, where the disk can do that."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in name).strip() or "result"
