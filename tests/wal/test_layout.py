"""Layout: which segments there are, which situations a directory may be in, what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfs.core.errors import StorageError, WalCorruptError, WalGapError
from dfs.wal import layout
from dfs.wal.layout import Situation, find_situation, list_segments
from dfs.wal.segment import (
    ACTIVE_NAME,
    NEXT_NAME,
    SEGMENTS_NAME,
    SegmentHeader,
    encode_header,
    sealed_path,
)
from tests.wal.logs import header_of


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a log's directory without segments."""
    (tmp_path / SEGMENTS_NAME).mkdir()
    return tmp_path


def write(path: Path, header: SegmentHeader) -> None:
    """Write a segment without records."""
    path.write_bytes(encode_header(header))


def write_chain(directory: Path, count: int) -> None:
    """Write `count` segments of ten records each, the last one active."""
    for segment_id in range(1, count + 1):
        path = sealed_path(directory, segment_id) if segment_id < count else directory / ACTIVE_NAME
        first = segment_id == 1
        previous_end = 0 if first else 500 + segment_id
        header = header_of(segment_id, first_lsn=segment_id * 10 - 9, previous_end=previous_end)
        write(path, header)


@pytest.mark.parametrize(
    ("names", "situation"),
    [
        ([], Situation.EMPTY),
        ([NEXT_NAME], Situation.EMPTY),
        ([ACTIVE_NAME], Situation.OPEN),
        ([ACTIVE_NAME, NEXT_NAME, "segments/0000000001.wal"], Situation.OPEN),
        ([NEXT_NAME, "segments/0000000001.wal"], Situation.ROTATING),
        (["segments/0000000001.wal"], Situation.HEADLESS),
        (["segments/other"], Situation.EMPTY),
    ],
)
def test_find_situation_tells_by_names(
    directory: Path, names: list[str], situation: Situation
) -> None:
    """Each combination of files is one situation."""
    for name in names:
        write(directory / name, header_of())
    assert find_situation(directory) is situation


def test_find_situation_with_lone_later_next_is_headless(directory: Path) -> None:
    """A `wal.next` that was to follow a lost segment does not begin a log anew."""
    write(directory / NEXT_NAME, header_of(5, first_lsn=77, previous_end=900))
    assert find_situation(directory) is Situation.HEADLESS


def test_find_situation_with_torn_first_next_is_empty(directory: Path) -> None:
    """The first segment, died over while it was written, was never used."""
    (directory / NEXT_NAME).write_bytes(encode_header(header_of())[:50])
    assert find_situation(directory) is Situation.EMPTY


def test_list_segments_takes_each_end_from_the_next_header(directory: Path) -> None:
    """A segment ends where the header of the one behind it says; the active one has no end yet."""
    write_chain(directory, 3)
    segments = list_segments(directory)
    assert [segment.header.segment_id for segment in segments] == [1, 2, 3]
    assert [segment.end for segment in segments] == [502, 503, None]
    assert [segment.last_lsn for segment in segments] == [10, 20, None]
    assert segments[-1].path == directory / ACTIVE_NAME


@pytest.mark.parametrize("missing", [[2], [3], [2, 3]])
def test_list_segments_with_missing_segment_is_a_gap(directory: Path, missing: list[int]) -> None:
    """A hole among the sealed segments is named."""
    write_chain(directory, 5)
    for segment_id in missing:
        sealed_path(directory, segment_id).unlink()
    with pytest.raises(WalGapError) as raised:
        list_segments(directory)
    assert raised.value.context["missing"] == missing


def test_list_segments_without_any_sealed_before_a_later_active_is_a_gap(directory: Path) -> None:
    """An active segment that is not the first needs those before it."""
    write_chain(directory, 3)
    sealed_path(directory, 1).unlink()
    sealed_path(directory, 2).unlink()
    with pytest.raises(WalGapError):
        list_segments(directory)


def test_list_segments_with_missing_newest_sealed_is_a_gap(directory: Path) -> None:
    """The segment just before the active one is missed, too."""
    write_chain(directory, 3)
    sealed_path(directory, 2).unlink()
    with pytest.raises(WalGapError):
        list_segments(directory)


def test_list_segments_without_active_raises(directory: Path) -> None:
    """Sealed segments alone are no open log."""
    write_chain(directory, 3)
    (directory / ACTIVE_NAME).unlink()
    with pytest.raises(StorageError):
        list_segments(directory)


def test_list_segments_with_active_sealed_already_is_corrupt(directory: Path) -> None:
    """A sealed segment with the id of the active one contradicts it."""
    write_chain(directory, 3)
    write(sealed_path(directory, 3), header_of(3, first_lsn=21, previous_end=503))
    with pytest.raises(WalCorruptError, match="is sealed, and yet"):
        list_segments(directory)


def test_list_segments_with_swapped_segments_is_corrupt(directory: Path) -> None:
    """A segment that lies under the name of another is found by its header."""
    write_chain(directory, 4)
    one, two = sealed_path(directory, 1), sealed_path(directory, 2)
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    with pytest.raises(WalCorruptError, match="lies where"):
        list_segments(directory)


def test_list_segments_with_segment_of_another_cluster_is_corrupt(directory: Path) -> None:
    """All segments of a log carry one cluster id."""
    write_chain(directory, 3)
    header = header_of(2, first_lsn=11, previous_end=502)
    foreign = SegmentHeader(2, b"x" * 16, header.first_lsn, header.previous_end, 10, 0)
    write(sealed_path(directory, 2), foreign)
    with pytest.raises(WalCorruptError, match="another cluster"):
        list_segments(directory)


def test_list_segments_that_begin_late_or_go_back_is_corrupt(directory: Path) -> None:
    """The first LSN of the first segment is 1, and later segments never begin earlier."""
    write_chain(directory, 3)
    write(sealed_path(directory, 2), header_of(2, first_lsn=99, previous_end=502))
    with pytest.raises(WalCorruptError, match="do not follow"):
        list_segments(directory)
    write_chain(directory, 3)
    write(sealed_path(directory, 1), header_of(1, first_lsn=2))
    with pytest.raises(WalCorruptError, match="does not begin"):
        list_segments(directory)


def test_list_segments_with_damaged_header_is_corrupt(directory: Path) -> None:
    """A damaged header is found in sealed and active segments alike."""
    for name in ("segments/0000000001.wal", "segments/0000000002.wal", ACTIVE_NAME):
        write_chain(directory, 3)
        data = bytearray((directory / name).read_bytes())
        data[40] ^= 1
        (directory / name).write_bytes(data)
        with pytest.raises(WalCorruptError):
            list_segments(directory)


def test_list_segments_between_the_renames_of_a_rotation_takes_next(directory: Path) -> None:
    """A reader without the lock sees `wal.next` as the newest segment when no other is active."""
    write_chain(directory, 3)
    (directory / ACTIVE_NAME).rename(directory / NEXT_NAME)
    assert [segment.header.segment_id for segment in list_segments(directory)] == [1, 2, 3]


@pytest.mark.parametrize("passed_renames", [1, 2])
def test_list_segments_looks_again_when_a_rotation_comes_between(
    directory: Path, monkeypatch: pytest.MonkeyPatch, passed_renames: int
) -> None:
    """A rotation between reading the active header and listing the others changes nothing."""
    write_chain(directory, 3)
    write(directory / NEXT_NAME, header_of(4, first_lsn=31, previous_end=504))
    real_read = layout.read_header

    def rotate_after(path: Path) -> SegmentHeader:
        header = real_read(path)
        monkeypatch.setattr(layout, "read_header", real_read)
        (directory / ACTIVE_NAME).rename(sealed_path(directory, 3))
        if passed_renames == 2:
            (directory / NEXT_NAME).rename(directory / ACTIVE_NAME)
        return header

    monkeypatch.setattr(layout, "read_header", rotate_after)
    assert [segment.header.segment_id for segment in list_segments(directory)] == [1, 2, 3, 4]
