"""What only a store on a disk does: files, modes, locks, faults of the disk."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import resource
import stat
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs.core.errors import BlobMissingError, NoSpaceError, StoreUnavailableError
from dfs.storage import local_writer
from dfs.storage.base import (
    KeepsSegments,
    ListsBlobs,
    QuarantinesBlobs,
    RemovesBlobs,
    SweepsTemporaries,
)
from dfs.storage.local_staging import LocalStagedBlob
from dfs.storage.local_store import LocalStore

ONE_HOUR_S = 3600.0
UPLOADER = """
import sys
from pathlib import Path
from dfs.storage.local_store import LocalStore

staged = LocalStore(path=Path(sys.argv[1])).stage()
staged.write(b"half an upload")
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(path=tmp_path / "store")
    store.prepare()
    return store


@pytest.fixture
def uploader(store: LocalStore) -> Iterator[subprocess.Popen[str]]:
    """Run another process that is in the middle of an upload to the store."""
    with subprocess.Popen(
        [sys.executable, "-c", UPLOADER, str(store.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        yield process
        process.kill()


def stage_sealed(store: LocalStore, content: bytes) -> tuple[LocalStagedBlob, bytes, int]:
    staged = store.stage()
    staged.write(content)
    digest = hashlib.sha256(content).digest()
    staged.seal(digest)
    return staged, digest, len(content)


def put(store: LocalStore, content: bytes) -> bytes:
    entry = stage_sealed(store, content)
    store.publish([entry])
    entry[0].discard()
    return entry[1]


def temporaries(store: LocalStore) -> list[Path]:
    return sorted((store.path / "tmp").iterdir())


def descriptor_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def fail_with_io_error(*arguments: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_local_store_has_the_optional_powers(store: LocalStore) -> None:
    """A local store sweeps, lists, removes, puts aside, and keeps segments."""
    assert isinstance(store, SweepsTemporaries)
    assert isinstance(store, ListsBlobs)
    assert isinstance(store, RemovesBlobs)
    assert isinstance(store, QuarantinesBlobs)
    assert isinstance(store, KeepsSegments)


def test_prepare_twice_creates_private_directories(store: LocalStore) -> None:
    """The directories belong to nobody else, and creating them again is no error."""
    store.prepare()

    for path in (store.path, *store.path.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    names = {path.name for path in store.path.iterdir()}
    assert names == {"blobs", "segments", "damaged", "tmp"}


def test_constructor_touches_nothing(tmp_path: Path) -> None:
    """Making the object leaves the disk alone."""
    LocalStore(path=tmp_path / "store")

    assert list(tmp_path.iterdir()) == []


def test_publish_puts_a_private_file_at_its_name(store: LocalStore) -> None:
    """The blob is a plain file named by its digest; the temporary one is gone."""
    digest = put(store, b"content")
    path = store.path / "blobs" / digest.hex()[:2] / digest.hex()[2:4] / digest.hex()

    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    assert temporaries(store) == []


def test_stage_names_its_process_and_is_private(store: LocalStore) -> None:
    """An upload in flight shows whose it is, and only the owner can read it."""
    staged = store.stage()
    [path] = temporaries(store)

    assert path.name.startswith(f"{os.getpid()}-")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    staged.discard()
    assert temporaries(store) == []


def test_uploads_leave_no_descriptor_open(store: LocalStore) -> None:
    """Published, deduplicated, discarded and read blobs give back their files."""
    descriptors = descriptor_count()
    digest = put(store, b"one")
    put(store, b"one")
    stage_sealed(store, b"two")[0].discard()
    store.open(digest).close()
    with pytest.raises(StoreUnavailableError):
        LocalStore(path=store.path / "missing").stage()

    assert descriptor_count() == descriptors


def test_publish_damaged_size_is_replaced_but_never_withdrawn(store: LocalStore) -> None:
    """A truncated blob is mended by the next upload of its bytes, which no rollback takes away."""
    digest = put(store, b"whole")
    os.truncate(store.blob_path(digest), 2)

    assert store.publish([stage_sealed(store, b"whole")]) == []
    assert store.blob_path(digest).read_bytes() == b"whole"


def test_publish_that_cannot_rename_publishes_nothing(store: LocalStore) -> None:
    """When one of a batch fails, those before it are taken back; a later attempt succeeds."""
    first, second = stage_sealed(store, b"first"), stage_sealed(store, b"second")
    store.blob_path(second[1]).parent.rmdir()

    with pytest.raises(StoreUnavailableError, match="No such file"):
        store.publish([first, second])

    assert list(store.list_blobs()) == []
    second[0].discard()
    assert temporaries(store) == []
    assert put(store, b"second") == second[1]


def test_publish_with_failing_directory_sync_publishes_nothing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that may not be durable is not acknowledged, and is taken back."""
    digest = put(store, b"before")
    again, new = stage_sealed(store, b"before"), stage_sealed(store, b"new")
    monkeypatch.setattr(os, "fsync", fail_with_io_error)

    with pytest.raises(StoreUnavailableError):
        store.publish([again, new])

    assert list(store.list_blobs()) == [(digest, 6)]
    again[0].discard()


def test_publish_syncs_the_directories_together(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each directory is synced once, none only after another was: they share the journal's work."""
    staged = [stage_sealed(store, content) for content in (b"one", b"two", b"three")]
    directories = {store.blob_path(digest).parent for _, digest, _ in staged}
    assert len(directories) == len(staged)
    all_begun = threading.Barrier(len(staged))
    synced: list[Path] = []

    def sync(fd: int) -> None:
        all_begun.wait(timeout=30)
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())

    monkeypatch.setattr(os, "fsync", sync)
    store.publish(staged)
    assert sorted(synced) == sorted(directories)


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_seal_with_failing_sync_is_final(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """After a failed sync nobody knows what is on disk: sealing again is refused."""
    staged = store.stage()
    staged.write(b"lost")
    digest = hashlib.sha256(b"lost").digest()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail_with_io_error)
        with pytest.raises(StoreUnavailableError):
            staged.seal(digest)

    with pytest.raises(ValueError, match="can only be discarded"):
        staged.seal(digest)
    with pytest.raises(ValueError, match="can only be discarded"):
        store.publish([(staged, digest, 4)])
    staged.discard()
    assert temporaries(store) == []


def test_write_past_a_file_size_limit_is_no_space(store: LocalStore) -> None:
    """A write that the system refuses is lack of space, and what was written cannot be sealed."""
    staged = store.stage()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(NoSpaceError) as caught:
            staged.write(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert caught.value.context["path"] == str(temporaries(store)[0])
    with pytest.raises(ValueError, match="can only be discarded"):
        staged.seal(bytes(32))
    staged.discard()
    assert temporaries(store) == []


def test_write_large_stream_keeps_every_byte(store: LocalStore) -> None:
    """Neither what goes through the kernel's cache nor what goes past it."""
    content = os.urandom(2 * local_writer.CACHED_BYTES + 1)
    staged = store.stage()
    for start in range(0, len(content), 100_000):
        staged.write(memoryview(content)[start : start + 100_000])
    digest = hashlib.sha256(content).digest()
    staged.seal(digest)
    store.publish([(staged, digest, len(content))])

    assert store.blob_path(digest).read_bytes() == content


def test_discarded_upload_gives_its_memory_to_the_next(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or to the kernel: buffers for each client that goes away in the middle would fill it."""
    make: Any = mmap.mmap
    made: list[weakref.ref[mmap.mmap]] = []

    def watched(*of: int, **flags: int) -> mmap.mmap:
        made.append(weakref.ref(buffer := make(*of, **flags)))
        return buffer

    monkeypatch.setattr(mmap, "mmap", watched)
    for _ in range(local_writer.PAIRS_MAX + 1):
        staged = store.stage()
        staged.write(bytes(local_writer.CACHED_BYTES + 1))
        staged.discard()

    assert len(made) == 2 * (local_writer.PAIRS_MAX + 1)
    assert [buffer() for buffer in made] == [None] * len(made)


def test_read_with_short_reads_of_the_system_is_complete(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that gives fewer bytes a call is asked again until the blob ends."""
    digest = put(store, b"0123456789")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 3), offset))

    with store.open(digest) as reader:
        assert reader.read(1, 8) == b"12345678"
        assert reader.read(5, 100) == b"56789"


def test_read_with_fault_of_the_disk_is_unavailable(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreadable sector is a fault of the store, told with the path."""
    digest = put(store, b"bad sector")
    monkeypatch.setattr(os, "pread", fail_with_io_error)

    with store.open(digest) as reader, pytest.raises(StoreUnavailableError) as caught:
        reader.read(0, 1)

    assert caught.value.context["path"] == str(store.blob_path(digest))


def test_directory_in_place_of_a_blob_is_no_blob(store: LocalStore) -> None:
    """Only a regular file counts; what has its name gives way to the blob, and is kept."""
    store.blob_path(hashlib.sha256(b"x").digest()).mkdir(parents=True)
    store.blob_path(bytes(32)).mkdir(parents=True)

    assert not store.has(bytes(32), store.blob_path(bytes(32)).stat().st_size)
    with pytest.raises(BlobMissingError):
        store.open(bytes(32))
    with pytest.raises(StoreUnavailableError):
        store.remove(bytes(32))
    store.withdraw([bytes(32)])
    with store.open(put(store, b"x")) as reader:
        assert reader.read(0, 9) == b"x"
    assert len([*(store.path / "damaged").iterdir()]) == 1


def test_list_blobs_passes_over_foreign_names(store: LocalStore) -> None:
    """What a person or another program left under the directory is not taken for a blob."""
    digest = put(store, b"real")
    shard = store.blob_path(digest).parent
    (shard / f"{digest.hex()}.txt").write_text("x")
    (shard / digest.hex().upper()).write_text("x")
    (shard / ("0" * 60 + "beef")).write_text("x")
    (store.path / "blobs" / "lost+found").mkdir()
    (store.path / "blobs" / "00").write_text("x")

    assert list(store.list_blobs()) == [(digest, 4)]


def test_sweep_removes_what_a_killed_process_left_and_nothing_else(
    store: LocalStore, uploader: subprocess.Popen[str]
) -> None:
    """As long as the writer lives its file stays; once it is killed the file is a leftover."""
    mine = store.stage()
    assert store.sweep(older_than_s=None) == 0
    assert len(temporaries(store)) == 2

    uploader.kill()
    uploader.wait()

    assert store.sweep(older_than_s=ONE_HOUR_S) == 0
    assert store.sweep(older_than_s=None) == 1
    assert len(temporaries(store)) == 1
    mine.discard()


def test_sweep_by_age_removes_the_old_that_nobody_writes(store: LocalStore) -> None:
    """Old and unlocked is swept; young, or locked by a writer however slow, is not."""
    old, young = store.path / "tmp" / "1-old", store.path / "tmp" / "1-young"
    for path in (old, young):
        path.write_bytes(b"x")
    slow = store.stage()
    [slow_path] = set(temporaries(store)) - {old, young}
    os.utime(old, (0, 0))
    os.utime(slow_path, (0, 0))

    assert store.sweep(older_than_s=ONE_HOUR_S) == 1
    assert temporaries(store) == sorted([young, slow_path])
    slow.discard()


def test_sweep_without_directory_or_with_a_folder_in_it_removes_nothing(tmp_path: Path) -> None:
    """A store that was never written to has no leftovers; what is no file is let be."""
    store = LocalStore(path=tmp_path)
    assert store.sweep(older_than_s=None) == 0

    (tmp_path / "tmp" / "folder").mkdir(parents=True)
    assert store.sweep(older_than_s=None) == 0


def test_stage_swept_before_it_is_locked_is_created_again(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep in the moment between creation and lock does not cost the upload."""
    flock = fcntl.flock
    swept: list[int] = []

    def sweep_then_lock(fd: int, operation: int) -> None:
        if not swept and not operation & fcntl.LOCK_NB:
            swept.append(0)
            swept[0] = store.sweep(older_than_s=None)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_then_lock)

    assert store.has(put(store, b"survivor"), 8)
    assert swept == [1]


def test_stage_that_cannot_be_locked_leaves_no_descriptor(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload without its lock is not begun; what it left is swept later."""
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", fail_with_io_error)
        descriptors = descriptor_count()
        with pytest.raises(StoreUnavailableError) as caught:
            store.stage()
        # The error still holds the frames: only a file that was closed has given back its number.
        assert descriptor_count() == descriptors
    del caught

    assert store.sweep(older_than_s=None) == 1


def test_sweep_beside_another_sweep_goes_on_to_the_next_file(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leftover that another sweep takes away meanwhile does not end this one."""
    first, second = store.path / "tmp" / "1-first", store.path / "tmp" / "1-second"
    for path in (first, second):
        path.write_bytes(b"x")
    flock = fcntl.flock

    def remove_then_lock(fd: int, operation: int) -> None:
        first.unlink(missing_ok=True)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", remove_then_lock)

    assert store.sweep(older_than_s=None) == 1
    assert temporaries(store) == []


def test_sweep_while_others_upload_loses_no_upload(store: LocalStore) -> None:
    """Sweeping without pause beside uploads never takes one away."""
    faults: list[Exception] = []
    done = threading.Event()

    def upload(seed: int) -> None:
        try:
            for number in range(40):
                put(store, f"{seed}-{number}".encode())
        except Exception as error:
            faults.append(error)

    def sweep() -> None:
        while not done.is_set():
            store.sweep(older_than_s=None)

    sweeper = threading.Thread(target=sweep)
    uploaders = [threading.Thread(target=upload, args=(seed,)) for seed in range(3)]
    for thread in (sweeper, *uploaders):
        thread.start()
    for thread in uploaders:
        thread.join()
    done.set()
    sweeper.join()

    assert faults == []
    assert len(list(store.list_blobs())) == 120
