"""The reader in the specification of the log finds what the program finds, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dfs.wal.control import LogPosition
from dfs.wal.reader import SegmentReader
from tests.docs.pages import Page
from tests.wal import golden
from tests.wal.golden import DROP, TIME_MS
from tests.wal.logs import Written, encode_commits, encode_segment, header_of, put_blob

PAGE = Page.read(Path("docs/log-format.md"))
LOGS = {
    golden.GOLDEN_PATH: golden.build,
    golden.SPACE_PATH: golden.build_space,
    golden.KEYS_PATH: golden.build_keys,
}
STRIDE = 5
"""Cuts and damage at every such byte: it meets each field of a record in some record."""


@pytest.fixture(scope="module")
def reader() -> SimpleNamespace:
    """The functions of the page."""
    names: dict[str, Any] = {}
    exec(PAGE.blocks("python")[0].text, names)  # noqa: S102 # our own documentation
    return SimpleNamespace(**names)


class Bytes:
    """A segment in memory, for the program's reader."""

    path = Path("in-memory.wal")

    def __init__(self, data: bytes) -> None:
        self._data = data

    def size(self) -> int:
        """Return how many bytes it has."""
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """Return some of them."""
        return self._data[offset : offset + length]


def read_by_program(data: bytes) -> tuple[list[int], str]:
    """Return the LSNs that the program finds in a newest segment, and how reading it ends."""
    start = LogPosition(1, 80, 0)
    program = SegmentReader(segment=Bytes(data), start=start, stop=None, durable_lsn=0)
    return [frame.lsn for frame in program], program.end.outcome.value


def damaged(data: bytes, end: int) -> Iterator[bytes]:
    """Yield a segment that is cut, zeroed from a place on, or has a flipped byte."""
    for offset in range(80, end, STRIDE):
        yield data[:offset]
        yield data[:offset] + bytes(len(data) - offset)
        yield data[:offset] + bytes((data[offset] ^ 0xFF,)) + data[offset + 1 :]


@pytest.mark.parametrize("directory", LOGS, ids=lambda path: path.name)
def test_reader_of_the_page_reads_the_golden_logs(reader: SimpleNamespace, directory: Path) -> None:
    """Each record comes with its LSN, meta and data, up to a clean end."""
    expected: list[list[Written]] = LOGS[directory]()[1]
    found = list(reader.read_log(directory))
    assert [outcome for _, outcome in found] == ["clean"] * len(expected)
    for (records, _), written in zip(found, expected, strict=True):
        assert [record[0] for record in records] == [each.lsn for each in written]
        assert [record[5] for record in records] == [each.end for each in written]
        assert [record[3] + record[4] for record in records] == [each.raw[22:] for each in written]


@pytest.mark.parametrize("build", [golden.build_space, golden.build_keys])
def test_reader_of_the_page_judges_damage_as_the_program_does(
    reader: SimpleNamespace, build: Callable[[], tuple[dict[str, bytes], list[list[Written]]]]
) -> None:
    """Torn tail or corruption: the rules of the page lead to the same end, wherever it breaks."""
    files, (written,) = build()
    outcomes = set()
    for data in damaged(files["wal.active"], written[-1].end):
        records, outcome = reader.read_segment(data)
        assert ([record[0] for record in records], outcome) == read_by_program(data)
        outcomes.add(outcome)
    assert outcomes == {"clean", "torn", "corrupt"}


def test_reader_of_the_page_goes_on_behind_a_stub(reader: SimpleNamespace, tmp_path: Path) -> None:
    """A stub stands for its segment, if the log reaches what it names; else the log is corrupt."""
    written = encode_commits([[[put_blob(b"%d" % n)]] for n in range(3)], first_lsn=10)
    active = header_of(2, first_lsn=10, previous_end=DROP.end)
    data = encode_segment(written, segment_id=2, first_lsn=10, previous_end=active.previous_end)
    (tmp_path / "segments").mkdir()
    stub = golden.build_space()[0][golden.STUB_NAME]
    (tmp_path / "segments/0000000001.wal").write_bytes(stub)
    (tmp_path / "wal.active").write_bytes(data)
    (_, first), (records, second) = reader.read_log(tmp_path)
    assert (first, second, [record[0] for record in records]) == ("clean", "clean", [10, 11, 12])

    (tmp_path / "wal.active").write_bytes(data[: written[1].end])  # LSN 12 is what the stub names
    assert [outcome for _, outcome in reader.read_log(tmp_path)] == ["clean", "corrupt"]
    (tmp_path / "wal.active").write_bytes(data)
    (tmp_path / "segments/0000000001.wal").write_bytes(stub[:-1])
    assert [outcome for _, outcome in reader.read_log(tmp_path)] == ["corrupt", "clean"]


def test_bytes_of_the_page_are_those_of_the_golden_segment() -> None:
    """The example byte by byte is a real one."""
    (block,) = PAGE.blocks("text")
    rows = re.findall(r"^([0-9a-f]{8})  ((?:[0-9a-f]{2} ?)+) ", block.text, re.MULTILINE)
    shown = b"".join(bytes.fromhex(row) for _, row in rows)
    data = (golden.GOLDEN_PATH / "wal.active").read_bytes()
    assert [int(offset, 16) for offset, _ in rows] == [*range(0, len(shown), 16)]
    assert data == shown + bytes(len(data) - len(shown))
    assert f"`deleted_at_ms` {TIME_MS + 30}" in PAGE.text
