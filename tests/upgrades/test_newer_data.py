"""What a newer program has written is refused by this one, by name, and left as it is."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.core.checksum import crc32
from dfs.core.config import Config
from dfs.core.errors import DfsError, MetadataError
from dfs.core.steps import ignore_step
from dfs.db.migrations import find_applied, list_migrations
from dfs.opening import build_log
from dfs.wal.control import ControlFile
from dfs.wal.frame import Flag, encode_frame
from dfs.wal.segment import FORMAT_VERSION, SEGMENT_HEADER_BYTES
from dfs.wiring import open_services
from scripts.upgrade import CHANGES, REFUSED, UNCHANGED, UpgradeError, apply, check
from tests.upgrades.test_golden_nodes import NAMES, config_of, unpack

LATER_TYPE = 200


def write_later_header(config: Config) -> None:
    """Make the active segment one of the next format of the log."""
    path = config.wal_path / "wal.active"
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 8, FORMAT_VERSION + 1)
    crc_offset = SEGMENT_HEADER_BYTES - 4
    struct.pack_into("<I", content, crc_offset, crc32(content[:crc_offset]))
    path.write_bytes(content)


def append_later_record(config: Config) -> None:
    """Append a record of a type that comes later."""
    log = build_log(config, ignore_step)
    log.open()
    with log.lock():
        lsn = log.position.lsn + 1
        flags = int(Flag.COMMIT_START)
        log.append(encode_frame(lsn=lsn, type=LATER_TYPE, flags=flags, meta=b"x"), last_lsn=lsn)
        log.sync()
        log.publish()
    log.close()


def write_later_store(config: Config) -> None:
    """Make the primary one of the next format."""
    path = config.storage_path / "dfs.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))


def write_later_schema(config: Config) -> None:
    """Have the index migrated by a newer program."""
    connection = sqlite3.connect(config.database_url.removeprefix("sqlite:///"))
    with connection:
        connection.execute(
            "INSERT INTO dfs_migration (name, applied) VALUES ('9999_later', '2030-01-01')"
        )
    connection.close()


def digest_all(config: Config) -> dict[str, str]:
    """Return the digest of each file of log and stores, by its path."""
    roots = (config.wal_path, config.storage_path, Path(dict(config.replicas)["replica1"]))
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for root in roots
        for path in root.rglob("*")
        if path.is_file() and path.name != "control" and "restore" not in path.name
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (write_later_header, f"has format {FORMAT_VERSION + 1}; this program knows"),
        (append_later_record, f"a record of type {LATER_TYPE}"),
        (write_later_store, "has format version 2; this program knows 1"),
        (write_later_schema, f"is 9999_later; this program knows {list_migrations()[-1]}"),
    ],
)
def test_start_on_what_a_newer_program_wrote_is_refused_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Config], None], words: str
) -> None:
    """The error names the versions; nothing is restored over it; the check says so beforehand."""
    unpack(NAMES[-1], tmp_path)
    config = config_of(tmp_path)
    open_services(config).close()
    assert check(config)[0] == UNCHANGED
    change(config)
    before = digest_all(config)
    with pytest.raises(DfsError) as caught:
        open_services(config)
    assert words in str(caught.value)
    assert caught.value.hint
    assert digest_all(config) == before
    capsys.readouterr()
    assert check(config)[0] == REFUSED
    assert words in capsys.readouterr().out
    assert apply(config) == REFUSED


def test_index_is_not_migrated_beside_an_older_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The start is refused until all its processes have ended; the check says so beforehand."""
    unpack("schema-4", tmp_path)
    config = config_of(tmp_path)
    older = ControlFile(config.wal_path / "control")
    older.join()
    assert check(config)[0] == CHANGES
    said = capsys.readouterr().out
    assert "CHANGES the index: 0005_keys. All processes have to be stopped first" in said
    assert "PutKey, RevokeKey" in said
    with pytest.raises(UpgradeError, match="Stop the node"):
        apply(config)
    with pytest.raises(MetadataError, match="older version still use") as caught:
        open_services(config)
    assert "0005_keys" in str(caught.value)
    assert find_applied(config.database_url)[-1] == "0004_compaction"
    older.close()
    open_services(config).close()
    assert find_applied(config.database_url) == list_migrations()
    assert check(config)[0] == UNCHANGED


def test_check_of_nothing_and_of_a_damaged_index_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It creates nothing, and marks nothing for rebuilding."""
    config = config_of(tmp_path)
    assert check(config)[0] == UNCHANGED
    assert "holds no log" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    unpack(NAMES[-1], tmp_path)
    for path in (tmp_path / "data").glob("dfs.db*"):
        path.write_bytes(b"x" * 5000)
    shutil.rmtree(tmp_path / "data" / "replica1")
    assert check(config)[0] == UNCHANGED
    said = capsys.readouterr().out
    assert "index is damaged: a start rebuilds it" in said
    assert "replica1       cannot be reached" in said
    assert not (config.wal_path / "rebuild-index").exists()


def test_check_of_a_damaged_log_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It cannot tell what is in there; nothing is restored by looking."""
    unpack(NAMES[-1], tmp_path)
    config = config_of(tmp_path)
    open_services(config).close()
    path = config.wal_path / "wal.active"
    content = bytearray(path.read_bytes())
    content[SEGMENT_HEADER_BYTES + 40] ^= 1
    path.write_bytes(content)
    assert check(config)[0] == REFUSED
    assert "Unless a replica has it whole" in capsys.readouterr().out
    assert path.read_bytes() == content


def test_replica_of_a_newer_program_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no reason not to start; the check tells of it."""
    unpack(NAMES[-1], tmp_path)
    config = config_of(tmp_path)
    path = tmp_path / "data" / "replica1" / "dfs.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    written = path.read_bytes()
    assert check(config)[0] == UNCHANGED
    assert "replica1       left alone: The store has format version 2" in capsys.readouterr().out
    open_services(config).close()
    assert path.read_bytes() == written
