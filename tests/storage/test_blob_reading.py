"""Verified reading: not one wrong byte, and every byte that was asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.core.checksum import block_checksums, crc32
from dfs.core.errors import BlobCorruptError
from dfs.core.model import BLOCK_BYTES
from dfs.storage import verified
from dfs.storage.memory_store import MemoryBlobReader
from dfs.storage.names import blob_name
from dfs.storage.verified import read_verified

SMALL_BLOCK_BYTES = 16


class ShrinkingReader(MemoryBlobReader):
    """A blob that loses its end after it was opened."""

    def read(self, offset: int, length: int) -> bytes:
        return super().read(offset, length)[:-1]


class VanishingReader(MemoryBlobReader):
    """A blob that loses all its bytes after it was opened."""

    def read(self, offset: int, length: int) -> bytes:
        return b""


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    """Make blocks so small that many of them can be tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verified, "BLOCK_BYTES", SMALL_BLOCK_BYTES)
        yield


@st.composite
def contents_with_run(draw: st.DrawFn, min_size: int = 0) -> tuple[bytes, int, int]:
    """Return (bytes of a blob, start, stop). Sizes up to six blocks are equally likely."""
    size = draw(st.integers(min_size, 6 * SMALL_BLOCK_BYTES))
    content = draw(st.binary(min_size=size, max_size=size))
    start, stop = sorted((draw(st.integers(0, size)), draw(st.integers(0, size))))
    return content, start, stop


PLACES = st.integers(0, 6 * SMALL_BLOCK_BYTES)


def checksums(content: bytes) -> bytes:
    return block_checksums([content], block_bytes=SMALL_BLOCK_BYTES)


def read_until_fault(
    stored: bytes, *, size: int, crc32s: bytes, start: int, stop: int
) -> tuple[bytes, BlobCorruptError | None]:
    """Return what was delivered, and the error that ended it."""
    delivered = b""
    try:
        for piece in read_verified(
            MemoryBlobReader(stored), size=size, block_crc32s=crc32s, start=start, stop=stop
        ):
            delivered += piece
    except BlobCorruptError as error:
        return delivered, error
    return delivered, None


@given(case=contents_with_run())
def test_read_any_run_equals_the_slice(case: tuple[bytes, int, int]) -> None:
    """Every [start, stop) gives exactly those bytes, in non-empty `bytes` of a block at most."""
    content, start, stop = case

    pieces = list(
        read_verified(
            MemoryBlobReader(content),
            size=len(content),
            block_crc32s=checksums(content),
            start=start,
            stop=stop,
        )
    )

    assert b"".join(pieces) == content[start:stop]
    assert all(type(piece) is bytes and 0 < len(piece) <= SMALL_BLOCK_BYTES for piece in pieces)


@given(case=contents_with_run(min_size=1), place=PLACES, flip=st.integers(1, 255))
def test_read_with_a_flipped_byte_delivers_nothing_of_its_block(
    case: tuple[bytes, int, int], place: int, flip: int
) -> None:
    """Whichever byte is damaged: the run ends right before its block, or does not touch it."""
    content, start, stop = case
    stored = bytearray(content)
    stored[place % len(content)] ^= flip
    bad_block = place % len(content) // SMALL_BLOCK_BYTES
    bad_start = bad_block * SMALL_BLOCK_BYTES
    touched = start < stop and start < bad_start + SMALL_BLOCK_BYTES and stop > bad_start

    delivered, error = read_until_fault(
        bytes(stored), size=len(content), crc32s=checksums(content), start=start, stop=stop
    )

    assert delivered == content[start : max(start, bad_start) if touched else stop]
    assert (error is not None) is touched
    if error is not None:
        assert error.context["block"] == bad_block


@given(case=contents_with_run(min_size=1), place=PLACES, flip=st.integers(1, 255))
def test_read_with_a_flipped_checksum_byte_delivers_nothing_of_its_block(
    case: tuple[bytes, int, int], place: int, flip: int
) -> None:
    """A damaged checksum is treated as damaged bytes are: nobody knows which of the two it is."""
    content, _, _ = case
    crc32s = bytearray(checksums(content))
    crc32s[place % len(crc32s)] ^= flip
    bad_start = place % len(crc32s) // 4 * SMALL_BLOCK_BYTES

    delivered, error = read_until_fault(
        content, size=len(content), crc32s=bytes(crc32s), start=0, stop=len(content)
    )

    assert error is not None
    assert delivered == content[:bad_start]


@given(content=st.binary(max_size=50), stored=st.binary(max_size=50))
def test_read_blob_of_other_size_is_corrupt_at_once(content: bytes, stored: bytes) -> None:
    """A blob cut off or grown is refused before anything is read, even for an empty run."""
    if len(content) == len(stored):
        stored += b"!"

    with pytest.raises(BlobCorruptError, match="size"):
        read_verified(
            MemoryBlobReader(stored),
            size=len(content),
            block_crc32s=checksums(content),
            start=0,
            stop=0,
        )


@pytest.mark.parametrize("change", [-4, -1, 1, 4])
def test_read_without_a_checksum_for_each_block_is_corrupt_at_once(change: int) -> None:
    """A block that cannot be checked is not delivered."""
    content = bytes(40)
    crc32s = (checksums(content) + bytes(4))[: 12 + change]

    with pytest.raises(BlobCorruptError, match="one checksum a block"):
        read_verified(
            MemoryBlobReader(content), size=40, block_crc32s=crc32s, start=0, stop=1, digest=b"\1"
        )


def test_read_blob_that_shrinks_meanwhile_is_corrupt() -> None:
    """A short read ends the run with an error, not with fewer bytes."""
    content = bytes(40)
    pieces = read_verified(
        ShrinkingReader(content),
        size=40,
        block_crc32s=checksums(content),
        start=0,
        stop=40,
        digest=bytes(32),
    )

    with pytest.raises(BlobCorruptError) as caught:
        next(pieces)
    assert caught.value.context == {
        "block": 0,
        "offset": 0,
        "read_bytes": 15,
        "digest": bytes(32).hex(),
    }


def test_read_of_too_few_bytes_with_the_same_checksum_is_corrupt() -> None:
    """The checksum of no bytes is 0, and so is that of these four: the length has to agree too."""
    content = b"\x9d\x0a\xd9\x6d"
    assert crc32(content) == crc32(b"") == 0
    reader = VanishingReader(content)

    with pytest.raises(BlobCorruptError):
        next(read_verified(reader, size=4, block_crc32s=bytes(4), start=0, stop=4))


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, 41), (41, 41)])
def test_read_run_outside_the_blob_is_refused(start: int, stop: int) -> None:
    """The caller has to ask for bytes that exist."""
    content = bytes(40)

    with pytest.raises(ValueError, match="is not inside"):
        read_verified(
            MemoryBlobReader(content),
            size=40,
            block_crc32s=checksums(content),
            start=start,
            stop=stop,
        )


@pytest.mark.parametrize("block", [0, 1, 2])
def test_read_real_blocks_with_one_flipped_bit_stops_before_it(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the real size of a block, a single bit is found in the first, a middle, the last one."""
    monkeypatch.setattr(verified, "BLOCK_BYTES", BLOCK_BYTES)
    content = os.urandom(2 * BLOCK_BYTES + 1000)
    stored = bytearray(content)
    stored[block * BLOCK_BYTES + 999] ^= 0x10

    delivered, error = read_until_fault(
        bytes(stored),
        size=len(content),
        crc32s=block_checksums([content]),
        start=5,
        stop=len(content),
    )

    assert error is not None
    assert delivered == content[5 : max(5, block * BLOCK_BYTES)]


def test_blob_name_is_the_digest_in_two_levels() -> None:
    """The layout is part of the format on disk."""
    digest = bytes.fromhex("ab" + "cd" + "01" * 30)

    assert blob_name(digest) == "blobs/ab/cd/abcd" + "01" * 30
    with pytest.raises(ValueError, match="a digest has 32 bytes"):
        blob_name(digest[:-1])
