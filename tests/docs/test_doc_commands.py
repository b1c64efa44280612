"""Commands that no test runs must at least exist: targets, modules, options, settings, routes.

Those that are run (see `test_doc_examples`) are held against the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.clone import DOCUMENTED_ADDRESS
from tests.docs.commands import find_dangers, find_faults
from tests.docs.pages import ROOT, Block, Page, all_pages

REASON_CHARS_MIN = 10
SHELL_PAGES = [page for page in all_pages() if page.blocks("sh")]


@pytest.mark.parametrize("page", SHELL_PAGES, ids=lambda page: str(page.path))
def test_commands_of_a_page_exist(page: Page) -> None:
    """Targets, modules, options, settings and routes of all commands are real."""
    assert [
        f"{block.place}: {fault}" for block in page.blocks("sh") for fault in find_faults(block)
    ] == []


@pytest.mark.parametrize("page", SHELL_PAGES, ids=lambda page: str(page.path))
def test_commands_that_are_not_run_have_a_reason(page: Page) -> None:
    """Whoever leaves commands out of the tests says why."""
    reasons = [block.reason for block in page.blocks("sh", "python") if block.reason is not None]
    assert all(len(reason) >= REASON_CHARS_MIN for reason in reasons)


@pytest.mark.parametrize("page", SHELL_PAGES, ids=lambda page: str(page.path))
def test_commands_that_are_run_do_no_harm(page: Page) -> None:
    """What changes the machine, takes long or runs for ever is marked as not to be run.

    Write `<!-- not run: WHY -->` in the line before the block.
    """
    assert [
        f"{block.place}: {danger}"
        for block in page.blocks("sh")
        if block.reason is None
        for danger in find_dangers(block)
    ] == []


def test_every_program_is_listed() -> None:
    """Whatever can be run with `python -m` by an operator stands in docs/operations.md."""
    programs = [
        f"{folder}.{path.stem}"
        for folder in ("scripts", "workers")
        for path in sorted((ROOT / folder).glob("*.py"))
        if 'if __name__ == "__main__":' in path.read_text()
    ]
    listed = Page.read(Path("docs/operations.md")).code()
    assert [program for program in programs if program not in listed] == []


WRONG = f"""
make nothing   # of http://127.0.0.1:8000, or not
TOKEN=$(make none) && make key
make key NAME=x SCOPE=y
.venv/bin/python -m scripts.gone
python -m scripts.load_test --no-such-option 1 && python -m scripts.keys create --name x
DFS_GONE=1 PORT=1 make run
curl -s http://{DOCUMENTED_ADDRESS}/nowhere/$ID http://{DOCUMENTED_ADDRESS}/files/$ID
"""


def test_wrong_commands_are_found() -> None:
    """The checks of this module can fail."""
    block = Block(Path("made-up.md"), 1, "sh", WRONG, None)
    assert list(find_faults(block)) == [
        "make nothing: there is no such target",
        "make none: there is no such target",
        "SCOPE: make knows no such variable",
        "python -m scripts.gone: there is no such module",
        "python -m scripts.load_test --no-such-option: there is no such option",
        "DFS_GONE: there is no such setting",
        "/nowhere/$ID: there is no such route",
    ]


def test_dangerous_commands_are_found() -> None:
    """What a page says is not run blindly."""
    text = "A=1 apt install x\nrm -rf /etc\necho $(make check)\nmake up\nrm -rf data\nexport A=1\n"
    block = Block(Path("made-up.md"), 1, "sh", text, None)
    assert list(find_dangers(block)) == ["apt", "rm -rf /etc", "make check"]
