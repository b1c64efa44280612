"""Putting a segment together from copies, all of them damaged."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.core.errors import StoreUnavailableError, WalCorruptError
from dfs.wal.control import LogPosition
from dfs.wal.merge import SegmentCopy, find_sure_end, merge_newest, merge_up_to, read_runs
from dfs.wal.record import DeleteFile, DropSegment
from dfs.wal.segment import SEGMENT_HEADER_BYTES
from dfs.wal.stub import encode_stub
from tests.wal.logs import (
    Commit,
    Written,
    encode_commits,
    encode_segment,
    header_of,
    some_commits,
    upload,
)

START = LogPosition(1, SEGMENT_HEADER_BYTES, 0)
COMMITS = some_commits(6)
WRITTEN = encode_commits(COMMITS)
SEGMENT = encode_segment(WRITTEN)
END = LogPosition(1, len(SEGMENT), WRITTEN[-1].lsn)
OFFSETS = st.integers(SEGMENT_HEADER_BYTES, len(SEGMENT) - 1)


class Bytes:
    """A segment in memory; some of it may be unreadable."""

    path = Path("segment")

    def __init__(self, data: bytes, *, readable_bytes: int | None = None) -> None:
        self._data = data
        self._readable_bytes = len(data) if readable_bytes is None else readable_bytes

    def size(self) -> int:
        """Return how many bytes there are."""
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """Return some of them."""
        if min(offset + length, len(self._data)) > self._readable_bytes:
            raise StoreUnavailableError("input/output error")
        return self._data[offset : offset + length]


def copy_of(data: bytes, name: str = "copy", *, is_own: bool = False) -> SegmentCopy:
    """Return a copy that holds these bytes."""
    return SegmentCopy(name, Bytes(data), is_own=is_own)


def flipped(offsets: Sequence[int], data: bytes = SEGMENT) -> bytes:
    """Return a segment with some bytes flipped."""
    changed = bytearray(data)
    for offset in set(offsets):
        changed[offset] ^= 0x55
    return bytes(changed)


def segment_of(commits: Sequence[Commit]) -> tuple[bytes, list[Written]]:
    """Return a segment of these commits, and its records."""
    written = encode_commits(commits)
    return encode_segment(written), written


def bytes_of(merged) -> bytes:
    """Return what was merged, without the header."""
    return b"".join(read_runs(merged.runs))


def changes_of(written: Sequence[Written]) -> list[tuple[int, int]]:
    """Return [start, stop) of each change."""
    stops = [record.end for record in written if record.ends_change]
    return list(zip([SEGMENT_HEADER_BYTES, *stops], stops, strict=False))


@given(damages=st.lists(st.lists(OFFSETS, max_size=6), min_size=1, max_size=3))
def test_merge_up_to_is_whole_if_each_change_is_sound_somewhere(damages):
    """The end is reached if, and only if, no change is damaged in all copies; no byte is wrong."""
    merged = merge_up_to([copy_of(flipped(offsets)) for offsets in damages], start=START, end=END)
    hit = [
        all(any(start <= offset < stop for offset in offsets) for offsets in damages)
        for start, stop in changes_of(WRITTEN)
    ]
    assert (merged.end == END) is not any(hit)
    assert bytes_of(merged) == SEGMENT[SEGMENT_HEADER_BYTES : merged.end.offset]


@given(
    copies=st.lists(
        st.tuples(st.lists(OFFSETS, max_size=3), st.integers(SEGMENT_HEADER_BYTES, len(SEGMENT))),
        min_size=1,
        max_size=3,
    )
)
def test_merge_newest_is_the_longest_sound_beginning_or_refuses(copies):
    """Nothing wrong is returned, nothing sound left out, and no commit proven durable is lost."""
    datas = [flipped(offsets)[:length] for offsets, length in copies]
    proven = max(
        (
            record.lsn - 1
            for data in datas
            for record in WRITTEN
            if record.starts_commit and data[record.offset : record.end] == record.raw
        ),
        default=0,
    )
    try:
        merged = merge_newest([copy_of(data) for data in datas], start=START)
    except WalCorruptError:
        return
    assert bytes_of(merged) == SEGMENT[SEGMENT_HEADER_BYTES : merged.end.offset]
    assert merged.end.lsn >= proven
    for data in datas:
        alone = merge_up_to([copy_of(data)], start=START, end=END)
        assert merged.end.lsn >= alone.end.lsn


@given(
    damages=st.lists(st.lists(OFFSETS, max_size=4), min_size=1, max_size=3), has_own=st.booleans()
)
def test_merge_newest_of_long_copies_is_whole_if_each_change_is_sound_somewhere(damages, has_own):
    """Copies that all go to the end are as good together as they would be of a sealed segment."""
    copies = [
        copy_of(flipped(offsets), is_own=has_own and number == 0)
        for number, offsets in enumerate(damages)
    ]
    sealed = merge_up_to(copies, start=START, end=END)
    if sealed.end == END:
        assert merge_newest(copies, start=START).end == END


def test_merge_newest_takes_a_commit_in_doubt_if_one_damaged_copy_goes_on_behind_it():
    """The only copy that has it does not show the next commit; of the others one shows it whole."""
    *_, doubted, following = (record for record in WRITTEN if record.starts_commit)
    behind = WRITTEN[WRITTEN.index(following) + 1]
    damages = [[doubted.offset], [following.offset], [doubted.offset, behind.offset]]
    for offsets in itertools.permutations(damages):
        copies = [copy_of(flipped(each)) for each in offsets]
        assert bytes_of(merge_newest(copies, start=START)) == SEGMENT[SEGMENT_HEADER_BYTES:]


@given(length=st.integers(SEGMENT_HEADER_BYTES, len(SEGMENT)))
def test_merge_newest_of_one_torn_copy_is_its_whole_changes(length):
    """A copy that was cut anywhere gives what was whole before the cut."""
    merged = merge_newest([copy_of(SEGMENT[:length] + bytes(500))], start=START)
    stops = [SEGMENT_HEADER_BYTES, *(stop for _, stop in changes_of(WRITTEN))]
    assert merged.end.offset == max(stop for stop in stops if stop <= length)


def test_merge_newest_with_damage_before_a_later_commit_refuses():
    """What lies before a later commit was durable: it is not cut off."""
    with pytest.raises(WalCorruptError, match="CRC32"):
        merge_newest([copy_of(flipped([WRITTEN[2].offset + 30]))], start=START)


@pytest.mark.parametrize("commits_behind", [1, 2])
def test_merge_newest_passes_over_a_commit_that_was_taken_back(commits_behind):
    """A longer copy whose last commit was refused gives way to what was written in its place."""
    right, _ = segment_of([*COMMITS[:2], *[[_delete(2_000_000_000_000)]] * commits_behind])
    taken_back, _ = segment_of([*COMMITS[:2], [_delete(1_900_000_000_000)] * 5])
    for datas in ([right, taken_back], [taken_back, right]):
        merged = merge_newest([copy_of(data) for data in datas], start=START)
        assert bytes_of(merged) == right[SEGMENT_HEADER_BYTES:]


def _delete(moment_ms: int):
    return [(DeleteFile(id="0" * 26, deleted_at_ms=moment_ms), b"")]


def test_merge_newest_of_two_lives_refuses():
    """Copies that both went on after they parted are never mixed."""
    one, _ = segment_of([*COMMITS[:2], [upload("a", b"a")], [upload("b", b"b")]])
    other, _ = segment_of([*COMMITS[:2], [upload("c", b"c")], [upload("d", b"d")]])
    with pytest.raises(WalCorruptError, match="one and other are two lives"):
        merge_newest([copy_of(one, "one"), copy_of(other, "other")], start=START)


def test_merge_newest_fills_a_hole_only_with_what_fits_into_it():
    """The last commit of another copy closes a hole if the damaged copy goes on behind it."""
    damaged = copy_of(flipped([WRITTEN[2].offset + 30]), is_own=True)
    lost = COMMITS[1]
    right, _ = segment_of([COMMITS[0], lost])
    merged = merge_newest([damaged, copy_of(right)], start=START)
    assert bytes_of(merged) == SEGMENT[SEGMENT_HEADER_BYTES:]
    for changes in (1, 20):
        taken_back, _ = segment_of([COMMITS[0], [upload("other", b"other")] * changes])
        with pytest.raises(WalCorruptError):
            merge_newest([damaged, copy_of(taken_back)], start=START)


def test_merge_newest_of_an_own_copy_ends_where_it_does():
    """The last commit of the node's own file is not in doubt."""
    own, _ = segment_of([*COMMITS[:2], [_delete(1_900_000_000_000)]])
    taken_back, _ = segment_of([*COMMITS[:2], [_delete(2_000_000_000_000)] * 5])
    merged = merge_newest([copy_of(taken_back), copy_of(own, is_own=True)], start=START)
    assert bytes_of(merged) == own[SEGMENT_HEADER_BYTES:]


def test_merge_reads_on_elsewhere_where_a_copy_cannot_be_read():
    """An input/output error is a hole like any other."""
    middle = WRITTEN[4].offset
    unreadable = SegmentCopy("bad disk", Bytes(SEGMENT, readable_bytes=middle))
    merged = merge_up_to([unreadable, copy_of(SEGMENT)], start=START, end=END)
    assert merged.end == END
    assert merge_up_to([unreadable], start=START, end=END).end.offset <= middle


def test_sure_end_is_before_the_last_commit():
    """What no later commit proves is in doubt; a node's own file is not."""
    last = next(record for record in reversed(WRITTEN) if record.starts_commit)
    assert find_sure_end(copy_of(SEGMENT), START).offset == last.offset
    assert find_sure_end(copy_of(SEGMENT, is_own=True), START) == END


def test_merge_takes_nothing_from_a_stub() -> None:
    """Its record is no part of the segment: what another copy lacks is not in it."""
    commits = [[upload(f"file-{number}", bytes(1500))] for number in range(4)]
    data, written = segment_of(commits)
    end = LogPosition(1, len(data), written[-1].lsn)
    drop = DropSegment(
        segment_id=1,
        first_lsn=1,
        last_lsn=end.lsn,
        end=end.offset,
        sealed_at_ms=0,
        moved_lsn=end.lsn,
        dropped_at_ms=0,
    )
    stub = copy_of(encode_stub(header_of(), drop), "stub", is_own=True)
    assert merge_up_to([stub], start=START, end=end).runs == ()
    damaged = copy_of(flipped([written[2].offset + 30], data))
    assert merge_up_to([stub, damaged], start=START, end=end).end.lsn == written[1].lsn
    whole = merge_up_to([stub, damaged, copy_of(data)], start=START, end=end)
    assert bytes_of(whole) == data[SEGMENT_HEADER_BYTES:]
