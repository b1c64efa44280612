"""Bodies of requests, read in either of the two ways."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.api.digests import read_digest_headers
from dfs.api.streams import READ_BYTES, BodyStream
from dfs.core.errors import DfsError, DigestMismatchError, SlowBodyError, TruncatedBodyError

CONTENT = bytes(range(256)) * 40
Take = Callable[[BodyStream], bytes]


def take_into(body: BodyStream, size: int) -> bytes:
    """Have the next bytes put into memory that is longer than what there is."""
    room = bytearray(size)
    data = bytes(room[: body.read_into(memoryview(room))])
    assert room == data.ljust(size, b"\0")
    return data


TAKES: list[Take] = [BodyStream.read, lambda body: take_into(body, 100_000)]


@given(
    sizes=st.lists(st.none() | st.integers(1, 4000), max_size=20),
    is_declared=st.booleans(),
    has_readinto=st.booleans(),
)
def test_body_is_the_same_in_whatever_way_it_is_read(
    sizes: list[int | None], is_declared: bool, has_readinto: bool
) -> None:
    """From one that is received into memory, and from one that is not; none of what follows it."""
    source = io.BytesIO(CONTENT + (b"GET / HTTP/1.1" if is_declared else b""))
    body = BodyStream(
        read=lambda size: source.read(min(size, 1500)),
        readinto=source.readinto if has_readinto else None,
        length=len(CONTENT) if is_declared else None,
        digests=None,
    )
    parts = [body.read() if size is None else take_into(body, size) for size in sizes]
    parts += iter(body.read, b"")

    assert b"".join(parts) == CONTENT
    assert (body.received, body.complete) == (len(CONTENT), True)
    assert [take(body) for take in TAKES] == [b"", b""]


@pytest.mark.parametrize("take", TAKES)
def test_body_that_is_shorter_than_declared_is_refused(take: Take) -> None:
    """And the answer can tell how much of it came."""
    source = io.BytesIO(CONTENT)
    body = BodyStream(read=source.read, readinto=source.readinto, length=READ_BYTES, digests=None)
    assert take(body) == CONTENT
    with pytest.raises(TruncatedBodyError) as caught:
        take(body)
    assert caught.value.context == {"received": len(CONTENT), "length": READ_BYTES}
    assert not body.complete


@pytest.mark.parametrize("take", TAKES)
@pytest.mark.parametrize(
    ("error", "told"), [(TimeoutError, SlowBodyError), (ConnectionError, TruncatedBodyError)]
)
def test_fault_of_the_connection_is_told_as_what_it_means(
    take: Take, error: type[OSError], told: type[DfsError]
) -> None:
    """Every server has errors of its own."""

    def fail(_: object) -> int:
        raise error

    body = BodyStream(read=fail, readinto=fail, length=1, digests=None)  # type: ignore[arg-type]
    with pytest.raises(told):
        take(body)


@pytest.mark.parametrize("take", TAKES)
@pytest.mark.parametrize("damage", [0, 1])
def test_checksum_of_the_client_is_that_of_what_was_read(take: Take, damage: int) -> None:
    """Whichever way the bytes took."""
    digest = hashlib.md5(CONTENT, usedforsecurity=False).digest()
    source = io.BytesIO(CONTENT[:-1] + bytes([CONTENT[-1] ^ damage]))
    digests = read_digest_headers({"HTTP_CONTENT_MD5": base64.b64encode(digest).decode()})
    body = BodyStream(
        read=source.read, readinto=source.readinto, length=len(CONTENT), digests=digests
    )
    take(body)
    if not damage:
        body.verify()
        return
    with pytest.raises(DigestMismatchError):
        body.verify()
