"""The drill for the loss of the primary in its short form."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from tests.project.chaos_clients import Journal, Sent
from tests.project.disaster import Options, Summary, run_drill
from tests.wal.golden import GOLDEN_PATH
from torture.independent import FormatError, read_log

MODES = {
    "async": {},
    "sync": {"sync": True},
}


@pytest.mark.crash
@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", MODES)
def test_primary_lost_while_files_are_written_comes_back(tmp_path: Path, mode: str) -> None:
    """Synchronously nothing acknowledged is lost, asynchronously at most the lag; nothing half."""
    options = Options(
        directory=tmp_path / "drill", operations=60, files_per_s=60, seed=len(mode), **MODES[mode]
    )
    summary = run_drill(options)
    assert summary.is_well(), str(asdict(summary))  # a text is shown whole
    assert summary.acknowledged >= 60
    assert (summary.lost > 0) == (mode == "async")


def test_summary_that_is_empty_is_not_well() -> None:
    """A drill that did nothing does not pass for one that went well."""
    assert not Summary().is_well()
    assert Summary(acknowledged=1, later=1).is_well()
    assert not Summary(acknowledged=1, later=1, faults=["a"]).is_well()


def test_journal_tells_what_the_files_were_at_a_record() -> None:
    """Changes count in the order of their records, up to the one asked for."""
    journal = Journal()
    old, new = Sent("old", "00", 0), Sent("new", "00", 0)
    journal.acknowledge(3, "a", None)
    journal.acknowledge(2, "a", new)
    journal.acknowledge(1, "a", old)
    assert [journal.state_at(lsn) for lsn in range(4)] == [{}, {"a": old}, {"a": new}, {"a": None}]


def test_reader_stops_behind_the_last_whole_change_of_a_torn_log(tmp_path: Path) -> None:
    """A log whose writer was killed may be cut anywhere, if the one who reads it says so."""
    segments = tmp_path / "segments"
    segments.mkdir()
    path = segments / "0000000001.wal"
    content = (GOLDEN_PATH / "segments" / path.name).read_bytes()
    lsns = []
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        log = read_log(segments, may_be_torn=True)
        lsns.append(log.lsn)
        if log.segments and size > log.segments[0].end:
            with pytest.raises(FormatError):
                read_log(segments)
    assert lsns == sorted(lsns)
    assert len(set(lsns)) > 3
