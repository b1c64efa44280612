"""What only an object store does: names below a prefix, uploads in parts, reading ahead."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from dfs.core.errors import (
    BlobMissingError,
    StoreIdentityError,
    StoreUnavailableError,
)
from dfs.storage import object_store as object_store_module
from dfs.storage.base import KeepsSegments, ListsBlobs, QuarantinesBlobs, RemovesBlobs
from dfs.storage.identity import new_identity
from dfs.storage.names import blob_name
from dfs.storage.object_client import ObjectClient
from dfs.storage.object_staging import ObjectStagedBlob
from dfs.storage.object_store import ObjectStore
from tests.s3 import S3Server
from tests.storage.conftest import ObjectStoreOpener

MIB = 1 << 20


def stage_sealed(store: ObjectStore, content: bytes) -> tuple[ObjectStagedBlob, bytes, int]:
    staged = store.stage()
    staged.write(content)
    digest = hashlib.sha256(content).digest()
    staged.seal(digest)
    return staged, digest, len(content)


def put(store: ObjectStore, content: bytes) -> bytes:
    entry = stage_sealed(store, content)
    try:
        store.publish([entry])
    finally:
        entry[0].discard()
    return entry[1]


def test_object_store_has_the_optional_powers(object_store: ObjectStore) -> None:
    """An object store lists, removes, puts aside, and keeps segments."""
    assert isinstance(object_store, ListsBlobs)
    assert isinstance(object_store, RemovesBlobs)
    assert isinstance(object_store, QuarantinesBlobs)
    assert isinstance(object_store, KeepsSegments)


def test_blob_lies_below_the_prefix_under_its_digest(
    object_store: ObjectStore, s3_server: S3Server, s3_bucket: str
) -> None:
    """The names are those of a local store, so that the one can be copied to the other."""
    digest = put(object_store, b"content")

    answer = s3_server.client().get_object(
        Bucket=s3_bucket, Key=f"prefix/blobs/{digest.hex()[:2]}/{digest.hex()[2:4]}/{digest.hex()}"
    )
    assert answer["Body"].read() == b"content"


def test_stores_below_other_prefixes_are_apart(
    open_object_store: ObjectStoreOpener, s3_bucket: str
) -> None:
    """One bucket holds many stores; none sees the other's, not even below a common beginning."""
    places = ("", "/", "/a", "/a/b", "/a-b", "/ab/")
    stores = [open_object_store(url=f"s3://{s3_bucket}{place}") for place in places]
    outer, same, *_ = stores
    digests = [put(store, place.encode()) for store, place in zip(stores, places, strict=True)]

    assert [digest for digest, _ in outer.list_blobs()] == sorted(digests[:2])
    assert list(same.list_blobs()) == list(outer.list_blobs())
    for store, digest, place in list(zip(stores, digests, places, strict=True))[2:]:
        assert list(store.list_blobs()) == [(digest, len(place))]


@pytest.mark.parametrize("size", [0, 5 * MIB, 5 * MIB + 1, 12 * MIB])
def test_publish_at_the_sizes_of_an_upload_reads_back(object_store: ObjectStore, size: int) -> None:
    """A blob that goes out in several parts is the same as one that goes in one."""
    content = random.Random(size).randbytes(size)

    digest = put(object_store, content)

    with object_store.open(digest) as reader:
        assert b"".join(reader.read(at, MIB) for at in range(0, size, MIB)) == content


def test_publish_many_at_once_is_all_of_them(object_store: ObjectStore) -> None:
    """A batch goes out on several connections and is reported in order."""
    entries = [stage_sealed(object_store, bytes([number])) for number in range(20)]

    assert object_store.publish(entries) == [digest for _, digest, _ in entries]
    assert len(list(object_store.list_blobs())) == 20


def test_publish_that_breaks_off_can_be_repeated(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of which one upload failed is an error, and goes out whole the next time."""
    entries = [stage_sealed(object_store, bytes([number])) for number in range(6)]
    upload = ObjectClient.upload

    def fail(self: ObjectClient, name: str, file: object, size: int) -> None:
        if name == blob_name(entries[3][1]):
            raise StoreUnavailableError("cut off")
        upload(self, name, file, size)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ObjectClient, "upload", fail)
        with pytest.raises(StoreUnavailableError):
            object_store.publish(entries)

    assert entries[3][1] in object_store.publish(entries)
    assert len(list(object_store.list_blobs())) == 6


def test_publish_replaces_a_blob_of_another_size(
    object_store: ObjectStore, s3_server: S3Server, s3_bucket: str
) -> None:
    """A truncated object is mended by the next upload of its bytes."""
    digest = put(object_store, b"whole")
    key = f"prefix/{blob_name(digest)}"
    s3_server.client().put_object(Bucket=s3_bucket, Key=key, Body=b"who")
    assert not object_store.has(digest, 5)

    assert object_store.publish([stage_sealed(object_store, b"whole")]) == []

    assert object_store.has(digest, 5)


def test_reader_reads_ahead_only_where_it_goes_on(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download costs a request for several MiB; a look here and there only what it asks for."""
    content = random.Random(1).randbytes(6 * MIB)
    digest = put(object_store, content)
    asked: list[tuple[int, int]] = []
    read = ObjectClient.read

    def note(self: ObjectClient, name: str, offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return read(self, name, offset, length)

    monkeypatch.setattr(ObjectClient, "read", note)
    with object_store.open(digest) as reader:
        for at in range(0, 6 * MIB, MIB):
            assert reader.read(at, MIB) == content[at : at + MIB]
        assert asked == [(0, 4 * MIB), (4 * MIB, 2 * MIB)]
        assert reader.read(10, 5) == content[10:15]
        reader.drop_cache()
        assert reader.read(10, 5) == content[10:15]

    assert asked[2:] == [(10, 5), (10, 5)]


def test_list_blobs_passes_over_foreign_names(
    object_store: ObjectStore, s3_server: S3Server, s3_bucket: str
) -> None:
    """What another program put below the prefix is not taken for a blob."""
    digest = put(object_store, b"real")
    name = digest.hex()
    for key in (f"blobs/{name}", f"blobs/00/00/{name}", f"{blob_name(digest)}.txt", "blobs/ab/x"):
        s3_server.client().put_object(Bucket=s3_bucket, Key=f"prefix/{key}", Body=b"x")

    assert list(object_store.list_blobs()) == [(digest, 4)]


@pytest.mark.parametrize("copy_bytes_max", [5 << 30, 3])
def test_quarantine_blob_keeps_the_bytes_under_damaged(
    object_store: ObjectStore,
    s3_server: S3Server,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    copy_bytes_max: int,
) -> None:
    """A damaged blob is kept, also one that is too large for the server to copy."""
    monkeypatch.setattr(object_store_module, "COPY_BYTES_MAX", copy_bytes_max)
    digest = put(object_store, b"damaged")

    object_store.quarantine_blob(digest)

    client = s3_server.client()
    [entry] = client.list_objects_v2(Bucket=s3_bucket, Prefix="prefix/damaged/")["Contents"]
    assert entry["Key"].startswith(f"prefix/damaged/{digest.hex()}-")
    assert client.get_object(Bucket=s3_bucket, Key=entry["Key"])["Body"].read() == b"damaged"


def test_adopt_by_two_at_once_lets_one_have_it(
    open_object_store: ObjectStoreOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two nodes that find the same empty place, one is refused."""
    first, second = open_object_store(), open_object_store()
    mine, other = new_identity(), new_identity()
    create = ObjectClient.create

    def adopt_before(self: ObjectClient, name: str, data: bytes) -> bool:
        monkeypatch.setattr(ObjectClient, "create", create)
        second.adopt(other)
        return create(self, name, data)

    monkeypatch.setattr(ObjectClient, "create", adopt_before)

    with pytest.raises(StoreIdentityError):
        first.adopt(mine)
    assert first.read_identity() == other


def test_spool_is_made_again_and_left_empty(object_store: ObjectStore, tmp_path: Path) -> None:
    """Blobs on their way have no name on this machine: nothing is left of a dead process."""
    staged = stage_sealed(object_store, b"x")[0]
    assert list((tmp_path / "spool").iterdir()) == []
    (tmp_path / "spool").rmdir()

    put(object_store, b"y")

    staged.discard()
    assert list((tmp_path / "spool").iterdir()) == []


def test_blob_removed_while_it_is_read_is_missing(object_store: ObjectStore) -> None:
    """A reader that comes too late is told that there is nothing, not that the server failed."""
    digest = put(object_store, bytes(9 * MIB))

    with object_store.open(digest) as reader:
        reader.read(0, MIB)
        object_store.remove(digest)
        with pytest.raises(BlobMissingError):
            reader.read(8 * MIB, MIB)
