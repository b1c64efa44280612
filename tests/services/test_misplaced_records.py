"""Records of the log that are sound, but are not the ones that the index means."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from dfs.core.errors import BlobCorruptError, IndexDamagedError
from dfs.wiring import Services
from tests.services.conftest import read_bytes, store_bytes


def test_read_of_another_record_in_the_place_of_the_files_own_is_refused(
    node: Services, tmp_path: Path
) -> None:
    """Bytes that pass their own checksum are still not handed out as those of another file."""
    first = store_bytes(node, "first", b"a" * 1000).files[0]
    second = store_bytes(node, "second", b"b" * 1000).files[0]
    with node.index.begin() as index:
        blobs = [index.blob(file.digest) for file in (first, second)]
    fd = os.open(tmp_path / "wal" / "wal.active", os.O_RDWR)
    records = [os.pread(fd, blob.length, blob.offset) for blob in blobs]
    for blob, other in zip(blobs, reversed(records), strict=True):
        assert len(other) == blob.length
        os.pwrite(fd, other, blob.offset)
    os.close(fd)

    for file in (first, second):
        with pytest.raises(BlobCorruptError, match="Another record"):
            read_bytes(node, file.id)


def test_read_of_a_record_with_other_bytes_than_the_index_says_is_refused(node: Services) -> None:
    """A file never comes back shorter or longer than it is listed."""
    stored = store_bytes(node, "file", b"a" * 1000).files[0]
    with node.index.begin() as index:
        blob, file = index.blob(stored.digest), index.file(stored.id)
        assert blob is not None
        assert file is not None
        index.put_blob(msgspec.structs.replace(blob, size=999))
        index.put_file(msgspec.structs.replace(file, size=999))
        index.commit()

    with pytest.raises(BlobCorruptError, match="Another record"):
        read_bytes(node, stored.id)


def test_index_that_says_two_sizes_of_a_file_is_not_believed(node: Services) -> None:
    """It is rebuilt at the next start; until then nobody gets the wrong number of bytes."""
    file = store_bytes(node, "file", b"a" * 1000).files[0]
    with node.index.begin() as index:
        blob = index.blob(file.digest)
        assert blob is not None
        index.put_blob(msgspec.structs.replace(blob, size=999))
        index.commit()

    with pytest.raises(IndexDamagedError, match="another size"):
        read_bytes(node, file.id)
