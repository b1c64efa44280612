"""Whatever a page names is there: pages, anchors, files, settings. Other hosts are not asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from dfs.core.settings import MORE_REPLICAS, SETTINGS
from scripts.client import KEY_VARIABLE
from tests.docs.pages import ROOT, Page, all_pages

PAGES = all_pages()
LOCAL = ("127.0.0.1", "localhost")
ENTRANCES = ("README.md", "docs/README.md")
SETTING = re.compile(r"\bDFS_[A-Z0-9_]*[A-Z0-9]\b")
OTHER_VARIABLES = frozenset((KEY_VARIABLE, "DFS_ID_SECRET"))
FOLDERS = ("bench/", "deploy/", "dfs/", "docs/", "scripts/", "tests/", "torture/", "workers/")
FILE = re.compile(r"[\w./-]+")


def find_broken_links(page: Page) -> Iterator[str]:
    """Yield each link of a page that leads nowhere, and why."""
    for target in page.links():
        url = urlsplit(target)
        if url.scheme or url.netloc:
            if not _is_well_formed(target):
                yield f"{target}: must be https, and name a host"
            continue
        found = (ROOT / page.path.parent / unquote(url.path)).resolve()
        if url.path and not (found.exists() and found.is_relative_to(ROOT)):
            yield f"{target}: there is no such file"
        elif url.fragment:
            other = Page.read(found.relative_to(ROOT)) if url.path else page
            if url.fragment not in other.anchors():
                yield f"{target}: there is no such heading"


def _is_well_formed(target: str) -> bool:
    url = urlsplit(target)
    if url.hostname in LOCAL:
        return url.scheme == "http"
    return url.scheme == "mailto" or (url.scheme == "https" and "." in (url.hostname or ""))


def find_unknown_names(page: Page) -> Iterator[str]:
    """Yield each setting and file of the repository that a page names though there is none."""
    known = {setting.name for setting in SETTINGS} | OTHER_VARIABLES
    for name in sorted(set(SETTING.findall(page.text)) - known):
        if not MORE_REPLICAS.fullmatch(name):
            yield f"{name}: there is no such setting"
    for code in page.code():
        path = code.split("::")[0].rstrip("/")
        if code.startswith(FOLDERS) and FILE.fullmatch(path) and not _exists(path):
            yield f"{code}: there is no such file"


def _exists(path: str) -> bool:
    return (ROOT / path).exists() or (ROOT / f"{path}.py").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.path))
def test_links_of_a_page_lead_somewhere(page: Page) -> None:
    """Files and headings that a page links to exist; links to other hosts are https."""
    assert list(find_broken_links(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.path))
def test_names_in_a_page_are_known(page: Page) -> None:
    """Settings and files that a page names exist."""
    assert list(find_unknown_names(page)) == []


def test_every_page_can_be_found_from_the_readme() -> None:
    """No page is an orphan: README.md or docs/README.md links to each."""
    linked = {
        (ROOT / page.path.parent / urlsplit(target).path).resolve()
        for page in PAGES
        if str(page.path) in ENTRANCES
        for target in page.links()
        if not urlsplit(target).scheme
    }
    orphans = [str(page.path) for page in PAGES if ROOT / page.path not in linked]
    assert set(orphans) <= set(ENTRANCES)


WRONG = """
# A heading: of `code`

[gone](gone.md) [anchor](README.md#no-such) [here](#a-heading-of-code) [good](README.md#start)
[plain](http://example.org/) <https://example.org/> [no host](https:///x) [out](../../etc)
`dfs/gone.py` and `dfs/core/config.py`, DFS_GONE and DFS_HOST
```sh
[not](a-link.md)
```
"""


def test_wrong_links_and_names_are_found() -> None:
    """The checks of this module can fail."""
    page = Page(Path("made-up.md"), WRONG)
    assert [fault.split(":")[0] for fault in find_broken_links(page)] == [
        "gone.md",
        "README.md#no-such",
        "http",
        "https",
        "../../etc",
    ]
    assert [fault.split(":")[0] for fault in find_unknown_names(page)] == [
        "DFS_GONE",
        "dfs/gone.py",
    ]
