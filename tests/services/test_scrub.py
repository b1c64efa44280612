"""The scrub: what it finds, what it leaves alone, and that it goes on where it stopped."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from dfs.core.clock import now_ms
from dfs.core.errors import InvalidRequestError, NoSuchStoreError, StoreUnavailableError
from dfs.core.model import Debt, DebtKind
from dfs.services import scrub as scrub_module
from dfs.services.command import Draft
from dfs.services.survey import Cursor, Manner, Phase
from dfs.services.verification import Fault, Finding
from dfs.storage.identity import new_identity
from dfs.storage.local_reader import LocalBlobReader
from dfs.storage.local_store import LocalStore
from dfs.wal.record import PurgeFile
from tests.services.conftest import Opener, read_bytes, store_bytes
from tests.services.dropped import Append
from tests.services.stores_rig import (
    BLOB_BYTES,
    Damage,
    Rig,
    build_rig,
    cut_end,
    fill,
    flip_byte,
    run_to_end,
)

DAMAGES: dict[str, Damage] = {
    "first byte": lambda path: flip_byte(path, 0),
    "middle": lambda path: flip_byte(path, BLOB_BYTES // 2),
    "last byte": lambda path: flip_byte(path, BLOB_BYTES - 1),
    "short": lambda path: cut_end(path, 1),
    "empty": lambda path: cut_end(path, BLOB_BYTES),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture
def index_url(sqlite_url: str) -> str:
    """One database is enough here."""
    return sqlite_url


@pytest.fixture
def rig(open_node: Opener, tmp_path: Path) -> Rig:
    """A node with two replicas."""
    replicas = [(name, str(tmp_path / name)) for name in ("replica1", "replica2")]
    return build_rig(open_node(replicas=tuple(replicas)))


@pytest.mark.parametrize("name", ["primary", "replica1"])
def test_scrub_whole_store_finds_nothing(rig: Rig, name: str) -> None:
    """A sound store is read to its last byte, and nothing is found or owed."""
    fill(rig)
    total_bytes = rig.survey.measure(rig.store(name)).bytes
    state = rig.scrub_all(name)
    assert state.scrub.last_damaged == 0
    assert state.scrub.last_bytes == total_bytes > 3 * BLOB_BYTES
    assert state.scrub.finished_at_ms is not None
    assert state.scrub.position == ""
    assert rig.owed(name) == set()
    assert rig.put_aside(name) == []


@pytest.mark.parametrize("name", ["primary", "replica2"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_scrub_damaged_blob_is_found_and_mended(rig: Rig, name: str, damage: Damage) -> None:
    """Each kind of damage is counted, put aside and owed; paying the debt makes the store whole."""
    digest = fill(rig, segments=0)[1]
    path = rig.blob_path(name, digest)
    content = path.read_bytes()
    damage(path)
    was_there = path.exists()
    state = rig.scrub_all(name)
    assert state.scrub.last_damaged == 1
    assert rig.owed(name) == {(DebtKind.BLOB, digest)}
    assert rig.put_aside(name) == ([digest.hex()] if was_there else [])
    rig.replicate()
    assert path.read_bytes() == content
    assert rig.scrub_all(name).scrub.last_damaged == 0


def test_scrub_wrong_bytes_with_right_crc_are_found(rig: Rig) -> None:
    """The SHA-256 finds what the checksums of the blocks cannot: those were made of other bytes."""
    digest = fill(rig, segments=0)[0]
    other = fill(rig, blobs=4, segments=0)
    blob = rig.index.find_blob(next(d for d in other if d != digest))
    assert blob is not None
    known = rig.index.find_blob(digest)
    assert known is not None
    rig.blob_path("replica1", digest).write_bytes(
        rig.blob_path("primary", blob.digest).read_bytes()
    )
    with rig.node.ledger.begin() as index:
        index.put_blob(
            type(known)(
                **{
                    name: getattr(blob if name == "block_crc32s" else known, name)
                    for name in known.__struct_fields__
                }
            )
        )
    assert rig.scrub_all("replica1").scrub.last_damaged == 1
    assert rig.owed("replica1") == {(DebtKind.BLOB, digest)}


def test_scrub_only_copy_damaged_stays_in_place(rig: Rig) -> None:
    """Damage that no store has whole is owed, and not moved: what is sound of it may be needed."""
    digest = fill(rig, segments=0)[0]
    for block, name in enumerate(["primary", "replica1", "replica2"]):
        flip_byte(rig.blob_path(name, digest), block << 20)
    for name in ("primary", "replica1", "replica2"):
        assert rig.scrub_all(name).scrub.last_damaged == 1
        assert rig.owed(name) == {(DebtKind.BLOB, digest)}
        assert rig.blob_path(name, digest).exists()


SEGMENT_DAMAGES: dict[str, Damage] = {
    "header": lambda path: flip_byte(path, 20),
    "first record": lambda path: flip_byte(path, 100),
    "middle": lambda path: flip_byte(path, 500_000),
    "short": lambda path: cut_end(path, 600_000),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", SEGMENT_DAMAGES.values(), ids=SEGMENT_DAMAGES)
def test_scrub_damaged_segment_of_replica_is_found_and_mended(rig: Rig, damage: Damage) -> None:
    """Each kind of damage to a sealed segment is put aside and owed, and shipped again."""
    fill(rig)
    path = rig.segment_path("replica1", 1)
    content = path.read_bytes()
    damage(path)
    was_there = path.exists()
    assert rig.scrub_all("replica1").scrub.last_damaged == 1
    unit = (1).to_bytes(8, "big")
    assert rig.owed("replica1") == {(DebtKind.SEGMENT, unit)}
    assert rig.put_aside("replica1") == (["0000000001.wal"] if was_there else [])
    rig.replicate()
    assert path.read_bytes() == content
    assert rig.scrub_all("replica1").scrub.last_damaged == 0


@pytest.mark.parametrize("damage", SEGMENT_DAMAGES.values(), ids=SEGMENT_DAMAGES)
def test_scrub_damaged_segment_of_primary_is_owed_in_place(rig: Rig, damage: Damage) -> None:
    """A damaged segment of the log is owed to the primary; its file is left to the mend."""
    fill(rig)
    path = rig.segment_path("primary", 1)
    damage(path)
    was_there = path.exists()
    assert rig.scrub_all("primary").scrub.last_damaged == 1
    assert rig.owed("primary") == {(DebtKind.SEGMENT, (1).to_bytes(8, "big"))}
    assert path.exists() is was_there


def test_scrub_damaged_growing_segment_of_replica_is_owed(rig: Rig) -> None:
    """Damage to the segment that still grows is found up to what was shipped, and written over."""
    fill(rig, segments=1)
    segment_id = rig.node.log.position.segment_id
    path = rig.segment_path("replica1", segment_id)
    content = path.read_bytes()
    flip_byte(path, len(content) - 10)
    assert rig.scrub_all("replica1").scrub.last_damaged == 1
    assert rig.put_aside("replica1") == []
    rig.replicate()
    assert path.read_bytes() == content


def test_scrub_damaged_end_of_log_is_found(rig: Rig) -> None:
    """On the primary every record up to the durable position is read."""
    fill(rig, segments=1)
    position = rig.node.log.position
    flip_byte(rig.node.log.active_path, position.offset - 1)
    assert rig.scrub_all("primary").scrub.last_damaged == 1
    unit = position.segment_id.to_bytes(8, "big")
    assert rig.owed("primary") == {(DebtKind.SEGMENT, unit)}


def test_scrub_other_valid_records_are_found(rig: Rig, open_node: Opener, tmp_path: Path) -> None:
    """A segment of valid records that are not those of the primary is damage of the replica."""
    fill(rig, segments=1)
    unit = (1).to_bytes(8, "big")
    span = rig.survey.segments.find_span(rig.store("replica1"), 1)
    assert span is not None
    path = rig.segment_path("primary", 1)
    frames = list(rig.node.log.read(after_lsn=0))
    last = next(f for f in frames if f.segment_id == 1 and f.lsn == span.last_lsn - 2)
    from dfs.wal.frame import encode_frame

    data = bytes(len(last.data))
    raw = encode_frame(lsn=last.lsn, type=last.type, flags=last.flags, meta=last.meta, data=data)
    assert len(raw) == last.length
    with rig.segment_path("replica1", 1).open("r+b") as file:
        file.seek(last.offset)
        file.write(raw)
    assert path.read_bytes()[: span.end] != rig.segment_path("replica1", 1).read_bytes()
    assert rig.scrub_all("replica1").scrub.last_damaged == 1
    assert rig.owed("replica1") == {(DebtKind.SEGMENT, unit)}


def test_scrub_damage_of_primary_is_not_blamed_on_replica(rig: Rig) -> None:
    """A sound segment that differs from a damaged one of the primary is no finding."""
    fill(rig)
    flip_byte(rig.segment_path("primary", 1), 500_000)
    assert rig.scrub_all("replica1").scrub.last_damaged == 0


def test_scrub_what_is_owed_is_passed(rig: Rig) -> None:
    """What a replica does not have yet is no damage, neither blob files nor the log."""
    fill(rig, blobs=1, segments=0)
    rig.scrub_all("replica1")
    store_bytes(rig.node, "new", b"new" * BLOB_BYTES)
    owed = rig.owed("replica1")
    assert owed
    steps = list(rig.survey.walk(rig.store("replica1"), Cursor(), Manner()))
    assert sum(step.is_owed for step in steps) == 1
    assert not any(step.finding for step in steps)
    assert rig.scrub_all("replica1").scrub.last_damaged == 0
    assert rig.owed("replica1") == owed


def purge(rig: Rig, file_id: str) -> None:
    """Delete a file for good."""
    rig.node.files.delete(file_id)
    rig.node.committer.submit(Append(Draft(PurgeFile(file_id, now_ms(), first_lsn=1))))


def test_scrub_purged_file_is_no_damage(rig: Rig) -> None:
    """The bytes of a file that has left the trash need not be there."""
    fill(rig, blobs=1, segments=0)
    file = store_bytes(rig.node, "gone", b"gone" * BLOB_BYTES).files[0]
    rig.replicate()
    purge(rig, file.id)
    rig.blob_path("primary", file.digest).unlink()
    flip_byte(rig.blob_path("replica1", file.digest), 0)
    for name in ("primary", "replica1"):
        steps = list(rig.survey.walk(rig.store(name), Cursor(), Manner()))
        assert not any(step.finding for step in steps)
        assert rig.scrub_all(name).scrub.last_damaged == 0
        assert rig.owed(name) == set()


def test_take_of_blob_purged_meanwhile_does_nothing(rig: Rig) -> None:
    """Damage found just before the file left the trash is not owed."""
    digest = fill(rig, blobs=1, segments=0)[0]
    rig.blob_path("replica1", digest).unlink()
    found = Finding("replica1", DebtKind.BLOB, digest, Fault.MISSING, BLOB_BYTES, "")
    purge(rig, rig.node.files.list(limit=1).files[0].id)
    assert rig.quarantine.take(found) is False
    assert rig.owed("replica1") == set()


def test_take_of_blob_replaced_meanwhile_leaves_it(rig: Rig) -> None:
    """A blob that was damaged, and is whole by now, is not put aside."""
    digest = fill(rig, blobs=1, segments=0)[0]
    for offset in (None, 1 << 20):
        found = Finding("primary", DebtKind.BLOB, digest, Fault.DAMAGED, BLOB_BYTES, "", offset)
        assert rig.quarantine.take(found) is False
    assert rig.blob_path("primary", digest).exists()
    flip_byte(rig.blob_path("primary", digest), 1 << 20)
    assert rig.quarantine.take(found) is True
    assert not rig.blob_path("primary", digest).exists()


@pytest.mark.parametrize("is_late", [False, True])
def test_take_of_segment_shipped_again_does_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """Damage in a part of the log that the replica is owed again is not owed twice.

    Be it owed again before the second look, or just after it.
    """
    fill(rig, segments=1)
    path = rig.segment_path("replica1", 1)
    flip_byte(path, 1000)
    unit = (1).to_bytes(8, "big")
    found = Finding("replica1", DebtKind.SEGMENT, unit, Fault.DAMAGED, 0, "", 80, 0)
    with rig.node.ledger.begin() as index:
        state = index.store_states()["replica1"]
        index.put_store_state(replace(state, segment_id=1, offset=0, lsn=0))
    if is_late:
        monkeypatch.setattr(rig.survey.segments, "look_again", lambda *_: True)
    assert rig.quarantine.take(found) is False
    assert path.exists()
    assert rig.owed("replica1") == set()


# A store that is away


def test_scrub_unmounted_replica_finds_nothing(rig: Rig) -> None:
    """An empty directory where the store was is not a store with everything missing."""
    fill(rig, segments=0)
    path = rig.store("replica1").path
    path.rename(path.with_name("away"))
    for make in (lambda: None, lambda: LocalStore(path=path).prepare()):
        make()
        report = rig.scrub().work("replica1", budget_s=5)
        assert report.error is not None
        assert report.damaged == 0
        assert rig.owed("replica1") == set()
    LocalStore(path=path).adopt(new_identity(cluster_id=rig.node.recovered.cluster_id))
    assert rig.scrub().work("replica1", budget_s=5).error is not None
    assert rig.owed("replica1") == set()


def test_scrub_store_lost_in_the_middle_goes_on_later(rig: Rig) -> None:
    """A store that vanishes during a slice ends it; nothing is taken for missing."""
    fill(rig, segments=0)
    path = rig.store("replica1").path
    scrub = rig.scrub()
    steps = 0

    def vanish() -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            path.rename(path.with_name("away"))

    report = scrub.work("replica1", budget_s=60, on_progress=vanish)
    assert report.is_running
    assert report.error is not None
    read_bytes_before = rig.state("replica1").scrub.bytes_read
    assert read_bytes_before > 0
    path.with_name("away").rename(path)
    run_to_end(scrub, "replica1")
    state = rig.state("replica1").scrub
    assert state.last_damaged == 0
    assert state.last_bytes == rig.survey.measure(rig.store("replica1")).bytes


def test_scrub_unreadable_blob_is_owed_at_last(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that gives read errors again and again is owed, stays, and the scrub goes on."""
    digest = fill(rig, segments=0)[1]
    path = rig.blob_path("replica1", digest)
    read = LocalBlobReader.read

    def fail(self: LocalBlobReader, offset: int, length: int) -> bytes:
        if str(self._path) == str(path):
            raise StoreUnavailableError("The disk did not do what was asked: I/O error.")
        return read(self, offset, length)

    monkeypatch.setattr(LocalBlobReader, "read", fail)
    reports = run_to_end(rig.scrub(), "replica1")
    assert [report.error is not None for report in reports] == [True, True, True, False]
    assert rig.state("replica1").scrub.last_damaged == 1
    assert rig.owed("replica1") == {(DebtKind.BLOB, digest)}
    assert path.exists()


# Slices


def test_scrub_in_tiny_slices_reads_everything_once(rig: Rig) -> None:
    """Slices of no time add up to the whole store, and each byte is read once."""
    digest = fill(rig)[2]
    flip_byte(rig.blob_path("replica1", digest), 2 << 20)
    reports = run_to_end(rig.scrub(), "replica1", budget_s=1e-4)
    assert len(reports) > 3
    assert sum(report.damaged for report in reports) == 1
    state = rig.state("replica1").scrub
    assert state.last_damaged == 1
    assert state.last_bytes == sum(report.read_bytes for report in reports)
    total_bytes = rig.survey.measure(rig.store("replica1")).bytes
    assert total_bytes - BLOB_BYTES <= state.last_bytes <= total_bytes


def test_scrub_by_changing_processes_finds_damage(rig: Rig) -> None:
    """Each slice may be that of another process: the position in the index is all they share."""
    digests = fill(rig)
    flip_byte(rig.blob_path("replica1", digests[0]), BLOB_BYTES - 1)
    flip_byte(rig.segment_path("replica1", 2), 500_000)
    for _ in range(10_000):
        if not rig.scrub().work("replica1", budget_s=1e-4).is_running:
            break
    assert rig.state("replica1").scrub.last_damaged == 2
    assert rig.owed("replica1") == {
        (DebtKind.BLOB, digests[0]),
        (DebtKind.SEGMENT, (2).to_bytes(8, "big")),
    }


def test_scrub_killed_after_quarantine_owes_what_is_missing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who dies between putting aside and owing leaves a gap that the next one finds."""
    digest = fill(rig, segments=0)[0]
    flip_byte(rig.blob_path("replica1", digest), 0)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Debt, "of_blob", die)
        with pytest.raises(Killed):
            rig.scrub().work("replica1", budget_s=60)
    assert rig.put_aside("replica1") == [digest.hex()]
    assert rig.owed("replica1") == set()
    run_to_end(rig.scrub(), "replica1")
    assert rig.owed("replica1") == {(DebtKind.BLOB, digest)}
    assert rig.state("replica1").scrub.last_damaged == 1


def test_scrub_rate_is_kept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read follows the time that has gone by, and time unused is not made up for."""
    fill(rig, segments=0)
    clock_ms = 1_800_000_000_000
    monkeypatch.setattr(scrub_module, "now_ms", lambda: clock_ms)
    scrub = rig.scrub(bytes_per_s=1 << 20, interval_s=1e9)
    read = scrub.work("replica1", budget_s=60).read_bytes
    assert read < 2 << 20
    for _ in range(3):
        assert scrub.work("replica1", budget_s=60).read_bytes == 0
    for elapsed_s in (1, 2, 3, 1):
        clock_ms += elapsed_s * 1000
        read += scrub.work("replica1", budget_s=60).read_bytes
    assert abs(read - (8 << 20)) <= 1 << 20
    scrub = rig.scrub(bytes_per_s=1 << 16, interval_s=1e9)
    scrub.start("replica2")
    clock_ms += 3_600_000
    assert scrub.work("replica2", budget_s=60).read_bytes <= (10 << 16) + (1 << 20)


def test_scrub_is_due_after_interval(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run begins an interval after the last began, or when it is asked for."""
    fill(rig, blobs=1, segments=0)
    clock_ms = 1_800_000_000_000
    monkeypatch.setattr(scrub_module, "now_ms", lambda: clock_ms)
    scrub = rig.scrub(interval_s=100)
    run_to_end(scrub, "primary")
    clock_ms += 99_999
    assert scrub.work("primary", budget_s=60).read_bytes == 0
    assert scrub.start("primary") is True
    assert scrub.start("primary") is False
    run_to_end(scrub, "primary")
    assert rig.state("primary").scrub.started_at_ms == clock_ms
    clock_ms += 100_000
    assert scrub.work("primary", budget_s=60).read_bytes > 0


def test_scrub_is_due_when_the_clock_was_set_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that began in what is the future now does not put the next one off until then."""
    fill(rig, blobs=1, segments=0)
    clock_ms = 1_800_000_000_000
    monkeypatch.setattr(scrub_module, "now_ms", lambda: clock_ms)
    scrub = rig.scrub(interval_s=100)
    run_to_end(scrub, "primary")
    clock_ms -= 90_000_000
    assert scrub.work("primary", budget_s=60).read_bytes > 0


def test_scrub_progress_stands_in_the_index(rig: Rig) -> None:
    """While a scrub runs, how much of how much is read can be asked for."""
    fill(rig, segments=0)
    rig.scrub(bytes_per_s=1 << 20).work("replica1", budget_s=60)
    state = rig.state("replica1").scrub
    assert state.position
    assert 0 < state.bytes_read < state.bytes_total
    assert state.started_at_ms is not None
    assert time.time() * 1000 - state.started_at_ms < 60_000


def test_scrub_switched_off_never_reads(rig: Rig) -> None:
    """A rate of 0 means that nothing is read, and asking for it is refused."""
    scrub = rig.scrub(bytes_per_s=0)
    assert scrub.work("primary", budget_s=5).is_running is False
    with pytest.raises(InvalidRequestError):
        scrub.start("primary")
    with pytest.raises(NoSuchStoreError):
        scrub.work("nowhere", budget_s=5)


def test_scrub_files_stay_readable(rig: Rig) -> None:
    """A file whose blob the scrub has just put aside is still read, from a replica."""
    digest = fill(rig, blobs=1, segments=0)[0]
    file = rig.node.files.list(limit=1).files[0]
    flip_byte(rig.blob_path("primary", digest), 0)
    rig.scrub_all("primary")
    assert read_bytes(rig.node, file.id) == b"\1" * BLOB_BYTES


@pytest.mark.parametrize(
    "cursor",
    [
        Cursor(),
        Cursor(Phase.SEGMENTS, "7", 1 << 20, 99, 2),
        Cursor(Phase.BLOBS, "ab" * 32, 3 << 20),
        Cursor(Phase.EXTRA, "00" * 32),
    ],
)
def test_cursor_survives_its_text(cursor: Cursor) -> None:
    """What is written to the index is read back."""
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize("text", ["", "blobs", "blobs/xy/0/0/0", "segments/a/0/0/0", "x/1/0/0/0"])
def test_cursor_of_unknown_text_is_the_beginning(text: str) -> None:
    """A position that this program did not write begins anew."""
    assert Cursor.parse(text) == Cursor()
