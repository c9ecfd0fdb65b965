"""How a segment was made, in DICOM's terms: by a program, by a program and corrected manually, or manually.

Slicer keeps it in two tags of a segment, ``DICOM.SegmentAlgorithmType`` and ``DICOM.SegmentAlgorithmName``, which its
own DICOM exporter and ours write. Model, version and checksum travel in the name: ``MPER la 1.0.0 (sha256:8d969eef)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

AUTOMATIC, SEMIAUTOMATIC, MANUAL = "AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"
TYPE_TAG, NAME_TAG = "DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"
QUALITY_TAG = "MPER.Quality"

_NAME_LENGTH = 64  # of DICOM's "long string"
_QUALITY = re.compile(r"[a-z ]+ \(expected Dice [01]\.\d\d, [01]\.\d\d to [01]\.\d\d\)")
_WHOLE_NAME = re.compile(r"(.+) (\S+) \(sha256:([0-9a-f]{8,64})\)")


@dataclass(frozen=True)
class Provenance:
    """How a segment was made.

    Parameters
    ----------
    type : str
        AUTOMATIC (unedited output of a program), SEMIAUTOMATIC (edited manually) or MANUAL (drawn manually).
    algorithm, version : str
        The program; the algorithm is needed unless MANUAL, the version is empty where it is unknown.
    sha256 : str
        Checksum of the model's weights, or its first digits, in lower-case hexadecimal; empty where there is none.
    quality : str
        The quality to expect of unedited output (`quality_text`); empty where it is unknown.
    """

    type: str
    algorithm: str = ""
    version: str = ""
    sha256: str = ""
    quality: str = ""

    def __post_init__(self) -> None:
        if self.type not in (AUTOMATIC, SEMIAUTOMATIC, MANUAL):
            raise ValueError(f"an algorithm type is {AUTOMATIC}, {SEMIAUTOMATIC} or {MANUAL}, got {self.type!r}")
        if self.type != MANUAL and not self.algorithm.strip():
            raise ValueError(f"a segment of type {self.type} needs the name of its algorithm")

    @classmethod
    def of_model(cls, name: str, version: str, sha256: str, quality: str = "") -> Provenance:
        """Unedited output of one of our models."""
        return cls(AUTOMATIC, f"MPER {name}", version, sha256, quality)

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Provenance | None:
        """The provenance in Slicer's tags; None where they are incomplete (no type, or a program without a name)."""
        type_, name = (tags.get(tag, "").strip() for tag in (TYPE_TAG, NAME_TAG))
        if type_ not in (AUTOMATIC, SEMIAUTOMATIC, MANUAL) or (type_ != MANUAL and not name):
            return None
        quality = tags.get(QUALITY_TAG, "").strip() if type_ == AUTOMATIC else ""
        if match := _WHOLE_NAME.fullmatch(name):
            algorithm, version, sha256 = match.groups()
            return cls(type_, algorithm, version, sha256, quality)
        return cls(type_, name, quality=quality)

    @property
    def model(self) -> tuple[str, str]:
        """Name and version of the model, without our own name before it; as labels of a dataset keep them."""
        return self.algorithm.removeprefix("MPER "), self.version

    @property
    def name(self) -> str:
        """Algorithm, version and the checksum's first digits in at most 64 characters; empty where drawn by hand."""
        end = "".join(
            (f" {self.version}" if self.version else "", f" (sha256:{self.sha256[:8]})" if self.sha256 else "")
        )
        return self.algorithm[: _NAME_LENGTH - len(end)] + end

    @property
    def is_doubtful(self) -> bool:
        """Whether it says that another quality than a good one is to be expected."""
        return is_quality(self.quality) and not self.quality.startswith("good ")

    def tags(self) -> dict[str, str]:
        """Slicer's tags."""
        named = {NAME_TAG: self.name} if self.name else {}
        return {TYPE_TAG: self.type} | named | ({QUALITY_TAG: self.quality} if self.quality else {})

    def edited(self) -> Provenance:
        """The provenance after a manual edit."""
        return replace(self, type=SEMIAUTOMATIC, quality="") if self.type == AUTOMATIC else self


def program_of(each: Iterable[Provenance | None]) -> Provenance | None:
    """How a mask was made, of the provenance of its segments, as far as one says that a program took part.

    Edited, if one of the segments is not unedited output.
    """
    made = list(each)
    programs = [one for one in made if one is not None and one.type != MANUAL]
    if not programs:
        return None
    return programs[0] if all(one is not None and one.type == AUTOMATIC for one in made) else programs[0].edited()


def quality_text(level: str, expected_dice: float, low: float, high: float) -> str:
    """The quality to expect of a mask in a few words: ``likely wrong (expected Dice 0.23, 0.05 to 0.45)``."""
    return f"{level} (expected Dice {expected_dice:.2f}, {low:.2f} to {high:.2f})"


def is_quality(text: str) -> bool:
    """Whether it is a text of `quality_text`, not the description that another program gave a structure."""
    return _QUALITY.fullmatch(text) is not None
