"""Plots of the benchmark must be sound SVG that a browser can show without running anything."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from bench.plots import draw_bars, draw_curves, format_count

HOSTILE = "a < b & \"c\"</title><script>alert('1')</script>"


def text_of(svg: str) -> str:
    """Return all text of an SVG; it must parse."""
    return "".join(ElementTree.fromstring(svg).itertext())  # noqa: S314 - it is our own


@pytest.mark.parametrize(
    "svg",
    [
        draw_bars(HOSTILE, [HOSTILE, "2"], {HOSTILE: [1, 2]}),
        draw_curves(HOSTILE, {HOSTILE: [(0, 1), (1, 2)]}),
    ],
)
def test_plot_escapes_what_it_is_given(svg: str) -> None:
    """Names and titles are shown as they are, and none becomes a part of the drawing."""
    assert HOSTILE in text_of(svg)
    assert "<script" not in svg
    assert not re.search(r"href|src=|url\(|@import", svg)


def test_curves_label_the_axis_where_they_are_told() -> None:
    """An axis of exponents shows the numbers that they stand for."""
    svg = draw_curves(
        "growth",
        {"cost": [(3, 1), (6, 2)]},
        labels_x=[3, 6],
        format_x=lambda power: f"{10**power:,.0f}",
    )
    assert "1,000,000" in text_of(svg)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (3, "3"), (12345.6, "12,346")]
)
def test_count_is_short(value: float, text: str) -> None:
    """Small values keep what tells them apart, large ones their thousands."""
    assert format_count(value) == text
