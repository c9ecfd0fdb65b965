"""How good a mask is expected to be: its line in panel Result, and the display of a mask that is likely wrong.

The engine's result has ``quality`` where the model is calibrated; it applies to the mask as the model made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import slicer
from MPERLib import engine_words, formatting, mrml, phases
from MPERLib.formatting import sentence
from slicer.i18n import tr as _

from MPERSegmentLib import result_node

GOOD, CHECK, WRONG = "good", "check", "likely wrong"  # the engine's levels
EMPTY, EDITED = "empty", "edited"  # an empty mask; a mask that was edited, whose level applied to the original one
FLAGS = ("quality", "empty")  # codes of flags that the line says already
RED = "#d03030"

_BACKGROUNDS = {
    GOOD: "rgba(70, 160, 90, 60)",
    CHECK: "rgba(226, 156, 48, 70)",
    WRONG: "rgba(208, 48, 48, 80)",
    EMPTY: "rgba(226, 156, 48, 70)",
    EDITED: "transparent",
}
_MARKED = "MPER.LikelyWrong"  # attribute of a display node that shows its mask as likely wrong
_OUTLINE, _FILL, _OPACITY_3D = (1.0, 0.1, 0.1), 0.1, 0.5


def of(node: slicer.vtkMRMLSegmentationNode | None) -> dict[str, Any] | None:
    """The expected quality of a result's original mask; None where there is none."""
    return (result_node.of(node) or {}).get("quality")


def is_empty(node: slicer.vtkMRMLSegmentationNode, result: dict[str, Any]) -> bool:
    """Whether the model has found none of its structures, and nobody has drawn one."""
    structures = result.get("structures") or []
    none = bool(structures) and not any(figures.get("voxels", 1) for figures in structures)
    return none and not result_node.is_edited(node)


def level_of(node: slicer.vtkMRMLSegmentationNode | None) -> str:
    """GOOD, CHECK, WRONG, EMPTY or EDITED; empty where nothing is known."""
    result, quality = result_node.of(node), of(node)
    if node is None or result is None:
        return ""
    if is_empty(node, result):
        return EMPTY
    if quality is None:
        return ""
    return EDITED if result_node.is_edited(node) else str(quality["level"])


def line(node: slicer.vtkMRMLSegmentationNode | None, hasBox: bool) -> str:
    """What to expect of a mask, why, and what to do; empty where nothing is known.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode or None
    hasBox : bool
        Whether there is a box of the region in the views.
    """
    level = level_of(node)
    if level == EMPTY:
        return " ".join([_not_found(node), _("Check that the scan shows it."), _help(hasBox)])
    if not level:
        return ""
    quality = engine_words.in_words(result_node.of(node) or {}).get("quality") or {}
    numbers = _("{share} ({low} to {high})").format(
        share=formatting.percent(quality["expected_dice"]),
        low=f"{100 * quality['low']:.0f}",
        high=formatting.percent(quality["high"]),
    )
    if level == EDITED:
        text = _("Edited. Expected agreement of the original mask with an expert: {numbers}.")
        return text.format(numbers=numbers)
    if level == GOOD:
        return _("Expected agreement with an expert: {numbers}.").format(numbers=numbers)
    if level == WRONG:
        head = _("Likely wrong: expected agreement with an expert only {numbers}.")
    else:
        head = _("Please check: expected agreement with an expert {numbers}.")
    reasons = quality.get("reasons") or []
    reasons = sentence(_(" and ").join(reasons)) if reasons else ""
    words = [head.format(numbers=numbers), reasons]
    if level == CHECK:
        words.append(_("Correct the mask where it is wrong."))
    if level == WRONG or hasBox:
        words.append(_help(hasBox))
    return " ".join(word for word in words if word)


def doubts(nodes: Sequence[slicer.vtkMRMLSegmentationNode]) -> list[str]:
    """What is to be said with the figures of these masks, one or one for each phase, where some may be wrong."""
    lines = []
    for level, one, several in (
        (
            WRONG,
            _("The mask is likely wrong, and so are these figures."),
            _("The masks of these phases are likely wrong: {phases}. So are the figures made of them."),
        ),
        (
            CHECK,
            _("Please check the mask before you use these figures."),
            _("Please check the masks of these phases before you use the figures: {phases}."),
        ),
    ):
        found = [node for node in nodes if mrml.alive(node) and level_of(node) == level]
        if found:
            numbers = ", ".join(str(phases.of(node)) for node in found)
            lines.append(one if len(nodes) == 1 else several.format(phases=numbers))
    return lines


def style(level: str) -> str:
    """The style sheet of the line."""
    weight = "font-weight: bold; " if level == WRONG else ""
    background = _BACKGROUNDS.get(level, "transparent")
    return f"QLabel {{ background-color: {background}; {weight}border-radius: 4px; padding: 4px; }}"


def show_in_views(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Draw a mask that is likely wrong with a red outline and hardly any filling; any other as usual."""
    display = node.GetDisplayNode()
    if display is None:
        return
    wrong = level_of(node) == WRONG
    if not wrong and display.GetAttribute(_MARKED) is None:
        return
    was = display.StartModify()
    display.SetAttribute(_MARKED, "yes" if wrong else None)
    segmentation = node.GetSegmentation()
    for n in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegmentID(n)
        if wrong:
            display.SetSegmentOverrideColor(segment, *_OUTLINE)
        else:
            display.UnsetSegmentOverrideColor(segment)
        display.SetSegmentOpacity2DFill(segment, _FILL if wrong else 1.0)
        display.SetSegmentOpacity3D(segment, _OPACITY_3D if wrong else 1.0)
    display.EndModify(was)


def _not_found(node: slicer.vtkMRMLSegmentationNode | None) -> str:
    names = [figures["name"] for figures in (result_node.of(node) or {}).get("structures", [])]
    if len(names) == 1:
        return _("{name} was not found.").format(name=names[0])
    return _("None of {names} was found.").format(names=", ".join(names))


def _help(hasBox: bool) -> str:
    if hasBox:
        return _('Drag the region\'s box and click "Segment again in this box", or click "It is here".')
    return _('Click "It is here" and then its middle in a slice, or draw an ROI.')
