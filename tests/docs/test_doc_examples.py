"""Commands and Python of the documentation are run as they stand, page by page, on real nodes.

Each page has a clone and a node of its own; one that starts its node itself (`make up`) finds none.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.client import KEY_VARIABLE
from tests.docs.clone import clone_environ, make_clone
from tests.docs.commands import find_dangers
from tests.docs.pages import Block, Page, all_pages
from tests.docs.shell import Shell, matches, read_steps, run_python

LANGUAGES = ("sh", "python")


def blocks_to_run(page: Page) -> list[Block]:
    """Return what of a page is to be run."""
    return [block for block in page.blocks(*LANGUAGES) if block.reason is None]


PAGES = [page for page in all_pages() if blocks_to_run(page)]


@contextmanager
def running_page(page: Page, directory: Path) -> Iterator[tuple[Shell, dict[str, Any], str]]:
    """Give a shell, names for Python, and the address of the node of a page."""
    make_clone(directory)
    environ = clone_environ(directory)
    make = ["make", "--no-print-directory", "-C", str(directory)]
    if not any("make up" in block.text for block in blocks_to_run(page)):
        subprocess.run([*make, "up"], env=environ, check=True, capture_output=True, timeout=60)
    shell = Shell(directory, environ)
    try:
        yield shell, {"__name__": "page"}, f"127.0.0.1:{environ['PORT']}"
    finally:
        shell.close()
        subprocess.run([*make, "down"], env=environ, check=True, capture_output=True, timeout=60)


def run_block(block: Block, shell: Shell, names: dict[str, Any], address: str) -> Iterator[str]:
    """Run a block; yield what it prints that the page does not say. A command must not fail."""
    for step in read_steps(block, address):
        if block.language == "python":
            status, printed = 0, run_python(step, names)
        else:
            status, printed = shell.run(step.text)
        told = f"{block.place}\n{step.text}\nstatus {status}, printed:\n{printed}"
        if status != 0:
            raise AssertionError(told)
        if step.expected is not None and not matches(step.expected, printed):
            yield f"{told}\nexpected:\n{step.expected}"


@pytest.mark.integration
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.path))
def test_examples_of_a_page_do_what_it_says(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who copies the examples of a page, one after the other, sees what stands there."""
    assert [danger for block in blocks_to_run(page) for danger in find_dangers(block)] == []
    with running_page(page, tmp_path / "dfs") as (shell, names, address):
        monkeypatch.chdir(tmp_path / "dfs")
        faults: list[str] = []
        for block in blocks_to_run(page):
            if block.language == "python":  # which is run here, and knows the key of the shell
                monkeypatch.setenv(KEY_VARIABLE, shell.run(f"printenv {KEY_VARIABLE}")[1].strip())
            faults += run_block(block, shell, names, address)
    assert not faults, "\n".join(faults)
