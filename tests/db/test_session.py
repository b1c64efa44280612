"""Opening, closing, losing and destroying the index."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from dfs.core.errors import (
    ConfigError,
    IndexDamagedError,
    IndexUnavailableError,
    MetadataError,
    NoSpaceError,
)
from dfs.core.model import NodeState
from dfs.db import session
from dfs.db.connections import Connections
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from tests.db.conftest import NODE_ID, count_files, make_blob, make_file, put_files
from tests.hostile.test_shares import sockets_of


def open_index(url: str) -> IndexDatabase:
    """Return another open index of the same database."""
    database = IndexDatabase(url=url, node_id=NODE_ID)
    database.open()
    return database


def sqlite_path(url: str) -> Path:
    """Return the path in the address of a SQLite database."""
    return Path(url.removeprefix("sqlite:///"))


def fill(database: IndexDatabase, count: int) -> None:
    """Store enough for the database to have pages that matter."""
    with database.begin() as transaction:
        for number in range(count):
            transaction.put_file(make_file(number))
            transaction.put_blob(make_blob(number))
        transaction.commit()


def test_database_of_unknown_kind_is_a_config_error() -> None:
    """An address dfs cannot use is refused before anything is opened."""
    with pytest.raises(ConfigError):
        IndexDatabase(url="mysql://localhost/dfs", node_id=NODE_ID)


def test_constructor_opens_nothing(sqlite_url: str) -> None:
    """The directory appears with `open`, not before."""
    database = IndexDatabase(url=sqlite_url, node_id=NODE_ID)
    assert not sqlite_path(sqlite_url).parent.exists()
    database.open()
    assert sqlite_path(sqlite_url).exists()
    database.close()


def test_closed_index_says_that_it_is_not_open(database: IndexDatabase) -> None:
    """Closing twice is harmless, and every use in between is an error, not a new connection."""
    repository = IndexRepository(database)
    database.close()
    database.close()
    for use in (database.applied_lsn, database.begin, database.migrate, repository.node_state):
        with pytest.raises(IndexUnavailableError):
            use()  # type: ignore[operator]
    database.open()
    assert count_files(database) == 0


def test_open_index_says_how_far_it_has_followed_the_log(database: IndexDatabase) -> None:
    """An index that has followed no log has applied nothing, and knows no other node."""
    assert database.applied_lsn() == 0
    assert database.other_node() is None


def test_size_is_that_of_all_files(database: IndexDatabase, tmp_path: Path) -> None:
    """Of SQLite's own log, too; of PostgreSQL, as it says itself."""
    put_files(database, *(make_file(number) for number in range(100)))
    if database.is_postgres:
        assert database.size_bytes() > 1 << 20
        return
    paths = list((tmp_path / "index").iterdir())
    assert {path.name for path in paths} == {"dfs.db", "dfs.db-wal", "dfs.db-shm"}
    assert database.size_bytes() == sum(path.stat().st_size for path in paths)


def test_reopened_index_still_holds_everything(database: IndexDatabase) -> None:
    """What was committed is there after closing and opening again."""
    fill(database, 100)
    database.close()
    database.open()
    assert count_files(database) == 100


def test_close_waits_for_the_transaction_under_way(database: IndexDatabase) -> None:
    """A driver crashes if its connection is closed by one thread while another one uses it."""
    with ThreadPoolExecutor() as pool:
        with database.begin() as transaction:
            closing = pool.submit(database.close)
            with pytest.raises(TimeoutError):
                closing.result(timeout=0.2)
            transaction.put_file(make_file(1))
            transaction.commit()
        closing.result(timeout=30)
    database.open()
    assert count_files(database) == 1


def test_close_leaves_its_connection_to_a_transaction_that_does_not_end(
    database: IndexDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It commits nothing any more, and the index can be opened and written again."""
    monkeypatch.setattr(session, "CLOSE_WAIT_S", 0.1)
    with database.begin() as transaction:
        transaction.put_file(make_file(1))
        connection = database._writing
        database.close()
        assert connection is not None
        assert connection.execute("SELECT 1").fetchone()[0] == 1
        with pytest.raises(IndexUnavailableError):
            transaction.commit()
    database.open()
    assert count_files(database) == 0
    put_files(database, make_file(1))
    assert count_files(database) == 1


def test_close_closes_connections_of_other_threads(database: IndexDatabase) -> None:
    """After `close` a thread that has read before connects anew and sees the present."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(count_files, database).result() == 0
        database.close()
        with pytest.raises(IndexUnavailableError):
            pool.submit(count_files, database).result()
        database.open()
        put_files(database, make_file(1))
        assert pool.submit(count_files, database).result() == 1


def test_questions_of_threads_that_come_and_go_share_a_connection(database: IndexDatabase) -> None:
    """So that the process runs out of neither files nor connections."""
    descriptors = Path("/proc/self/fd")
    counts = []
    for _ in range(20):
        thread = threading.Thread(target=count_files, args=(database,))
        thread.start()
        thread.join()
        counts.append(len(list(descriptors.iterdir())))
    assert counts[-1] <= counts[0]


def test_questions_at_the_same_time_have_connections_of_their_own(
    index_url: str, database: IndexDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many are made as ask at once, none is used by two, and all answers are right."""
    connections = Connections(url=index_url)
    connect = connections.connect_apart
    made: list[object] = []
    used: list[object] = []
    met: list[bool] = []

    class Watched:
        def __init__(self) -> None:
            self._connection = connect()
            made.append(self)

        def execute(self, sql: str, parameters: object) -> Watched:
            met.append(self in used)
            used.append(self)
            time.sleep(0)  # lets others run in the middle of a question
            self._cursor = self._connection.execute(sql, parameters)
            return self

        def fetchall(self) -> list[object]:
            rows = self._cursor.fetchall()
            used.remove(self)
            return rows

        def close(self) -> None:
            self._connection.close()

    monkeypatch.setattr(connections, "connect_apart", Watched)
    mark = "%s" if database.is_postgres else "?"
    begin = threading.Barrier(6)

    def ask(number: int) -> list[object]:
        begin.wait()
        answers = []
        for _ in range(300):
            time.sleep(0)  # and between two
            answers.append(connections.read(f"SELECT {mark} + 0", (number,)))
        return answers

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [[[(number,)]] * 300 for number in range(6)]
    assert 1 <= len(made) <= 6
    assert not any(met)
    connections.close()


def test_connection_whose_question_was_broken_off_is_not_used_again(postgres_url: str) -> None:
    """It still waits for the answer; whoever asks next has another one."""
    connections = Connections(url=postgres_url)

    class BrokenOffError(Exception):
        pass

    def break_off(*_: object) -> None:
        raise BrokenOffError

    before = signal.signal(signal.SIGALRM, break_off)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(BrokenOffError):
            connections.read("SELECT pg_sleep(20)", ())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert connections.read("SELECT 1", ()) == [(1,)]
    connections.close()


def test_connection_of_a_question_that_outlives_the_index_is_closed(
    index_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that was left behind has its answer, and leaves nothing open."""
    connections = Connections(url=index_url)
    told: list[str] = []

    class Slow:
        def execute(self, sql: str, parameters: object) -> Slow:
            connections.close()
            return self

        def fetchall(self) -> list[int]:
            return [1]

        def close(self) -> None:
            told.append("closed")

    monkeypatch.setattr(connections, "connect_apart", Slow)
    assert connections.read("SELECT 1", ()) == [1]
    assert told == ["closed"]


def test_writer_outlives_the_thread_that_connected_it(database: IndexDatabase) -> None:
    """The thread that led the first commit may end; the next leads on the same connection."""
    for number in range(3):
        thread = threading.Thread(target=put_files, args=(database, make_file(number)))
        thread.start()
        thread.join()
        reader = threading.Thread(target=count_files, args=(database,))
        reader.start()
        reader.join()
    put_files(database, make_file(9))
    assert count_files(database) == 4


def test_readers_see_the_state_before_an_open_transaction(database: IndexDatabase) -> None:
    """Reading neither waits for a writer nor sees what is not committed."""
    with database.begin() as transaction:
        transaction.put_file(make_file(1))
        transaction.flush()
        assert count_files(database) == 0
        transaction.commit()
    assert count_files(database) == 1


def test_transactions_of_many_threads_and_instances_lose_no_update(
    index_url: str, database: IndexDatabase
) -> None:
    """A transaction reads the state that the one before it wrote, whoever that was."""
    other = open_index(index_url)
    with database.begin() as transaction:
        transaction.set_node_state(NodeState(NODE_ID, b"c" * 16, 0))
        transaction.commit()

    def count_up(index: IndexDatabase) -> None:
        for _ in range(25):
            with index.begin() as transaction:
                state = transaction.node_state
                assert state is not None
                following = NodeState(NODE_ID, state.cluster_id, state.applied_lsn + 1)
                transaction.set_node_state(following)
                transaction.commit()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count_up, [database, other, database, other]))
    other.close()
    state = IndexRepository(database).node_state()
    assert state is not None
    assert state.applied_lsn == 100


def test_second_transaction_that_cannot_begin_is_unavailable(
    database: IndexDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that never ends does not hang the process for ever."""
    monkeypatch.setattr(session, "LOCK_WAIT_S", 0.01)
    with database.begin(), pytest.raises(IndexUnavailableError):
        database.begin()


def test_migrating_from_several_threads_makes_one_schema(index_url: str) -> None:
    """Nodes that start at the same moment do not trip over each other."""
    databases = [open_index(index_url) for _ in range(3 if "postgresql" in index_url else 1)]
    with ThreadPoolExecutor(len(databases)) as pool:
        list(pool.map(lambda index: index.migrate(), databases))
    assert count_files(databases[0]) == 0
    for database in databases:
        database.close()


def test_destroy_leaves_an_empty_index_behind(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """After `destroy`, `open` and `migrate` give an index that has followed no log."""
    fill(database, 10)
    database.destroy()
    database.open()
    database.migrate()
    assert count_files(database) == 0
    assert repository.node_state() is None


def test_destroy_of_what_does_not_exist_does_nothing(sqlite_url: str) -> None:
    """There need not be an index to throw away."""
    IndexDatabase(url=sqlite_url, node_id=NODE_ID).destroy()
    assert not sqlite_path(sqlite_url).parent.exists()


def test_destroy_on_sqlite_keeps_the_files_aside(sqlite_url: str) -> None:
    """The old database, and what had not reached it from its log, can still be looked at."""
    database = open_index(sqlite_url)
    database.migrate()
    fill(database, 10)
    path = sqlite_path(sqlite_url)
    wal = path.with_name(f"{path.name}-wal")
    content = wal.read_bytes()
    database.close()
    wal.write_bytes(content)
    database.destroy()
    assert sorted(entry.name.split("-")[0] for entry in path.parent.iterdir()) == [
        "dfs.db.damaged",
        "dfs.db.damaged",
    ]


def test_destroy_on_postgresql_drops_only_tables_of_dfs(postgres_url: str) -> None:
    """Another program's table in the same database is left alone."""
    database = open_index(postgres_url)
    database.migrate()
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("CREATE TABLE file (id INT)")
        database.destroy()
        rows = other.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert rows.fetchall() == [("file",)]


@pytest.mark.parametrize("start", [0, 16, 100])
def test_open_damaged_sqlite_file_is_reported_damaged(sqlite_url: str, start: int) -> None:
    """A file whose first page is not a database's is found out, and can be replaced."""
    database = open_index(sqlite_url)
    database.migrate()
    fill(database, 10)
    database.close()
    path = sqlite_path(sqlite_url)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * 4000)
    with pytest.raises(IndexDamagedError):
        database.open()
    database.destroy()
    database.open()
    database.migrate()
    assert count_files(database) == 0
    database.close()


def test_damage_behind_the_first_page_is_reported_at_use(sqlite_url: str) -> None:
    """A page that is damaged is not served: whoever meets it is told to rebuild."""
    begin = 64 * 4096  # behind the schema, which opening reads
    database = open_index(sqlite_url)
    database.migrate()
    fill(database, 2000)
    database.close()
    path = sqlite_path(sqlite_url)
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(b"\xa5" * (path.stat().st_size - begin))
    database.open()
    repository = IndexRepository(database)
    with pytest.raises(IndexDamagedError):
        repository.list_files(bucket="default", after=None, limit=100, now_ms=0)
    with pytest.raises(IndexDamagedError):
        put_files(database, make_file(5))
    database.close()


def test_open_where_a_directory_stands_is_unavailable(tmp_path: Path) -> None:
    """A path that cannot be a database is not taken for a damaged one, which would move it."""
    database = IndexDatabase(url=f"sqlite:///{tmp_path}", node_id=NODE_ID)
    with pytest.raises(IndexUnavailableError):
        database.open()


def test_full_database_is_no_space_and_rolls_back(sqlite_url: str) -> None:
    """When the disk is full the change is undone whole, and later ones work."""
    database = open_index(sqlite_url)
    database.migrate()
    put_files(database, make_file(0))
    pages = database.read_one("PRAGMA page_count")[0]
    with database.begin():
        database.write(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(NoSpaceError):
        put_files(database, *(make_file(number) for number in range(1, 2000)))
    assert count_files(database) == 1
    put_files(database, make_file(1))
    assert count_files(database) == 2
    database.close()


def test_locked_sqlite_is_unavailable(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program that holds the database makes writing fail, not wait for ever."""
    monkeypatch.setattr("dfs.db.connections.LOCK_WAIT_S", 0)
    database = open_index(sqlite_url)
    database.migrate()
    intruder = sqlite3.connect(sqlite_path(sqlite_url), isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    with pytest.raises(IndexUnavailableError):
        database.begin()
    intruder.close()
    put_files(database, make_file(1))
    database.close()


def test_index_without_schema_is_an_error_of_the_index(index_url: str) -> None:
    """Who reads has migrated: in SQLite the schema was damaged then, in PostgreSQL dropped."""
    database = open_index(index_url)
    with pytest.raises(MetadataError) as caught:
        database.applied_lsn()
    assert type(caught.value) is (MetadataError if database.is_postgres else IndexDamagedError)
    with pytest.raises(MetadataError):
        database.begin()
    database.close()


def _terminate_backends(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def _read(database: IndexDatabase) -> None:
    database.applied_lsn()


def _write(database: IndexDatabase) -> None:
    with database.begin() as transaction:
        transaction.put_file(make_file(1))
        transaction.commit()


@pytest.mark.parametrize("use", [_read, _write])
def test_connection_that_the_server_has_cut_is_opened_again(
    postgres_url: str, use: Callable[[IndexDatabase], None]
) -> None:
    """Whoever uses it next does not notice."""
    database = open_index(postgres_url)
    database.migrate()
    use(database)
    _terminate_backends(postgres_url)
    use(database)
    database.close()


def test_connections_that_the_server_has_cut_are_all_closed(postgres_url: str) -> None:
    """Whoever asks first after its restart finds them out, and keeps none of their descriptors."""
    together = threading.Barrier(3)

    @contextmanager
    def wait_for_all() -> Iterator[None]:
        together.wait(30)
        yield

    before = sockets_of(os.getpid())
    connections = Connections(url=postgres_url, aside=wait_for_all)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(connections.read, 3 * ["SELECT 1"], 3 * [()]))
    assert sockets_of(os.getpid()) == before + 3
    _terminate_backends(postgres_url)
    together = threading.Barrier(1)
    assert connections.read("SELECT 1", ())
    assert sockets_of(os.getpid()) == before + 1
    connections.close()


@pytest.mark.parametrize(("said", "timeout_ms"), [("", 15_000), ("?tcp_user_timeout=7000", 7_000)])
def test_connection_over_which_nothing_comes_is_given_up(
    postgres_url: str, said: str, timeout_ms: int
) -> None:
    """By the kernel, whether or not something was sent; later or sooner, if the address says so."""
    connections = Connections(url=f"{postgres_url}{said}")
    connection = connections.writing_database().connection()
    with socket.socket(fileno=os.dup(connection.fileno())) as sock:
        level = socket.IPPROTO_TCP
        options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
        assert [sock.getsockopt(level, option) for option in options] == [timeout_ms, 5, 5]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    connections.close()


def test_thread_that_was_left_behind_connects_no_more(index_url: str) -> None:
    """When the index is closed, whether the thread was connected or not; nobody would end that."""
    open_index(index_url).close()
    connections = Connections(url=index_url)
    assert connections.read("SELECT 1", ())
    connections.close()
    for _ in range(2):
        with pytest.raises(IndexUnavailableError):
            connections.read("SELECT 1", ())
    gc.collect()  # which would find an open one


def test_connection_broken_inside_transaction_undoes_it(postgres_url: str) -> None:
    """A transaction whose connection is cut fails whole, and the next begins afresh."""
    database = open_index(postgres_url)
    database.migrate()
    transaction = database.begin()
    transaction.put_file(make_file(1))
    transaction.flush()
    _terminate_backends(postgres_url)
    transaction.put_file(make_file(2))
    with pytest.raises(IndexUnavailableError):
        transaction.commit()
    put_files(database, make_file(3))
    database.close()
    database.open()
    assert count_files(database) == 1
    database.close()


def test_unreachable_server_is_unavailable() -> None:
    """A server that refuses connections is told from a damaged index."""
    database = IndexDatabase(url="postgresql://dfs@127.0.0.1:1/dfs", node_id=NODE_ID)
    with pytest.raises(IndexUnavailableError):
        database.open()


def test_fork_after_close_uses_connections_of_its_own(database: IndexDatabase) -> None:
    """A child process opens the index for itself, and the parent goes on with its own."""
    put_files(database, make_file(1))
    database.close()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            database.open()
            put_files(database, make_file(2))
            database.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    database.open()
    assert count_files(database) == 2


def test_sync_makes_commits_of_sqlite_durable(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that commits are in is synced; without one, all of them are durable."""
    database = open_index(sqlite_url)
    database.migrate()
    fill(database, 3)
    synced: list[Path] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())
        fsync(fd)

    monkeypatch.setattr(session.os, "fsync", note)
    database.sync()
    path = sqlite_path(sqlite_url)
    path = path.with_name(f"{path.name}-wal")
    assert synced == [path]
    assert path.stat().st_size
    database.close()
    database.sync()
    assert synced == [path]


def test_sync_that_fails_is_an_error_of_the_index(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked for it does not go on as if it had been done."""
    database = open_index(sqlite_url)
    database.migrate()

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session.os, "fsync", fail)
    with pytest.raises(NoSpaceError):
        database.sync()
    database.close()


def test_sync_makes_commits_of_postgresql_durable(postgres_url: str) -> None:
    """The server has flushed its log up to where it was when the question came."""
    database = open_index(postgres_url)
    database.migrate()
    fill(database, 200)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        (end,) = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        database.sync()
        is_flushed = "SELECT pg_current_wal_flush_lsn() >= %s::pg_lsn"
        assert connection.execute(is_flushed, (end,)).fetchone() == (True,)
    database.close()


def test_statements_of_a_server_let_other_threads_run(index_url: str) -> None:
    """While a thread waits for PostgreSQL it stands aside; SQLite answers at once."""
    asides: list[str] = []

    @contextmanager
    def aside() -> Iterator[None]:
        asides.append("aside")
        yield

    database = IndexDatabase(url=index_url, node_id=NODE_ID, aside=aside)
    database.open()
    database.migrate()
    asides.clear()
    database.read_one("SELECT 1")
    read = len(asides)
    with database.begin() as index:
        index.commit()
    written = len(asides) - read
    database.close()
    assert (read, written > 1) == ((1, True) if database.is_postgres else (0, False))
