"""How segments came about, in Slicer's tags and DICOM's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mper.provenance import AUTOMATIC, MANUAL, NAME_TAG, SEMIAUTOMATIC, TYPE_TAG, Provenance, quality_text

MODEL = Provenance.of_model("la", "1.0.0", "0123456789abcdef" * 4)


def test_tags_tell_model_version_and_checksum() -> None:
    assert MODEL.tags() == {TYPE_TAG: "AUTOMATIC", NAME_TAG: "MPER la 1.0.0 (sha256:01234567)"}
    assert Provenance.from_tags(MODEL.tags()) == Provenance(AUTOMATIC, "MPER la", "1.0.0", "01234567")
    assert Provenance(MANUAL).tags() == {TYPE_TAG: "MANUAL"}


@given(st.text("ab .1", min_size=1, max_size=90).map(str.strip).filter(bool), st.sampled_from(["", "1.0", "2.10.3"]))
def test_a_name_is_never_too_long_and_says_the_same_when_it_is_read(name: str, version: str) -> None:
    for made in (Provenance(AUTOMATIC, name, version), Provenance(AUTOMATIC, name, version or "1", "abcdef0123")):
        assert len(made.name) <= 64
        again = Provenance.from_tags(made.tags())
        assert again is not None
        assert again.name == made.name


def test_the_expected_quality_travels_with_a_mask_until_it_is_edited() -> None:
    words = quality_text("likely wrong", 0.234, 0.05, 0.45)
    assert words == "likely wrong (expected Dice 0.23, 0.05 to 0.45)"
    made = Provenance.of_model("la", "1.0.0", "01234567", words)
    assert Provenance.from_tags(made.tags()) == made
    assert made.edited() == Provenance(SEMIAUTOMATIC, "MPER la", "1.0.0", "01234567")
    edited_in_slicer = Provenance.from_tags({**made.tags(), TYPE_TAG: SEMIAUTOMATIC})
    assert edited_in_slicer == made.edited()


def test_an_edited_mask_is_semiautomatic_and_one_drawn_by_hand_stays_so() -> None:
    assert MODEL.edited().type == SEMIAUTOMATIC
    assert MODEL.edited().edited().name == MODEL.name
    assert Provenance(MANUAL).edited() == Provenance(MANUAL)


@pytest.mark.parametrize("tags", [{}, {TYPE_TAG: ""}, {TYPE_TAG: "AUTOMATIC"}, {TYPE_TAG: "GUESSED", NAME_TAG: "x"}])
def test_tags_that_do_not_say_it_whole_say_nothing(tags: dict[str, str]) -> None:
    assert Provenance.from_tags(tags) is None


def test_a_provenance_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the name of its algorithm"):
        Provenance(AUTOMATIC, " ")
    with pytest.raises(ValueError, match="got 'automatic'"):
        Provenance("automatic", "x")
