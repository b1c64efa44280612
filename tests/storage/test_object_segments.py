"""How segments lie in an object store, and what an interruption leaves of them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from dfs.core.errors import BlobMissingError, StoreUnavailableError
from dfs.storage.object_client import ObjectClient
from dfs.storage.object_store import ObjectStore
from tests.s3 import S3Server
from tests.storage.conftest import ObjectStoreOpener

MIB = 1 << 20
NAME = "segments/0000000007.wal"


class Bucket:
    """The objects of the test's store, seen past the store."""

    def __init__(self, server: S3Server, bucket: str) -> None:
        self._client = server.client()
        self._bucket = bucket

    def names(self, folder: str = "segments/") -> dict[str, int]:
        """Return name below the prefix -> bytes."""
        found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=f"prefix/{folder}")
        return {e["Key"].removeprefix("prefix/"): e["Size"] for e in found.get("Contents", [])}

    def put(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"prefix/{name}", Body=data)

    def get(self, name: str) -> bytes:
        answer = self._client.get_object(Bucket=self._bucket, Key=f"prefix/{name}")
        data: bytes = answer["Body"].read()
        return data


@pytest.fixture
def bucket(s3_server: S3Server, s3_bucket: str) -> Bucket:
    return Bucket(s3_server, s3_bucket)


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let every request fail whose kind was put into the list that this returns."""
    kinds: list[str] = []

    def fail(kind: str) -> None:
        call = getattr(ObjectClient, kind)

        def maybe(self: ObjectClient, *arguments: object) -> object:
            if kind in kinds:
                raise StoreUnavailableError("cut off")
            return call(self, *arguments)

        monkeypatch.setattr(ObjectClient, kind, maybe)

    for kind in ("put", "upload", "delete"):
        fail(kind)
    return kinds


def part(index: int) -> str:
    return f"{NAME}.parts/{index:06d}"


def test_append_lies_on_a_grid_of_parts(object_store: ObjectStore, bucket: Bucket) -> None:
    """Part k holds the bytes from k MiB up to k + 1 MiB; only the last is shorter."""
    content = random.Random(1).randbytes(2 * MIB + 100)
    for start, stop in ((0, 10), (10, MIB + 5), (MIB + 5, 2 * MIB), (2 * MIB, len(content))):
        object_store.append_segment(7, start, content[start:stop])

    assert bucket.names() == {part(0): MIB, part(1): MIB, part(2): 100}
    assert bucket.get(part(1)) == content[MIB : 2 * MIB]


def test_append_writes_only_the_parts_it_touches(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small append to a large segment costs one listing and one small object, no reading."""
    object_store.append_segment(7, 0, bytes(3 * MIB + 1))
    asked: list[str] = []
    for kind in ("put", "read", "delete", "head"):
        call = getattr(ObjectClient, kind)

        def note(
            self: ObjectClient, name: str, *rest: object, kind: str = kind, call: object = call
        ) -> object:
            asked.append(f"{kind} {name}")
            return call(self, name, *rest)  # type: ignore[operator]

        monkeypatch.setattr(ObjectClient, kind, note)

    object_store.append_segment(7, 3 * MIB + 1, b"small")

    assert [text for text in asked if text != "delete []"] == [f"put {part(3)}"]


def test_append_by_processes_in_turn_keeps_the_bytes_of_each(
    open_object_store: ObjectStoreOpener,
) -> None:
    """What one process remembers of the last part is not believed once another has written it."""
    first, second = open_object_store(), open_object_store()
    first.append_segment(7, 0, b"0123")
    first.append_segment(7, 4, b"refused")
    second.append_segment(7, 4, b"another")  # as long as what it replaces

    first.append_segment(7, 11, b"!")
    second.append_segment(7, 12, b"?")

    assert first.read_segment(7, 0, 99) == b"0123another!?"


def test_append_that_breaks_off_leaves_what_lay_before(
    object_store: ObjectStore, bucket: Bucket, cut_off: list[str]
) -> None:
    """An append that was cut off is repeated from where it began, over whatever it left."""
    content = random.Random(2).randbytes(3 * MIB)
    object_store.append_segment(7, 0, content)
    for kind in ("put", "delete"):
        cut_off.append(kind)
        with pytest.raises(StoreUnavailableError):
            object_store.append_segment(7, MIB + 7, b"new")
        assert object_store.read_segment(7, 0, MIB + 7) == content[: MIB + 7]
        cut_off.clear()

    object_store.append_segment(7, MIB + 7, b"new")

    assert object_store.read_segment(7, 0, 9 * MIB) == content[: MIB + 7] + b"new"
    assert bucket.names() == {part(0): MIB, part(1): 10}


def test_held_bytes_end_at_the_first_part_missing_or_not_full(
    object_store: ObjectStore, bucket: Bucket
) -> None:
    """Parts behind a hole, or behind one that is not full, are not the segment's."""
    for index, size in ((0, MIB), (1, 5), (2, MIB)):
        bucket.put(part(index), bytes(size))
    bucket.put("segments/0000000008.wal.parts/000001", bytes(MIB))

    assert object_store.list_segments() == [(7, MIB + 5)]
    assert len(object_store.read_segment(7, 0, 9 * MIB)) == MIB + 5
    with pytest.raises(BlobMissingError):
        object_store.read_segment(8, 0, 1)


def test_seal_makes_one_object_of_the_parts(object_store: ObjectStore, bucket: Bucket) -> None:
    """A sealed segment is one object with the name and the bytes of the log's file."""
    content = random.Random(3).randbytes(6 * MIB + 1)
    object_store.append_segment(7, 0, content)

    object_store.seal_segment(7)

    assert bucket.names() == {NAME: len(content)}
    assert bucket.get(NAME) == content


@pytest.mark.parametrize("kind", ["upload", "delete"])
def test_seal_that_breaks_off_is_repeated(
    object_store: ObjectStore, bucket: Bucket, cut_off: list[str], kind: str
) -> None:
    """At every moment of sealing the segment can be read whole; the next call completes it."""
    content = random.Random(4).randbytes(MIB + 1)
    object_store.append_segment(7, 0, content)
    cut_off.append(kind)
    with pytest.raises(StoreUnavailableError):
        object_store.seal_segment(7)
    assert object_store.list_segments() == [(7, len(content))]
    assert object_store.read_segment(7, 0, 9 * MIB) == content
    cut_off.clear()

    object_store.seal_segment(7)

    assert bucket.names() == {NAME: len(content)}


def test_seal_that_reads_back_other_bytes_keeps_the_parts(
    object_store: ObjectStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts are only removed for an object that is known to be the same."""
    object_store.append_segment(7, 0, b"precious")
    upload = ObjectClient.upload

    def damage(self: ObjectClient, name: str, file: object, size: int) -> None:
        upload(self, name, file, size)  # type: ignore[arg-type]
        bucket.put(name, b"precIous")

    monkeypatch.setattr(ObjectClient, "upload", damage)

    with pytest.raises(StoreUnavailableError, match="does not give back"):
        object_store.seal_segment(7)

    assert object_store.read_segment(7, 0, 99) == b"precious"
    assert bucket.names() == {part(0): 8}


def test_object_beside_parts_is_the_segment(object_store: ObjectStore, bucket: Bucket) -> None:
    """Parts that a put or a seal had no time to remove are stale."""
    for index in range(2):
        bucket.put(part(index), bytes(MIB))
    bucket.put(NAME, b"whole")

    assert object_store.list_segments() == [(7, 5)]
    assert object_store.read_segment(7, 0, 99) == b"whole"
    object_store.append_segment(7, 5, b" and more")
    assert object_store.read_segment(7, 0, 99) == b"whole and more"
    assert bucket.names() == {part(0): 14}


@pytest.mark.parametrize("kind", ["put", "delete"])
def test_append_to_a_sealed_segment_that_breaks_off_loses_nothing(
    object_store: ObjectStore, bucket: Bucket, cut_off: list[str], kind: str
) -> None:
    """The object goes when all its parts are there, not before."""
    content = random.Random(5).randbytes(2 * MIB + 3)
    object_store.put_segment(7, [content])
    cut_off.append(kind)
    with pytest.raises(StoreUnavailableError):
        object_store.append_segment(7, len(content), b"more")
    assert object_store.read_segment(7, 0, 9 * MIB) == content
    cut_off.clear()

    object_store.append_segment(7, len(content), b"more")

    assert object_store.read_segment(7, 0, 9 * MIB) == content + b"more"
    assert bucket.names() == {part(0): MIB, part(1): MIB, part(2): 7}


def test_put_from_another_object_store_takes_its_pieces(
    open_object_store: ObjectStoreOpener, s3_bucket: str
) -> None:
    """A segment is mended from another store of the same kind, read while it is written."""
    source = open_object_store(url=f"s3://{s3_bucket}/source")
    target = open_object_store(url=f"s3://{s3_bucket}/target")
    content = random.Random(6).randbytes(7 * MIB)
    source.put_segment(7, [content])

    target.put_segment(7, (source.read_segment(7, at, MIB) for at in range(0, 7 * MIB, MIB)))

    assert target.read_segment(7, 0, 9 * MIB) == content


@pytest.mark.parametrize("is_sealed", [False, True])
def test_quarantine_keeps_the_bytes_under_damaged(
    object_store: ObjectStore, bucket: Bucket, is_sealed: bool
) -> None:
    """What was found damaged can still be looked at, in the form that it had."""
    object_store.append_segment(7, 0, bytes(MIB) + b"x")
    if is_sealed:
        object_store.seal_segment(7)

    object_store.quarantine_segment(7)

    kept = bucket.names("damaged/")
    assert bucket.names() == {}
    assert all(name.startswith("damaged/0000000007.wal-") for name in kept)
    assert list(kept.values()) == ([MIB + 1] if is_sealed else [MIB, 1])


@pytest.mark.parametrize(("kind", "nth"), [("copy", 1), ("copy", 2), ("delete", 1), ("delete", 2)])
def test_quarantine_that_breaks_off_shows_no_stale_part(
    object_store: ObjectStore,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    nth: int,
) -> None:
    """Wherever it is cut off, the segment is as it was; parts beside the object stay stale."""
    bucket.put(part(0), b"stale")
    bucket.put(NAME, b"whole")
    calls: list[object] = []
    call = getattr(ObjectClient, kind)

    def fail_nth(self: ObjectClient, *arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == nth:
            raise StoreUnavailableError("cut off")
        call(self, *arguments)

    monkeypatch.setattr(ObjectClient, kind, fail_nth)
    with pytest.raises(StoreUnavailableError):
        object_store.quarantine_segment(7)

    assert object_store.read_segment(7, 0, 99) == b"whole"
    object_store.quarantine_segment(7)
    assert bucket.names() == {}


def test_read_while_the_segment_is_sealed_gives_its_bytes(
    open_object_store: ObjectStoreOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has seen the parts, and finds them gone, reads the object they have become."""
    content = random.Random(8).randbytes(2 * MIB)
    writer, reader = open_object_store(), open_object_store()
    writer.append_segment(7, 0, content)
    read = ObjectClient.read

    def seal_before(self: ObjectClient, name: str, offset: int, length: int) -> bytes:
        if name == part(0):
            monkeypatch.setattr(ObjectClient, "read", read)
            writer.seal_segment(7)
        return read(self, name, offset, length)

    monkeypatch.setattr(ObjectClient, "read", seal_before)

    assert reader.read_segment(7, MIB - 5, 10) == content[MIB - 5 : MIB + 5]
    assert reader.list_segments() == writer.list_segments() == [(7, 2 * MIB)]


def test_list_passes_over_foreign_names(object_store: ObjectStore, bucket: Bucket) -> None:
    """What is not named like a segment or a part is not taken for one."""
    object_store.append_segment(7, 0, b"x")
    for name in ("0000000007.wal.bak", "7.wal", "0000000009.wal.parts/1", "0000000009.wal/x"):
        bucket.put(f"segments/{name}", b"foreign")

    assert object_store.list_segments() == [(7, 1)]
    object_store.append_segment(7, 1, b"y")
    assert object_store.read_segment(7, 0, 9) == b"xy"
