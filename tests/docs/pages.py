"""The Markdown pages of the repository, as far as tests look at them: blocks, links, anchors.

A block of commands or of Python is run by the tests unless the line before it says why not:

    <!-- not run: needs root -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = frozenset(("build", "data", "node_modules", "static"))
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})\s*(\w*)")
_NOT_RUN = re.compile(r"<!-- not run: (.*?) -->")
_LINK = re.compile(r"\]\(<?([^()\s<>]*(?:\([^()\s]*\)[^()\s]*)*)>?(?: \"[^\"]*\")?\)")
_AUTOLINK = re.compile(r"<([a-z][a-z0-9+.-]*:[^\s<>]*)>")
_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.*?)(?: +#+)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        line: of its fence, from 1 on.
        language: what the fence says; empty if nothing.
        reason: why it is not run; None if it is to be.
    """

    path: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        """Where it stands, for the message of a test."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its path below the root, its text, and the text without blocks."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Page:
        """Read a page by its path below the root."""
        return cls(path, (ROOT / path).read_text())

    def blocks(self, *languages: str) -> list[Block]:
        """Return the fenced blocks in one of these languages; all of them if none is named."""
        found = [block for block, _ in self._scan() if block is not None]
        return [block for block in found if not languages or block.language in languages]

    def prose(self) -> str:
        """Return the text outside of fenced blocks."""
        return "\n".join(line for _, line in self._scan() if line is not None)

    def links(self) -> list[str]:
        """Return the targets of all links, as they are written."""
        prose = _CODE.sub("", self.prose())
        return [*_LINK.findall(prose), *_AUTOLINK.findall(prose)]

    def code(self) -> list[str]:
        """Return what stands in backticks outside of blocks."""
        return [" ".join(text.split()) for _, text in _CODE.findall(self.prose())]

    def anchors(self) -> set[str]:
        """Return the anchors of its headings, as GitHub makes them."""
        anchors: set[str] = set()
        for heading in _HEADING.findall(self.prose()):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
            slug = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
            number = next(n for n in range(99) if (f"{slug}-{n}" if n else slug) not in anchors)
            anchors.add(f"{slug}-{number}" if number else slug)
        return anchors

    def _scan(self) -> Iterator[tuple[Block | None, str | None]]:
        """Yield each block, and each line outside of them."""
        lines = iter(enumerate(self.text.splitlines(), 1))
        before = ""
        for number, line in lines:
            fence = _FENCE.match(line)
            if fence is None:
                yield None, line
                before = line if line.strip() else before
                continue
            inside = []
            for _, inner in lines:
                if inner.strip() == fence[1]:
                    break
                inside.append(inner)
            reason = _NOT_RUN.fullmatch(before.strip())
            text = "\n".join(inside) + "\n"
            yield Block(self.path, number, fence[2], text, reason and reason[1]), None
            before = ""


def all_pages() -> list[Page]:
    """Return every page of the repository, by path."""
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    ours = (path for path in paths if not any(_is_not_ours(part) for part in path.parts))
    return [Page.read(path) for path in sorted(ours)]


def _is_not_ours(part: str) -> bool:
    return part.startswith(".") or part in NOT_OURS
