"""Synchronous writes: acknowledged when the quorum has them, or refused and nowhere stored."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest

from dfs.core.access import OPERATOR, Scope
from dfs.core.errors import (
    IndexUnavailableError,
    NoSpaceError,
    QuorumError,
    StoreUnavailableError,
    WalReadOnlyError,
)
from dfs.core.signing import make_token
from dfs.db.repository import IndexRepository
from dfs.db.transaction import IndexTransaction
from dfs.services import quorum
from dfs.services.changes import Upload
from dfs.services.files import Stored
from dfs.storage.names import blob_name
from dfs.wal.writer import SegmentWriter
from dfs.wiring import Services, recover_node
from tests.services.conftest import Opener, read_bytes, store_bytes
from tests.services.test_replication import (
    BIG,
    assert_equal_copies,
    catch_up,
    copied_log,
    index_of,
)

ALL = ("primary", "replica1", "replica2")

pytestmark = pytest.mark.usefixtures("retry_at_once")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for every replica that answers at all, on a slow machine, too."""
    monkeypatch.setattr(quorum, "GRACE_S", 5.0)
    monkeypatch.setattr(quorum, "TAKE_BACK_S", 5.0)


def two_replicas(directory: Path) -> tuple[tuple[str, str], ...]:
    """Return the setting of two replicas in directories there."""
    return tuple((name, str(directory / name)) for name in ALL[1:])


@pytest.fixture
def replicated(open_node: Opener, tmp_path: Path) -> Services:
    """A node with two replicas, where a synchronous write needs two of the three stores."""
    return open_node(replicas=two_replicas(tmp_path), quorum_timeout_s=20)


def store_synchronously(services: Services, key: str, data: bytes) -> Stored:
    """Store one file as a client would that wants the quorum."""
    blob = services.files.new_blob()
    try:
        blob.write(data)
        return services.files.store([Upload(blob, key, "text/plain")], replication="sync")
    finally:
        blob.discard()


def keys(services: Services) -> list[str]:
    """Return the names of all files."""
    return [file.key for file in services.files.list(limit=1000).files]


@pytest.mark.parametrize("size", [0, 1000, BIG, 5 << 20])
def test_sync_write_is_on_all_stores_when_it_is_acknowledged(
    replicated: Services, tmp_path: Path, size: int
) -> None:
    """Record and bytes are on the replicas at once, nothing is owed, and the answer names them."""
    data = os.urandom(size)
    stored = store_synchronously(replicated, "file", data)
    assert stored.durability.stores == ALL
    assert_equal_copies(replicated, tmp_path, *ALL[1:])
    assert index_of(replicated).summarize_debts() == []
    assert read_bytes(replicated, stored.files[0].id) == data


def test_sync_update_and_delete_are_on_all_stores(replicated: Services, tmp_path: Path) -> None:
    """Every change goes the same way."""
    file_id = store_synchronously(replicated, "file", b"x").files[0].id
    updated = replicated.files.update(file_id, {"key": "other"}, replication="sync")
    assert updated.durability.stores == ALL
    assert replicated.files.delete(file_id, replication="sync").stores == ALL
    assert_equal_copies(replicated, tmp_path, *ALL[1:])


def test_sync_write_after_asynchronous_ones_takes_them_along(
    replicated: Services, tmp_path: Path
) -> None:
    """A replica that lacks a little of the log gets it in the same turn, over a rotation, too."""
    for number in range(30):
        store_bytes(replicated, f"async{number}", os.urandom(50_000))
    assert len(replicated.log.segments()) > 1
    assert store_synchronously(replicated, "sync", b"x").durability.stores == ALL
    assert_equal_copies(replicated, tmp_path, *ALL[1:])


def test_sync_write_with_one_replica_gone_reaches_the_quorum(
    replicated: Services, tmp_path: Path
) -> None:
    """Two of three are enough; the third is owed the rest, and catches up."""
    (tmp_path / "replica1").rename(tmp_path / "away")
    data = os.urandom(BIG)
    stored = store_synchronously(replicated, "large", data)
    assert stored.durability.stores == ("primary", "replica2")
    assert store_synchronously(replicated, "small", b"x").durability.stores[1:] == ("replica2",)
    assert [debt.store for debt in index_of(replicated).summarize_debts()] == ["replica1"]
    (tmp_path / "away").rename(tmp_path / "replica1")
    replicated.replication.work("replica1", budget_s=0)
    catch_up(replicated, "replica1")
    assert_equal_copies(replicated, tmp_path, *ALL[1:])
    assert store_synchronously(replicated, "again", b"y").durability.stores == ALL


@pytest.mark.parametrize("size", [10, BIG])
def test_sync_write_without_quorum_is_refused_and_nowhere_stored(
    replicated: Services, tmp_path: Path, size: int
) -> None:
    """No listing, no log and no store knows of it; what follows is as if it had never been."""
    store_synchronously(replicated, "before", b"x")
    for name in ALL[1:]:
        (tmp_path / name).rename(tmp_path / f"away-{name}")
    position = replicated.log.position
    for _ in range(2):  # the first finds out, the second knows
        with pytest.raises(QuorumError):
            store_synchronously(replicated, "refused", os.urandom(size))
    assert replicated.log.position == position
    assert keys(replicated) == ["before"]
    assert [path for path in (tmp_path / "primary").rglob("*/*/*/*") if path.is_file()] == []
    for name in ALL[1:]:
        (tmp_path / f"away-{name}").rename(tmp_path / name)
    store_bytes(replicated, "after", b"z")
    for name in ALL[1:]:
        replicated.replication.work(name, budget_s=0)
        catch_up(replicated, name)
    assert_equal_copies(replicated, tmp_path, *ALL[1:])
    assert keys(replicated) == ["after", "before"]


def test_sync_write_refused_late_is_taken_back_from_the_replica_that_had_it(
    open_node: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all three are needed and one fails, the other forgets the records again."""
    services = open_node(replicas=two_replicas(tmp_path), write_quorum=3, quorum_timeout_s=1)
    store_synchronously(services, "before", b"x")
    before = copied_log(tmp_path / "replica1")
    (tmp_path / "replica2" / "segments").rename(tmp_path / "replica2" / "gone")
    with pytest.raises(QuorumError):
        store_synchronously(services, "refused", b"y")
    assert copied_log(tmp_path / "replica1") == before
    assert keys(services) == ["before"]
    assert index_of(services).store_states()["replica2"].failures == 1


def test_replica_that_hangs_costs_one_write_its_time_limit(
    replicated: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quorum does not need it, so nobody waits; and asynchronous writes never do."""
    monkeypatch.setattr(quorum, "GRACE_S", 0.05)
    hanging = threading.Event()
    store = replicated.stores.replicas["replica1"]
    monkeypatch.setattr(store, "append_segment", lambda *_: hanging.wait())
    for number in range(3):
        stored = store_synchronously(replicated, f"file{number}", b"x")
        assert stored.durability.stores == ("primary", "replica2")
    assert store_bytes(replicated, "async", b"x").durability.stores == ("primary",)
    hanging.set()


def test_full_primary_refuses_the_write_on_all_stores(
    replicated: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space for the node's own record: the replicas do not keep it either."""
    store_synchronously(replicated, "before", b"x")

    def refuse(*_: object) -> None:
        raise NoSpaceError("full")

    with monkeypatch.context() as patched:
        patched.setattr(SegmentWriter, "write", refuse)
        with pytest.raises(NoSpaceError):
            store_synchronously(replicated, "refused", b"y")
    store_synchronously(replicated, "after", b"z")
    assert_equal_copies(replicated, tmp_path, *ALL[1:])
    assert keys(replicated) == ["after", "before"]


FAILURES = [
    (SegmentWriter, "write", StoreUnavailableError("broken"), WalReadOnlyError),
    (SegmentWriter, "sync", StoreUnavailableError("broken"), WalReadOnlyError),
    (IndexTransaction, "flush", IndexUnavailableError("gone"), IndexUnavailableError),
    (IndexTransaction, "flush", MemoryError(), MemoryError),
    (IndexTransaction, "commit", NoSpaceError("full"), NoSpaceError),
]


@pytest.mark.parametrize("failure", FAILURES)
def test_primary_that_fails_has_the_write_taken_back_from_the_replicas(
    replicated: Services,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: tuple[type, str, Exception, type[Exception]],
) -> None:
    """Whoever restores the node from a replica must not find what was refused."""
    store_synchronously(replicated, "before", b"x")
    before = copied_log(tmp_path / "replica1")
    owner, step, fault, refusal = failure

    def fail(*_: object) -> None:
        wait([append for _, append in replicated.quorum._appending.values()])
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, fail)
        with pytest.raises(refusal):
            store_synchronously(replicated, "refused", b"y")
    for replica in ALL[1:]:
        assert copied_log(tmp_path / replica) == before
    assert keys(replicated) == ["before"]


@pytest.mark.parametrize("has_failed_everywhere", [False, True])
def test_primary_that_cannot_even_take_the_write_back_leaves_nothing_on_the_replicas(
    open_node: Opener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_failed_everywhere: bool,
) -> None:
    """Now, or when the next start has left the segment behind and the replicas follow it."""
    replicated = open_node(replicas=two_replicas(tmp_path), quorum_timeout_s=20)
    store_synchronously(replicated, "before", b"x")
    before = copied_log(tmp_path / "replica1")

    def fail(*_: object) -> None:
        wait([append for _, append in replicated.quorum._appending.values()])
        raise NoSpaceError("full")

    with monkeypatch.context() as patched:
        patched.setattr(IndexTransaction, "commit", fail)
        patched.setattr(SegmentWriter, "cut", fail)
        if has_failed_everywhere:
            patched.setattr(quorum.Quorum, "take_back", fail)
        with pytest.raises(NoSpaceError if has_failed_everywhere else WalReadOnlyError):
            store_synchronously(replicated, "refused", b"y")
    assert (copied_log(tmp_path / "replica1") == before) is not has_failed_everywhere
    replicated.close()
    again = open_node(replicas=two_replicas(tmp_path))
    assert again.log.position.segment_id == 2
    store_bytes(again, "after", b"z")
    for name in ALL[1:]:
        catch_up(again, name)
    assert_equal_copies(again, tmp_path, *ALL[1:])
    assert keys(again) == ["after", "before"]


def test_synchronous_node_has_its_keys_on_the_replicas(open_node: Opener, tmp_path: Path) -> None:
    """Whoever restores it finds the new key, and not the one that was revoked."""
    node = open_node(replicas=two_replicas(tmp_path), replication="sync", quorum_timeout_s=20)
    for _ in range(2):
        key = node.keys.create(name="key", scopes=Scope.READ, caller=OPERATOR).key
        assert_equal_copies(node, tmp_path, *ALL[1:])
    node.keys.revoke(key.id, caller=OPERATOR)
    assert_equal_copies(node, tmp_path, *ALL[1:])


def test_first_key_waits_for_no_replica(open_node: Opener, tmp_path: Path) -> None:
    """It is made before the processes fork, which no client of an object store may live through."""
    node = open_node(replicas=two_replicas(tmp_path), replication="sync", quorum_timeout_s=20)
    store_bytes(node, "a", b"x")
    before = copied_log(tmp_path / "replica1")
    node.close()
    recover_node(replace(node.config, first_key=make_token()), hosts=["127.0.0.1"])
    assert copied_log(tmp_path / "replica1") == before
    assert [key.name for key in open_node(replicas=two_replicas(tmp_path)).keys.list()] == ["first"]


def test_key_is_revoked_though_no_replica_can_be_reached(open_node: Opener, tmp_path: Path) -> None:
    """A stranger who knows it must not be let in for as long as a disk is away."""
    node = open_node(replicas=two_replicas(tmp_path), replication="sync", quorum_timeout_s=1)
    kept, known = (
        node.keys.create(name=name, scopes=Scope.READ, caller=OPERATOR).key for name in "ab"
    )
    for name in ALL[1:]:
        (tmp_path / name).rename(tmp_path / f"{name}-away")
    with pytest.raises(QuorumError):
        store_bytes(node, "refused", b"x")
    node.keys.revoke(known.id, caller=OPERATOR)
    assert [key.id for key in node.keys.list()] == [kept.id]
    node.close()
    for name in ALL[1:]:
        (tmp_path / f"{name}-away").rename(tmp_path / name)
    node = open_node(replicas=two_replicas(tmp_path), replication="sync", quorum_timeout_s=20)
    assert [key.id for key in node.keys.list()] == [kept.id]


def test_mixed_writers_each_get_what_they_asked_for(replicated: Services, tmp_path: Path) -> None:
    """Synchronous and asynchronous writes of many threads do not get in each other's way."""

    def write(number: int) -> tuple[str, ...]:
        data = os.urandom(BIG if number % 7 == 0 else 500)
        if number % 2:
            return store_synchronously(replicated, f"f{number}", data).durability.stores
        return store_bytes(replicated, f"f{number}", data).durability.stores

    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(write, range(60)))
    assert set(stores[1::2]) == {ALL}
    assert set(stores[::2]) == {("primary",)}
    assert len(keys(replicated)) == 60
    for name in ALL[1:]:
        replicated.replication.work(name, budget_s=0)
        catch_up(replicated, name)
    assert_equal_copies(replicated, tmp_path, *ALL[1:])


def test_quorum_larger_than_the_stores_is_refused_at_once(
    open_node: Opener, tmp_path: Path
) -> None:
    """A node without replicas cannot write synchronously, and says so."""
    services = open_node(replicas=())
    with pytest.raises(QuorumError):
        store_synchronously(services, "file", b"x")
    assert keys(services) == []


def test_sync_write_of_known_bytes_has_them_copied(replicated: Services, tmp_path: Path) -> None:
    """Bytes that the primary has already must be on the replicas, too, before the answer."""
    data = os.urandom(BIG)
    digest = store_bytes(replicated, "async", data).files[0].digest
    assert not (tmp_path / "replica1" / blob_name(digest)).exists()
    assert store_synchronously(replicated, "sync", data).durability.stores == ALL
    for name in ALL[1:]:
        assert (tmp_path / name / blob_name(digest)).read_bytes() == data


def test_setting_makes_every_write_synchronous(open_node: Opener, tmp_path: Path) -> None:
    """DFS_REPLICATION=sync is the default of requests that say nothing."""
    replicas = (("replica1", str(tmp_path / "replica1")),)
    services = open_node(replicas=replicas, replication="sync")
    assert store_bytes(services, "file", b"x").durability.stores == ALL[:2]
    assert IndexRepository(services.index).store_states()["replica1"].lsn == 2


def test_replica_that_is_late_once_takes_part_in_the_next_write(
    replicated: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blob file is on one replica only, so that very one is waited for, busy as it is."""
    monkeypatch.setattr(quorum, "GRACE_S", 0.0)
    store = replicated.stores.replicas["replica1"]
    append, released = store.append_segment, threading.Event()

    def append_late(*arguments: object) -> None:
        released.wait()
        append(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "append_segment", append_late)
    assert store_synchronously(replicated, "first", b"x").durability.stores == (
        "primary",
        "replica2",
    )
    timer = threading.Timer(0.3, released.set)
    timer.start()
    (tmp_path / "replica2" / "tmp").rename(tmp_path / "replica2" / "gone")
    stored = store_synchronously(replicated, "second", os.urandom(BIG))
    assert "replica1" in stored.durability.stores
    timer.join()
