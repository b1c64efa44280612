"""What every store must do that keeps segments of the log, whatever it is made of."""

from __future__ import annotations

import itertools
import random

import pytest

from dfs.core.errors import BlobMissingError, StoreUnavailableError
from dfs.storage.base import BlobStore, KeepsSegments

MIB = 1 << 20


@pytest.fixture
def segments(store: BlobStore) -> KeepsSegments:
    assert isinstance(store, KeepsSegments)
    return store


def read_whole(store: KeepsSegments, segment_id: int) -> bytes:
    """Return all bytes of a segment, as many as the listing says."""
    size = dict(store.list_segments())[segment_id]
    data = store.read_segment(segment_id, 0, size + 1, from_disk=True)
    assert len(data) == size
    return data


def test_list_segments_of_a_new_store_is_empty(segments: KeepsSegments) -> None:
    """A store that holds no segment lists none."""
    assert segments.list_segments() == []


def test_append_in_pieces_reads_back_joined(segments: KeepsSegments) -> None:
    """What is appended piece by piece is the segment, whatever the kind of the piece."""
    segments.append_segment(1, 0, b"front ")
    segments.append_segment(1, 6, memoryview(bytearray(b"middle")))
    segments.append_segment(1, 12, memoryview(b"XX end XX")[2:6])

    assert read_whole(segments, 1) == b"front middle end"


@pytest.mark.parametrize("seed", range(4))
def test_append_of_any_length_at_any_place_is_exact(segments: KeepsSegments, seed: int) -> None:
    """Pieces from one byte to several MiB, and steps back, leave exactly what was asked for."""
    chance = random.Random(seed)
    expected = b""
    for _ in range(8):
        offset = chance.choice([len(expected), len(expected), chance.randint(0, len(expected))])
        length = chance.choice([0, 1, MIB - 1, MIB, MIB + 1, chance.randint(0, 3 * MIB)])
        data = chance.randbytes(length)
        segments.append_segment(7, offset, data)
        expected = expected[:offset] + data
        assert segments.list_segments() == [(7, len(expected))]

    assert read_whole(segments, 7) == expected


@pytest.mark.parametrize("cut", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 4])
def test_append_before_the_end_drops_what_lay_behind(segments: KeepsSegments, cut: int) -> None:
    """A tail that was shipped and never acknowledged is gone once other bytes take its place."""
    content = bytes(range(251)) * (3 * MIB // 251 + 1)
    segments.append_segment(3, 0, content[: 3 * MIB + 4])

    segments.append_segment(3, cut, b"new")

    assert read_whole(segments, 3) == content[:cut] + b"new"


def test_append_nothing_at_an_offset_cuts_there(segments: KeepsSegments) -> None:
    """An append without bytes still says where the segment ends."""
    segments.append_segment(3, 0, b"0123456789")

    segments.append_segment(3, 4, b"")

    assert read_whole(segments, 3) == b"0123"


@pytest.mark.parametrize("held", [None, 0, 5, MIB])
def test_append_behind_a_hole_is_refused(segments: KeepsSegments, held: int | None) -> None:
    """A store that has lost bytes is not written to as if it had them."""
    if held is not None:
        segments.append_segment(2, 0, bytes(held))
    before = segments.list_segments()

    with pytest.raises(StoreUnavailableError):
        segments.append_segment(2, (held or 0) + 1, b"x")

    assert segments.list_segments() == before


def test_append_to_segments_in_turn_keeps_them_apart(segments: KeepsSegments) -> None:
    """Whatever is kept of one segment for the next append does not reach another."""
    for offset, letter in enumerate(b"abc"):
        for segment_id in (1, 2):
            segments.append_segment(segment_id, offset, bytes([letter + segment_id]))

    assert (read_whole(segments, 1), read_whole(segments, 2)) == (b"bcd", b"cde")


def test_append_after_the_segment_was_put_aside_is_refused(segments: KeepsSegments) -> None:
    """A growing segment that is taken away does not go on growing where nobody sees it."""
    segments.append_segment(1, 0, b"seen")
    segments.quarantine_segment(1)

    with pytest.raises(StoreUnavailableError):
        segments.append_segment(1, 4, b"unseen")
    assert segments.list_segments() == []

    segments.append_segment(1, 0, b"anew")
    assert read_whole(segments, 1) == b"anew"


def test_append_after_the_segment_was_put_goes_on_behind_it(segments: KeepsSegments) -> None:
    """A segment that was replaced as a whole grows from what it holds now."""
    segments.append_segment(1, 0, b"0123456789")
    segments.put_segment(1, [b"abcde", b"fghij"])

    segments.append_segment(1, 10, b"klm")

    assert read_whole(segments, 1) == b"abcdefghijklm"


def test_read_segment_gives_what_there_is(segments: KeepsSegments) -> None:
    """A read gives the bytes asked for, and fewer only at the end."""
    segments.append_segment(4, 0, b"0123456789")

    assert segments.read_segment(4, 2, 3) == b"234"
    assert type(segments.read_segment(4, 0, 10)) is bytes
    assert segments.read_segment(4, 8, 100, from_disk=True) == b"89"
    assert segments.read_segment(4, 10, 1) == b""
    assert segments.read_segment(4, 50, 1) == b""
    assert segments.read_segment(4, 3, 0) == b""


@pytest.mark.parametrize("sealed", [False, True])
def test_read_segment_across_its_parts_is_seamless(segments: KeepsSegments, sealed: bool) -> None:
    """However a store divides a segment, a run of bytes is one run."""
    content = random.Random(1).randbytes(3 * MIB + 17)
    segments.append_segment(9, 0, content)
    if sealed:
        segments.seal_segment(9)

    for start, stop in itertools.combinations([0, 1, MIB - 1, MIB, 2 * MIB + 5, len(content)], 2):
        assert segments.read_segment(9, start, stop - start) == content[start:stop]


def test_read_segment_that_is_absent_raises_missing(segments: KeepsSegments) -> None:
    """A segment that is not held has its own error, and cannot be sealed."""
    segments.append_segment(1, 0, b"x")

    with pytest.raises(BlobMissingError):
        segments.read_segment(2, 0, 1)
    with pytest.raises(BlobMissingError):
        segments.seal_segment(2)


def test_seal_segment_keeps_every_byte(segments: KeepsSegments) -> None:
    """A sealed segment is the one that grew; sealing again is no error."""
    content = random.Random(2).randbytes(2 * MIB + 1)
    segments.append_segment(5, 0, content[:MIB])
    segments.append_segment(5, MIB, content[MIB:])

    segments.seal_segment(5)
    segments.seal_segment(5)

    assert read_whole(segments, 5) == content
    assert segments.list_segments() == [(5, len(content))]


def test_seal_empty_segment_keeps_it(segments: KeepsSegments) -> None:
    """A segment without a byte is one, too."""
    segments.append_segment(5, 0, b"")
    assert segments.list_segments() == [(5, 0)]

    segments.seal_segment(5)

    assert read_whole(segments, 5) == b""


@pytest.mark.parametrize("offset", [0, 5, MIB + 3, 2 * MIB])
def test_append_to_a_sealed_segment_grows_it_again(segments: KeepsSegments, offset: int) -> None:
    """A segment that was sealed too early is no dead end."""
    content = random.Random(3).randbytes(2 * MIB)
    segments.append_segment(5, 0, content)
    segments.seal_segment(5)

    segments.append_segment(5, offset, b"more")

    assert read_whole(segments, 5) == content[:offset] + b"more"


@pytest.mark.parametrize("size", [0, 1, MIB, 9 * MIB + 1])
def test_put_segment_of_any_size_reads_back(segments: KeepsSegments, size: int) -> None:
    """A segment put as a whole is what its pieces are, joined."""
    content = random.Random(4).randbytes(size)

    segments.put_segment(6, (content[start : start + 70_000] for start in range(0, size, 70_000)))

    assert segments.list_segments() == [(6, size)]
    assert read_whole(segments, 6) == content


def test_put_segment_replaces_what_is_there(segments: KeepsSegments) -> None:
    """Neither the parts nor the whole of the old segment shine through."""
    segments.append_segment(6, 0, bytes(2 * MIB))

    segments.put_segment(6, [b"first"])
    assert read_whole(segments, 6) == b"first"
    segments.put_segment(6, [b"2nd"])
    assert read_whole(segments, 6) == b"2nd"


def test_put_segment_that_breaks_off_keeps_the_old(segments: KeepsSegments) -> None:
    """When the source of the pieces fails, its error comes through and nothing has changed."""
    segments.append_segment(6, 0, b"old")

    def pieces(count: int) -> itertools.chain[bytes]:
        return itertools.chain([bytes(MIB)] * count, iter(lambda: 1 / 0, None))  # type: ignore

    for count in (0, 1, 20):
        with pytest.raises(ZeroDivisionError):
            segments.put_segment(6, pieces(count))
        assert read_whole(segments, 6) == b"old"


def test_list_segments_is_ascending(segments: KeepsSegments) -> None:
    """Segments come in the order of their ids, each once, growing ones among the sealed."""
    for segment_id in (10, 2, 1, 300):
        segments.append_segment(segment_id, 0, bytes(segment_id))
    segments.seal_segment(2)
    segments.put_segment(4, [b"four"])

    assert segments.list_segments() == [(1, 1), (2, 2), (4, 4), (10, 10), (300, 300)]


@pytest.mark.parametrize("sealed", [False, True])
def test_quarantine_segment_takes_it_from_its_place(segments: KeepsSegments, sealed: bool) -> None:
    """A damaged segment is out of the way; one that is missing is no error."""
    segments.append_segment(8, 0, bytes(MIB + 1))
    if sealed:
        segments.seal_segment(8)

    segments.quarantine_segment(8)
    segments.quarantine_segment(8)

    assert segments.list_segments() == []
    with pytest.raises(BlobMissingError):
        segments.read_segment(8, 0, 1)


@pytest.mark.parametrize("size", [200, MIB, 2 * MIB + 17])
@pytest.mark.parametrize("sealed", [False, True])
def test_put_segment_that_is_shorter_leaves_nothing_of_the_old(
    segments: KeepsSegments, size: int, sealed: bool
) -> None:
    """A stub takes the place of a segment, whether that was sealed or still growing."""
    segments.append_segment(7, 0, random.Random(5).randbytes(size))
    if sealed:
        segments.seal_segment(7)

    segments.put_segment(7, [b"stub"])
    segments.seal_segment(7)

    assert read_whole(segments, 7) == b"stub"
    assert segments.read_segment(7, 4, size) == b""
    assert segments.list_segments() == [(7, 4)]


def test_append_in_the_place_of_a_short_segment_brings_nothing_old_back(
    segments: KeepsSegments,
) -> None:
    """A segment that is shipped again where its stub was is what was shipped."""
    content = random.Random(6).randbytes(2 * MIB + 5)
    segments.append_segment(7, 0, content)
    segments.put_segment(7, [b"stub"])

    segments.append_segment(7, 0, content[:MIB])
    segments.append_segment(7, MIB, content[MIB : MIB + 9])

    assert read_whole(segments, 7) == content[: MIB + 9]
