"""Shipping a log in which segments were dropped, from any place on."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from dfs.services.shipping import NOWHERE, LogShipper
from dfs.storage.memory_store import MemoryStore
from dfs.wal.control import LogPosition
from dfs.wal.log import WriteAheadLog
from tests.wal.logs import append_commit, place_stub, recover, rotate, upload

SEGMENTS = 4


def fill(log: WriteAheadLog) -> list[LogPosition]:
    """Write segments; return all places between two changes, the beginnings of segments too."""
    places = [LogPosition(1, 0, 0)]
    for number in range(1, SEGMENTS + 1):
        for index in range(3):
            append_commit(log, upload(f"{number}-{index}", os.urandom(2000)))
            places.append(log.position)
        if number < SEGMENTS:
            seal = rotate(log)
            places += [
                LogPosition(number, seal.end, seal.lsn),
                LogPosition(number + 1, 0, seal.lsn),
            ]
    return places


def contents(log: WriteAheadLog) -> dict[int, bytes]:
    """Return the bytes of each segment, to the end of the log."""
    files = {segment.header.segment_id: segment.path.read_bytes() for segment in log.segments()}
    files[SEGMENTS] = files[SEGMENTS][: log.position.offset]
    return files


def held(store: MemoryStore) -> dict[int, bytes]:
    """Return what a store has of each segment."""
    return {number: store.read_segment(number, 0, size) for number, size in store.list_segments()}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    dropped=st.sets(st.integers(1, SEGMENTS - 1)),
    place=st.floats(0, 0.999),
    more=st.floats(0, 0.999),
    is_known=st.booleans(),
    bytes_max=st.sampled_from([1, 1 << 20, 1 << 30]),
)
def test_store_is_shipped_the_log_with_its_stubs(dropped, place, more, is_known, bytes_max) -> None:
    """From any place on, the store gets what the node has, stubs included, and nothing that lies
    before that place changes; who knows of no place goes through all of it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        log = WriteAheadLog(path=Path(name), segment_bytes=1 << 16, preallocate_bytes=4096)
        log.open()
        recover(log)
        places = fill(log)
        full = {number: data[: _end(places, number)] for number, data in contents(log).items()}
        position = places[int(place * len(places))]
        excess = places[max(int(place * len(places)), int(more * len(places)))]
        store = MemoryStore()
        for number in range(1, excess.segment_id + 1):
            length = excess.offset if number == excess.segment_id else len(full[number])
            if length:
                store.append_segment(number, 0, full[number][:length])
        for segment in log.segments()[:-1]:
            if segment.header.segment_id in dropped:
                place_stub(segment)
        wanted = {n: data[: _end(places, n)] for n, data in contents(log).items()}
        if is_known:
            kept = position.segment_id + (position.offset == len(full[position.segment_id]))
            wanted |= {number: full[number] for number in range(1, kept)}
        reached = position if is_known else NOWHERE
        for _ in range(100):
            if reached == log.position:
                break
            reached = LogShipper(log=log).ship(store, reached, bytes_max=bytes_max).position
        assert reached == log.position
        assert held(store) == wanted
        log.close()


def _end(places: list[LogPosition], number: int) -> int:
    return max(place.offset for place in places if place.segment_id == number)
