"""Clips of the left atrium that is shown: add, move by hand, undo, load and save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from MPERLib import callbacks, engine_words, mrml, segmentation_node, settings
from MPERLib.callbacks import later, slot
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from MPERLib.widgets import Table, silent
from slicer.i18n import tr as _

from MPERSegmentLib import clip_nodes, result_node
from MPERSegmentLib.clip_spheres import ClipSpheres

_FOLDER_KEY = "MPER/ExportFolder"
_REST_MS = 400  # without another movement, after which what was moved is one step to undo
_VEIN_MM, _SPHERE_MM = 12.0, 14.0
_TO_THE_VALVE = np.array([0.35, -0.5, -0.8])  # LPS: left, anterior, inferior


class ClipPanel:
    """The clips of one segmentation.

    Parameters
    ----------
    context : PanelContext
    changed : callable
        Called when a clip was added, moved or removed.
    """

    def __init__(self, context: PanelContext, changed: Callable[[], None]):
        self._context, self._changed = context, changed
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._spheres = ClipSpheres()
        self._observed: dict[str, tuple[Any, list[int]]] = {}
        self._now: list[dict[str, Any]] = []
        self._past: list[list[dict[str, Any]]] = []
        self._undone: list[list[dict[str, Any]]] = []
        self._applying = self._waiting = False
        ui = context.ui
        self._rest = qt.QTimer(ui.clipsBox)
        self._rest.setSingleShot(True)
        self._rest.interval = _REST_MS
        self._rest.connect("timeout()", slot(self._onRested))
        self._table = Table(
            ui.clipsTable,
            [
                (_("Clip"), _("Rename it in the module Data")),
                (_("Kind"), _("A plane removes the side of its arrow; with a radius only what touches its disc")),
                (_("Radius"), _("In mm")),
            ],
            fitted=True,
        )
        ui.clipsTable.connect("itemSelectionChanged()", slot(self._onSelected))
        for button, action in (
            (ui.addValveButton, self._onValve),
            (ui.addVeinButton, self._onVein),
            (ui.addSphereButton, self._onSphere),
            (ui.removeClipButton, self._onRemove),
            (ui.flipClipButton, self._onFlip),
            (ui.undoClipButton, self.undo),
            (ui.redoClipButton, self.redo),
            (ui.loadClipsButton, self._onLoad),
            (ui.saveClipsButton, self._onSave),
        ):
            button.connect("clicked()", slot(action, f"clips {button.name}"))
        ui.clipRadius.connect("valueChanged(double)", slot(self._onRadius))
        self.show(None)

    # ---- what is shown

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Clip another segmentation, or none; the clips of all others are hidden."""
        if node is not self._node:
            if mrml.alive(self._node):
                for clip in clip_nodes.all_of(self._node):
                    clip_nodes.show(clip, False)
            self._node = node
            self._past, self._undone = [], []
            for clip in self.nodes():
                clip_nodes.show(clip, True)
            self._message("")
        self._observe()
        self._now = self.clips()
        self._fill()

    def close(self) -> None:
        """The scene is being closed, or the module is."""
        self._rest.stop()
        self._forget(list(self._observed))
        self._spheres.close()
        self._node, self._now, self._past, self._undone = None, [], [], []

    def clips(self) -> list[dict[str, Any]]:
        """The clips as JSON has them; none under a non-linear transform, where nothing can be measured."""
        scan = self._scan()
        try:
            return clip_nodes.to_dicts(self._node, scan) if scan is not None else []
        except ValueError:
            return []

    def nodeRemoved(self, node: Any) -> None:
        """A node is being removed from the scene; it may be a clip."""
        if node.GetID() in self._observed:
            self._forget([node.GetID()])
            self._onMoved()

    def nodes(self) -> list[Any]:
        """The markups of the segmentation that is shown."""
        return clip_nodes.all_of(self._node) if mrml.alive(self._node) else []

    def _scan(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        return result_node.scan_of(self._node) if mrml.alive(self._node) else None

    def _fill(self) -> None:
        ui, nodes = self._context.ui, self.nodes()
        rows = []
        for node in nodes:
            radius = clip_nodes.radius_of(node)
            plane = clip_nodes.kind_of(node) == clip_nodes.PLANE
            kind = _("plane, whole side") if plane and radius is None else _("plane") if plane else _("sphere")
            rows.append([node.GetName(), kind, "" if radius is None else f"{radius:.1f}"])
        self._table.fill(rows, [node.GetID() for node in nodes])
        self._table.widget.visible = bool(rows)
        self._spheres.show(nodes)
        for button in (ui.addValveButton, ui.addVeinButton, ui.addSphereButton, ui.loadClipsButton):
            button.enabled = self._scan() is not None
        ui.saveClipsButton.enabled = bool(rows)
        ui.undoClipButton.enabled, ui.redoClipButton.enabled = bool(self._past), bool(self._undone)
        self._onSelected()

    def _selected(self) -> Any:
        key = self._table.selected()
        return slicer.mrmlScene.GetNodeByID(key) if key else None

    def _onSelected(self) -> None:
        ui, node = self._context.ui, self._selected()
        for each in self.nodes():
            clip_nodes.show_handles(each, each is node)
        radius = clip_nodes.radius_of(node) if node is not None else None
        ui.removeClipButton.enabled = node is not None
        ui.flipClipButton.enabled = node is not None and clip_nodes.kind_of(node) == clip_nodes.PLANE
        ui.clipRadius.enabled = radius is not None
        if radius is not None:
            with silent(ui.clipRadius):
                ui.clipRadius.value = radius

    # ---- changes, by this panel or by hand

    def _observe(self) -> None:
        wanted = {node.GetID(): node for node in self.nodes()}
        self._forget([key for key in self._observed if key not in wanted])
        markups = slicer.vtkMRMLMarkupsNode
        for key, node in wanted.items():
            if key not in self._observed:
                react = slot(self._onMoved, "clip moved")
                events = (vtk.vtkCommand.ModifiedEvent, markups.PointModifiedEvent, markups.PointRemovedEvent)
                self._observed[key] = (node, [node.AddObserver(event, react) for event in events])

    def _forget(self, keys: list[str]) -> None:
        for key in keys:
            node, tags = self._observed.pop(key)
            for tag in tags:
                node.RemoveObserver(tag)

    def _onMoved(self) -> None:
        """Many times while a clip is dragged."""
        if self._applying or self._waiting:
            return
        self._waiting = True
        later(self._afterMove, "clips moved")

    def _afterMove(self) -> None:
        self._waiting = False
        if not mrml.alive(self._node) or self.clips() == self._now:
            return  # hidden, selected or renamed back
        self._spheres.show(self.nodes())
        self._rest.start()
        self._changed()

    def _onRested(self) -> None:
        """What was moved is one step."""
        self._step()

    def _step(self) -> None:
        self._rest.stop()
        now = self.clips()
        if now != self._now:
            self._past.append(self._now)
            self._undone = []
            self._now = now
        self._observe()
        self._fill()

    def _apply(self, clips: list[dict[str, Any]]) -> None:
        self._message("")
        self._applying = True
        try:
            clip_nodes.from_dicts(self._node, self._scan(), clips)
        finally:
            self._applying = False
        self._now = self.clips()
        self._observe()
        self._fill()
        self._changed()

    def undo(self) -> None:
        """Undo the last step."""
        self._step()  # what was moved a moment ago
        if self._past and self._scan() is not None:
            self._undone.append(self._now)
            self._apply(self._past.pop())

    def redo(self) -> None:
        if self._undone and self._scan() is not None:
            self._past.append(self._now)
            self._apply(self._undone.pop())

    # ---- what the user does

    def _onValve(self) -> None:
        middle = self._middle()
        point = self._place(middle)
        normal = point - middle if np.linalg.norm(point - middle) > 5 else _TO_THE_VALVE
        self._add({"kind": "plane", "name": _("mitral valve"), "point_mm": point, "normal": normal})

    def _onVein(self) -> None:
        middle = self._middle()
        point = self._place(middle)
        normal = point - middle if np.linalg.norm(point - middle) > 1 else np.array([0.0, 1.0, 0.0])
        self._add(
            {"kind": "plane", "name": _("vein"), "point_mm": point, "normal": normal, "radius_mm": _VEIN_MM},
        )

    def _onSphere(self) -> None:
        clip = {"kind": "sphere", "name": _("sphere"), "center_mm": self._place(self._middle())}
        self._add({**clip, "radius_mm": _SPHERE_MM})

    def _add(self, clip: dict[str, Any]) -> None:
        self._step()
        self._applying = True
        try:
            node = clip_nodes.add(self._node, self._scan(), clip)
        finally:
            self._applying = False
        self._step()
        self._table.select(node.GetID())
        self._changed()

    def _onRemove(self) -> None:
        node = self._selected()
        if node is not None:
            self._step()
            slicer.mrmlScene.RemoveNode(node)
            self._step()
            self._changed()

    def _onFlip(self) -> None:
        node = self._selected()
        if node is not None:
            clip_nodes.flip(node)

    def _onRadius(self, radius_mm: float) -> None:
        node = self._selected()
        if node is not None and clip_nodes.radius_of(node) is not None:
            clip_nodes.set_radius(node, radius_mm)

    def _middle(self) -> np.ndarray:
        """Centroid of the mask, LPS in the scan's own frame."""
        part, start = segmentation_node.mask_part(self._node, self._scan())
        inside = np.argwhere(part > 0)
        index = inside.mean(axis=0) if len(inside) else np.array(part.shape) / 2
        return np.asarray(mrml.geometry_of(self._scan()).to_world(index + np.array(start)))

    def _place(self, middle: np.ndarray) -> np.ndarray:
        """Where the slices meet, if that is near the mask, else its centroid; LPS in the scan's own frame."""
        meet = _where_slices_meet()
        if meet is None:
            return middle
        (point,) = mrml.lps_of([meet], self._scan())
        bounds = [0.0] * 6
        self._node.GetRASBounds(bounds)
        low, high = np.array(bounds[::2]) - 20, np.array(bounds[1::2]) + 20
        return point if ((meet >= low) & (meet <= high)).all() else middle

    # ---- files

    def _message(self, text: str) -> None:
        self._context.ui.clipsWords.text = text
        self._context.ui.clipsWords.visible = bool(text)

    def _onLoad(self) -> None:
        node = self._node
        with callbacks.dialog():
            name = qt.QFileDialog.getOpenFileName(
                slicer.util.mainWindow(), _("Load clips"), str(self._folder()), _("Clips (*.json)")
            )
        if name and node is not self._node:
            self._message(_("Another result is shown now. Nothing was loaded."))
        elif name:
            self.load(Path(str(name)))

    def load(self, path: Path) -> None:
        """Replace the clips by those of a file; undo brings the old ones back."""
        try:
            clips = clip_nodes.read_file(path)
        except (OSError, ValueError) as error:
            self._message(sentence(engine_words.reason(error)))
            return
        self._step()
        self._past.append(self._now)
        self._undone = []
        self._apply(clips)

    def _onSave(self) -> None:
        start, clips = self._folder() / "clips.json", self.clips()
        with callbacks.dialog():
            name = qt.QFileDialog.getSaveFileName(
                slicer.util.mainWindow(), _("Save clips"), str(start), _("Clips (*.json)")
            )
        if name:
            self.save(clips, Path(str(name)))

    def save(self, clips: list[dict[str, Any]], path: Path) -> None:
        """Write clips for ``mper measure --clip``."""
        try:
            clip_nodes.write_file(path, clips)
        except OSError as error:
            self._message(sentence(_("{file} cannot be written: {reason}").format(file=path, reason=error.strerror)))
        else:
            settings.setSetting(_FOLDER_KEY, str(path.parent))
            self._message(_("Written: {file}").format(file=path))

    def _folder(self) -> Path:
        folder = Path(settings.setting(_FOLDER_KEY) or Path.home())
        return folder if folder.is_dir() else Path.home()


def _where_slices_meet() -> np.ndarray | None:
    """World RAS of the point that the three slice views have in common."""
    normals, offsets = [], []
    for name in ("Red", "Yellow", "Green"):
        widget = slicer.app.layoutManager().sliceWidget(name)
        if widget is None:
            return None
        matrix = slicer.util.arrayFromVTKMatrix(widget.mrmlSliceNode().GetSliceToRAS())
        normals.append(matrix[:3, 2])
        offsets.append(float(matrix[:3, 2] @ matrix[:3, 3]))
    if abs(np.linalg.det(np.array(normals))) < 0.1:
        return None
    return np.asarray(np.linalg.solve(np.array(normals), np.array(offsets)))
