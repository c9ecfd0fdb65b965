"""Registration with Slicer after its start: the sample scan, and codes of structures that its own lists lack."""

from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

from mper import resources

SAMPLE_NAME = "MPERLeftAtrium"
_CATEGORY = "MPER"
SHA256 = "9ca091b4db8679958c606eeb9d6e4dec7f25f6056e5dd8f5494ff3c854d3b7d6"


def register() -> None:
    """Register all of it."""
    registerSampleData()
    registerTerminology()


def registerSampleData() -> None:
    """Register the sample scan with the module Sample Data; it is part of the extension, nothing is downloaded."""
    import SampleData  # a module of Slicer's, which may be loaded after this file

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # since Slicer 5.11; before, the category is its own title
        logic.registerCustomSampleDataCategory(_CATEGORY, title=_("MPER (heart)"))
    logic.registerCustomSampleDataSource(
        category=_CATEGORY,
        sampleName=SAMPLE_NAME,
        uris=resources.sample_scan().as_uri(),  # Slicer copies the file into its cache
        fileNames=f"{SAMPLE_NAME}.nrrd",
        nodeNames=SAMPLE_NAME,
        checksums=f"SHA256:{SHA256}",
        thumbnailFileName=str(Path(__file__).resolve().parents[1] / "Resources" / "Icons" / "LeftAtrium.png"),
    )


def registerTerminology() -> None:
    """Load our codes into the terminology lists of the Segment Editor."""
    logic = slicer.modules.terminologies.logic()
    for file in sorted(resources.terminology_dir().glob("*.term.json")):
        logic.LoadTerminologyFromFile(str(file))
