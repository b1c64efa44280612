"""The page of the HTTP API has an example of every route, for curl and for Python."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.doc_tables import read_document
from tests.docs.clone import DOCUMENTED_ADDRESS
from tests.docs.commands import flatten
from tests.docs.pages import Block, Page
from tests.docs.shell import read_steps

PAGE = Page.read(Path("docs/api.md"))
BODIES = ("-d", "--data", "--data-binary", "-F")
ASKED = re.compile(r'\b(?:ask|call)\(\s*"([A-Z]+)", f?"(/[^"?]*)')
MORE = [("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/admin/rq/")]
"""Routes that the OpenAPI document leaves out."""


def curl_requests(block: Block) -> Iterator[tuple[str, str]]:
    """Yield method and path of what a block of shell asks for."""
    for step in read_steps(block, DOCUMENTED_ADDRESS):
        for text in flatten(step.text):
            words = shlex.split(text, comments=True)
            if "curl" not in words:
                continue
            head = any(re.fullmatch("-[a-z]*I", word) for word in words)
            posted = any(word in BODIES for word in words)
            method = words[words.index("-X") + 1] if "-X" in words else "POST" if posted else "GET"
            for path in re.findall(rf"{re.escape(DOCUMENTED_ADDRESS)}(/[^?\s]*)", " ".join(words)):
                yield "HEAD" if head else method, path


def python_requests(block: Block) -> Iterator[tuple[str, str]]:
    """Yield method and path of what a block of Python asks for."""
    yield from ASKED.findall(block.text)


READERS = {"sh": curl_requests, "python": python_requests}


def routes() -> list[tuple[str, str]]:
    """Return method and path of every route."""
    documented = [
        (method.upper(), path)
        for path, operations in read_document()["paths"].items()
        for method in operations
        if method != "parameters"
    ]
    return [*documented, *MORE]


@pytest.mark.parametrize("language", READERS)
def test_every_route_has_an_example(language: str) -> None:
    """Whoever adds a route shows how it is called, for curl and for Python."""
    read = READERS[language]
    asked = {
        request
        for block in PAGE.blocks(language)
        if block.reason is None
        for request in read(block)
    }
    missing = [
        f"{method} {path}"
        for method, path in routes()
        if not any(
            method == given and re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), asked_path)
            for given, asked_path in asked
        )
    ]
    assert missing == []
