"""Panel Export: the result as a file for Slicer, for others, for printing, or for the PACS."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from MPERLib import callbacks, install, mrml, settings
from MPERLib.callbacks import slot
from slicer.i18n import tr as _

from MPERSegmentLib import result_node
from MPERSegmentLib.panel_context import PanelContext, sentence
from MPERSegmentLib.turns import later

_FOLDER_KEY = "MPER/ExportFolder"
_TURN_S = 0.03
_NAME_LENGTH = 64  # of a part of a DICOM person name


class ExportPanel:
    """Writes the result that is shown.

    Parameters
    ----------
    context : PanelContext
    """

    def __init__(self, context: PanelContext):
        self._context = context
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._command: install.Run | None = None
        self._folder: Path | None = None
        ui = context.ui
        ui.exportCheckText.setFont(qt.QFontDatabase.systemFont(qt.QFontDatabase.FixedFont))
        ui.exportCheckButton.connect("toggled(bool)", slot(self._onShowCheck))
        ui.exportCopyButton.connect("clicked()", slot(self._onCopy))
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
            self._command = None
        self._cleanUp()

    # ---- what is written; each can be called without a dialog

    def toSegNrrd(self, path: Path) -> None:
        self._written(path, slicer.util.saveNode(self._node, str(path)))

    def toNifti(self, path: Path) -> None:
        """A label map on the scan's whole grid, with the model's own numbers for the structures."""
        scan = result_node.scan_of(self._node)
        if scan is None:
            self._tell(_("The scan of this result is no longer in the scene; .seg.nrrd still works."))
            return
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "MPER export")
        node.SetHideFromEditors(True)
        try:
            mrml.fill_volume(node, mrml.mask_of(self._node, scan), mrml.geometry_of(scan).affine)
            self._written(path, slicer.util.saveNode(node, str(path)))
        except ValueError as error:
            self._tell(sentence(str(error)))
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
        files, message = dicom_files(result_node.scan_of(self._node))
        if message:
            self._tell(message)
            return
        untold = undeclared(self._node)
        if untold and not self._mayBeManual(untold):
            self._tell(_("Nothing was written: a DICOM segmentation has to say how each structure was made."))
            return
        self._cleanUp()
        self._folder = Path(tempfile.mkdtemp(prefix="mper-dicom-"))
        mask = self._folder / "mask.seg.nrrd"
        source = self._folder / "source"
        source.mkdir()
        if not slicer.util.exportNode(self._node, str(mask)):
            self._cleanUp()
            self._tell(_("The mask could not be written to {file}.").format(file=mask))
            return
        words = ["export-seg", str(mask), "--source", str(source), "--out", str(path), "--json"]
        if untold:
            words.append("--manual")
        creator = self._context.ui.authorEdit.text.strip()
        if creator and len(creator) <= _NAME_LENGTH and not set(creator) & set("\\=^"):
            words.append(f"--creator={creator}")
        self._tell(_("Writing and checking the DICOM segmentation \N{HORIZONTAL ELLIPSIS}"))
        self._context.ui.exportDicomButton.enabled = False
        self._gather([(Path(file), source / f"{n:06d}.dcm") for n, file in enumerate(files)], words, self._folder)

    def _gather(self, files: list[tuple[Path, Path]], words: list[str], folder: Path) -> None:
        """Put the source's files together, some at each turn; then the process begins."""
        if self._folder is not folder:  # given up
            return
        end = time.monotonic() + _TURN_S
        said: list[str] = []
        try:
            while files and time.monotonic() < end:
                _link(*files.pop())
            if files:
                later(lambda: self._gather(files, words, folder), "export gathers files")
                return
            self._command = install.Run(
                install.module("mper", *words), said.append, lambda: self._checked(said), self._failed
            )
        except OSError as error:
            self._failed(str(error))

    def _mayBeManual(self, names: list[str]) -> bool:
        question = _(
            "Nobody has noted how {names} came about. Were these structures drawn by hand? They are then marked as "
            "drawn by a person (MANUAL) in the DICOM file; what a model drew keeps its own mark."
        ).format(names=", ".join(names))
        with callbacks.dialog():
            return bool(slicer.util.confirmYesNoDisplay(question, windowTitle=_("Export as DICOM segmentation")))

    # ---- the export check

    def _checked(self, said: list[str]) -> None:
        """The file is written, was read back and agrees with the mask."""
        try:
            answer = json.loads("\n".join(said[said.index("{") :]))
            report = Path(answer["check_files"][0]).read_text(encoding="utf-8")
            summary = "\n".join([*check_words(answer["check"]), *answer["check"]["notes"]])
        except (ValueError, KeyError, IndexError, TypeError, OSError):
            self._failed(_("the program that writes DICOM gave no report; its version may not fit this module"))
            return
        self._ended("\n".join([_("Written: {file}").format(file=answer["seg"]), summary]))
        self._context.ui.exportCheckText.plainText = report
        self._context.ui.exportCheckFrame.visible = True

    def _onShowCheck(self, shown: bool) -> None:
        ui = self._context.ui
        ui.exportCheckButton.text = _("Hide check") if shown else _("Show check")
        ui.exportCheckText.visible = ui.exportCopyButton.visible = shown

    def _onCopy(self) -> None:
        slicer.app.clipboard().setText(self._context.ui.exportCheckText.plainText)

    def _failed(self, message: str) -> None:
        message = message.removeprefix("mper: ").removeprefix("error: ")
        self._ended(_("{reason} Nothing was written; .seg.nrrd and NIfTI still work.").format(reason=sentence(message)))

    # ---- dialogs

    def _ask(self, suffix: str, kind: str, write: Callable[[Path], None]) -> None:
        start = self._lastFolder() / (_file_name(self._node.GetName()) + suffix)
        pattern = f"{kind} (*{suffix})"
        with callbacks.dialog():
            chosen = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), _("Export"), str(start), pattern)
        if chosen:
            path = Path(str(chosen))
            if not path.name.endswith(suffix):
                path = path.with_name(path.name + suffix)
            self._remember(path.parent)
            write(path)

    def _askFolder(self) -> None:
        with callbacks.dialog():
            chosen = qt.QFileDialog.getExistingDirectory(
                slicer.util.mainWindow(), _("Export STL to"), str(self._lastFolder())
            )
        if chosen:
            self._remember(Path(str(chosen)))
            self.toStl(Path(str(chosen)))

    def _askDicom(self) -> None:
        """Ask for a file only where one can be written."""
        _files, message = dicom_files(result_node.scan_of(self._node))
        if message:
            self._tell(message)
        else:
            self._ask(".dcm", _("DICOM segmentation"), self.toDicom)

    def _lastFolder(self) -> Path:
        folder = Path(settings.setting(_FOLDER_KEY) or Path.home())
        return folder if folder.is_dir() else Path.home()

    def _remember(self, folder: Path) -> None:
        settings.setSetting(_FOLDER_KEY, str(folder))

    # ---- how it went

    def _written(self, path: Path, good: bool) -> None:
        words = (
            _("Written: {file}") if good else _("{file} could not be written; is there room, and may you write there?")
        )
        self._tell(words.format(file=path))

    def _ended(self, message: str) -> None:
        self._command = None
        self._cleanUp()
        self._context.ui.exportDicomButton.enabled = self._node is not None
        self._tell(message)

    def _cleanUp(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _tell(self, message: str) -> None:
        ui = self._context.ui
        ui.exportWords.text = message
        ui.exportCheckFrame.visible = False  # it tells of an export before
        ui.exportCheckButton.checked = False
        self._onShowCheck(False)


def check_words(check: dict[str, Any]) -> list[str]:
    """An export check in a line."""
    found = {entry["what"].partition(" (")[0]: entry["found"] for entry in check["checks"]}
    if not check["passed"]:
        return [_("The export check failed.")]
    return [
        _("Read back and compared: passed, {frames} frames, {voxels} voxels differ.").format(
            frames=found["frames"], voxels=found["voxels"].rpartition(", ")[2].partition(" ")[0]
        )
    ]


def undeclared(node: slicer.vtkMRMLSegmentationNode) -> list[str]:
    """Names of the drawn segments of which nothing says whether a program or a person made them."""
    names = [name for name, made in mrml.provenances_of(node) if made is None]
    try:
        volumes = result_node.volumes_ml(node) if names else {}
    except ValueError:  # segments that overlap: the export says so
        volumes = {}
    return [name for name in names if volumes.get(name, 1)]


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
