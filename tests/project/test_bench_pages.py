"""What the benchmark writes must be there under the name that others look for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import PAGES
from bench.report import INTRODUCTIONS, write_report
from bench.results import Outcome, Series, Table, Target


def test_every_page_has_an_introduction() -> None:
    """A page that can be measured can be written."""
    assert PAGES.keys() == INTRODUCTIONS.keys()


def test_no_two_cells_have_one_name() -> None:
    """`--only` means one cell."""
    names = [name for cells in PAGES.values() for name in cells]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("page", INTRODUCTIONS)
def test_page_is_written_with_figures_and_plots(tmp_path: Path, page: str) -> None:
    """Text, figures and plots lie side by side, and a target that is missed stands out."""
    outcome = Outcome(plots={"a.svg": "<svg/>"}, targets=[Target("speed", 1.0, 2.0)])
    outcome.tables.append(Table("A table", ("what", "much"), [("this", "1")]))
    outcome.keep("speed", Series((1.0, 2.0)))
    write_report(tmp_path, page, {"cores": "2"}, {"cell": outcome})
    text = (tmp_path / f"{page}.md").read_text()
    assert text.startswith(INTRODUCTIONS[page])
    assert "| speed | at least 2 | 1.00 | **no** |" in text
    assert "| this | 1 |" in text
    assert "![a](a.svg)" in text
    figures = json.loads((tmp_path / f"{page}.json").read_text())
    assert figures["figures"] == {"speed": [1.0, 2.0]}
    assert figures["targets"][0]["met"] is False
    assert (tmp_path / "a.svg").read_text() == "<svg/>"
