"""Lines with codes: they stay strings, and their codes survive copies, JSON, errors and changes of the text."""

from __future__ import annotations

import copy
import json
import pickle

from mper.utils.coded import Coded, changed, decoded, joined, line_codes, line_of, with_codes
from mper.utils.errors import explain

REASON = Coded("the disk is full", "disk-is-full")
LINE = Coded("case 1 is left out: the disk is full", "case-left-out", case="/data/case 1", reason=REASON, n=2)


def test_a_line_keeps_its_code_in_copies_and_in_other_processes() -> None:
    for twin in (copy.deepcopy(LINE), pickle.loads(pickle.dumps(LINE))):
        assert (twin, twin.code, twin.values) == (LINE, "case-left-out", LINE.values)
        assert twin.values["reason"].code == "disk-is-full"


def test_stored_lines_get_their_codes_back() -> None:
    stored = json.loads(json.dumps(with_codes({"state": "failed", "message": LINE, "lines": ["plain"]})))
    assert list(stored["line_codes"]) == [REASON, LINE]  # values first: who replaces lines needs that order
    again = decoded(stored["message"], stored["line_codes"])
    assert line_codes(again) == line_codes(LINE)
    assert type(decoded("plain", stored["line_codes"])) is str
    assert type(decoded("damaged", {"damaged": {"code": "x"}})) is str
    assert with_codes({"message": "plain"}) == {"message": "plain"}


def test_a_change_of_the_text_reaches_the_values() -> None:
    shown = changed(LINE, lambda text: text.replace("/data/", "").replace("disk", "drive"))
    assert isinstance(shown, Coded)
    assert (shown, shown.values) == (
        LINE.replace("disk", "drive"),
        {"case": "case 1", "reason": "the drive is full", "n": 2},
    )
    assert line_codes(shown)["the drive is full"] == {"code": "disk-is-full", "values": {}}
    assert changed("plain", str.upper) == "PLAIN"


def test_several_lines_are_one_with_their_codes() -> None:
    both = joined([REASON, "free text"], " and ")
    assert both == "the disk is full and free text"
    assert [each["code"] for each in line_codes(both).values()] == ["disk-is-full", "joined"]


def test_errors_are_explained_with_their_codes() -> None:
    try:
        raise FileNotFoundError(LINE)
    except FileNotFoundError as error:
        assert line_of(error) is LINE
        line = explain(error)
    assert isinstance(line, Coded) and (line, line.code) == (LINE, LINE.code)
    assert type(line_of(ValueError("plain"))) is str
    full = explain(OSError(28, "No space left on device", "/data/mask.nrrd"))
    assert isinstance(full, Coded) and full == "/data/mask.nrrd: the disk is full"
    assert [each["code"] for each in line_codes(full).values()] == ["disk-is-full", "file-failed"]
