"""What every blob store must do, whatever it is made of."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.core.checksum import block_checksums
from dfs.core.clock import now_ms
from dfs.core.errors import BlobMissingError
from dfs.core.model import BLOCK_BYTES, DebtKind
from dfs.storage.base import (
    BlobStore,
    KeepsSegments,
    ListsBlobs,
    QuarantinesBlobs,
    RemovesBlobs,
    StagedBlob,
    SweepsTemporaries,
)
from dfs.storage.local_store import LocalStore
from dfs.storage.memory_store import MemoryStore
from dfs.storage.object_store import ObjectStore
from dfs.storage.verified import read_verified

ABSENT = bytes(32)


def stage_sealed(store: BlobStore, content: bytes) -> tuple[StagedBlob, bytes, int]:
    """Return what `publish` takes, for one blob."""
    staged = store.stage()
    staged.write(content)
    digest = hashlib.sha256(content).digest()
    staged.seal(digest)
    return staged, digest, len(content)


def put(store: BlobStore, content: bytes) -> bytes:
    entry = stage_sealed(store, content)
    store.publish([entry])
    entry[0].discard()
    return entry[1]


def read_all(store: BlobStore, digest: bytes) -> bytes:
    with store.open(digest) as reader:
        return reader.read(0, reader.size)


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 7])
def test_publish_blob_of_any_size_reads_back_whole(store: BlobStore, size: int) -> None:
    """What was written comes back, byte for byte, at sizes around the block."""
    content = (b"0123456789abcdef!" * (size // 17 + 1))[:size]

    digest = put(store, content)

    assert read_all(store, digest) == content


def test_write_in_pieces_of_each_kind_reads_back_joined(store: BlobStore) -> None:
    """Bytes and views of other memory are stored one after the other, and not kept by reference."""
    staged = store.stage()
    shared = bytearray(b"middle")
    staged.write(b"front ")
    staged.write(memoryview(shared))
    shared[:] = b"XXXXXX"
    staged.write(b"")
    staged.write(memoryview(b" __end__")[1:4])
    content = b"front middle__e"
    digest = hashlib.sha256(content).digest()
    staged.seal(digest)
    store.publish([(staged, digest, len(content))])

    assert read_all(store, digest) == content


def test_seal_before_publish_is_invisible(store: BlobStore) -> None:
    """A blob exists only once it is published."""
    staged, digest, size = stage_sealed(store, b"soon")

    assert not store.has(digest, size)
    with pytest.raises(BlobMissingError):
        store.open(digest)
    staged.discard()


def test_publish_new_blobs_returns_their_digests_in_order(store: BlobStore) -> None:
    """Publish reports what it put in place."""
    entries = [stage_sealed(store, content) for content in (b"b", b"a", b"c")]

    assert store.publish(entries) == [digest for _, digest, _ in entries]


def test_publish_present_blob_keeps_it_and_returns_nothing(store: BlobStore) -> None:
    """A blob that is there is not reported, since a rollback must not take it away."""
    put(store, b"same")
    entry = stage_sealed(store, b"same")

    assert store.publish([entry]) == []
    entry[0].discard()
    assert read_all(store, entry[1]) == b"same"


def test_publish_same_blob_twice_in_one_batch_returns_it_once(store: BlobStore) -> None:
    """Two uploads of equal bytes in one commit become one blob."""
    entries = [stage_sealed(store, b"twin"), stage_sealed(store, b"twin")]

    assert store.publish(entries) == [entries[0][1]]
    for staged, _, _ in entries:
        staged.discard()
    assert read_all(store, entries[0][1]) == b"twin"


def test_publish_unsealed_blob_is_refused_and_publishes_nothing(store: BlobStore) -> None:
    """Bytes that were not made durable never get a name, nor does what came with them."""
    sealed = stage_sealed(store, b"sealed")
    staged = store.stage()
    staged.write(b"loose")

    with pytest.raises(ValueError, match="not yet sealed"):
        store.publish([sealed, (staged, hashlib.sha256(b"loose").digest(), 5)])

    assert not store.has(sealed[1], sealed[2])
    staged.discard()
    sealed[0].discard()


@pytest.mark.parametrize(("digest", "size"), [(ABSENT, 4), (hashlib.sha256(b"seal").digest(), 5)])
def test_publish_under_other_digest_or_size_is_refused(
    store: BlobStore, digest: bytes, size: int
) -> None:
    """A staged blob can only be published as what it was sealed as."""
    staged = stage_sealed(store, b"seal")[0]

    with pytest.raises(ValueError, match="another digest or size"):
        store.publish([(staged, digest, size)])
    staged.discard()


def test_publish_blob_of_another_store_is_refused(store: BlobStore, tmp_path: Path) -> None:
    """A blob staged by another kind of store is not taken for one's own."""
    other = LocalStore(path=tmp_path / "o") if isinstance(store, MemoryStore) else MemoryStore()
    other.prepare()
    entry = stage_sealed(other, b"foreign")

    with pytest.raises(ValueError, match="another store"):
        store.publish([entry])
    entry[0].discard()


def test_publish_of_nothing_returns_nothing(store: BlobStore) -> None:
    """A commit without blob files publishes none."""
    assert store.publish([]) == []


def test_withdraw_published_blob_removes_it(store: BlobStore) -> None:
    """A commit that failed takes its blobs back; absent ones are no error."""
    digest = put(store, b"undone")

    store.withdraw([digest, ABSENT])

    assert not store.has(digest, 6)
    with pytest.raises(BlobMissingError):
        store.open(digest)


def test_discard_before_publish_leaves_nothing(store: BlobStore) -> None:
    """A discarded upload can be neither written, sealed nor published, and discards again."""
    staged, digest, size = stage_sealed(store, b"dropped")
    staged.discard()
    staged.discard()

    with pytest.raises(ValueError, match="discarded"):
        staged.write(b"more")
    with pytest.raises(ValueError, match="discarded"):
        staged.room()
    with pytest.raises(ValueError, match="discarded"):
        staged.seal(digest)
    with pytest.raises(ValueError, match="discarded"):
        store.publish([(staged, digest, size)])
    assert not store.has(digest, size)


def test_discard_after_publish_keeps_the_blob(store: BlobStore) -> None:
    """Whoever discards in `finally` does not lose what was stored."""
    entry = stage_sealed(store, b"kept")
    store.publish([entry])

    entry[0].discard()

    assert read_all(store, entry[1]) == b"kept"


def test_blob_is_whole_whether_a_store_has_room_for_it_or_not(store: BlobStore) -> None:
    """Bytes that are put into the memory of the store are those that are stored."""
    data = random.Random(1).randbytes(6 << 20)
    rest = data
    staged = store.stage()
    while rest:
        room = staged.room()
        piece = rest[: 700_000 if room is None else min(len(room), 300_000)]
        if room is None:
            staged.write(piece)
        else:
            room[: len(piece)] = piece
            staged.fill(len(piece))
        rest = rest[len(piece) :]
    with pytest.raises(ValueError, match="no room"):
        staged.fill(1)
    digest = hashlib.sha256(data).digest()
    staged.seal(digest)
    store.publish([(staged, digest, len(data))])

    assert read_all(store, digest) == data


def test_write_after_seal_is_refused(store: BlobStore) -> None:
    """What was synced is what is published: nothing is added between."""
    staged, digest, _ = stage_sealed(store, b"closed")

    with pytest.raises(ValueError, match="already sealed"):
        staged.write(b"!")
    with pytest.raises(ValueError, match="already sealed"):
        staged.room()
    with pytest.raises(ValueError, match="already sealed"):
        staged.seal(digest)
    staged.discard()


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33), b"../../../../../../etc/passwd"])
def test_seal_with_no_digest_is_refused(store: BlobStore, digest: bytes) -> None:
    """Only the 32 bytes of a SHA-256 name a blob."""
    staged = store.stage()

    with pytest.raises(ValueError, match="a digest has 32 bytes"):
        staged.seal(digest)
    staged.discard()


def test_sealed_blob_is_read_back(store: BlobStore) -> None:
    """What was received can be copied on, before anybody else sees it."""
    staged = store.stage()
    staged.write(b"0123")
    staged.write(b"456789")
    digest = hashlib.sha256(b"0123456789").digest()
    with pytest.raises(ValueError, match="not yet sealed"):
        staged.open()
    staged.seal(digest)

    with staged.open() as first, staged.open() as second:
        first.drop_cache()
        assert first.size == second.size == 10
        assert first.read(2, 3) + second.read(5, 5) == b"23456789"
    assert store.publish([(staged, digest, 10)]) == [digest]
    assert read_all(store, digest) == b"0123456789"


def test_staged_blob_after_its_end_cannot_be_read_back(store: BlobStore) -> None:
    """A blob that was published or discarded is read by its name or not at all."""
    published, digest, size = stage_sealed(store, b"done")
    store.publish([(published, digest, size)])
    discarded = stage_sealed(store, b"dropped")[0]
    discarded.discard()

    for staged in (published, discarded):
        with pytest.raises(ValueError, match="published or discarded"):
            staged.open()


@pytest.mark.parametrize("question", [lambda store: store.has, lambda store: store.confirm])
def test_has_and_confirm_compare_the_size(
    store: BlobStore, question: Callable[[BlobStore], Callable[[bytes, int], bool]]
) -> None:
    """A blob of another size than the index knows is not the blob."""
    digest = put(store, b"four")
    ask = question(store)

    assert ask(digest, 4)
    assert not ask(digest, 3)
    assert not ask(ABSENT, 4)


def test_open_absent_blob_raises_missing(store: BlobStore) -> None:
    """A blob that is not held has its own error, naming the digest."""
    with pytest.raises(BlobMissingError) as caught:
        store.open(ABSENT)

    assert caught.value.context["digest"] == ABSENT.hex()


def test_read_past_the_end_returns_fewer_bytes(store: BlobStore) -> None:
    """A read gives what there is and no more."""
    digest = put(store, b"0123456789")

    with store.open(digest) as reader:
        assert reader.size == 10
        assert reader.read(2, 3) == b"234"
        assert type(reader.read(0, 10)) is bytes
        assert reader.read(8, 100) == b"89"
        assert reader.read(10, 1) == b""
        assert reader.read(50, 1) == b""


def test_read_after_close_is_refused(store: BlobStore) -> None:
    """A closed reader never reads from whatever took its place."""
    digest = put(store, b"gone")
    reader = store.open(digest)
    reader.close()
    reader.close()

    with pytest.raises(ValueError, match="closed"):
        reader.read(0, 1)


def test_open_reader_outlives_withdraw(store: BlobStore) -> None:
    """A download under way goes on when the blob is taken away, or ends; it gets no other bytes."""
    digest = put(store, b"still here")

    with store.open(digest) as reader:
        store.withdraw([digest])
        if isinstance(store, ObjectStore):  # an object is not kept for whoever reads it
            with pytest.raises(BlobMissingError):
                reader.read(0, 10)
        else:
            assert reader.read(0, 10) == b"still here"


def test_read_from_many_threads_gives_each_its_bytes(store: BlobStore) -> None:
    """Threads share a reader without a common position."""
    content = bytes(range(256)) * 64
    digest = put(store, content)
    wrong: list[int] = []
    with store.open(digest) as reader:

        def read_often(seed: int) -> None:
            for step in range(200):
                offset = (seed * 7919 + step * 131) % len(content)
                if reader.read(offset, 100) != content[offset : offset + 100]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read_often, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert wrong == []


def test_read_verified_over_the_store_gives_the_bytes(store: BlobStore) -> None:
    """A blob read through its checksums is the blob, in pieces of at most a block."""
    content = b"v" * (2 * BLOCK_BYTES + 5)
    digest = put(store, content)

    with store.open(digest) as reader:
        pieces = list(
            read_verified(
                reader,
                size=len(content),
                block_crc32s=block_checksums([content]),
                start=0,
                stop=len(content),
            )
        )

    assert [len(piece) for piece in pieces] == [BLOCK_BYTES, BLOCK_BYTES, 5]
    assert b"".join(pieces) == content


def test_list_blobs_yields_each_in_order_of_digest(store: BlobStore) -> None:
    """A store that lists, lists all blobs once, ordered, with their sizes."""
    assert isinstance(store, ListsBlobs)
    contents = [b"x" * size for size in range(20)]
    digests = {put(store, content): len(content) for content in contents}
    stage_sealed(store, b"unpublished")[0].discard()

    assert list(store.list_blobs()) == sorted(digests.items())


def test_remove_blob_forgets_it_and_says_whether_it_was_there(store: BlobStore) -> None:
    """A removed blob is gone; removing it again is no error."""
    assert isinstance(store, RemovesBlobs)
    digest = put(store, b"old")

    assert store.remove(digest)
    assert not store.remove(digest)
    assert not store.has(digest, 3)
    assert put(store, b"old") == digest
    assert store.has(digest, 3)


def test_publish_same_blob_from_many_threads_is_whole_for_each(store: BlobStore) -> None:
    """Whoever publishes a blob finds it there, however many do so at once."""
    content = b"popular" * 1000
    faults: list[object] = []
    barrier = threading.Barrier(6)

    def publish() -> None:
        entry = stage_sealed(store, content)
        barrier.wait()
        try:
            store.publish([entry])
            if read_all(store, entry[1]) != content:
                faults.append("other bytes")
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=publish) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert faults == []


def test_quarantine_blob_takes_it_from_its_place(store: BlobStore) -> None:
    """A damaged blob is out of the way and can be put anew; one that is missing is no error."""
    assert isinstance(store, QuarantinesBlobs)
    digest = put(store, b"damaged")

    store.quarantine_blob(digest)
    store.quarantine_blob(digest)

    assert not store.has(digest, 7)
    assert list(store.list_blobs()) == []
    put(store, b"damaged")
    assert read_all(store, digest) == b"damaged"


def test_what_was_put_aside_is_listed_and_can_be_removed(store: BlobStore) -> None:
    """By what it was and since when; what is removed twice is no error."""
    assert isinstance(store, QuarantinesBlobs)
    assert isinstance(store, KeepsSegments)
    before_ms = now_ms()
    digest = put(store, b"damaged")
    store.quarantine_blob(digest)
    store.append_segment(7, 0, b"damaged")
    store.quarantine_segment(7)

    blob, segment = sorted(store.list_put_aside(), key=lambda unit: unit.kind)
    assert (blob.kind, blob.unit) == (DebtKind.BLOB, digest)
    assert (segment.kind, segment.unit) == (DebtKind.SEGMENT, (7).to_bytes(8, "big"))
    assert before_ms <= min(blob.at_ms, segment.at_ms) <= now_ms()
    store.remove_put_aside(segment)
    store.remove_put_aside(segment)
    assert list(store.list_put_aside()) == [blob]
    put(store, b"damaged")
    store.remove_put_aside(blob)
    assert list(store.list_put_aside()) == []
    assert read_all(store, digest) == b"damaged"


def test_blob_tells_when_it_was_written(store: BlobStore) -> None:
    """And is as young as the last who has published it; a server's clock may differ a little."""
    assert isinstance(store, ListsBlobs)
    digest = put(store, b"content")
    first_ms = store.written_at_ms(digest)
    assert first_ms is not None
    assert abs(first_ms - now_ms()) < 60_000
    put(store, b"content")
    second_ms = store.written_at_ms(digest)
    assert second_ms is not None
    assert second_ms >= first_ms
    assert store.written_at_ms(bytes(32)) is None


def test_sweep_spares_uploads_in_flight(store: BlobStore) -> None:
    """Sweeping while an upload runs does not harm it, even when nothing is too young to go."""
    if not isinstance(store, SweepsTemporaries):
        assert isinstance(store, MemoryStore | ObjectStore)
        return
    staged = store.stage()
    staged.write(b"in flight")

    assert store.sweep(older_than_s=None) == 0
    digest = hashlib.sha256(b"in flight").digest()
    staged.seal(digest)
    assert store.sweep(older_than_s=None) == 0
    assert store.publish([(staged, digest, 9)]) == [digest]
