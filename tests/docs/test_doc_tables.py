"""Tables of the documentation are those of the program."""

from __future__ import annotations

import pytest

from dfs.core.settings import SETTINGS
from scripts.doc_tables import PAGES, ROOT, marked_settings, with_tables

ADVICE = "run `make tables`"


@pytest.mark.parametrize("name", PAGES)
def test_tables_of_a_page_are_those_of_the_program(name: str) -> None:
    """Settings, error codes and routes stand in the documentation as they are in the code."""
    text = (ROOT / name).read_text()
    assert with_tables(text) == text, ADVICE


def test_every_setting_has_one_place_in_the_documentation() -> None:
    """A setting that is added must be given a topic: its name in a marker of docs/settings.md."""
    marked = marked_settings((ROOT / "docs/settings.md").read_text())
    assert sorted(marked) == sorted(setting.name for setting in SETTINGS)


def test_readme_has_the_most_used_settings() -> None:
    """The README shows some settings, and not all of them."""
    marked = marked_settings((ROOT / "README.md").read_text())
    assert 10 < len(marked) < 20


def test_tables_that_are_old_are_written_anew() -> None:
    """What stands between markers is replaced, and nothing else."""
    text = "a\n<!-- settings PORT -->\n| old |\n<!-- /settings -->\nz\n"
    lines = with_tables(text).splitlines()
    assert [lines[0], lines[1], lines[-2], lines[-1]] == [
        "a",
        "<!-- settings PORT -->",
        "<!-- /settings -->",
        "z",
    ]
    assert lines[2] == "| name | default | meaning |"
    assert lines[4].startswith("| `PORT` | `8000` | TCP port")


def test_tables_of_an_unknown_setting_are_an_error() -> None:
    """A setting that was removed cannot stay in a page."""
    with pytest.raises(KeyError):
        with_tables("<!-- settings DFS_GONE -->\n<!-- /settings -->")
