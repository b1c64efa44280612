"""Plots, as SVG that stands alone: without code, and without anything that is fetched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import pygal
from pygal import PluginImportFixer

# For plug-ins, which nobody has here, pygal hooks into all imports to come, by a protocol that
# Python has given up: each of them would be warned about.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder) is not PluginImportFixer]


def format_count(value: float) -> str:
    """Return a number as it stands at an axis."""
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2g}"


def draw_curves(
    title: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    format_x: Callable[[float], str] = format_count,
    labels_x: Sequence[float] | None = None,
) -> str:
    """Return an SVG of curves over a common axis.

    Args:
        curves: points (x, y) by name.
        labels_x: where the axis is labelled; None for wherever it suits.
    """
    chart = pygal.XY(
        title=title,
        show_dots=labels_x is not None,
        legend_at_bottom=True,
        truncate_legend=-1,
        include_x_axis=True,
        x_labels=labels_x,
        x_value_formatter=format_x,
        value_formatter=format_count,
    )
    for name, points in curves.items():
        chart.add(name, list(points))
    return _render(chart)


def draw_bars(title: str, labels: Sequence[str], bars: Mapping[str, Sequence[float]]) -> str:
    """Return an SVG of groups of bars.

    Args:
        labels: of the groups.
        bars: a value for each group, by name.
    """
    chart = pygal.Bar(
        title=title,
        x_labels=list(labels),
        legend_at_bottom=True,
        truncate_legend=-1,
        value_formatter=format_count,
    )
    for name, values in bars.items():
        chart.add(name, list(values))
    return _render(chart)


def _render(chart: Any) -> str:
    chart.add_xml_filter(_strip_scripts)
    return str(chart.render(is_unicode=True))


def _strip_scripts(root: ElementTree.Element) -> ElementTree.Element:
    """Take out what pygal adds for tooltips: code and addresses that a plot does not need."""
    for parent in root.iter():
        for script in parent.findall("script"):
            parent.remove(script)
    return root
