"""CRC32 of streams and of their blocks."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.core.checksum import BlockChecksummer, block_checksums, crc32
from dfs.core.model import BLOCK_BYTES


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return `data` in pieces that begin at the given places, some of them empty."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


@given(front=st.binary(), back=st.binary())
def test_crc32_in_two_steps_equals_zlib_in_one(front: bytes, back: bytes) -> None:
    """The checksum is the one that every zlib can recompute, and goes on where it stopped."""
    assert crc32(back, crc32(front)) == zlib.crc32(front + back)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_crc32_of_each_kind_of_buffer_is_the_same(kind: type) -> None:
    """Whatever holds the bytes, their checksum is the known check value of CRC-32."""
    assert crc32(kind(b"123456789")) == 0xCBF43926


@given(
    data=st.binary(max_size=200),
    places=st.lists(st.integers(0, 1000), max_size=8),
    block_bytes=st.integers(1, 40),
)
def test_block_checksums_of_any_cut_equal_those_of_each_block(
    data: bytes, places: list[int], block_bytes: int
) -> None:
    """How a stream arrives does not matter: there is one zlib CRC32 a block, in order."""
    expected = b"".join(
        zlib.crc32(data[start : start + block_bytes]).to_bytes(4, "little")
        for start in range(0, len(data), block_bytes)
    )

    assert block_checksums(cut(data, places), block_bytes=block_bytes) == expected


@given(
    data=st.binary(max_size=100), places=st.lists(st.integers(0, 1000), max_size=5), seed=st.data()
)
def test_digest_in_the_middle_of_a_stream_disturbs_nothing(
    data: bytes, places: list[int], seed: st.DataObject
) -> None:
    """Asking early gives the checksums so far and changes nothing that follows."""
    checksummer = BlockChecksummer(block_bytes=16)
    taken = b""
    for piece in cut(data, places):
        checksummer.update(piece)
        taken += piece
        if seed.draw(st.booleans()):
            assert checksummer.digest() == block_checksums([taken], block_bytes=16)

    assert checksummer.digest() == block_checksums([data], block_bytes=16)


def test_block_checksummer_of_nothing_has_no_block() -> None:
    """An empty blob has no checksum."""
    checksummer = BlockChecksummer()
    checksummer.update(b"")

    assert checksummer.digest() == b""


def test_block_checksummer_default_block_is_that_of_the_model() -> None:
    """Without a size, a block ends where the model says."""
    checksummer = BlockChecksummer()
    checksummer.update(bytes(BLOCK_BYTES))
    checksummer.update(b"x")

    assert checksummer.digest() == block_checksums([bytes(BLOCK_BYTES), b"x"])
    assert len(checksummer.digest()) == 8


def test_block_checksummer_with_wide_items_counts_bytes() -> None:
    """A view whose items are wider than a byte is taken for its bytes."""
    wide = memoryview(bytes(range(32))).cast("I")

    assert block_checksums([wide], block_bytes=10) == block_checksums(
        [bytes(range(32))], block_bytes=10
    )


def test_block_checksummer_with_empty_blocks_is_refused() -> None:
    """A block without bytes would never be full."""
    with pytest.raises(ValueError, match="at least one byte"):
        BlockChecksummer(block_bytes=0)
