"""Files of the log that are put right while others have them open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dfs.core.errors import StorageError, WalCorruptError
from dfs.wal import repair
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import Outcome
from dfs.wal.segment import ACTIVE_NAME, DAMAGED_NAME, sealed_path
from tests.wal.conftest import OpenLog
from tests.wal.logs import Written, append_commit, fail_with, put_blob, rotate


@pytest.fixture
def record(open_log: OpenLog, log_path: Path) -> Written:
    """A record of a sealed segment."""
    log = open_log()
    (record,) = append_commit(log, [put_blob(b"abc")])
    rotate(log)
    return record


def read(log: WriteAheadLog, record: Written) -> bytes:
    """Read the content of a record."""
    frame = log.read_record(segment_id=1, offset=record.offset, length=len(record.raw))
    return bytes(frame.data)


def spoil(path: Path, record: Written) -> bytes:
    """Damage a record in its file; return what the file was."""
    data = path.read_bytes()
    path.write_bytes(data[: record.end - 1] + b"X" + data[record.end :])
    return data


def test_read_record_of_a_replaced_file_reads_the_new_one(
    open_log: OpenLog, log_path: Path, record: Written
) -> None:
    """A process that has the damaged file open finds the mended one by itself."""
    log, path = open_log(), sealed_path(log_path, 1)
    assert read(log, record) == b"abc"
    data = spoil(path, record)
    with pytest.raises(WalCorruptError):
        read(log, record)
    (log_path / "mended").write_bytes(data)
    (log_path / "mended").replace(path)
    assert read(log, record) == b"abc"


def test_log_reader_reads_the_file_that_has_the_name_now(
    open_log: OpenLog, log_path: Path, record: Written
) -> None:
    """Reading the whole log does not go by files that were opened long ago."""
    log, path = open_log(), sealed_path(log_path, 1)
    assert read(log, record) == b"abc"
    path.replace(log_path / "whole")
    path.write_bytes((log_path / "whole").read_bytes())
    spoil(path, record)
    reader = log.read(after_lsn=0)
    list(reader)
    assert reader.end.outcome is Outcome.CORRUPT


def test_overwrite_keeps_what_was_there_and_puts_it_right(
    open_log: OpenLog, log_path: Path, record: Written
) -> None:
    """The damaged bytes are kept, the right ones are where they belong, nothing else changes."""
    path = sealed_path(log_path, 1)
    data = spoil(path, record)
    spoilt = path.read_bytes()
    pieces = [(record.offset, record.raw)]
    repair.overwrite(log_path, path, segment_id=1, pieces=pieces)
    assert path.read_bytes() == data
    (kept,) = (log_path / DAMAGED_NAME).iterdir()
    assert kept.name.startswith(f"0000000001-{record.offset}-")
    assert kept.read_bytes() == spoilt[record.offset : record.end]


def test_overwrite_that_cannot_keep_what_was_there_changes_nothing(
    open_log: OpenLog, log_path: Path, record: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for the copy the damaged bytes stay."""
    path = sealed_path(log_path, 1)
    spoil(path, record)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail_with(28))
        with pytest.raises(StorageError):
            repair.overwrite(log_path, path, segment_id=1, pieces=[(record.offset, record.raw)])
    assert path.read_bytes() == before


@pytest.mark.parametrize("has_links", [True, False])
def test_keep_file_keeps_it_with_or_without_links(
    open_log: OpenLog, log_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    """The file has its second name, or, where there is no such thing, another one."""
    open_log().close()
    path = log_path / ACTIVE_NAME
    data = path.read_bytes()
    if not has_links:
        monkeypatch.setattr(os, "link", fail_with(1))
    kept = repair.keep_file(log_path, path)
    assert kept.parent == log_path / DAMAGED_NAME
    assert kept.read_bytes() == data
    assert path.exists() is has_links
