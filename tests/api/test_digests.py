"""Checksums sent with a body."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.api.digests import parse_digest_header, read_digest_headers
from dfs.core.errors import DigestMismatchError, InvalidRequestError

BODY = b"hello"


def b64(algorithm: str, body: bytes = BODY) -> str:
    """Return the base64 of a checksum."""
    return base64.b64encode(hashlib.new(algorithm, body).digest()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_CONTENT_MD5": b64("md5")},
        {"HTTP_CONTENT_DIGEST": f"sha-256=:{b64('sha256')}:"},
        {"HTTP_REPR_DIGEST": f"sha-512=:{b64('sha512')}:"},
        {"HTTP_REPR_DIGEST": f"md5=:{b64('md5')}:, sha-256=:{b64('sha256')}:;q=1"},
        {"HTTP_REPR_DIGEST": f"unixsum=:AAAA:,sha-256=:{b64('sha256')}:"},
    ],
)
def test_digest_right_passes(headers: dict[str, str]) -> None:
    """Each header and algorithm is verified over all pieces of the body."""
    check = read_digest_headers(headers)
    assert check is not None
    check.update(BODY[:2])
    check.update(BODY[2:])
    check.verify()


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_CONTENT_MD5": b64("md5", b"x")},
        {"HTTP_CONTENT_DIGEST": f"sha-256=:{b64('sha256', b'x')}:"},
        {"HTTP_REPR_DIGEST": f"sha-256=:{b64('sha256')}:, sha-512=:{b64('sha512', b'x')}:"},
        {
            "HTTP_REPR_DIGEST": f"sha-256=:{b64('sha256')}:",
            "HTTP_CONTENT_DIGEST": f"sha-256=:{b64('sha256', b'x')}:",
        },
    ],
)
def test_digest_wrong_raises(headers: dict[str, str]) -> None:
    """One wrong checksum among right ones is enough."""
    check = read_digest_headers(headers)
    assert check is not None
    check.update(BODY)
    with pytest.raises(DigestMismatchError):
        check.verify()


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_CONTENT_MD5": "x"},
        {"HTTP_CONTENT_MD5": b64("sha256")},
        {"HTTP_REPR_DIGEST": ""},
        {"HTTP_REPR_DIGEST": b64("sha256")},
        {"HTTP_REPR_DIGEST": f"sha-256={b64('sha256')}"},
        {"HTTP_REPR_DIGEST": "sha-256=:AAAA:"},
        {"HTTP_REPR_DIGEST": "sha-256=:=:"},
        {"HTTP_CONTENT_DIGEST": f"sha-256=:{b64('sha256')}:,"},
        {"HTTP_CONTENT_DIGEST": "SHA-256=:AAAA:"},
    ],
)
def test_digest_malformed_raises(headers: dict[str, str]) -> None:
    """A checksum that cannot be understood is refused rather than ignored."""
    with pytest.raises(InvalidRequestError):
        read_digest_headers(headers)


def test_digest_unknown_or_absent_is_no_check() -> None:
    """Algorithms that dfs does not know say nothing."""
    assert read_digest_headers({}) is None
    assert read_digest_headers({"HTTP_REPR_DIGEST": "crc32c=:AAAAAA==:"}) is None


@given(value=st.text())
def test_digest_header_of_any_text_raises_only_invalid_request(value: str) -> None:
    """No text of a client leads to any other error."""
    try:
        found = parse_digest_header("Repr-Digest", value)
    except InvalidRequestError:
        return
    assert set(found) <= {"sha-256", "sha-512", "md5"}
