"""What comes with the program is found, and agrees with the program."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mper import labels, resources


def test_sample_scan_is_a_small_nrrd_file() -> None:
    scan = resources.sample_scan()
    assert scan.read_bytes().startswith(b"NRRD0004")
    assert scan.stat().st_size <= 2_000_000


def test_models_lie_beside_the_sample_scan() -> None:
    assert resources.models_dir().is_dir()
    assert resources.models_dir().parent == resources.sample_scan().parent.parent


def test_what_is_missing_is_named_with_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_HOMES", (tmp_path / "here", tmp_path / "there"))
    with pytest.raises(FileNotFoundError, match=rf"Models .*{re.escape(str(tmp_path / 'there'))}.*install"):
        resources.models_dir()


def test_slicer_terminology_holds_the_codes_of_every_known_label() -> None:
    text = (resources.terminology_dir() / "MPER.term.json").read_text(encoding="utf-8")
    offered = {
        (category["CodeValue"], entry["CodeValue"], entry["CodeMeaning"], tuple(entry["recommendedDisplayRGBValue"]))
        for category in json.loads(text)["SegmentationCodes"]["Category"]
        for entry in category["Type"]
    }
    known = {(category.value, type_.value, type_.meaning, colour) for category, type_, colour in labels._KNOWN.values()}
    assert offered == known
