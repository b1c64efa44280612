"""The golden log of format 1: old files stay readable, and new ones are written the same."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import Outcome
from dfs.wal.record import Meta, decode_meta
from dfs.wal.segment import decode_header, encode_header
from tests.wal import golden
from tests.wal.golden import (
    GOLDEN_PATH,
    KEYS_PATH,
    SPACE_PATH,
    abandoned_commits,
    active_commits,
    build,
    build_keys,
    build_space,
    keys_commits,
    sealed_commits,
    space_commits,
)
from tests.wal.logs import Commit, Written, raw_of, recover

FILES, RECORDS = build()
SPACE_FILES, SPACE_RECORDS = build_space()
KEYS_FILES, KEYS_RECORDS = build_keys()
LATER = [
    (SPACE_PATH, SPACE_FILES, SPACE_RECORDS, space_commits),
    (KEYS_PATH, KEYS_FILES, KEYS_RECORDS, keys_commits),
]


@pytest.fixture
def copied(log_path: Path) -> Path:
    """Return a log's directory with the golden log in it."""
    shutil.copytree(GOLDEN_PATH, log_path)
    return log_path


def parse_by_hand(data: bytes, stop: int) -> list[tuple[int, int, int, bytes, bytes]]:
    """Take a segment apart by the offsets of the format's description, with nothing of dfs."""
    records = []
    offset = 80
    while offset < stop:
        length, crc = struct.unpack_from("<II", data, offset)
        if not length:
            break
        covered = data[offset + 8 : offset + 8 + length]
        assert zlib.crc32(covered) == crc
        lsn, type_, flags, meta_length = struct.unpack_from("<QBBI", covered)
        meta, rest = covered[14 : 14 + meta_length], covered[14 + meta_length :]
        records.append((lsn, type_, flags, meta, rest))
        offset += 8 + length
    return records


def metas_of(commits: list[Commit]) -> list[Meta]:
    """Return the structures of all records of commits, in order."""
    return [meta for commit in commits for change in commit for meta, _ in change]


@pytest.mark.parametrize("name", FILES)
def test_golden_file_is_what_the_program_writes(name: str) -> None:
    """Encoding the same records gives the file of the released format, byte for byte."""
    assert (GOLDEN_PATH / name).read_bytes() == FILES[name]


@pytest.mark.parametrize("name", FILES)
def test_golden_header_decoded_and_encoded_is_the_same(name: str) -> None:
    """Nothing of a header is lost by reading it."""
    data = (GOLDEN_PATH / name).read_bytes()
    assert encode_header(decode_header(data, path=Path(name))) == data[:80]


def test_golden_log_is_read_record_by_record(copied: Path) -> None:
    """All records come back in order with their metas, and encode to the same bytes again."""
    log = WriteAheadLog(path=copied, segment_bytes=1 << 20, preallocate_bytes=0)
    log.open()
    reader = log.read(after_lsn=0)
    frames = list(reader)
    log.close()
    expected = [record for records in RECORDS for record in records]
    assert [raw_of(frame) for frame in frames] == [record.raw for record in expected]
    assert [frame.offset for frame in frames] == [record.offset for record in expected]
    assert [decode_meta(frame) for frame in frames] == metas_of(
        [*sealed_commits(), *abandoned_commits(), *active_commits()]
    )
    assert reader.end.outcome is Outcome.CLEAN_END
    assert reader.end.position.lsn == expected[-1].lsn == 10


def test_golden_log_is_laid_out_as_documented() -> None:
    """A parser made from the description alone finds the same records."""
    stops = [RECORDS[0][-1].end, RECORDS[1][-1].end, 1 << 30]
    for name, records, stop in zip(FILES, RECORDS, stops, strict=True):
        parsed = parse_by_hand((GOLDEN_PATH / name).read_bytes(), stop)
        assert [record[0] for record in parsed] == [record.lsn for record in records]
        assert all(
            bool(flags & 2) == r.starts_commit
            for (_, _, flags, *_), r in zip(parsed, records, strict=True)
        )
        assert all(
            bool(flags & 1) != r.ends_change
            for (_, _, flags, *_), r in zip(parsed, records, strict=True)
        )


def test_golden_abandoned_tail_is_never_read(copied: Path) -> None:
    """The valid records behind the end of segment 2 come neither now nor after recovery."""
    log = WriteAheadLog(path=copied, segment_bytes=1 << 20, preallocate_bytes=0)
    log.open()
    frames = recover(log)
    log.close()
    assert b"never acknowledged" in (GOLDEN_PATH / "segments/0000000002.wal").read_bytes()
    assert all(bytes(frame.data) != b"never acknowledged" for frame in frames)
    assert len(frames) == 10


@pytest.mark.parametrize(
    ("golden_path", "files", "records", "commits"), LATER, ids=["space", "keys"]
)
def test_golden_log_of_later_types_is_what_the_program_writes_and_reads(
    log_path: Path,
    golden_path: Path,
    files: dict[str, bytes],
    records: list[list[Written]],
    commits: Callable[[], list[Commit]],
) -> None:
    """Records of types that came later are written byte for byte as before, and read back whole."""
    for name, data in files.items():
        assert (golden_path / name).read_bytes() == data
    shutil.copytree(golden_path, log_path)
    log = WriteAheadLog(path=log_path, segment_bytes=1 << 20, preallocate_bytes=0)
    log.open()
    reader = log.read(after_lsn=0)
    frames = list(reader)
    log.close()
    assert [raw_of(frame) for frame in frames] == [record.raw for record in records[0]]
    assert [decode_meta(frame) for frame in frames] == metas_of(commits())
    assert reader.end.outcome is Outcome.CLEAN_END


def test_golden_main_writes_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make wal-golden` does is deterministic."""
    monkeypatch.setattr(golden, "GOLDEN_PATH", tmp_path / "first")
    monkeypatch.setattr(golden, "SPACE_PATH", tmp_path / "space")
    monkeypatch.setattr(golden, "KEYS_PATH", tmp_path / "keys")
    golden.main()
    for directory, files in (("first", FILES), ("space", SPACE_FILES), ("keys", KEYS_FILES)):
        for name, data in files.items():
            assert (tmp_path / directory / name).read_bytes() == data
