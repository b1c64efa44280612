"""Checksums that a client sends with a body, verified over the bytes as they are received.

Source: RFC 9530 (`Content-Digest`, `Repr-Digest`: a dictionary of byte sequences after RFC 9651),
RFC 1864 (`Content-MD5`). Content and representation are the same bytes here, because no content
coding is accepted. Unknown algorithms are ignored.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dfs.core.errors import DigestMismatchError, InvalidRequestError

if TYPE_CHECKING:
    from hashlib import _Hash

_MEMBER = re.compile(
    r"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):"
    r"(?:[ ]*;[ ]*[a-z*][a-z0-9_.*-]*(?:=(?:[A-Za-z0-9:/._*+-]+|\"[ -~]*?\"))?)*"
)


def _new_md5() -> _Hash:
    return hashlib.md5(usedforsecurity=False)


_HASHES: dict[str, tuple[Callable[[], _Hash], int]] = {
    "sha-256": (hashlib.sha256, 32),
    "sha-512": (hashlib.sha512, 64),
    "md5": (_new_md5, 16),
}


def _decode(header: str, text: str, size: int) -> bytes:
    try:
        digest = base64.b64decode(text.encode("latin-1"), validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != size:
        raise InvalidRequestError(
            f"{header} is not a base64 checksum of {size} bytes.",
            fields={header: ["not a checksum"]},
        )
    return digest


def parse_digest_header(name: str, value: str) -> dict[str, bytes]:
    """Return the checksums in a `Content-Digest` or `Repr-Digest` header by algorithm.

    Only algorithms that dfs can verify are in it.

    Raises:
        InvalidRequestError: the header is no dictionary of byte sequences.
    """
    found: dict[str, bytes] = {}
    for member in value.split(","):
        match = _MEMBER.fullmatch(member.strip(" \t"))
        if match is None:
            raise InvalidRequestError(
                f"{name} is malformed.", fields={name: ["must be like sha-256=:BASE64:"]}
            )
        algorithm, text = match.groups()
        if algorithm in _HASHES:
            found[algorithm] = _decode(name, text, _HASHES[algorithm][1])
    return found


class DigestCheck:
    """Hashes a body as it passes and compares it with the checksums sent with it.

    Args:
        expected: (header, algorithm, digest) of each checksum.
    """

    def __init__(self, expected: list[tuple[str, str, bytes]]) -> None:
        self._expected = expected
        self._hashes = {algorithm: _HASHES[algorithm][0]() for _, algorithm, _ in expected}

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the body."""
        for hashing in self._hashes.values():
            hashing.update(data)

    def verify(self) -> None:
        """Raise DigestMismatchError if the body is not the one that the client meant to send."""
        for header, algorithm, digest in self._expected:
            if not hmac.compare_digest(self._hashes[algorithm].digest(), digest):
                raise DigestMismatchError(
                    f"The body received does not have the {algorithm} checksum in {header}."
                )


def read_digest_headers(environ: Mapping[str, Any]) -> DigestCheck | None:
    """Return the check that a request's headers demand, None when they demand none.

    Raises:
        InvalidRequestError: a checksum header is malformed.
    """
    expected: list[tuple[str, str, bytes]] = []
    md5 = environ.get("HTTP_CONTENT_MD5")
    if md5 is not None:
        expected.append(("Content-MD5", "md5", _decode("Content-MD5", md5.strip(), 16)))
    for key, name in (
        ("HTTP_CONTENT_DIGEST", "Content-Digest"),
        ("HTTP_REPR_DIGEST", "Repr-Digest"),
    ):
        value = environ.get(key)
        if value is not None:
            expected += [(name, *found) for found in parse_digest_header(name, value).items()]
    return DigestCheck(expected) if expected else None
