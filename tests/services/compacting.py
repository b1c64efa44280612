"""What the tests of compaction do with a node."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from dfs.services.changes import Upload
from dfs.services.garbage import PurgeFiles
from dfs.wal.record import Meta, decode_meta
from dfs.wiring import Services
from tests.services.conftest import list_keys, list_whole

SMALL_BYTES = 3000
BATCH_COUNT = 16
"""Small, so that segments are not sealed before they are full for what a batch might take."""
FAR_MS = 10**14


def purge(node: Services, *file_ids: str) -> None:
    """Delete files for good."""
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(node.files.delete, file_ids))
    files = [file for file in list_whole(node, deleted=True) if file.id in file_ids]
    for start in range(0, len(files), BATCH_COUNT):
        batch = files[start : start + BATCH_COUNT]
        node.committer.submit(PurgeFiles(batch, deleted_by_ms=FAR_MS))


def store_many(node: Services, count: int, *, size: int = SMALL_BYTES, prefix: str = "f") -> list:
    """Store files of different bytes; return their ids."""
    rng = random.Random(node.log.position.lsn)
    uploads = []
    for number in range(count):
        blob = node.files.new_blob()
        blob.write(rng.randbytes(size))
        uploads.append(Upload(blob, f"{prefix}{number}", "text/plain"))
    return [file.id for file in node.files.store(uploads).files]


def compact(node: Services) -> int:
    """Compact until nothing is worth it, with stubs put in place; return segments dropped."""
    dropped = 0
    while True:
        for name in ("primary", *node.stores.replicas):
            while node.replication.work(name, budget_s=60).more:
                pass
        report = node.compaction.work(budget_s=60)
        if not report.dropped and not report.more:
            return dropped
        dropped += report.dropped


def stub_ids(node: Services) -> list[int]:
    """Return ids of the segments that stubs stand for."""
    return [file.header.segment_id for file in node.log.segments() if file.stub is not None]


def metas(node: Services) -> list[Meta]:
    """Return what the records of the log say."""
    return [decode_meta(frame) for frame in node.log.read(after_lsn=0)]


def facts(node: Services) -> tuple[list[dict], list[dict], dict[str, str]]:
    """Return all that clients can know, but for the LSNs: files, trash, and bytes."""

    def rows(deleted: bool) -> list[dict]:
        places = ("lsn", "base_lsn", "base_segment_id", "base_length", "first_lsn")
        files = list_whole(node, deleted=deleted)
        return [
            {name: getattr(file, name) for name in file.__struct_fields__ if name not in places}
            for file in files
        ]

    return rows(False), rows(True), list_keys(node)
