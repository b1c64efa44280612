"""Segments: headers, names, and those open for reading."""

from __future__ import annotations

import errno
import os
import struct
import threading
import zlib
from pathlib import Path

import pytest

from dfs.core.errors import NoSpaceError, StorageError, WalCorruptError, WalFormatError, WalGapError
from dfs.wal import segment as segment_module
from dfs.wal.segment import (
    ACTIVE_NAME,
    SEGMENT_HEADER_BYTES,
    SEGMENTS_NAME,
    OpenSegments,
    decode_header,
    encode_header,
    list_sealed_ids,
    read_header,
    sealed_path,
    write_segment,
)
from tests.wal.logs import CLUSTER_ID, header_of

HEADER = header_of(7, first_lsn=100, previous_end=4321)
PATH = Path("wal.active")


def reseal(fields: bytes) -> bytes:
    """Return header fields with a CRC32 that fits them."""
    return fields + struct.pack("<I", zlib.crc32(fields))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a log's directory without segments."""
    (tmp_path / SEGMENTS_NAME).mkdir()
    return tmp_path


def put_segment(path: Path, segment_id: int) -> None:
    """Write a segment without records."""
    path.write_bytes(encode_header(header_of(segment_id)))


def test_encode_header_lays_out_fields_as_documented() -> None:
    """The bytes are those of the format's description, built here by hand."""
    fields = b"dfs-wal\n" + struct.pack("<IIQ", 1, 80, 7) + CLUSTER_ID
    fields += struct.pack("<QQQQI", 100, 4321, 99, 1_700_000_000_000, 0)
    assert encode_header(HEADER) == reseal(fields)
    assert SEGMENT_HEADER_BYTES == 80


def test_decode_header_returns_what_was_encoded() -> None:
    """Every field comes back, whatever follows the header."""
    assert decode_header(encode_header(HEADER) + b"rest", path=PATH) == HEADER


def test_decode_header_with_any_flipped_bit_is_corrupt() -> None:
    """No bit of the header may change."""
    header = encode_header(HEADER)
    for at in range(len(header)):
        for bit in range(8):
            damaged = bytearray(header)
            damaged[at] ^= 1 << bit
            with pytest.raises(WalCorruptError):
                decode_header(bytes(damaged), path=PATH)


def test_decode_header_cut_anywhere_is_corrupt() -> None:
    """A header that lacks bytes is none."""
    header = encode_header(HEADER)
    for size in range(len(header)):
        with pytest.raises(WalCorruptError):
            decode_header(header[:size], path=PATH)


def test_decode_header_of_newer_format_refuses() -> None:
    """A format version of a newer program stops this one."""
    fields = bytearray(encode_header(HEADER)[:-4])
    fields[8:12] = struct.pack("<I", 2)
    with pytest.raises(WalFormatError, match="format 2"):
        decode_header(reseal(bytes(fields)), path=PATH)


@pytest.mark.parametrize(("at", "value"), [(12, struct.pack("<I", 96)), (56, bytes(8))])
def test_decode_header_that_contradicts_itself_is_corrupt(at: int, value: bytes) -> None:
    """Another header length, or a last LSN that is not the one before the first, is refused."""
    fields = bytearray(encode_header(HEADER)[:-4])
    fields[at : at + len(value)] = value
    with pytest.raises(WalCorruptError, match="contradicts"):
        decode_header(reseal(bytes(fields)), path=PATH)


def test_read_header_of_missing_file_raises_storage_error(tmp_path: Path) -> None:
    """What the operating system says is translated."""
    with pytest.raises(StorageError):
        read_header(tmp_path / "absent")


def test_list_sealed_ids_passes_over_other_names(directory: Path) -> None:
    """Only names of ten digits count, and they come in order."""
    for name in ("0000000010.wal", "0000000002.wal", "2.wal", "0000000003.wal.tmp", "x.wal"):
        (directory / SEGMENTS_NAME / name).touch()
    assert list_sealed_ids(directory) == [2, 10]
    assert sealed_path(directory, 10).exists()


def test_write_segment_without_space_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that cannot be written whole is removed again."""

    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(NoSpaceError):
        write_segment(tmp_path / "wal.next", HEADER, size_bytes=4096)
    assert list(tmp_path.iterdir()) == []


def test_write_segment_gives_what_lay_there_no_second_life(tmp_path: Path) -> None:
    """A name whose sync failed may never reach the disk: the next attempt makes a new one."""
    path = tmp_path / "wal.next"
    path.write_bytes(b"left")
    with path.open("rb") as left:
        write_segment(path, HEADER, size_bytes=4096)
        assert os.fstat(left.fileno()).st_nlink == 0
        assert left.read() == b"left"


def test_write_segment_fills_up_with_zeros_and_is_private(tmp_path: Path) -> None:
    """The file has the size asked for, zeros behind its header, and mode 0600."""
    path = tmp_path / "wal.next"
    write_segment(path, HEADER, size_bytes=4096)
    assert path.read_bytes() == encode_header(HEADER).ljust(4096, b"\0")
    assert path.stat().st_mode & 0o777 == 0o600
    write_segment(path, HEADER, size_bytes=0)
    assert path.read_bytes() == encode_header(HEADER)


def test_open_segments_finds_sealed_and_active(directory: Path) -> None:
    """A segment is found by its id wherever it lies, and opened once."""
    put_segment(sealed_path(directory, 1), 1)
    put_segment(directory / ACTIVE_NAME, 2)
    segments = OpenSegments(directory)
    assert segments.get(1).path == sealed_path(directory, 1)
    assert segments.get(2).path == directory / ACTIVE_NAME
    assert segments.get(2) is segments.get(2)


def test_open_segments_of_missing_segment_is_a_gap(directory: Path) -> None:
    """An id that lies nowhere is missing, with and without an active segment."""
    segments = OpenSegments(directory)
    with pytest.raises(WalGapError):
        segments.get(1)
    put_segment(directory / ACTIVE_NAME, 2)
    with pytest.raises(WalGapError):
        segments.get(1)


def test_open_segments_without_descriptors_raises_storage_error(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults other than absence are translated, for sealed and active segments."""
    real_open = os.open

    def fail(path: object, flags: int, *args: int) -> int:
        if str(path).endswith(ACTIVE_NAME):
            raise OSError(errno.EMFILE, "Too many open files")
        return real_open(path, flags, *args)  # type: ignore[arg-type]

    put_segment(directory / ACTIVE_NAME, 1)
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(StorageError):
        OpenSegments(directory).get(1)


def test_open_segments_survives_rename_between_two_looks(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment sealed just after it was not found among the sealed ones is found nevertheless."""
    put_segment(directory / ACTIVE_NAME, 1)
    real_open = os.open

    def seal_first(path: object, flags: int, *args: int) -> int:
        if str(path).endswith(ACTIVE_NAME):
            monkeypatch.setattr(os, "open", real_open)
            (directory / ACTIVE_NAME).rename(sealed_path(directory, 1))
        return real_open(path, flags, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", seal_first)
    assert OpenSegments(directory).get(1).path == sealed_path(directory, 1)


def test_open_segments_evicted_in_use_stays_readable_and_is_closed_later(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eviction closes a segment only when its last user is done with it."""
    monkeypatch.setattr(segment_module, "OPEN_SEGMENTS_MAX", 2)
    for segment_id in (1, 2, 3):
        put_segment(sealed_path(directory, segment_id), segment_id)
    segments = OpenSegments(directory)
    first = segments.get(1)
    segments.get(2)
    segments.get(3)
    assert segments.get(1) is not first
    fd = first.fd
    assert len(os.pread(fd, SEGMENT_HEADER_BYTES, 0)) == SEGMENT_HEADER_BYTES
    del first
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_open_segments_under_rotation_and_eviction_gives_the_right_segment(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads always read the segment they asked for, while others are sealed and evicted."""
    monkeypatch.setattr(segment_module, "OPEN_SEGMENTS_MAX", 3)
    put_segment(directory / ACTIVE_NAME, 1)
    newest = [1]
    faults: list[object] = []
    segments = OpenSegments(directory)
    done = threading.Event()

    def read(seed: int) -> None:
        number = seed
        while not done.is_set():
            number = number * 31 + 7
            wanted = 1 + number % newest[0]
            try:
                opened = segments.get(wanted)
                header = decode_header(os.pread(opened.fd, SEGMENT_HEADER_BYTES, 0), path=PATH)
            except Exception as error:
                faults.append(error)
                return
            if header.segment_id != wanted:
                faults.append((wanted, header))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for segment_id in range(1, 300):
        following = directory / "wal.next"
        put_segment(following, segment_id + 1)
        (directory / ACTIVE_NAME).rename(sealed_path(directory, segment_id))
        following.rename(directory / ACTIVE_NAME)
        newest[0] = segment_id + 1
    done.set()
    for thread in threads:
        thread.join()
    assert faults == []
