"""Records whose checksum is right and that no program of dfs has written."""

from __future__ import annotations

import msgspec
import pytest

from dfs.core.errors import WalCorruptError
from dfs.services.recovery import REBUILD_NAME
from dfs.wal.frame import Flag, encode_frame
from dfs.wal.record import RecordType
from dfs.wal.segment import ACTIVE_NAME
from dfs.wiring import Services
from tests.services.conftest import Opener, store_bytes

DIGEST = bytes(32)
BLOB = {"digest": DIGEST, "size": 5, "inline": False}
FILE = {
    "id": "01K00000000000000000000000",
    "bucket": "default",
    "key": "name",
    "size": 5,
    "digest": DIGEST,
    "content_type": "text/plain",
    "created_at_ms": 1,
}
MALFORMED = {
    "nothing": (RecordType.PUT_FILE, b""),
    "an invalid byte": (RecordType.PUT_FILE, b"\xc1"),
    "cut": (RecordType.PUT_FILE, msgspec.msgpack.encode(FILE)[:-3]),
    "deeper than the stack": (RecordType.PUT_FILE, b"\x91" * 60_000),
    "a field less": (RecordType.PUT_BLOB, msgspec.msgpack.encode({"size": 5, "inline": False})),
    "another type": (RecordType.PUT_FILE, msgspec.msgpack.encode({**FILE, "size": "5"})),
    "a negative size": (RecordType.PUT_FILE, msgspec.msgpack.encode({**FILE, "size": -5})),
    "a size without measure": (
        RecordType.PUT_BLOB,
        msgspec.msgpack.encode({**BLOB, "size": 1 << 63}),
    ),
    "half a digest": (RecordType.PUT_BLOB, msgspec.msgpack.encode({**BLOB, "digest": b"x"})),
    "a text that is none": (RecordType.DELETE_FILE, b"\x82\xa2id\xa1\xff\xaddeleted_at_ms\x01"),
}


@pytest.fixture(params=MALFORMED)
def damaged(request: pytest.FixtureRequest, node: Services) -> Services:
    """A node, closed, whose last record is malformed."""
    kind, meta = MALFORMED[request.param]
    store_bytes(node, "before", b"before")
    end = node.log.position
    record = encode_frame(lsn=end.lsn + 1, type=kind, flags=int(Flag.COMMIT_START), meta=meta)
    with node.log.lock():
        node.log.append(record, last_lsn=end.lsn + 1)
    node.close()
    return node


def test_malformed_record_ends_the_start_and_names_the_file(
    damaged: Services, open_node: Opener
) -> None:
    """No record is skipped, and what can be done is said, before and after the index is rebuilt."""
    for _ in range(2):
        with pytest.raises(WalCorruptError, match="cannot be understood") as caught:
            open_node()
        assert f"segments/0000000001.wal back from a copy of the log, or {ACTIVE_NAME}" in str(
            caught.value
        )
        (damaged.config.wal_path / REBUILD_NAME).touch()
