"""The drill for replication in its short form, and the reader that judges it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.project.replica_chaos import Options, Summary, run_drill
from tests.services.conftest import make_config, store_bytes
from tests.services.dropped import compact
from tests.services.replicated import ReplicatedNode, fill
from tests.wal.golden import GOLDEN_PATH, HELLO, UNICODE_KEY
from torture.independent import (
    FormatError,
    StoredLog,
    find_bad_files,
    find_differences,
    read_log,
)

BLOB = bytes(range(256)) * 8192


@pytest.mark.crash
@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", ["async", "sync"])
def test_replicas_are_whole_after_everything_failed(tmp_path: Path, mode: str) -> None:
    """Whatever fails while files go up, every store ends up with all of them and nothing else."""
    options = Options(
        files=150,
        directory=tmp_path / "drill",
        seed=len(mode),
        sync=mode == "sync",
        pause_s=0.4,
        settle_s=60,
        files_per_s=15,
        segment_bytes=256 << 10,
    )
    summary = run_drill(options)
    assert summary.is_well(), str(asdict(summary))  # a text is shown whole
    assert summary.files + summary.deleted == 150


def test_summary_that_is_empty_is_not_well() -> None:
    """A drill that did nothing does not pass for one that went well."""
    assert not Summary().is_well()
    assert Summary(settled=True, repair_status=0).is_well()
    assert not Summary(settled=True, repair_status=0, resurrected=["a"]).is_well()


# The reader


def test_reader_understands_the_golden_log() -> None:
    """Files, new names, deletions and all types of records are read as they were written."""
    log = read_log(GOLDEN_PATH / "segments", GOLDEN_PATH / "wal.active")
    sha256 = hashlib.sha256(HELLO).hexdigest()
    assert [file.name for file in log.deleted.values()] == [UNICODE_KEY]
    files = {file.name: file for file in log.files.values()}
    assert (files["hello again.txt"].sha256, files["hello again.txt"].size) == (sha256, len(HELLO))
    assert [length for _, _, length in files["parts.bin"].extents] == [9, 5]
    assert [segment.id for segment in log.segments] == [1, 2, 3]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped node with one small file and one large one, in a log of its own."""
    from dfs.wiring import open_services

    path = tmp_path_factory.mktemp("stored")
    services = open_services(make_config(path, f"sqlite:///{path / 'dfs.db'}"))
    store_bytes(services, "small", b"small")
    store_bytes(services, "large", BLOB)
    services.close()
    return path


@pytest.fixture
def node(stored: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(stored, tmp_path / "node"))


def read(node: Path) -> StoredLog:
    """Read the log of a node."""
    return read_log(node / "wal/segments", node / "wal/wal.active")


def blob_path(node: Path) -> Path:
    """Return the only blob file of a node."""
    (path,) = node.glob("*/blobs/*/*/*")
    return path


def flip(path: Path, offset: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_reader_finds_a_sound_store_sound(node: Path) -> None:
    """What a node has stored is read back, inline bytes and blob files."""
    log = read(node)
    assert {file.name: file.size for file in log.files.values()} == {"small": 5, "large": len(BLOB)}
    store = blob_path(node).parents[3]
    assert list(find_bad_files(log, store)) == []


BLOB_HARM: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: path.unlink(),
    "flipped": lambda path: flip(path, len(BLOB) - 1),
    "short": lambda path: os.truncate(path, len(BLOB) - 1),
    "long": lambda path: os.truncate(path, len(BLOB) + 1),
}


@pytest.mark.parametrize("harm", BLOB_HARM)
def test_reader_finds_a_harmed_blob_file(node: Path, harm: str) -> None:
    """A blob file that is not what its record says makes its file a bad one."""
    store = blob_path(node).parents[3]
    BLOB_HARM[harm](blob_path(node))
    ((file_id, why),) = find_bad_files(log := read(node), store)
    assert log.files[file_id].name == "large"
    assert "large" in why


@pytest.mark.parametrize("offset", [0, 16, 77, 80, 84, 88, 120])
def test_reader_refuses_a_flipped_bit_in_the_log(node: Path, offset: int) -> None:
    """A bit that changed in a header or a record is found."""
    flip(node / "wal/wal.active", offset)
    with pytest.raises(FormatError):
        read(node)


def test_reader_refuses_bytes_behind_the_end(node: Path) -> None:
    """Behind the last record there is nothing but zeros."""
    with (node / "wal/wal.active").open("ab") as file:
        file.write(b"\1")
    with pytest.raises(FormatError, match="lies behind"):
        read(node)


@pytest.mark.parametrize("segment", ["0000000001.wal", "0000000002.wal"])
def test_reader_refuses_a_missing_segment(tmp_path: Path, segment: str) -> None:
    """A hole in the log is found, also at its end."""
    path = Path(shutil.copytree(GOLDEN_PATH, tmp_path / "log"))
    (path / "segments" / segment).unlink()
    with pytest.raises(FormatError):
        read_log(path / "segments", path / "wal.active")


def test_reader_finds_copies_that_differ(node: Path, tmp_path: Path) -> None:
    """A copy of the log is the same up to the end of the log and has nothing behind it."""
    log = read(node)
    end = log.segments[0].end
    copy = tmp_path / "copy/segments/0000000001.wal"
    copy.parent.mkdir(parents=True)
    content = (node / "wal/wal.active").read_bytes()[:end]
    copy.write_bytes(content)
    assert list(find_differences(log, read_log(copy.parent))) == []
    copy.write_bytes(content + b"\0")
    assert "segment 1" in next(find_differences(log, read_log(copy.parent)))


@pytest.fixture
def dropped(tmp_path: Path) -> Path:
    """A stopped node of which segment 2 was dropped."""
    cluster = ReplicatedNode(tmp_path / "dropped", f"sqlite:///{tmp_path / 'dfs.db'}", replicas=0)
    services = cluster.open()
    fill(services)
    compact(services, 2)
    cluster.close()
    return cluster.directory


def test_reader_finds_every_file_in_a_log_with_a_stub(dropped: Path) -> None:
    """What was needed of the dropped segment is found where it was moved to."""
    log = read(dropped)
    assert len(log.files) == 14
    assert list(find_bad_files(log, dropped / "primary")) == []
    assert [segment.id for segment in log.segments if segment.moved_lsn] == [2]


@pytest.mark.parametrize("offset", [0, 16, 77, 80, 84, 88, 96, 97, 120, -1])
def test_reader_refuses_a_flipped_bit_in_a_stub(dropped: Path, offset: int) -> None:
    """A stub is held to all that the format says of it."""
    path = dropped / "wal/segments/0000000002.wal"
    flip(path, offset)
    with pytest.raises(FormatError):
        read(dropped)


def test_reader_refuses_a_stub_whose_content_is_not_in_the_log(dropped: Path) -> None:
    """A log that ends before what was moved lacks the segment itself."""
    os.truncate(dropped / "wal/wal.active", 80)
    with pytest.raises(FormatError, match="needs the log up to"):
        read(dropped)
