"""Files and directories that the user who runs dfs may not read, or not write."""

from __future__ import annotations

import pytest

from tests.damage.cases import memory, quiet
from tests.damage.forbidden import Ban, run_bans
from tests.damage.store import build

BANS = [
    Ban("wal", 0),
    Ban("wal/segments", 0),
    Ban("wal/segments", 0o300),
    Ban("wal/segments/0000000002.wal", 0),
    Ban("wal/wal.active", 0o400),
    Ban("primary/tmp/1-00ff", 0),
    Ban("primary/blobs", 0),
    Ban("index/dfs.db", 0),
    Ban("replica1/segments", 0),
]
"""Among them those that dfs once did not stand. All: `make damage`."""


@pytest.mark.crash
def test_what_the_user_may_not_touch_is_named_and_nothing_is_lost() -> None:
    """No traceback; the error names the path; once it is allowed again, all is as it was."""
    with memory() as directory, quiet():
        template = build(directory, has_replica=True, is_killed=False)
        found = run_bans(template, BANS)
    assert [each for each in found if each.faults] == []
    assert [(each.path, each.mode) for each in found] == [(ban.path, ban.mode) for ban in BANS]
    outcomes = {each.path: each.outcome for each in found}
    assert outcomes["wal"] == outcomes["index/dfs.db"] == "refused"
    assert outcomes["primary/blobs"] == outcomes["primary/tmp/1-00ff"] == "whole"
