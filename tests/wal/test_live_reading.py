"""Reading without the lock while others append and rotate."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.wal import segment as segment_module
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import Outcome
from tests.wal.conftest import OpenLog
from tests.wal.logs import Written, append_commit, put_blob, rotate, upload

COMMITS = 400


def run_beside(work: Callable[[], None], check: Callable[[], None], readers: int) -> None:
    """Run `work` in one thread and `check` over and over in others; raise what any raised."""
    faults: list[BaseException] = []
    done = threading.Event()

    def write() -> None:
        try:
            work()
        except BaseException as error:
            faults.append(error)
        finally:
            done.set()

    def read() -> None:
        try:
            while not done.is_set():
                check()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=write)]
    threads += [threading.Thread(target=read) for _ in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]


def write_and_rotate(log: WriteAheadLog, written: list[Written] | None = None) -> None:
    """Append many commits, rotating often, each under the lock."""
    for number in range(COMMITS):
        with log.lock():
            records = append_commit(log, upload(f"{number}", b"x" * (number % 50)))
            if number % 7 == 0:
                rotate(log)
        if written is not None:
            written.extend(records)


@pytest.mark.parametrize("shared", [False, True], ids=["two-processes", "one-process"])
def test_reader_until_beside_a_writer_returns_exactly_what_was_durable(
    open_log: OpenLog, shared: bool
) -> None:
    """Every read up to a position gives all records up to it, whole, and ends clean."""
    writer = open_log(preallocate_bytes=512)
    readers = writer if shared else open_log(recovered=False)
    totals: list[int] = []

    def check() -> None:
        until = readers.position
        after_lsn = max(0, until.lsn - 40 * (1 + len(totals) % 5))
        reader = readers.read(after_lsn=after_lsn, until=until)
        got = [frame.lsn for frame in reader]
        assert got == list(range(after_lsn + 1, until.lsn + 1))
        assert (reader.end.outcome, reader.end.position) == (Outcome.CLEAN_END, until)
        totals.append(len(got))

    run_beside(lambda: write_and_rotate(writer), check, readers=2)
    assert sum(totals) > 0


def test_read_record_beside_a_writer_returns_the_right_bytes(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record is found by its place while its segment is sealed and others are evicted."""
    monkeypatch.setattr(segment_module, "OPEN_SEGMENTS_MAX", 4)
    writer, other = open_log(), open_log(recovered=False)
    places: list[tuple[int, int, int, bytes]] = []

    def write() -> None:
        for number in range(COMMITS):
            content = b"content %d" % number
            with writer.lock():
                segment_id = writer.position.segment_id
                (record,) = append_commit(writer, [put_blob(content)])
                places.append((segment_id, record.offset, len(record.raw), content))
                if number % 3 == 0:
                    rotate(writer)

    def check() -> None:
        for log in (writer, other):
            for segment_id, offset, length, content in places[-20:]:
                frame = log.read_record(segment_id=segment_id, offset=offset, length=length)
                assert bytes(frame.data) == content

    run_beside(write, check, readers=2)


def test_segments_beside_a_writer_are_always_complete(open_log: OpenLog, log_path: Path) -> None:
    """A listing without the lock never misses a segment, nor sees one twice."""
    writer, other = open_log(), open_log(recovered=False)

    def check() -> None:
        segments = other.segments()
        ids = [segment.header.segment_id for segment in segments]
        assert ids == list(range(1, len(ids) + 1))
        assert all(segment.end for segment in segments[:-1])

    run_beside(lambda: write_and_rotate(writer), check, readers=2)
