"""What Slicer is told when it has started: the sample scan, and the codes of structures that its own lists lack."""

from __future__ import annotations

from pathlib import Path

import slicer

from mper import resources

SAMPLE_NAME = "MPERLeftAtrium"
SHA256 = "9ca091b4db8679958c606eeb9d6e4dec7f25f6056e5dd8f5494ff3c854d3b7d6"


def register() -> None:
    """Tell Slicer all of it."""
    registerSampleData()
    registerTerminology()


def registerSampleData() -> None:
    """Offer the sample scan in the module Sample Data; it comes with the extension, nothing is downloaded."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="MPER",
        sampleName=SAMPLE_NAME,
        uris=resources.sample_scan().as_uri(),  # Slicer copies the file into its cache
        fileNames=f"{SAMPLE_NAME}.nrrd",
        nodeNames=SAMPLE_NAME,
        checksums=f"SHA256:{SHA256}",
        thumbnailFileName=str(Path(__file__).resolve().parents[1] / "Resources" / "Icons" / "LeftAtrium.png"),
    )


def registerTerminology() -> None:
    """Make our codes known where a segment's terminology is chosen and shown."""
    logic = slicer.modules.terminologies.logic()
    for file in sorted(resources.terminology_dir().glob("*.term.json")):
        logic.LoadTerminologyFromFile(str(file))
