"""Labels that are drawn slice by slice."""

from __future__ import annotations

import numpy as np
from MPERLib.mrml import on_whole_grid
from MPERTrainerLib.label_panel import labelledSlices

GRID = (6, 4, 5)


def slices(*drawn: int, rest: int = 0) -> np.ndarray:
    """A mask with a structure in some slices, and `rest` in all others."""
    array = np.full(GRID, rest, np.uint8)
    for k in drawn:
        array[k] = 0
        array[k, 1:3, 1:4] = 1
    return array


def test_slices_that_are_drawn_are_whole_and_others_say_nothing() -> None:
    nothing = np.full(GRID, 255, np.uint8), (0, 0, 0)
    part = slices(1, 3)[1:4, 1:3, 1:4], (1, 1, 1)
    found, start = labelledSlices(part, nothing, GRID)
    assert start == (0, 0, 0) and np.array_equal(found, slices(1, 3, rest=255))


def test_slices_are_those_of_the_scan_however_it_is_stored() -> None:
    expected = slices(1, 3, rest=255)
    for across in (1, 2):
        turned = np.ascontiguousarray(slices(1, 3).swapaxes(0, across))
        found, _ = labelledSlices((turned, (0, 0, 0)), None, turned.shape, across)
        assert np.array_equal(found.swapaxes(0, across), expected)


def test_a_slice_more_is_whole_too_and_what_was_known_stays() -> None:
    before = slices(1, rest=255)
    before[5] = 0  # a slice of which somebody said that nothing is there
    before[4, 0, 0], before[4, 3, 4] = 1, 0  # strokes
    drawn = before.copy()
    drawn[2, 1:3, 1:4] = 1  # painted over what was unlabelled
    wanted = before.copy()
    wanted[2] = slices(2)[2]
    found, _ = labelledSlices((drawn, (0, 0, 0)), (before, (0, 0, 0)), GRID)
    assert np.array_equal(found, wanted)


def test_a_whole_label_is_narrowed_to_its_drawn_slices() -> None:
    whole = slices(1, 3)
    found, _ = labelledSlices((whole, (0, 0, 0)), (whole, (0, 0, 0)), GRID)
    assert np.array_equal(found, slices(1, 3, rest=255))
    assert np.array_equal(on_whole_grid(whole[2:4, 1:], (2, 1, 0), GRID)[2:4, 1:], whole[2:4, 1:])
