"""What was committed is moved into the database file beside the commits."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from dfs.db.checkpoint import VALUES_PER_CHECKPOINT, Checkpointer
from dfs.db.session import IndexDatabase
from tests.db.conftest import NODE_ID, make_file, put_files
from tests.project.chaos_clients import wait_until

FILES_PER_COMMIT = 100
WAIT_S = 60


@pytest.fixture
def index(tmp_path: Path) -> IndexDatabase:
    """An index that is closed by the test."""
    index = IndexDatabase(url=f"sqlite:///{tmp_path / 'dfs.db'}", node_id=NODE_ID)
    index.open()
    index.migrate()
    return index


def put_enough(index: IndexDatabase) -> None:
    """Commit so much that a checkpoint is due."""
    for first in range(0, VALUES_PER_CHECKPOINT // 10, FILES_PER_COMMIT):
        put_files(index, *map(make_file, range(first, first + FILES_PER_COMMIT)))


def running() -> list[threading.Thread]:
    """Return the threads that make checkpoints."""
    return [thread for thread in threading.enumerate() if thread.name == "checkpoints"]


def test_database_file_grows_without_a_commit_that_waits(
    index: IndexDatabase, tmp_path: Path
) -> None:
    """It is moved there long before a commit would do it; the thread ends with the index."""
    path = tmp_path / "dfs.db"
    size = path.stat().st_size
    assert not running()
    put_enough(index)
    assert wait_until(lambda: path.stat().st_size > size, timeout_s=WAIT_S)
    assert len(running()) == 1
    index.close()
    assert not running()


def test_reader_that_began_before_does_not_stop_what_is_behind_it(
    index: IndexDatabase, tmp_path: Path
) -> None:
    """It goes on to see what it saw; all is there when it has ended."""
    with sqlite3.connect(tmp_path / "dfs.db", isolation_level=None) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT COUNT(*) FROM dfs_file").fetchone() == (0,)
        put_enough(index)
        assert reader.execute("SELECT COUNT(*) FROM dfs_file").fetchone() == (0,)
        reader.execute("ROLLBACK")
    reader.close()
    index.close()
    with sqlite3.connect(tmp_path / "dfs.db") as again:
        assert again.execute("SELECT COUNT(*) FROM dfs_file").fetchone() == (800,)
    again.close()


def test_checkpoint_that_cannot_be_made_is_nobodys_error() -> None:
    """Commits go on; the thread has ended without a word."""

    def connect() -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    checkpointer = Checkpointer(connect)
    checkpointer.note(VALUES_PER_CHECKPOINT)
    assert wait_until(lambda: not running(), timeout_s=WAIT_S)
    checkpointer.note(VALUES_PER_CHECKPOINT)
    checkpointer.close()
