"""What operators are told about the stores, and what asking for work does."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import dfs.services.replicas
from dfs.core.clock import now_ms
from dfs.core.errors import NoSuchStoreError, QueueError, StoreUnavailableError
from dfs.core.model import Debt, ScrubState
from dfs.queue.base import JobQueue
from dfs.queue.inline_queue import InlineQueue
from dfs.services.breaker import Breaker
from dfs.services.hints import REPLICATE, SCRUB
from dfs.services.replicas import Replicas
from dfs.services.reports import OwedKind, StoreReport, describe_location, describe_scrub
from dfs.storage.local_store import LocalStore
from dfs.wiring import Services
from tests.services.conftest import Opener, store_bytes

LARGE = bytes(100_000)


@pytest.fixture
def node(open_node: Opener, tmp_path: Path) -> Services:
    """One open node with two replicas, which nobody works on but the test."""
    places = tuple((name, str(tmp_path / name)) for name in ("replica1", "replica2"))
    return open_node(replicas=places)


def work(services: Services, store: str) -> None:
    """Pay what a store is owed, as a job would."""
    services.replication.work(store, budget_s=30)


def make_replicas(services: Services, queue: JobQueue | None) -> Replicas:
    """Return the service with a queue of the test's own."""
    return Replicas(
        log=services.log,
        index=services.files._index,
        ledger=services.ledger,
        stores=services.stores,
        locations={store.name: f"/{store.name}" for store in services.stores.all()},
        queue=queue,
        start_scrub=services.scrub.start,
    )


def make_queue(run: Callable[[str], object]) -> InlineQueue:
    """Return a queue that has a function instead of the job that works on a store."""

    def job(store: str) -> None:
        run(store)

    return InlineQueue(jobs={REPLICATE.name: job, SCRUB.name: job})


def change_state(services: Services, name: str, **changes: object) -> None:
    """Change what the index says of a store."""
    with services.ledger.begin() as index:
        state = index.store_states()[name]
        index.put_store_state(replace(state, **changes))


def look_at(services: Services, name: str) -> StoreReport:
    """Return the report of one store."""
    (report,) = (report for report in services.replicas.look() if report.name == name)
    return report


def test_look_counts_what_each_store_owes(node: Services) -> None:
    """Records and bytes of the log, and blob files, are owed until a store has them."""
    store_bytes(node, "a", b"small")
    store_bytes(node, "b", LARGE)
    work(node, "replica1")
    reports = node.replicas.look()
    assert [report.name for report in reports] == ["primary", "replica1", "replica2"]
    primary, first, second = reports
    end = node.log.position
    for paid in (primary, first):
        assert (paid.owed_bytes, paid.oldest_at_ms) == (0, None)
        assert all(owed.count == 0 for owed in paid.owed.values())
    assert (primary.position, first.position) == (None, end)
    assert second.owed[OwedKind.LOG].count == end.lsn == 4
    assert second.owed[OwedKind.LOG].bytes == end.offset
    blobs = second.owed[OwedKind.BLOB]
    assert (blobs.count, blobs.bytes, blobs.failing) == (1, len(LARGE), 0)
    assert second.owed_bytes == end.offset + len(LARGE)


def test_look_tells_the_age_of_the_oldest_record_that_is_owed(node: Services) -> None:
    """Not that of the newest, nor that of a record that the store has: over segments, too."""
    store_bytes(node, "a", b"there")
    work(node, "replica1")
    has = look_at(node, "replica1").position
    assert has is not None
    oldest = store_bytes(node, "b", b"missing").files[0]
    while node.log.position.segment_id < has.segment_id + 3:
        store_bytes(node, "c", bytes(60_000) + str(time.monotonic_ns()).encode())
    log = look_at(node, "replica1").owed[OwedKind.LOG]
    assert log.oldest_at_ms == oldest.created_at_ms
    assert log.count == node.log.position.lsn - has.lsn
    sizes = [segment.size_bytes for segment in node.wal_inspection.segments()]
    assert log.bytes == sum(sizes) - has.offset


def test_look_at_the_end_of_a_sealed_segment_reads_on_in_the_next(node: Services) -> None:
    """A store that has all of a segment, and nothing of the next, owes the next one's records."""
    first = node.log.position
    while node.log.position.segment_id == first.segment_id:
        stored = store_bytes(node, "c", bytes(60_000) + str(time.monotonic_ns()).encode())
    (sealed, *_) = node.wal_inspection.segments()
    change_state(
        node, "replica1", segment_id=sealed.id, offset=sealed.size_bytes, lsn=sealed.last_lsn
    )
    log = look_at(node, "replica1").owed[OwedKind.LOG]
    assert log.oldest_at_ms == stored.files[0].created_at_ms
    assert (log.count, log.bytes) == (2, node.log.position.offset)


def test_look_at_a_store_that_is_ahead_owes_it_the_whole_log(node: Services) -> None:
    """A position behind the end of the log is of another life of it."""
    store_bytes(node, "a", b"x")
    end = node.log.position
    change_state(node, "replica1", segment_id=end.segment_id, offset=end.offset + 1, lsn=99)
    assert look_at(node, "replica1").owed[OwedKind.LOG].count == end.lsn


def test_look_at_a_store_never_taken_in_owes_it_everything(node: Services) -> None:
    """What was stored before it was set is no row of debt, and owed all the same."""
    store_bytes(node, "a", LARGE)
    work(node, "replica1")
    change_state(node, "replica1", store_id=b"", segment_id=0, offset=0, lsn=0)
    owed = look_at(node, "replica1").owed
    assert (owed[OwedKind.BLOB].count, owed[OwedKind.BLOB].bytes) == (1, len(LARGE))
    assert owed[OwedKind.LOG].count == node.log.position.lsn


def test_look_at_a_store_that_fails_tells_why(node: Services, tmp_path: Path) -> None:
    """Its breaker opens, and its last error is there with the time."""
    store_bytes(node, "a", b"x")
    shutil.rmtree(tmp_path / "replica1")
    for _ in range(3):
        change_state(node, "replica1", retry_at_ms=0)
        work(node, "replica1")
    report = look_at(node, "replica1")
    assert (report.breaker, report.state.failures) == (Breaker.OPEN, 3)
    assert report.state.error
    assert report.state.error_at_ms
    log = report.owed[OwedKind.LOG]
    assert (log.failing, log.error) == (2, report.state.error)


def test_ask_tells_which_stores_answer(node: Services, tmp_path: Path) -> None:
    """A directory that is gone does not, one with another identity is not the store."""
    shutil.rmtree(tmp_path / "replica1")
    change_state(node, "replica2", store_id=bytes(16))
    faults = {report.name: report.fault for report in node.replicas.ask()}
    assert faults["primary"] is None
    assert faults["replica1"]
    assert faults["replica2"] == "Another store is in its place."


def test_ask_does_not_wait_for_a_store_that_hangs(
    node: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as not answering, the others as they are, and it is not asked twice at once."""
    release, asked = threading.Event(), []

    def hang() -> None:
        asked.append(1)
        release.wait(60)

    monkeypatch.setattr(dfs.services.replicas, "PROBE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(LocalStore, "read_identity", _for("replica1", hang))
    try:
        for _ in range(2):
            faults = {report.name: report.fault for report in node.replicas.ask()}
            assert faults["replica1"] == "The store does not answer."
            assert faults["replica2"] is None
        assert len(asked) == 1
    finally:
        release.set()


def _for(name: str, instead: Callable[[], object]) -> Callable[..., object]:
    """Return `read_identity`, with something else done for one store."""
    read_identity = LocalStore.read_identity

    def read(store: LocalStore) -> object:
        if store.name == name:
            instead()
        return read_identity(store)

    return read


def test_sync_asks_for_the_stores_named(node: Services) -> None:
    """One, or all; each by the job of which there is one at a time."""
    asked: list[str] = []
    replicas = make_replicas(node, make_queue(asked.append))
    assert replicas.sync("replica2").jobs == ("replicate-replica2",)
    assert replicas.sync(None).jobs == tuple(
        f"replicate-{store.name}" for store in node.stores.all()
    )
    assert asked == ["replica2", "primary", "replica1", "replica2"]


def test_sync_waits_until_all_is_paid(node: Services) -> None:
    """It returns when the work is done, however long it might have waited."""
    store_bytes(node, "a", LARGE)
    started = threading.Event()

    def work_later(store: str) -> None:
        started.set()
        threading.Thread(target=work, args=(node, store)).start()

    begun_s = time.monotonic()
    report = make_replicas(node, make_queue(work_later)).sync("replica1", wait_s=60)
    assert started.is_set()
    assert report.is_done
    assert [(store.name, store.owed_bytes) for store in report.stores] == [("replica1", 0)]
    assert time.monotonic() - begun_s < 50


@pytest.mark.parametrize("wait_s", [0, 0.2])
def test_sync_of_a_store_that_stays_in_debt_is_not_done(node: Services, wait_s: float) -> None:
    """The answer says what it still owes."""
    store_bytes(node, "a", LARGE)
    report = make_replicas(node, make_queue(lambda store: None)).sync("replica1", wait_s=wait_s)
    assert not report.is_done
    assert report.stores[0].owed_bytes == len(LARGE) + node.log.position.offset


def test_sync_does_not_wait_for_what_is_stored_later(node: Services) -> None:
    """A node that is written to all the time gets its answer, too."""
    store_bytes(node, "a", b"before")

    def work_and_go_on(store: str) -> None:
        work(node, store)
        while store_bytes(node, "b", LARGE).files[0].created_at_ms <= asked_at_ms:
            pass

    asked_at_ms = now_ms() + 5
    replicas = make_replicas(node, make_queue(work_and_go_on))
    report = replicas.sync("replica1", wait_s=0.5)
    assert report.is_done
    assert report.stores[0].owed_bytes > len(LARGE)


@pytest.mark.parametrize("kind", ["blob", "segment"])
def test_sync_is_not_done_while_the_primary_owes_a_mend(node: Services, kind: str) -> None:
    """The primary takes part: it owes what was found damaged."""
    replicas = make_replicas(node, make_queue(lambda store: None))
    assert replicas.sync("primary").is_done
    debt = (
        Debt.of_blob("primary", bytes(32), 7, now_ms())
        if kind == "blob"
        else Debt.of_segment("primary", 1, 7, now_ms())
    )
    node.ledger.owe([debt])
    report = replicas.sync("primary")
    assert not report.is_done
    assert report.stores[0].owed[OwedKind(kind)].bytes == 7


def test_sync_is_not_done_for_a_store_never_taken_in(node: Services) -> None:
    """Nobody knows what such a store has."""
    with node.ledger.begin() as index:
        index.forget_store("replica1")
    assert not make_replicas(node, make_queue(lambda store: None)).sync("replica1").is_done


def test_sync_tries_a_store_that_is_left_alone_at_once(node: Services) -> None:
    """Whoever has mended a disk need not wait for the end of the pause."""
    store_bytes(node, "a", b"x")
    later = now_ms() + 20_000
    change_state(node, "replica1", failures=5, retry_at_ms=later, error="broken")
    change_state(node, "replica2", failures=5, retry_at_ms=later, error="broken")
    replicas = make_replicas(node, make_queue(lambda store: work(node, store)))
    assert replicas.sync("replica1").is_done
    assert look_at(node, "replica1").breaker is Breaker.CLOSED
    assert look_at(node, "replica2").breaker is Breaker.OPEN


def test_sync_lets_only_few_wait(node: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting takes a thread that serves requests: one too many is answered at once."""
    monkeypatch.setattr(dfs.services.replicas, "WAITERS_MAX", 1)
    store_bytes(node, "a", b"x")
    waiting, queue = threading.Event(), make_queue(lambda store: None)
    replicas = make_replicas(node, queue)
    is_paid = replicas._is_paid

    def look(*args: object) -> bool:
        waiting.set()
        return is_paid(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(replicas, "_is_paid", look)
    first = threading.Thread(target=lambda: replicas.sync("replica1", wait_s=60))
    first.start()
    assert waiting.wait(30)
    begun_s = time.monotonic()
    assert not replicas.sync("replica1", wait_s=60).is_done
    assert time.monotonic() - begun_s < 50
    work(node, "replica1")
    first.join(30)
    assert not first.is_alive()


def test_sync_without_queue_or_store_is_refused(node: Services) -> None:
    """No queue: nobody would work. No such store: nothing to work on."""
    with pytest.raises(QueueError):
        node.replicas.sync(None)
    with pytest.raises(NoSuchStoreError):
        make_replicas(node, make_queue(lambda store: None)).sync("replica9")


def test_scrub_begins_in_all_stores_that_are_there(node: Services, tmp_path: Path) -> None:
    """One that is gone is told and passed; the others have begun, and jobs go on with them."""
    shutil.rmtree(tmp_path / "replica2")
    asked: list[str] = []
    start = make_replicas(node, make_queue(asked.append)).scrub(None)
    assert start.jobs == ("scrub-primary", "scrub-replica1")
    assert (list(start.faults), start.running) == (["replica2"], ())
    assert asked == ["primary", "replica1"]
    running = [report.name for report in node.replicas.look() if report.scrub.is_running]
    assert running == ["primary", "replica1"]


def test_scrub_under_way_goes_on(node: Services) -> None:
    """It is not begun anew."""
    replicas = make_replicas(node, make_queue(lambda store: None))
    replicas.scrub("replica1")
    begun = look_at(node, "replica1").scrub.state
    assert replicas.scrub("replica1").running == ("replica1",)
    assert look_at(node, "replica1").scrub.state == begun


def test_scrub_of_one_store_that_is_gone_is_refused(node: Services, tmp_path: Path) -> None:
    """Whoever names it is told by an error."""
    shutil.rmtree(tmp_path / "replica1")
    with pytest.raises(StoreUnavailableError):
        make_replicas(node, make_queue(lambda store: None)).scrub("replica1")


def test_scrub_does_not_wait_for_a_store_that_hangs(
    node: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told; the others have begun."""
    release = threading.Event()
    monkeypatch.setattr(dfs.services.replicas, "SCRUB_TIMEOUT_S", 0.5)
    monkeypatch.setattr(LocalStore, "read_identity", _for("replica1", lambda: release.wait(60)))
    try:
        start = make_replicas(node, make_queue(lambda store: None)).scrub(None)
    finally:
        release.set()
    assert start.faults == {"replica1": "The store does not answer."}
    assert start.jobs == ("scrub-primary", "scrub-replica2")


def test_scrub_without_queue_begins_nothing(node: Services) -> None:
    """Nobody would go on with it."""
    with pytest.raises(QueueError):
        node.replicas.scrub(None)
    assert not any(report.scrub.is_running for report in node.replicas.look())


def test_location_is_told_without_secrets() -> None:
    """User, password and query of a URL are nobody's business."""
    assert describe_location("/mnt/a?b") == ("directory", "/mnt/a?b")
    assert describe_location("s3://key:secret@bucket/prefix?token=1") == (
        "s3",
        "s3://bucket/prefix",
    )


def test_scrub_progress_tells_rate_and_end() -> None:
    """Three quarters in thirty seconds: ten more."""
    state = ScrubState("x", started_at_ms=1000, bytes_read=750, bytes_total=1000)
    progress = describe_scrub(state, 31_000)
    assert (progress.is_running, progress.share) == (True, 0.75)
    assert (progress.bytes_per_s, progress.eta_s) == (25, 10)
    done = describe_scrub(ScrubState(finished_at_ms=1), 31_000)
    assert (done.is_running, done.share, done.eta_s) == (False, None, None)


def test_scrub_progress_of_one_just_begun_has_no_end() -> None:
    """Nothing is read yet, so nobody knows."""
    progress = describe_scrub(ScrubState("x", started_at_ms=5, bytes_total=10), 5)
    assert (progress.share, progress.eta_s) == (0, None)
    empty = describe_scrub(ScrubState("x", started_at_ms=5), 5)
    assert empty.share == 1
