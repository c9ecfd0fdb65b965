"""What measurements need besides masks: height, weight, the wall's thickness, whether the scan is an LGE-MRI.

They are stored with the scan, so that all its segmentations and a saved scene have them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import slicer
from MPERLib import mrml, phases, segmentation_node
from MPERLib.engine_session import EngineSession

from mper.labels import Label, make_label, structure_of
from MPERSegmentLib import result_node

_ATTRIBUTE = "MPER.Measure"
_LGE = "late gadolinium"  # in the modality of a model's card
_TAGS = (("height_cm", "0010,1020", 100.0), ("weight_kg", "0010,1030", 1.0))  # PatientSize is in m
_KNOWN = {name: make_label(1, name) for name in ("LA", "LV", "RV", "MYO")}


@dataclass(frozen=True)
class MeasureInputs:
    """Height and weight (0 where unknown), thickness of the wall, and whether its enhancement is measured."""

    height_cm: float = 0.0
    weight_kg: float = 0.0
    wall_mm: float = 3.0
    enhancement: bool = True


@dataclass(frozen=True)
class ReportInputs:
    """What a report is made of: the masks in the order of time, their scan, inputs, clips, ED and ES (or empty)."""

    masks: list[Any]
    scan: slicer.vtkMRMLScalarVolumeNode
    inputs: MeasureInputs
    clips: list[dict[str, Any]]
    ed: str = ""
    es: str = ""

    def words(self) -> list[str]:
        """The options of ``mper measure``, without those that name files."""
        found = [f"--wall-mm={self.inputs.wall_mm:g}"]
        if self.inputs.height_cm and self.inputs.weight_kg:
            found += [f"--height-cm={self.inputs.height_cm:g}", f"--weight-kg={self.inputs.weight_kg:g}"]
        if not self.inputs.enhancement:
            found.append("--no-wall")
        return found


def load(node: Any, session: EngineSession) -> MeasureInputs:
    """The stored inputs of a segmentation's scan; height and weight else those of its DICOM header."""
    scan = result_node.scan_of(node) if node is not None else None
    if scan is None:
        return MeasureInputs()
    model = session.modelOf(result_node.of(node) or {}) or {}
    card = model.get("card") or {}
    modality = str(card.get("about", card).get("modality") or "").lower()
    stored = mrml.json_attribute(phases.holder(scan), _ATTRIBUTE)
    known: dict[str, Any] = {"enhancement": not modality or _LGE in modality, **_of_header(scan)}
    for name, value in stored.items():
        if name in MeasureInputs.__dataclass_fields__ and isinstance(value, (bool, int, float)):
            known[name] = value
    return MeasureInputs(**known)


def store(node: Any, inputs: MeasureInputs) -> None:
    """Store inputs with the scan of a segmentation."""
    scan = result_node.scan_of(node)
    if scan is not None:
        phases.holder(scan).SetAttribute(_ATTRIBUTE, json.dumps(asdict(inputs)))


def has_atrium(node: Any) -> bool:
    """Whether a segmentation has a left atrium, by code or name."""
    return "LA" in structures(node).values()


def structures(node: Any) -> dict[int, str]:
    """By label value what each segment is: LA, LV, RV or MYO by its code or name (one segment each), else its name."""
    found: dict[int, str] = {}
    for label in segmentation_node.labels_of(node):
        known = next((name for name, other in _KNOWN.items() if _same(label, other)), label.name)
        found[label.value] = label.name if known in found.values() else known
    return found


def _same(label: Label, other: Label) -> bool:
    names = (other.name.casefold(), other.type.meaning.casefold() if other.type else "")
    return structure_of(label) == structure_of(other) or label.name.casefold() in names


def _of_header(scan: Any) -> dict[str, float]:
    uids = (scan.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if not uids or database is None or not database.isOpen:
        return {}
    found = {}
    for name, tag, factor in _TAGS:
        try:
            value = float(str(database.instanceValue(uids[0], tag))) * factor
        except ValueError:
            continue
        if value > 0:
            found[name] = value
    return found
