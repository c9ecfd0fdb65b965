"""The choices of the user that are saved with the scene."""

from __future__ import annotations

from MPERLib import mrml, settings
from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLScriptedModuleNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import parameterNodeWrapper

_NODES = ("InputVolume", "Region", "Result")
_NUMBERS = ("Opacity", "Threshold", "Uncertainty", "Radius")


@parameterNodeWrapper
class SegmentParameters:
    """Parameters of the module; names and texts are those of version 0.1, so that scenes open in both.

    Make one with `parametersOf`.

    InputVolume, Region, Result : the scan, the region to segment (or none) and the segmentation that is shown.
    Model, Device : ids; an empty model stands for the one in use.
    Target : "new" or "update".
    Overlay : "none", "prototypes" or "uncertainty".
    Opacity, Threshold, Uncertainty : percent (of the overlay; lower bounds of similarity and of uncertainty).
    Hidden : values of the prototypes that are hidden, separated by commas.
    Radius : of the brush, in half millimetres.
    Dataset : id of the dataset in which labels are saved.
    """

    InputVolume: vtkMRMLScalarVolumeNode
    Region: vtkMRMLMarkupsROINode
    Result: vtkMRMLSegmentationNode
    Model: str = ""
    Device: str = "auto"
    Target: str = "new"
    Overlay: str = "none"
    Opacity: int = 60
    Threshold: int = 0
    Uncertainty: int = 15
    Hidden: str = ""
    Radius: int = 6
    Dataset: str = ""

    # The wrapper caches nodes, and returns one that has been removed from the scene until the parameter node changes.

    def scan(self) -> vtkMRMLScalarVolumeNode | None:
        return self.InputVolume if mrml.alive(self.InputVolume) else None

    def region(self) -> vtkMRMLMarkupsROINode | None:
        return self.Region if mrml.alive(self.Region) else None

    def result(self) -> vtkMRMLSegmentationNode | None:
        return self.Result if mrml.alive(self.Result) else None

    def modelId(self) -> str:
        """The model that the user chose, else the one in use."""
        return self.Model or settings.modelInUse()

    def hiddenPrototypes(self) -> set[int]:
        """Values of the prototypes that are hidden."""
        return {int(value) for value in self.Hidden.split(",") if value.isdigit()}


def parametersOf(node: vtkMRMLScriptedModuleNode) -> SegmentParameters:
    """The parameters in a parameter node, also in one of version 0.1 or changed by hand.

    The wrapper clears a node reference that has no parameter of the same name, which version 0.1 did not write; and it
    raises on numbers that are none.
    """
    for name in _NODES:
        if not node.HasParameter(name):
            node.SetParameter(name, "")
    for name in _NUMBERS:
        if node.HasParameter(name) and not node.GetParameter(name).isdigit():
            node.UnsetParameter(name)
    return SegmentParameters(node)
