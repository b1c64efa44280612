"""How much one commit takes of what waits for it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dfs.services.batch import CommitReport
from dfs.wiring import Services
from tests.services.conftest import Opener, list_keys, store_bytes

UPLOADS = 8
UPLOAD_BYTES = 20_000


def store_together(node: Services) -> list[CommitReport]:
    """Store files that all wait before the first commit; return what each commit did."""
    reports: list[CommitReport] = []
    node.committer._on_commit = reports.append
    announced = threading.Barrier(UPLOADS)

    def upload(number: int) -> None:
        with node.files.announce():
            announced.wait()
            store_bytes(node, f"k{number}", os.urandom(UPLOAD_BYTES))

    with ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(upload, range(UPLOADS)))
    return reports


@pytest.mark.parametrize(("bytes_max", "changes"), [(100_000, {2, 3, 4}), (1000, {1})])
def test_batch_takes_no_more_bytes_than_it_may(
    open_node: Opener, bytes_max: int, changes: set[int]
) -> None:
    """The bytes of one commit are bounded; a change that is larger by itself goes alone."""
    node = open_node(commit_batch_bytes_max=bytes_max, commit_gather_us=5_000_000)
    reports = store_together(node)
    assert sum(report.changes for report in reports) == UPLOADS
    assert max(report.changes for report in reports) in changes
    assert all(report.changes == 1 or report.log_bytes <= bytes_max for report in reports)
    assert len(list_keys(node)) == UPLOADS
