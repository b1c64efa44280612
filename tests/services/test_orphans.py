"""Blob files that nobody knows: put aside when they are old, and never in the way of an upload."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from dfs.core.clock import now_ms
from dfs.core.model import REMOVALS, Debt, DebtKind
from dfs.services import quorum, survey
from dfs.services.survey import Survey
from dfs.services.verification import Fault, Finding
from tests.services.conftest import Opener, list_keys, read_bytes, store_bytes
from tests.services.stores_rig import ORPHAN_AGE_S, Rig, build_rig, fill
from tests.services.test_quorum import store_synchronously

DATA = b"orphan" * 50_000
DIGEST = hashlib.sha256(DATA).digest()
MOMENT_S = 0.5
"""What would go wrong has happened by then; what must wait is still waiting."""


@pytest.fixture
def index_url(sqlite_url: str) -> str:
    """One database is enough here."""
    return sqlite_url


@pytest.fixture
def replicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[str, str], ...]:
    """Settings of two replicas, which are waited for on a slow machine, too."""
    monkeypatch.setattr(quorum, "GRACE_S", 5.0)
    return tuple((name, str(tmp_path / name)) for name in ("replica1", "replica2"))


@pytest.fixture
def rig(open_node: Opener, replicas: tuple[tuple[str, str], ...]) -> Rig:
    """A node with two replicas."""
    return build_rig(open_node(replicas=replicas, quorum_timeout_s=20))


def age(path: Path, seconds: float = 1e9) -> None:
    """Let a file be that old."""
    written_s = now_ms() / 1000 - seconds
    os.utime(path, (written_s, written_s))


def plant(rig: Rig, name: str, *, seconds: float = 1e9) -> Path:
    """Leave a blob of that age in a store that nobody knows; return where it lies."""
    path = rig.blob_path(name, DIGEST)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(DATA)
    age(path, seconds)
    return path


def finding(name: str) -> Finding:
    """What a survey has found of the orphan, a while ago."""
    return Finding(name, DebtKind.BLOB, DIGEST, Fault.EXTRA, len(DATA), "nobody knows it")


@pytest.mark.parametrize("name", ["primary", "replica2"])
def test_scrub_puts_an_orphan_aside_and_a_later_one_removes_it(rig: Rig, name: str) -> None:
    """It is no damage, and nothing is owed; the files of the node stay."""
    fill(rig, segments=0)
    path = plant(rig, name)
    state = rig.scrub_all(name)
    assert state.scrub.last_damaged == 0
    assert not path.exists()
    assert rig.put_aside(name) == [DIGEST.hex()]
    assert rig.owed(name) == set()
    rig.scrub_all(name)
    assert rig.put_aside(name) == [DIGEST.hex()]
    (aside,) = (rig.store(name).path / "damaged").iterdir()
    aside.rename(aside.with_name(f"{DIGEST.hex()}-{now_ms() - 1000 * ORPHAN_AGE_S - 1}"))
    rig.scrub_all(name)
    assert rig.put_aside(name) == []
    assert len(list_keys(rig.node)) == 3


@pytest.mark.parametrize("name", ["primary", "replica2"])
def test_scrub_leaves_a_young_blob_alone(rig: Rig, name: str) -> None:
    """Somebody may be about to say what it is."""
    fill(rig, segments=0)
    path = plant(rig, name, seconds=ORPHAN_AGE_S - 60)
    rig.scrub_all(name)
    assert path.read_bytes() == DATA
    assert rig.put_aside(name) == []


@pytest.mark.parametrize("kind", REMOVALS)
def test_scrub_leaves_a_blob_alone_that_is_about_to_be_removed(rig: Rig, kind: DebtKind) -> None:
    """Its row is gone already; whoever owes the removal does it."""
    fill(rig, segments=0)
    path = plant(rig, "replica1")
    removal = Debt.of_removal("replica1", DIGEST, len(DATA), now_ms(), lsn=1)
    rig.node.ledger.owe([replace(removal, kind=kind)])
    rig.scrub_all("replica1")
    assert path.exists()
    assert rig.put_aside("replica1") == []


def test_scrub_leaves_a_replica_alone_that_lacks_much_of_the_log(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own log may know the blob, and is enough to restore it as long as nothing else is."""
    fill(rig, segments=0)
    path = plant(rig, "replica1")
    store_bytes(rig.node, "not shipped", b"x")
    monkeypatch.setattr(survey, "OWED_GRACE_MS", -1)
    rig.scrub_all("replica1")
    assert path.exists()
    rig.replicate()
    rig.scrub_all("replica1")
    assert not path.exists()


def test_orphans_are_never_younger_than_a_synchronous_write_may_be(rig: Rig) -> None:
    """Though deleted files are not kept at all."""
    node = rig.node
    hasty = Survey(
        log=node.log,
        index=rig.index,
        stores=node.stores,
        cluster_id=node.recovered.cluster_id,
        orphan_age_s=0,
    )
    rig.replicate()
    store = rig.store("replica1")
    for seconds, is_orphan in ((3590, False), (3700, True)):
        plant(rig, "replica1", seconds=seconds)
        assert hasty.is_orphan(store, DIGEST, len(DATA)) == is_orphan


def test_scrub_leaves_all_alone_while_the_index_lags(rig: Rig) -> None:
    """A database that has lost its newest rows knows too little, until the next commit."""
    fill(rig, segments=0)
    path = plant(rig, "primary")
    with rig.node.index.begin() as index:
        state = index.node_state
        assert state is not None
        index.set_node_state(structs.replace(state, applied_lsn=state.applied_lsn - 1))
        index.commit()
    rig.scrub_all("primary")
    assert path.exists()
    store_bytes(rig.node, "next", b"x")
    rig.scrub_all("primary")
    assert not path.exists()


def test_scrub_keeps_what_was_put_aside_as_long_as_its_mend_is_owed(rig: Rig) -> None:
    """It may be all there is of those bytes."""
    fill(rig, segments=0)
    store = rig.store("replica1")
    kept = store.path / "damaged" / f"{DIGEST.hex()}-1"
    gone = store.path / "damaged" / "0000000007.wal-1"
    strange = store.path / "damaged" / "put here by hand"
    for path in (kept, gone, strange):
        path.write_bytes(DATA)
    rig.node.ledger.owe([Debt.of_blob("replica1", DIGEST, len(DATA), now_ms())])
    rig.scrub_all("replica1")
    assert sorted((store.path / "damaged").iterdir()) == sorted([kept, strange])


def test_commit_that_dies_after_publishing_leaves_an_orphan_that_is_found(
    open_node: Opener,
) -> None:
    """The blob file has its name, no record says so; the same bytes can be stored later."""

    class DeathError(Exception):
        """The process ends here."""

    def die(step: str) -> None:
        if step == "commit.published":
            raise DeathError

    with pytest.raises(DeathError):
        store_bytes(open_node(on_step=die), "lost", DATA)
    rig = build_rig(open_node())
    age(rig.blob_path("primary", DIGEST))
    rig.scrub_all("primary")
    assert rig.put_aside("primary") == [DIGEST.hex()]
    stored = store_bytes(rig.node, "again", DATA)
    assert read_bytes(rig.node, stored.files[0].id) == DATA


# At the same moment


def start(work: Callable[[], object]) -> threading.Thread:
    """Start work in a thread, and give it time to do what it must not."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(MOMENT_S)
    return thread


def test_orphan_that_is_being_committed_stays(
    open_node: Opener, replicas: tuple[tuple[str, str], ...]
) -> None:
    """It has its name, and its row is not committed yet: it is looked at again afterwards."""
    threads: list[threading.Thread] = []

    def interfere(step: str) -> None:
        if step == "commit.published" and not threads:
            age(rig.blob_path("primary", DIGEST))
            threads.append(start(lambda: rig.quarantine.put_extra_aside(finding("primary"))))

    rig = build_rig(open_node(on_step=interfere, replicas=replicas))
    stored = store_bytes(rig.node, "file", DATA)
    for thread in threads:
        thread.join()
    assert len(threads) == 1
    assert rig.put_aside("primary") == []
    assert rig.blob_path("primary", DIGEST).read_bytes() == DATA
    assert read_bytes(rig.node, stored.files[0].id) == DATA


def test_orphan_that_a_synchronous_write_counts_on_stays(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica has had the bytes for long; between copying and commit nobody knows them yet."""
    rig.replicate()
    plant(rig, "replica1")
    enqueue = rig.node.committer.enqueue
    moved: list[bool] = []

    def interfere(*arguments: object, **options: object) -> object:
        moved.append(rig.quarantine.put_extra_aside(finding("replica1")))
        return enqueue(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(rig.node.committer, "enqueue", interfere)
    stored = store_synchronously(rig.node, "file", DATA)
    assert "replica1" in stored.durability.stores
    assert moved == [False]
    assert rig.blob_path("replica1", DIGEST).read_bytes() == DATA


def store_and_copy(rig: Rig) -> None:
    """Store the bytes of the orphan, and pay what the replica is owed."""
    store_bytes(rig.node, "file", DATA)
    rig.node.replication.work("replica1", budget_s=30)


@pytest.mark.parametrize(
    "upload", [lambda rig: store_synchronously(rig.node, "file", DATA), store_and_copy]
)
def test_orphan_that_is_being_moved_is_copied_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, upload: Callable[[Rig], object]
) -> None:
    """An upload that comes between the last look and the moving has its copy in the end."""
    rig.replicate()
    plant(rig, "replica1")
    store = rig.store("replica1")
    move = store.quarantine_blob
    threads: list[threading.Thread] = []

    def interfere(digest: bytes) -> None:
        threads.append(start(lambda: upload(rig)))
        move(digest)

    monkeypatch.setattr(store, "quarantine_blob", interfere)
    assert rig.quarantine.put_extra_aside(finding("replica1"))
    for thread in threads:
        thread.join()
    rig.replicate()
    assert rig.put_aside("replica1") == [DIGEST.hex()]
    assert rig.blob_path("replica1", DIGEST).read_bytes() == DATA
    assert rig.owed("replica1") == set()


@pytest.mark.parametrize("name", ["primary", "replica1", "replica2"])
def test_row_without_a_file_is_found_on_every_store(rig: Rig, name: str) -> None:
    """The mend is owed by the scrub, and pays itself from another store."""
    digest = fill(rig, segments=0)[0]
    path = rig.blob_path(name, digest)
    content = path.read_bytes()
    path.unlink()
    rig.scrub_all(name)
    assert rig.owed(name) == {(DebtKind.BLOB, digest)}
    rig.replicate()
    assert path.read_bytes() == content
    assert rig.owed(name) == set()
