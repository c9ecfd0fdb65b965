"""``slicer.app.coreIOManager()``: reads and writes nodes for slicer.util.loadVolume, saveNode and exportNode.

Interface from qSlicerCoreIOManager.h. Readers do what qSlicerVolumesReader.cxx and qSlicerSegmentationsReader.cxx do,
writers what qSlicerNodeWriter.cxx does: the node's storage node writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from PySide6.QtCore import QObject

from .pythonqt import exposed


class qSlicerCoreIOManager(QObject):
    @exposed
    def fileType(self, name: str) -> str:
        if name.endswith((".seg.nrrd", ".seg.nhdr")):
            return "SegmentationFile"
        return "VolumeFile" if name.endswith((".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")) else ""

    @exposed
    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any = None, messages: Any = None) -> bool:
        path = properties["fileName"]
        if not isinstance(path, str) or not Path(path).is_file():
            return False
        if kind == "VolumeFile":
            node = self._load_volume(path, properties)
        elif kind == "SegmentationFile":
            logic = slicer.modules.segmentations.logic()
            node = logic.LoadSegmentationFromFile(
                path, True, properties.get("name") or Path(path).name.partition(".")[0]
            )
        else:
            raise ValueError(f"the host reads no files of type {kind!r}")
        if node is not None and loaded is not None:
            loaded.AddItem(node)
        return node is not None

    def _load_volume(self, path: str, properties: dict[str, Any]) -> Any:
        logic = slicer.modules.volumes.logic()
        name = properties.get("name") or Path(path).name.partition(".")[0]
        options = sum(bit for key, bit in (("labelmap", 1), ("center", 2), ("singleFile", 4)) if properties.get(key))
        node = logic.AddArchetypeVolume(path, name, options)
        if node is not None and properties.get("show", True):
            application = slicer.app.applicationLogic()
            if node.IsA("vtkMRMLLabelMapVolumeNode"):
                application.GetSelectionNode().SetActiveLabelVolumeID(node.GetID())
            else:
                application.GetSelectionNode().SetActiveVolumeID(node.GetID())
            application.PropagateVolumeSelection()
        return node

    @exposed
    def fileWriterFileType(self, node: Any, extension: str = "") -> str:
        return "SegmentationFile" if node.IsA("vtkMRMLSegmentationNode") else "VolumeFile"

    @exposed
    def fileWriterExtensions(self, node: Any) -> list[str]:
        types = node.CreateDefaultStorageNode().GetSupportedWriteFileTypes()
        return [types.GetValue(number) for number in range(types.GetNumberOfValues())]

    @exposed
    def extractKnownExtension(self, name: str, node: Any) -> str:
        read = slicer.vtkDataFileFormatHelper.GetFileExtensionFromFormatString
        known = [read(text) for text in self.fileWriterExtensions(node)]
        return max((text for text in known if text and name.endswith(text)), key=len, default="")

    @exposed
    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any = None) -> bool:
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if not isinstance(properties["fileName"], str):
            raise ValueError(f"fileName must be a text, got {properties['fileName']!r}")
        if node.GetStorageNode() is None and not node.AddDefaultStorageNode(properties["fileName"]):
            return False
        return self._write(node, node.GetStorageNode(), properties)

    @exposed
    def exportNodes(self, ids: Any, names: Any, properties: Any, harden: bool, messages: Any = None) -> bool:
        if harden:
            raise ValueError("the host exports in local coordinates only")
        for node_id, name in zip(ids, names, strict=True):
            node = slicer.mrmlScene.GetNodeByID(node_id)
            storage = node.CreateDefaultStorageNode()
            storage.UnRegister(None)
            if not self._write(node, storage, {**properties, "fileName": name}):
                return False
        return True

    def _write(self, node: Any, storage: Any, properties: dict[str, Any]) -> bool:
        storage.SetFileName(properties["fileName"])
        if "useCompression" in properties:
            storage.SetUseCompression(int(properties["useCompression"]))
        Path(properties["fileName"]).parent.mkdir(parents=True, exist_ok=True)
        return bool(storage.WriteData(node))
