"""The segmentation that was loaded with a volume, as the label of the case that the volume becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import slicer
from MPERLib import mrml, segmentation_node
from slicer.i18n import tr as _

from mper.labels import UNLABELLED, label_from_dict, matching_labels

_NOT_LOADED = ("MPER.Result", "MPER.Unsaved", "MPER.Trainer")  # attributes of segmentations that MPER itself has made


def loaded_mask(volumeNode: Any, labels: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray | None, str]:
    """The mask of a volume, with the values of the structures of a dataset, and a line for the user.

    It is the segmentation whose reference volume is this one. None, and maybe a line that says why, where there is no
    such segmentation, or none of its segments is a structure of the dataset, by code or by name.
    """
    found = _segmentation_of(volumeNode)
    if found is None:
        return None, ""
    names = {"scan": volumeNode.GetName(), "segmentation": found.GetName()}
    own = segmentation_node.labels_of(found)
    match = matching_labels(own, [label_from_dict(dict(label)) for label in labels])
    if not match:
        text = _("{segmentation} shows none of the dataset's structures; {scan} is added without a label")
        return None, text.format(**names)
    try:
        mask = segmentation_node.mask_of(found, volumeNode)
    except ValueError as error:
        return None, f"{names['segmentation']}: {error}"
    table = np.zeros(256, np.uint8)
    table[UNLABELLED] = UNLABELLED
    for value, structure in match.items():
        table[value] = structure
    left_out = [label.name for label in own if label.value not in match]
    text = _("the segmentation {segmentation} is the label of {scan}").format(**names)
    if left_out:
        text += "; " + _("{structures} is no structure of the dataset").format(structures=", ".join(left_out))
    return table[mask], text


def _segmentation_of(volumeNode: Any) -> Any:
    """The newest segmentation that refers to a volume and was not made by MPER."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    nodes = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        if node.GetNodeReference(role) is volumeNode and not any(map(node.GetAttribute, _NOT_LOADED))
    ]
    nodes = [node for node in nodes if not mrml.case_of(node)[1] and node.GetSegmentation().GetNumberOfSegments()]
    return nodes[-1] if nodes else None
