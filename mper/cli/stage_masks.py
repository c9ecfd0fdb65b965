"""What is staged of a case: its mask as a label of the dataset, and the preview of both; see `mper.cli.stage`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mper.utils.coded import Coded
from mper.utils.errors import explain

if TYPE_CHECKING:
    from mper.datasets.mask_mapping import MaskValue
    from mper.datasets.source import Source, SourceCase
    from mper.labels import Label
    from mper.volume import Volume


_ITS_MASK = Coded("its mask", "its-mask")


@dataclass(frozen=True)
class ChosenMask:
    """What a person chose for a scan: whether its mask is wanted, and what its values mean; None: as they seem to."""

    mask: bool = True
    structures: Mapping[int, int] | None = None

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> ChosenMask:
        structures = entry.get("structures")
        values = None if structures is None else {int(value): int(to) for value, to in structures.items()}
        return cls(bool(entry.get("mask", True)), values)


def read_case(case: SourceCase, notices: list[str]) -> tuple[Volume, Volume | None]:
    """Image and mask of a case, checked."""
    from mper.datasets.masks import check_not_a_mask
    from mper.io import check_extent, check_scan

    image, mask = case.read(notices.append)
    check_scan(image)
    check_extent(image.geometry)
    if mask is None:
        check_not_a_mask(image, case.id)
    return image, mask


def preview(case: SourceCase, source: Source, labels: Sequence[Label]) -> dict[str, Any]:
    """What would be staged of a case."""
    from mper.datasets.mask_mapping import mask_values, with_structures
    from mper.datasets.masks import label_for_scan
    from mper.datasets.scan_record import voxels_sha256

    notices: list[str] = []
    image, mask = read_case(case, notices)
    described: dict[str, Any] | None = None
    if mask is not None:
        values = mask_values(mask, source, labels)
        described = {"values": [asdict(value) for value in values], "empty": not values, "usable": True}
        try:
            one = with_structures(mask, dict.fromkeys((value.value for value in values), labels[0].value))
            label_for_scan(one, image.geometry, labels, _ITS_MASK, notices.append, outside_of(source))
        except ValueError as error:
            described["usable"] = False
            reason = explain(error)
            notices.append(Coded(f"{reason}; it would be added without a label", "without-label", reason=reason))
        if why := case.unedited_or_draft(image, mask):
            described |= {"usable": False, "unedited": True}
            notices.append(Coded(f"{why}; it would be added without a label", "without-label", reason=why))
    spacing = image.geometry.spacing_mm
    return {
        "id": case.id,
        "shape": list(image.geometry.shape),
        "spacing_mm": None if spacing is None else list(spacing),
        "voxels_sha256": voxels_sha256(image),
        "mask": described,
        "notices": notices,
    }


def label_of(
    mask: Volume, image: Volume, source: Source, labels: Sequence[Label], choice: ChosenMask, notices: list[str]
) -> Volume | None:
    """The label of a scan from its mask; None where it cannot be one, with a notice."""
    from mper.datasets.mask_mapping import mask_values, with_structures
    from mper.datasets.masks import label_for_scan
    from mper.labels import UNLABELLED

    structures = choice.structures
    if structures is None:
        values = mask_values(mask, source, labels)
        structures, why = _seeming(values)
        if not values:
            why = Coded("its mask is empty. Open the case to draw the label", "mask-empty-draw")
        if why:
            notices.append(Coded(f"{why}; added without a label", "added-without-label", reason=why))
            return None
        if UNLABELLED in structures:
            name = next(label.name for label in labels if label.value == structures[UNLABELLED])
            line = f"the mask holds 0 and 255: 255 is taken as {name}, not as unlabelled"
            notices.append(Coded(line, "mask-of-255", structure=name))
        if left_out := [value.name for value in values if not value.structure]:
            names = ", ".join(left_out)
            line = f"{names} of its mask is no structure of the dataset: background here"
            notices.append(Coded(line, "mask-left-out", structures=names))
    try:
        mapped = with_structures(mask, structures)
        return label_for_scan(mapped, image.geometry, labels, _ITS_MASK, notices.append, outside_of(source))
    except ValueError as error:
        reason = explain(error)
        notices.append(Coded(f"{reason}; added without a label", "added-without-label", reason=reason))
        return None


def _seeming(values: Sequence[MaskValue]) -> tuple[dict[int, int], str]:
    """What the values of a mask mean without a person, or why that cannot be said."""
    from mper.labels import become_one

    if several := [value.name for value in values if value.structure is None and value.name]:
        return {}, become_one(several)
    if unknown := [value.value for value in values if value.structure is None]:
        if unknown == [255]:
            line = "its mask holds only 0 and 255, and 255 means unlabelled here"
            return {}, Coded(line, "mask-only-255")
        line = f"its mask holds the values {unknown}, which no label names"
        return {}, Coded(line, "mask-values-unknown", values=", ".join(map(str, unknown)))
    if values and not any(value.structure for value in values):
        names = ", ".join(value.name for value in values)
        return {}, Coded(f"its mask shows {names}, which the dataset does not have", "mask-of-others", structures=names)
    return {value.value: value.structure for value in values if value.structure}, ""


def outside_of(source: Source) -> int:
    """The label of what a mask's grid does not reach."""
    from mper.labels import BACKGROUND, UNLABELLED

    return UNLABELLED if source.partial else BACKGROUND
