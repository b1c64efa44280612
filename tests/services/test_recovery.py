"""What a start finds, mends and refuses."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from dfs.core.errors import IndexDamagedError, StoreIdentityError, WalCorruptError, WalGapError
from dfs.services.changes import Upload
from tests.services.conftest import (
    Opener,
    list_keys,
    list_whole,
    lose_index,
    make_config,
    store_bytes,
)


def fill(node, count: int = 40) -> dict[str, str]:
    """Store files over several segments, change and delete some; return what must be there."""
    files = [store_bytes(node, f"k{i}", os.urandom(60_000)).files[0] for i in range(count)]
    files.append(store_bytes(node, "large", os.urandom(2_500_000), metadata={"a": "ä"}).files[0])
    node.files.update(files[0].id, {"key": "other", "metadata": {"x": "y"}})
    node.files.delete(files[1].id)
    del files[1]
    return {file.id: file.etag for file in files}


def test_start_without_index_rebuilds_it_from_the_log(open_node: Opener):
    """An index that is gone is rebuilt from the segments alone, equal in every field."""
    node = open_node()
    expected = fill(node)
    before = list_whole(node)
    lose_index(node)
    rebuilt = open_node()
    assert rebuilt.recovered.replayed == rebuilt.recovered.position.lsn
    assert list_whole(rebuilt) == before
    assert list_keys(rebuilt) == expected


def test_start_right_after_a_rotation_begins_no_further_segment(open_node: Opener):
    """A log whose newest record is a seal is rebuilt without leaving the active segment."""
    node = open_node()
    while node.log.position.segment_id == 1:
        kept = store_bytes(node, "k", os.urandom(60_000)).files[0]
    position = node.log.position
    lose_index(node)
    rebuilt = open_node()
    assert rebuilt.log.position == position
    assert kept.id in list_keys(rebuilt)


@pytest.mark.parametrize("step", ["log.appended", "log.synced"])
def test_commit_interrupted_behind_its_records_loses_none_of_what_they_name(
    open_node: Opener, step: str
):
    """The next commit makes them happen: so their blob files stay where they are."""
    interrupted: list[str] = []

    def interrupt(passed: str) -> None:
        if passed == step and not interrupted:
            interrupted.append(passed)
            raise KeyboardInterrupt

    node = open_node()
    kept = store_bytes(node, "kept", b"kept").files[0]
    node = open_node(on_step=interrupt)
    data = os.urandom(2_500_000)
    with pytest.raises(KeyboardInterrupt):
        store_bytes(node, "interrupted", data)
    new = store_bytes(node, "new", b"new").files[0]
    digests = {kept.etag, new.etag, hashlib.sha256(data).hexdigest()}
    assert set(list_keys(node).values()) == digests


def test_start_marked_for_rebuilding_rebuilds_the_index_once(open_node: Opener, tmp_path: Path):
    """The marker in the log's directory makes the next start, if alone, rebuild the index once."""
    node = open_node()
    expected = fill(node, 5)
    (tmp_path / "wal" / "rebuild-index").touch()
    with pytest.raises(IndexDamagedError, match="other processes"):
        open_node()
    node.close()
    assert open_node().recovered.replayed > 0
    again = open_node()
    assert again.recovered.replayed == 0
    assert list_keys(again) == expected


def test_index_removed_while_others_use_it_is_not_made_anew(open_node: Opener):
    """Else two processes would have an index each; it is rebuilt when all have ended."""
    node = open_node()
    expected = fill(node, 3)
    node.index.destroy()
    for _ in range(2):
        with pytest.raises(IndexDamagedError, match="other processes"):
            open_node()
    node.close()
    assert list_keys(open_node()) == expected


def test_index_found_damaged_while_serving_is_rebuilt_by_the_next_start(tmp_path: Path):
    """Damage deep inside the database, which no start looks for, is mended by a restart."""
    from dfs.wiring import open_services

    config = make_config(tmp_path, f"sqlite:///{tmp_path}/index.db")
    node = open_services(config)
    expected = fill(node, 20)
    node.close()
    database = sqlite3.connect(tmp_path / "index.db")
    question = "SELECT rootpage FROM sqlite_master WHERE name = 'dfs_file'"
    (page,) = database.execute(question).fetchone()
    (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    with (tmp_path / "index.db").open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)
    node = open_services(config)
    with pytest.raises(IndexDamagedError):
        list_keys(node)
    node.close()
    node = open_services(config)
    assert list_keys(node) == expected
    node.close()


def test_start_with_damaged_sqlite_file_rebuilds_it(tmp_path: Path):
    """A SQLite file full of rubbish is put aside and rebuilt."""
    from dfs.wiring import open_services

    config = make_config(tmp_path, f"sqlite:///{tmp_path}/index.db")
    node = open_services(config)
    expected = fill(node, 5)
    node.close()
    for path in tmp_path.glob("index.db-*"):
        path.unlink()
    (tmp_path / "index.db").write_bytes(os.urandom(50_000))
    node = open_services(config)
    assert list_keys(node) == expected
    node.close()
    assert list(tmp_path.glob("index.db.damaged-*"))


def test_start_after_a_clean_stop_replays_nothing(open_node: Opener):
    """What the index has already is not read again."""
    open_node().close()
    node = open_node()
    fill(node, 3)
    assert open_node().recovered.replayed == 0


def test_start_with_index_older_than_the_log_applies_the_rest(tmp_path: Path):
    """An index restored from yesterday's copy follows the log to its end."""
    from dfs.wiring import open_services

    config = make_config(tmp_path, f"sqlite:///{tmp_path}/index.db")
    node = open_services(config)
    fill(node, 3)
    node.close()
    shutil.copy(tmp_path / "index.db", tmp_path / "old.db")
    node = open_services(config)
    fill(node, 20)
    expected = list_whole(node)
    node.close()
    for path in tmp_path.glob("index.db*"):
        path.unlink()
    shutil.copy(tmp_path / "old.db", tmp_path / "index.db")
    node = open_services(config)
    assert node.recovered.replayed > 20
    assert list_whole(node) == expected
    node.close()


def test_commit_with_index_that_lost_transactions_catches_up(node):
    """A database that loses its newest transactions while the node runs is brought up to date."""
    fill(node, 3)
    first = node.files.list(limit=1).files[0]
    with node.index.begin() as transaction:
        state = transaction.node_state
        transaction.remove_file(first.id)
        transaction.set_node_state(type(state)(state.node_id, state.cluster_id, 0))
        transaction.commit()
    store_bytes(node, "new", b"new")
    assert first.id in list_keys(node)


def test_start_with_torn_tail_keeps_the_bytes_and_goes_on(open_node: Opener, tmp_path: Path):
    """Half a record behind the log is cut off, kept, and never comes back."""
    node = open_node()
    expected = fill(node, 3)
    end = node.log.position
    (tmp_path / "wal" / "control").unlink()
    with (tmp_path / "wal" / "wal.active").open("r+b") as file:
        file.seek(end.offset)
        file.write(b"half a record")
    again = open_node()
    assert again.recovered.cut is not None
    assert again.recovered.cut.read_bytes() == b"half a record"
    new = store_bytes(again, "new", b"new").files[0]
    (tmp_path / "wal" / "control").unlink()
    assert list_keys(open_node()) == {**expected, new.id: new.etag}


def test_start_with_part_of_a_form_in_the_log_has_none_of_its_files(
    open_node: Opener, tmp_path: Path
):
    """Files stored by one form are there together or not at all, wherever the log was torn."""
    node = open_node()
    kept = store_bytes(node, "kept", b"kept").files[0]
    start = node.log.position.offset
    blobs = [node.files.new_blob() for _ in range(3)]
    for number, blob in enumerate(blobs):
        blob.write(b"%d" % number)
    node.files.store([Upload(blob, f"k{i}", "text/plain") for i, blob in enumerate(blobs)])
    end = node.log.position.offset
    data = (tmp_path / "wal" / "wal.active").read_bytes()[:end]
    for cut in range(start, end, (end - start) // 8):
        lose_index(node)
        (tmp_path / "wal" / "control").unlink()
        (tmp_path / "wal" / "wal.active").write_bytes(data[:cut])
        node = open_node()
        assert list_keys(node) == {kept.id: kept.etag}


def test_start_with_a_sealed_segment_missing_refuses(open_node: Opener, tmp_path: Path):
    """A hole in the log stops the start, and the error names the segment."""
    node = open_node()
    fill(node)
    lose_index(node)
    (tmp_path / "wal" / "segments" / "0000000002.wal").unlink()
    with pytest.raises(WalGapError, match="0000000002"):
        open_node()


def test_start_with_a_damaged_sealed_segment_refuses(open_node: Opener, tmp_path: Path):
    """Damage to records that were durable stops a rebuild; file and offset are named."""
    node = open_node()
    fill(node)
    lose_index(node)
    path = tmp_path / "wal" / "segments" / "0000000001.wal"
    with path.open("r+b") as file:
        file.seek(300_000)
        file.write(b"XXXX")
    with pytest.raises(WalCorruptError, match=r"0000000001\.wal.*offset=\d+"):
        open_node()


def test_start_with_newest_acknowledged_records_gone_refuses(open_node: Opener, tmp_path: Path):
    """A log that ends before the index does has lost acknowledged changes: dfs stops."""
    node = open_node()
    fill(node, 3)
    (tmp_path / "wal" / "control").unlink()
    with (tmp_path / "wal" / "wal.active").open("r+b") as file:
        file.truncate(100_000)
    with pytest.raises((WalGapError, WalCorruptError)):
        open_node()


def test_start_with_the_log_gone_refuses(open_node: Opener, tmp_path: Path):
    """A store whose log has vanished is not taken for a new one."""
    fill(open_node(), 3)
    shutil.rmtree(tmp_path / "wal")
    with pytest.raises(WalGapError, match="log is gone"):
        open_node()


def test_start_with_the_store_gone_refuses(open_node: Opener, tmp_path: Path):
    """A log whose store is not there (a disk that is not mounted) does not begin a new store."""
    fill(open_node(), 3)
    shutil.rmtree(tmp_path / "primary")
    with pytest.raises(StoreIdentityError, match="mounted"):
        open_node()


def test_start_with_another_clusters_store_refuses(open_node: Opener, tmp_path: Path):
    """Log and store must be of one cluster."""
    from dfs.wiring import open_services

    fill(open_node(), 1)
    other = make_config(tmp_path / "other", f"sqlite:///{tmp_path}/other.db")
    open_services(other).close()
    shutil.rmtree(tmp_path / "primary")
    shutil.copytree(tmp_path / "other" / "primary", tmp_path / "primary")
    with pytest.raises(StoreIdentityError, match="cluster"):
        open_node()


def test_start_on_the_index_of_another_node_refuses(open_node: Opener, tmp_path: Path):
    """Two nodes never share an index: places in the one's log mean nothing in the other's."""
    from dfs.wiring import open_services

    node = open_node()
    other = replace(make_config(tmp_path / "other", node.config.database_url), node_id="node-2")
    with pytest.raises(StoreIdentityError, match="node-1"):
        open_services(other)


def test_start_with_a_sealed_segment_cut_short_refuses(open_node: Opener, tmp_path: Path):
    """A segment that lost its end is noticed at once, not when its bytes are wanted."""
    node = open_node()
    fill(node)
    path = tmp_path / "wal" / "segments" / "0000000001.wal"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(WalCorruptError, match="shorter"):
        open_node()


def test_start_sweeps_what_dead_uploads_left_and_no_live_one(open_node: Opener, tmp_path: Path):
    """Temporary files of dead processes go; one that is being written stays."""
    node = open_node()
    live = node.files.new_blob()
    live.write(os.urandom(100_000))
    dead = tmp_path / "primary" / "tmp" / "dead"
    dead.write_bytes(b"x")
    open_node()
    assert not dead.exists()
    assert len(list((tmp_path / "primary" / "tmp").iterdir())) == 1
    live.discard()


def test_replay_twice_equals_once(open_node: Opener):
    """Applying the whole log to an index that has it already changes no row."""
    node = open_node()
    fill(node)
    before = list_whole(node)
    with node.index.begin() as transaction:
        state = transaction.node_state
        transaction.set_node_state(type(state)(state.node_id, state.cluster_id, 0))
        transaction.commit()
    again = open_node()
    assert again.recovered.replayed == again.recovered.position.lsn
    assert list_whole(again) == before
