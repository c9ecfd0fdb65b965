"""Reports of measurements: pages, tables, pictures."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from phantoms import RADIUS, atrium, grid
from PIL import Image

from mper.measurement.atrium import Atrium, measure_atrium
from mper.measurement.clipping import ClipPlane
from mper.measurement.figures import Figure
from mper.visualization.report import (
    ReportText,
    figure_table_csv,
    figures_csv,
    outliers,
    report_page,
    summary_page,
)
from mper.visualization.wall_figure import draw_wall, ratio_colour


@pytest.fixture(scope="module")
def measured() -> Atrium:
    mask, scan = atrium(grid(RADIUS + 5, (1.5, 1.5, 1.5)))
    return measure_atrium(mask, scan.geometry, scan, [ClipPlane("valve", (0, 0, -15), (0, 0, -1))], 2.0)


def test_a_page_shows_every_figure_with_its_method_and_stages(measured: Atrium) -> None:
    page = report_page(ReportText("Case <1>", ("Model la",), ("a note",)), measured.figures, {"Wall": b"png"})
    for figure in measured.figures:
        assert figure.text() in page
        assert figure.method.replace("'", "&#x27;").replace(">", "&gt;") in page
    assert "Case &lt;1&gt;" in page and "<h2>Notes</h2><ul><li>a note</li></ul>" in page
    assert "DECAAF 2014: 3 of 4" in page and "data:image/png;base64,cG5n" in page


def test_a_cohort_is_a_row_a_case_with_units_and_gaps() -> None:
    one = Figure("la_volume", "LA volume", 51.25, "mL", "m", "g")
    two = Figure("la_sphericity", "LA sphericity", None, "%", "m", "g")
    rows = list(csv.reader(io.StringIO(figures_csv([("a", [one]), ("=b", [one, two])]))))
    assert rows == [["case", "la_volume [mL]", "la_sphericity [%]"], ["a", "51.25", ""], ["'=b", "51.25", ""]]


def test_a_table_of_one_case_has_ranges_and_stages() -> None:
    figure = Figure("k", "n", 5.0, "%", "m", "g", {"DECAAF 2014": "1 of 4"}, (4.0, 6.5))
    rows = list(csv.DictReader(io.StringIO(figure_table_csv([figure]))))
    assert rows[0]["low"] == "4" and rows[0]["high"] == "6.5" and rows[0]["stages"] == "DECAAF 2014: stage 1 of 4"


def test_the_summary_names_outliers_and_failed_cases() -> None:
    rows = [(f"c{n}", [Figure("v", "LA volume", ml, "mL", "m", "g")]) for n, ml in enumerate((80, 82, 79, 81, 80, 300))]
    page = summary_page("Cohort", rows, {"bad": "the mask is empty"})
    assert "c5 (300)" in page and "c0 (80)" not in page and "bad: the mask is empty" in page
    assert outliers([80, 82, 79, 81, 80, 300]) == [5]
    assert outliers([80, 300]) == []


def test_the_wall_is_drawn_from_four_sides_and_clipped_parts_are_grey(measured: Atrium) -> None:
    assert measured.surface is not None
    picture = Image.open(io.BytesIO(draw_wall(measured.surface))).convert("RGB")
    assert picture.width > 4 * 300
    pixels = np.asarray(picture).astype(int)
    first = pixels[46:340, 24:324]
    drawn = first.any(axis=2)
    rows = np.flatnonzero(drawn.any(axis=1))
    top, bottom = first[rows[0] + 25 : rows[0] + 45][:, 140:160], first[rows[-1] - 25 : rows[-1] - 8][:, 140:160]
    assert (top[..., 0] > top[..., 2] + 60).all()  # the bright cap, on top
    assert np.ptp(bottom.reshape(-1, 3), axis=1).max() < 25  # beyond the valve


def test_colours_of_ratios_run_from_blue_to_dark_red() -> None:
    low, middle, high = ratio_colour([0.4, 1.2, 2.0])
    assert low[2] > low[0] and middle[0] > middle[2] and high[0] > high[2]
