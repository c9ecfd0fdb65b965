"""Phases of a time series in the scene: a volume that a sequence browser shows one phase of.

Slicer shows a sequence by one volume node, the proxy, whose content the browser replaces when another phase is shown.
Phases count from 1, as in ``mper segment --phase``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import slicer
from slicer.i18n import tr as _

Node = Any  # a vtkMRMLNode; slicer's classes are made at run time

_PHASE = "MPER.Phase"  # attribute of a segmentation: the phase of its scan that it was made from


@dataclass(frozen=True)
class Phase:
    """One phase: its number, how many there are, and its index value with the unit (``120 ms``), may be empty."""

    number: int
    count: int
    value: str

    @property
    def text(self) -> str:
        """The phase for the user."""
        text = _("phase {n} of {count}").format(n=self.number, count=self.count)
        return f"{text} ({self.value})" if self.value else text


def shown(volumeNode: Node | None) -> Phase | None:
    """The phase of a volume that its sequence browser shows; None where it is no time series."""
    browser, sequence = _browsed(volumeNode)
    if sequence is None or not 0 <= browser.GetSelectedItemNumber() < sequence.GetNumberOfDataNodes():
        return None
    # The browser counts the items of its master sequence, which may have others than the volume's.
    value = browser.GetMasterSequenceNode().GetNthIndexValue(browser.GetSelectedItemNumber())
    number = sequence.GetItemNumberFromIndexValue(value, False)
    return None if number < 0 else _phase(sequence, number + 1)


def phase(volumeNode: Node, number: int) -> Phase:
    """One of the phases of a volume; ValueError if there is no such phase."""
    _browser, sequence = _browsed(volumeNode)
    if sequence is None or not 1 <= number <= sequence.GetNumberOfDataNodes():
        text = _("{scan} has no phase {n} any more; choose another phase, and segment it")
        raise ValueError(text.format(scan=volumeNode.GetName(), n=number))
    return _phase(sequence, number)


def voxels_of(volumeNode: Node, number: int | None) -> Node:
    """The volume node with the voxels of a phase, whichever phase is shown; without a number, `volumeNode` itself."""
    if number is None:
        return volumeNode
    phase(volumeNode, number)  # raises where there is no such phase
    return _browsed(volumeNode)[1].GetNthDataNode(number - 1)


def note(segmentationNode: Node, number: int | None) -> None:
    """Store which phase of its scan a segmentation was made from."""
    segmentationNode.SetAttribute(_PHASE, None if number is None else str(number))


def of(segmentationNode: Node | None) -> int | None:
    """The phase that a segmentation was made from; None where its scan was no time series."""
    text = (segmentationNode.GetAttribute(_PHASE) if segmentationNode else None) or ""
    return int(text) if text.isdigit() else None


def mismatch(segmentationNode: Node | None, volumeNode: Node | None) -> str:
    """A line for the user where another phase is shown than that of the segmentation, else empty."""
    number, now = of(segmentationNode), shown(volumeNode)
    if number is None or now is None or now.number == number:
        return ""
    return _("This mask is of phase {n}; phase {shown} is shown. Show phase {n} to see and correct it.").format(
        n=number, shown=now.number
    )


def holder(volumeNode: Node) -> Node:
    """The node whose attributes belong to a scan: of a time series its browser, as each phase replaces the volume's."""
    browser, _sequence = _browsed(volumeNode)
    return volumeNode if browser is None else browser


def _browsed(volumeNode: Node | None) -> tuple[Node, Node]:
    """Sequence browser and sequence of a volume, (None, None) where it has no other phases."""
    module = getattr(slicer.modules, "sequences", None)
    if module is None or volumeNode is None:
        return None, None
    browser = module.logic().GetFirstBrowserNodeForProxyNode(volumeNode)
    sequence = browser.GetSequenceNode(volumeNode) if browser is not None else None
    if sequence is None or browser.GetMasterSequenceNode() is None or sequence.GetNumberOfDataNodes() < 2:
        return None, None
    return browser, sequence


def _phase(sequence: Node, number: int) -> Phase:
    value = sequence.GetNthIndexValue(number - 1) or ""
    unit = sequence.GetIndexUnit() or ""
    known = unit and sequence.GetIndexType() == sequence.NumericIndex
    if known:
        value = f"{float(value):g} {unit}"
    return Phase(number, sequence.GetNumberOfDataNodes(), value if known else "")
