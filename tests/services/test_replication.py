"""Asynchronous replication: whatever a store is owed reaches it, and is written down till then."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.core.clock import now_ms
from dfs.core.model import Debt, DebtKind
from dfs.db.repository import IndexRepository
from dfs.services import replication
from dfs.storage.names import blob_name
from dfs.wiring import Services
from tests.services.conftest import Opener, read_bytes, store_bytes

BIG = 300_000

pytestmark = pytest.mark.usefixtures("retry_at_once")

OpenReplicated = Callable[..., Services]


@pytest.fixture
def open_replicated(open_node: Opener, tmp_path: Path) -> OpenReplicated:
    """Open a node with two replicas in directories."""
    replicas = tuple((name, str(tmp_path / name)) for name in ("replica1", "replica2"))

    def open_it(**changes: object) -> Services:
        return open_node(**{"replicas": replicas, **changes})

    return open_it


@pytest.fixture
def replicated(open_replicated: OpenReplicated) -> Services:
    """A node with two replicas."""
    return open_replicated()


def index_of(services: Services) -> IndexRepository:
    """Return the reading side of the index."""
    return IndexRepository(services.index)


def catch_up(services: Services, name: str) -> None:
    """Work until a store is owed nothing."""
    while (report := services.replication.work(name, budget_s=5)).more:
        pass
    assert report.error is None
    owed = [summary for summary in index_of(services).summarize_debts() if summary.store == name]
    assert owed == []


def log_bytes(services: Services) -> dict[int, bytes]:
    """Return segment id -> its bytes up to its end, as the node has them."""
    end = services.log.position
    return {
        segment.header.segment_id: segment.path.read_bytes()[: segment.end or end.offset]
        for segment in services.log.segments()
    }


def copied_log(path: Path) -> dict[int, bytes]:
    """Return segment id -> bytes, as a replica has them."""
    return {int(file.stem): file.read_bytes() for file in (path / "segments").iterdir()}


def copied_blobs(path: Path) -> dict[str, bytes]:
    """Return name -> bytes of the blob files of a store."""
    return {file.name: file.read_bytes() for file in (path / "blobs").rglob("*") if file.is_file()}


def assert_equal_copies(services: Services, tmp_path: Path, *names: str) -> None:
    """Each store has log and blob files of the node, byte for byte, and nothing else."""
    for name in names:
        assert copied_log(tmp_path / name) == log_bytes(services)
        assert copied_blobs(tmp_path / name) == copied_blobs(tmp_path / "primary")


def fill(services: Services, rounds: int, seed: int = 0) -> None:
    """Store, rename and delete some files, small and large."""
    data = random.Random(seed)
    for number in range(rounds):
        small = store_bytes(services, f"s{number}", data.randbytes(data.randrange(60_000)))
        store_bytes(services, f"b{number}", data.randbytes(BIG))
        if number % 3 == 0:
            services.files.update(small.files[0].id, {"key": f"renamed{number}"})
        if number % 4 == 0:
            services.files.delete(small.files[0].id)


def test_work_brings_log_and_blobs_to_every_replica(replicated: Services, tmp_path: Path) -> None:
    """After some turns each replica has all segments, sealed and active, and all blob files."""
    fill(replicated, 40)
    assert len(replicated.log.segments()) > 1
    for name in ("replica1", "replica2"):
        catch_up(replicated, name)
    assert_equal_copies(replicated, tmp_path, "replica1", "replica2")
    state = index_of(replicated).store_states()["replica1"]
    assert state.lsn == replicated.log.position.lsn


def test_work_ships_only_what_is_new(replicated: Services, tmp_path: Path) -> None:
    """A second turn copies the tail, not the log from its beginning."""
    fill(replicated, 5)
    catch_up(replicated, "replica1")
    store_bytes(replicated, "one more", b"x")
    report = replicated.replication.work("replica1", budget_s=5)
    assert 0 < report.log_bytes < 1000
    assert_equal_copies(replicated, tmp_path, "replica1")


def test_debts_are_owed_in_the_transaction_of_the_change(replicated: Services) -> None:
    """As soon as a large file is acknowledged, both its copies are owed; a small one owes none."""
    store_bytes(replicated, "small", b"x")
    assert index_of(replicated).summarize_debts() == []
    stored = store_bytes(replicated, "large", os.urandom(BIG))
    owed = index_of(replicated).summarize_debts()
    assert [(debt.store, debt.count, debt.bytes) for debt in owed] == [
        ("replica1", 1, BIG),
        ("replica2", 1, BIG),
    ]
    digest = stored.files[0].digest
    assert index_of(replicated).find_debt("replica1", DebtKind.BLOB, digest) is not None


def test_rebuilt_index_owes_everything_and_finds_it_paid(
    open_replicated: OpenReplicated, tmp_path: Path
) -> None:
    """After a rebuild nothing is believed, but what is whole on a store is not written again."""
    services = open_replicated()
    fill(services, 10)
    catch_up(services, "replica1")
    services.close()
    (tmp_path / "wal" / "rebuild-index").touch()
    written = {path: path.stat().st_ino for path in (tmp_path / "replica1").rglob("*")}
    services = open_replicated()
    assert index_of(services).summarize_debts() != []
    catch_up(services, "replica1")
    assert {path: path.stat().st_ino for path in written} == written
    assert_equal_copies(services, tmp_path, "replica1")


def test_replica_that_is_gone_fails_nothing_and_is_caught_up(
    replicated: Services, tmp_path: Path
) -> None:
    """Uploads go on without it; it is not made anew where it was; when it is back it gets all."""
    fill(replicated, 3)
    catch_up(replicated, "replica1")
    (tmp_path / "replica1").rename(tmp_path / "away")
    fill(replicated, 3, seed=1)
    assert replicated.replication.work("replica1", budget_s=1).error is not None
    assert index_of(replicated).store_states()["replica1"].failures == 1
    assert not (tmp_path / "replica1").exists()
    catch_up(replicated, "replica2")
    (tmp_path / "away").rename(tmp_path / "replica1")
    catch_up(replicated, "replica1")
    assert_equal_copies(replicated, tmp_path, "replica1", "replica2")
    assert index_of(replicated).store_states()["replica1"].failures == 0


def test_empty_replacement_is_filled(replicated: Services, tmp_path: Path) -> None:
    """A new disk in the place of a replica gets everything, old and new."""
    fill(replicated, 20)
    catch_up(replicated, "replica1")
    shutil.rmtree(tmp_path / "replica1")
    (tmp_path / "replica1").mkdir()
    store_bytes(replicated, "new", os.urandom(BIG))
    catch_up(replicated, "replica1")
    assert_equal_copies(replicated, tmp_path, "replica1")


def test_store_of_another_cluster_is_refused_and_left_alone(
    open_node: Opener, replicated: Services, tmp_path: Path
) -> None:
    """Nothing is written to a directory that is another node's replica."""
    fill(replicated, 2)
    other = tmp_path / "replica1"
    shutil.rmtree(other)
    shutil.copytree(tmp_path / "primary", other)
    identity = (other / "dfs.json").read_text()
    cluster = replicated.recovered.cluster_id.hex()
    (other / "dfs.json").write_text(identity.replace(cluster, "ab" * 16))
    before = sorted(str(path) for path in other.rglob("*"))
    report = replicated.replication.work("replica1", budget_s=1)
    assert report.error is not None
    assert "cluster" in report.error
    assert sorted(str(path) for path in other.rglob("*")) == before


def test_tail_of_another_life_of_the_log_is_cut_off(
    open_replicated: OpenReplicated, tmp_path: Path
) -> None:
    """What a replica has behind the end of the log must not come back in a rebuild from it."""
    services = open_replicated()
    fill(services, 2)
    catch_up(services, "replica1")
    segment = max((tmp_path / "replica1" / "segments").iterdir())
    services.close()
    with segment.open("ab") as file:
        file.write(b"of another life")
    shutil.copy(segment, segment.with_name("0000000099.wal"))
    (tmp_path / "wal" / "rebuild-index").touch()
    services = open_replicated()
    catch_up(services, "replica1")
    assert_equal_copies(services, tmp_path, "replica1")
    assert any((tmp_path / "replica1" / "damaged").iterdir())


def test_log_that_differs_on_a_new_found_replica_is_overwritten(
    open_replicated: OpenReplicated, tmp_path: Path
) -> None:
    """A replica that is not known is compared byte by byte, and made equal where it differs."""
    services = open_replicated()
    fill(services, 12)
    catch_up(services, "replica1")
    services.close()
    (tmp_path / "wal" / "rebuild-index").touch()
    for segment in (tmp_path / "replica1" / "segments").iterdir():
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 1
        segment.write_bytes(data)
    services = open_replicated()
    catch_up(services, "replica1")
    assert_equal_copies(services, tmp_path, "replica1")


def test_replica_that_lost_a_segment_gets_it_again(replicated: Services, tmp_path: Path) -> None:
    """A file that vanished from a replica is noticed when the log goes on, and comes again."""
    fill(replicated, 2)
    catch_up(replicated, "replica1")
    for segment in (tmp_path / "replica1" / "segments").iterdir():
        segment.unlink()
    store_bytes(replicated, "more", b"x")
    assert replicated.replication.work("replica1", budget_s=1).error is not None
    catch_up(replicated, "replica1")
    assert_equal_copies(replicated, tmp_path, "replica1")


def test_segment_debt_of_a_replica_mends_it(replicated: Services, tmp_path: Path) -> None:
    """A damaged segment of a replica is compared with the node's and written where it differs."""
    fill(replicated, 40)
    catch_up(replicated, "replica1")
    damaged = min((tmp_path / "replica1" / "segments").iterdir())
    data = bytearray(damaged.read_bytes())
    data[5000] ^= 1
    damaged.write_bytes(data)
    replicated.ledger.owe([Debt.of_segment("replica1", int(damaged.stem), 0, now_ms())])
    catch_up(replicated, "replica1")
    assert_equal_copies(replicated, tmp_path, "replica1")


def test_damaged_source_is_not_copied_but_mended(replicated: Services, tmp_path: Path) -> None:
    """A blob damaged on the primary reaches a replica whole from another, and is mended."""
    stored = store_bytes(replicated, "large", os.urandom(BIG))
    catch_up(replicated, "replica1")
    primary = tmp_path / "primary" / blob_name(stored.files[0].digest)
    whole = primary.read_bytes()
    primary.write_bytes(whole[:1000] + b"?" + whole[1001:])
    catch_up(replicated, "replica2")
    assert copied_blobs(tmp_path / "replica2") == {primary.name: whole}
    catch_up(replicated, "primary")
    assert primary.read_bytes() == whole


def test_blob_that_no_store_has_stays_owed_with_its_reason(
    replicated: Services, tmp_path: Path
) -> None:
    """A debt that cannot be paid is kept, tried again later, and says why; others are paid."""
    lost = store_bytes(replicated, "lost", os.urandom(BIG)).files[0]
    store_bytes(replicated, "kept", os.urandom(BIG))
    (tmp_path / "primary" / blob_name(lost.digest)).unlink()
    replicated.replication.work("replica1", budget_s=0)
    debt = index_of(replicated).find_debt("replica1", DebtKind.BLOB, lost.digest)
    assert debt is not None
    assert (debt.attempts, bool(debt.error)) == (1, True)
    owed = [d for d in index_of(replicated).summarize_debts() if d.store == "replica1"]
    assert [(d.count, d.failing) for d in owed] == [(1, 1)]


def test_blob_of_a_deleted_row_is_not_owed_for_ever(replicated: Services) -> None:
    """A debt for a blob that the index does not know is paid by forgetting it."""
    replicated.ledger.owe([Debt.of_blob("replica1", b"\1" * 32, 5, now_ms())])
    catch_up(replicated, "replica1")


def test_store_that_hangs_is_given_up_and_left_alone(
    open_replicated: OpenReplicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn without progress ends, is noted, and no second thread joins the first."""
    import threading

    services = open_replicated(replica_timeout_s=1)
    store_bytes(services, "file", b"x")
    hanging = threading.Event()
    entered: list[str] = []

    def hang(*_: object) -> None:
        entered.append("hang")
        hanging.wait()

    monkeypatch.setattr(services.stores.replicas["replica1"], "list_segments", hang, raising=True)
    assert services.replication.work("replica1", budget_s=5).error == "The store does not answer."
    assert services.replication.work("replica1", budget_s=5).error is not None
    assert entered == ["hang"]
    assert index_of(services).store_states()["replica1"].failures == 1
    hanging.set()


def test_store_no_longer_in_the_settings_is_forgotten(open_replicated: OpenReplicated) -> None:
    """What a removed replica was owed is owed no more."""
    services = open_replicated()
    store_bytes(services, "large", os.urandom(BIG))
    services.close()
    services = open_replicated(replicas=())
    assert set(index_of(services).store_states()) == {"primary"}
    assert index_of(services).summarize_debts() == []


def test_turn_ends_when_its_time_is_over(
    replicated: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn does one piece of work at least, and says that more is left."""
    monkeypatch.setattr(replication, "BATCH_COUNT_MAX", 2)
    for number in range(5):
        store_bytes(replicated, f"b{number}", os.urandom(BIG))
    report = replicated.replication.work("replica1", budget_s=0)
    assert (report.blobs, report.more) == (2, True)


@pytest.mark.parametrize("how", ["flip", "remove", "cut"])
def test_read_of_a_blob_file_falls_over_to_a_replica(
    replicated: Services, tmp_path: Path, how: str
) -> None:
    """Damage in the middle of a file is not noticed by its reader; the mend is owed, and paid."""
    data = os.urandom(3 << 20)
    stored = store_bytes(replicated, "file", data).files[0]
    catch_up(replicated, "replica1")
    path = tmp_path / "primary" / blob_name(stored.digest)
    if how == "remove":
        path.unlink()
    elif how == "cut":
        os.truncate(path, 2_000_000)
    else:
        path.write_bytes(data[:1_500_000] + bytes([data[1_500_000] ^ 1]) + data[1_500_001:])
    assert read_bytes(replicated, stored.id) == data
    assert index_of(replicated).find_debt("primary", DebtKind.BLOB, stored.digest) is not None
    catch_up(replicated, "primary")
    assert path.read_bytes() == data


def test_read_of_an_inline_blob_falls_over_to_a_replica(
    replicated: Services, tmp_path: Path
) -> None:
    """A damaged record of the log is answered from a copy of it; the mend is owed."""
    data = os.urandom(1000)
    stored = store_bytes(replicated, "file", data).files[0]
    catch_up(replicated, "replica1")
    path = tmp_path / "wal" / "wal.active"
    at = path.read_bytes().index(data)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([data[0] ^ 1]))
    assert read_bytes(replicated, stored.id) == data
    owed = index_of(replicated).summarize_debts()
    assert [(debt.store, debt.kind) for debt in owed if debt.store == "primary"] == [
        ("primary", DebtKind.SEGMENT)
    ]


def test_copy_that_cannot_be_read_is_replaced(
    replicated: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector under a replica's copy fails neither the turn nor the other copies."""
    data = os.urandom(BIG)
    stored = store_bytes(replicated, "file", data).files[0]
    catch_up(replicated, "replica1")
    replicated.ledger.owe([Debt.of_blob("replica1", stored.digest, BIG, now_ms())])
    path = tmp_path / "replica1" / blob_name(stored.digest)
    bad = path.stat().st_ino
    pread = os.pread

    def fail(descriptor: int, length: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == bad:
            raise OSError(errno.EIO, "bad sector")
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", fail)
    catch_up(replicated, "replica1")
    assert path.stat().st_ino != bad
    assert path.read_bytes() == data


def test_blob_needed_again_reaches_a_replica_that_was_replaced_meanwhile(
    replicated: Services, tmp_path: Path
) -> None:
    """Bytes of a deleted file, stored again, are owed to a replica that lost them in between."""
    data = os.urandom(BIG)
    first = store_bytes(replicated, "first", data).files[0]
    catch_up(replicated, "replica1")
    replicated.files.delete(first.id)
    shutil.rmtree(tmp_path / "replica1")
    (tmp_path / "replica1").mkdir()
    catch_up(replicated, "replica1")
    store_bytes(replicated, "second", data)
    catch_up(replicated, "replica1")
    assert (tmp_path / "replica1" / blob_name(first.digest)).read_bytes() == data
