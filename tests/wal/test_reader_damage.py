"""Arbitrary damage never yields a record that was not written, nor one out of order."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfs.wal.control import LogPosition
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import Outcome
from dfs.wal.segment import SEGMENT_HEADER_BYTES
from tests.wal.logs import (
    Commit,
    Written,
    encode_commits,
    encode_segment,
    lsns,
    put_blob,
    put_file,
    raw_of,
    read_segment,
)

Damage = Callable[[bytes], bytes]

DRAFTS = st.one_of(
    st.builds(put_blob, st.binary(max_size=60)),
    st.builds(put_blob, st.integers(0, 700).map(bytes)),
    st.builds(put_file, st.text("abc", max_size=8)),
)
CHANGES = st.lists(DRAFTS, min_size=1, max_size=4)
COMMITS = st.lists(st.lists(CHANGES, min_size=1, max_size=3), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def path(memory_path: Path) -> Path:
    """Return where all segments under test lie, one after the other."""
    return memory_path


def draw_damage(data: st.DataObject, segment: bytes, written: list[Written]) -> bytes:
    """Return the segment after one damage behind its header, often at the edges of records."""
    edges = [SEGMENT_HEADER_BYTES, *(record.end for record in written)]
    places = st.sampled_from(edges) | st.integers(SEGMENT_HEADER_BYTES, len(segment))
    start = min(data.draw(places), len(segment))
    stop = min(max(start, data.draw(places)), len(segment))
    target = max(min(data.draw(places), len(segment)), SEGMENT_HEADER_BYTES)
    piece = segment[start:stop]
    noise = data.draw(st.binary(max_size=40))
    middle = max(stop, target)
    flipped = bytes([segment[start] ^ (1 << len(noise) % 8)]) if start < len(segment) else b""
    damages = {
        "flip": segment[:start] + flipped + segment[start + 1 :],
        "cut": segment[:start],
        "zero": segment[:start] + bytes(len(piece)) + segment[stop:],
        "noise": segment[:start] + noise + segment[start + len(noise) :],
        "insert": segment[:start] + noise + segment[start:],
        "repeat": segment[:target] + piece + segment[target:],
        "swap": segment[:start] + segment[stop:middle] + piece + segment[middle:],
        "stale": segment + piece,
    }
    return damages[data.draw(st.sampled_from(sorted(damages)))]


def check_against_written(path: Path, damaged: bytes, written: list[Written]) -> Outcome:
    """Read a damaged segment and hold all that is promised against what was written."""
    path.write_bytes(damaged)
    frames, end = read_segment(path)
    assert [raw_of(frame) for frame in frames] == [record.raw for record in written[: len(frames)]]
    assert not frames or written[len(frames) - 1].ends_change
    assert end.position.lsn == len(frames)
    rest = damaged[end.position.offset :]
    proofs = [r for r in written if r.starts_commit and r.lsn > end.position.lsn + 1]
    if end.outcome is Outcome.CLEAN_END:
        assert not any(rest)
    elif any(record.raw in rest for record in proofs):
        assert end.outcome is Outcome.CORRUPT
    else:
        assert end.outcome is Outcome.TORN_TAIL
    return end.outcome


@settings(max_examples=250, deadline=None, derandomize=True)
@given(commits=COMMITS, zeros=st.sampled_from([0, 5, 600]), data=st.data())
def test_reader_of_damaged_segment_returns_only_what_was_written(
    path: Path, commits: list[Commit], zeros: int, data: st.DataObject
) -> None:
    """After up to three damages what is read is a beginning of what was written, whole changes.

    If a commit behind the damage is left whole, it is corruption; if none is, a torn tail.
    """
    written = encode_commits(commits)
    damaged = encode_segment(written, zeros=zeros)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged = draw_damage(data, damaged, written)
    check_against_written(path, damaged, written)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(commits=COMMITS, data=st.data())
def test_reader_with_one_damaged_durable_record_is_corrupt(
    path: Path, commits: list[Commit], data: st.DataObject
) -> None:
    """One damaged byte in any record with a commit behind it is corruption, never a torn tail."""
    commits = [*commits, [[put_blob(b"the last commit")]]]
    written = encode_commits(commits)
    segment = encode_segment(written, zeros=50)
    at = data.draw(st.integers(SEGMENT_HEADER_BYTES, written[-1].offset - 1))
    flipped = segment[at] ^ data.draw(st.integers(1, 255))
    damaged = segment[:at] + bytes([flipped]) + segment[at + 1 :]
    assert check_against_written(path, damaged, written) is Outcome.CORRUPT


@settings(max_examples=80, deadline=None, derandomize=True)
@given(commits=COMMITS, torn=COMMITS, data=st.data())
def test_reader_of_torn_commit_over_stale_bytes_brings_nothing_old_back(
    path: Path, commits: list[Commit], torn: list[Commit], data: st.DataObject
) -> None:
    """Sectors of a torn commit that are missing, with older records there, give a torn tail."""
    written = encode_commits(commits)
    last = written[-1]
    lost = encode_commits([[c for commit in torn for c in commit]], first_lsn=last.lsn + 1)
    new = b"".join(record.raw for record in lost)
    stale = b"".join(record.raw for record in written)
    stale = stale * (len(new) // len(stale) + 2)
    size = data.draw(st.sampled_from([16, 64, 512]))
    is_new = data.draw(st.integers(0, 2**64 - 1))
    pieces = [
        (new if is_new >> (at // size) % 64 & 1 else stale)[at : at + size]
        for at in range(0, len(new), size)
    ]
    damaged = encode_segment(written) + b"".join(pieces) + stale
    path.write_bytes(damaged)
    frames, end = read_segment(path)
    kept = [record.raw for record in [*written, *lost]]
    assert [raw_of(frame) for frame in frames] == kept[: len(frames)]
    assert len(frames) >= len(written)
    assert end.outcome is Outcome.TORN_TAIL


@settings(max_examples=40, deadline=None, derandomize=True)
@given(first=COMMITS, second=COMMITS, data=st.data())
def test_log_with_damaged_older_segment_returns_only_what_was_written(
    first: list[Commit], second: list[Commit], data: st.DataObject
) -> None:
    """Damage to a sealed segment is corruption there; what lies behind its end is ignored."""
    sealed = encode_commits(first)
    end = sealed[-1]
    active = encode_commits(second, first_lsn=end.lsn + 1)
    whole = encode_segment(sealed)
    damaged = draw_damage(data, whole, sealed)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "segments").mkdir()
        (directory / "segments" / "0000000001.wal").write_bytes(damaged)
        (directory / "wal.active").write_bytes(
            encode_segment(active, segment_id=2, first_lsn=end.lsn + 1, previous_end=end.end)
        )
        log = WriteAheadLog(path=directory, segment_bytes=1 << 20, preallocate_bytes=0)
        log.open()
        reader = log.read(after_lsn=0)
        frames = list(reader)
        log.close()
    written = [*sealed, *active]
    assert [raw_of(frame) for frame in frames] == [record.raw for record in written[: len(frames)]]
    if damaged[: end.end] == whole:
        assert lsns(frames) == lsns(written)
        assert reader.end.outcome is Outcome.CLEAN_END
        assert reader.end.position == LogPosition(2, active[-1].end, active[-1].lsn)
    else:
        assert len(frames) < len(sealed)
        assert reader.end.outcome is Outcome.CORRUPT


def test_reader_of_random_tails_stays_with_what_was_written(path: Path) -> None:
    """Noise behind the last record, as a recycled disk block may hold, is a torn tail."""
    written = encode_commits([[[put_blob(b"a")]], [[put_blob(b"b")]]])
    for _ in range(50):
        path.write_bytes(encode_segment(written) + b"\1" + os.urandom(300))
        frames, end = read_segment(path)
        assert lsns(frames) == [1, 2]
        assert end.outcome is Outcome.TORN_TAIL
