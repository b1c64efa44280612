"""Asking of a node, over HTTP, everything that may be asked; whichever way the requests go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Request = Callable[[str, str, bytes | None], tuple[int, bytes]]
"""(method, path, body) -> (status, body of the answer). Of a PATCH the body is JSON."""
LISTINGS = (
    "/files",
    "/files?prefix=s",
    "/files?name=last",
    "/files?deleted=true",
    "/ready",
    "/metrics",
    "/admin/usage",
    "/admin/keys",
    "/admin/audit",
    "/admin/replicas/status",
    "/admin/wal/segments",
    "/admin/wal/entries",
)


@dataclass(slots=True)
class Asked:
    """What came of it.

    Attributes:
        codes: of the problems that were answered, by request.
        faults: broken promises: wrong bytes, and errors that nobody has foreseen.
    """

    codes: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def ask_all(request: Request, files: Mapping[str, str]) -> Asked:
    """Read everything, then write, change, delete and restore.

    Args:
        files: id -> SHA-256 of each file that was stored.
    """
    asked = Asked()
    for path in LISTINGS:
        _ask(request, asked, "GET", path)
    for file_id, digest in files.items():
        content = _ask(request, asked, "GET", f"/download/{file_id}")
        if content is not None and hashlib.sha256(content).hexdigest() != digest:
            asked.faults.append(f"{file_id} is read with wrong bytes")
        _ask(request, asked, "GET", f"/files/{file_id}")
    for size in (5, 5000):
        _ask(request, asked, "POST", f"/upload?name=new{size}", b"x" * size)
    for file_id in list(files)[:3]:
        _ask(request, asked, "PATCH", f"/files/{file_id}", b'{"content_type": "text/html"}')
        _ask(request, asked, "DELETE", f"/files/{file_id}")
        _ask(request, asked, "POST", f"/files/{file_id}/restore")
    return asked


def _ask(
    request: Request, asked: Asked, method: str, path: str, body: bytes | None = None
) -> bytes | None:
    """Ask once. Returns the body of a success."""
    status, answer = request(method, path, body)
    if status < 400 or path == "/ready":
        return answer
    try:
        code = json.loads(answer)["code"]
    except (ValueError, KeyError):
        code = None
    asked.codes[f"{method} {path}"] = str(code)
    if code in (None, "internal"):
        asked.faults.append(f"{method} {path}: {status} {answer[:200]!r}")
    return None
