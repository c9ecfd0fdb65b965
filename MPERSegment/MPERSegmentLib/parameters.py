"""What the user chose, kept in the module's parameter node and so saved with the scene."""

from __future__ import annotations

import slicer
from MPERLib import settings

_NODES = {
    "scan": "InputVolume",
    "roi": "Region",
    "result": "Result",
}
_DEFAULTS = {
    "Model": "la",
    "Device": "auto",
    "Target": "new",
    "Overlay": "none",
    "Opacity": "60",
    "Threshold": "0",
    "Uncertainty": "15",
    "Hidden": "",
    "Radius": "6",
    "Dataset": "",
}


class Parameters:
    """Names and defaults of what a `vtkMRMLScriptedModuleNode` keeps for the module."""

    def __init__(self, node: slicer.vtkMRMLScriptedModuleNode):
        self.node = node

    def get(self, name: str) -> str:
        kept = self.node.GetParameter(name)
        if name == "Model":  # the trainer's word counts until the user chooses another one
            kept = kept or settings.setting(settings.CURRENT_MODEL_KEY)
        return kept or _DEFAULTS[name]

    def put(self, name: str, value: object) -> None:
        if name not in _DEFAULTS:
            raise KeyError(name)
        if self.get(name) != str(value):
            self.node.SetParameter(name, str(value))

    def number(self, name: str) -> int:
        try:
            return int(self.get(name))
        except ValueError:  # a scene that somebody changed by hand
            return int(_DEFAULTS[name])

    def nodeOf(self, role: str) -> slicer.vtkMRMLNode | None:
        return self.node.GetNodeReference(_NODES[role])

    def putNode(self, role: str, node: slicer.vtkMRMLNode | None) -> None:
        if self.nodeOf(role) is not node:
            self.node.SetNodeReferenceID(_NODES[role], node.GetID() if node else None)
