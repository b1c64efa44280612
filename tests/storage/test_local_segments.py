"""Copies of the log in a local store: files, syncs, and disks that come and go."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.core.errors import BlobMissingError, NoSpaceError, StoreUnavailableError
from dfs.storage.local_store import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(path=tmp_path / "store")
    store.prepare()
    return store


def segment_path(store: LocalStore, segment_id: int) -> Path:
    return store.path / f"segments/{segment_id:010d}.wal"


def record_syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by "call path" with every sync."""
    calls: list[str] = []

    def recorded(name: str, call: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            calls.append(f"{name} {Path(f'/proc/self/fd/{fd}').readlink().name}")
            call(fd)

        return sync

    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    return calls


def fail_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the next call of a function of `os` fail with an input/output error."""
    call = getattr(os, name)

    def fail(*arguments: object) -> None:
        monkeypatch.setattr(os, name, call)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, name, fail)


def descriptor_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_append_makes_a_private_file_with_the_bytes(store: LocalStore) -> None:
    """A segment is one plain file under the name that the log gives it."""
    store.append_segment(7, 0, b"bytes")

    path = segment_path(store, 7)
    assert path.read_bytes() == b"bytes"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_append_syncs_the_bytes_each_time_and_the_name_once(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes are durable before the name that stands for them, and later ones cost one sync."""
    calls = record_syncs(monkeypatch)

    store.append_segment(1, 0, b"a")
    store.append_segment(1, 1, b"b")

    assert calls == ["fdatasync 0000000001.wal", "fsync segments", "fdatasync 0000000001.wal"]


def test_append_to_a_file_found_syncs_its_name(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever created the file may have died before its name was durable."""
    store.append_segment(1, 0, b"a")
    calls = record_syncs(monkeypatch)

    LocalStore(path=store.path).append_segment(1, 1, b"b")

    assert calls == ["fdatasync 0000000001.wal", "fsync segments"]


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_append_with_failing_sync_is_done_anew_on_a_new_descriptor(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """After a failed sync the same bytes are written again, and the file is opened again."""
    opened: list[str] = []
    open_file = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *rest: opened.append(str(path)) or open_file(path, *rest)
    )
    with monkeypatch.context() as patch:
        fail_once(patch, call)
        with pytest.raises(StoreUnavailableError):
            store.append_segment(1, 0, b"again")
    store.append_segment(1, 0, b"again")

    assert opened.count(str(segment_path(store, 1))) == 2
    assert store.read_segment(1, 0, 10) == b"again"


def test_append_past_a_file_size_limit_is_no_space(store: LocalStore) -> None:
    """A full disk is told as such; what was there before stays."""
    store.append_segment(1, 0, bytes(4000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(NoSpaceError):
            store.append_segment(1, 4000, bytes(4000))
        with pytest.raises(NoSpaceError):
            store.put_segment(2, [bytes(5000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    store.append_segment(1, 4000, b"end")
    assert store.read_segment(1, 3999, 10) == b"\0end"
    assert list((store.path / "tmp").iterdir()) == []


def test_append_after_another_process_put_the_segment_reaches_the_new_file(
    store: LocalStore,
) -> None:
    """A file that was kept open and has lost its name is not written to any more."""
    store.append_segment(1, 0, b"old bytes")
    LocalStore(path=store.path).put_segment(1, [b"new bytes"])

    store.append_segment(1, 9, b"!")

    assert segment_path(store, 1).read_bytes() == b"new bytes!"


def test_append_after_the_disk_went_and_came_never_fills_the_place_beneath(
    store: LocalStore,
) -> None:
    """A store that was moved away is not created again; the one that comes back goes on."""
    store.append_segment(1, 0, b"kept")
    away = store.path.rename(store.path.with_name("away"))
    for offset in (0, 4):
        with pytest.raises(StoreUnavailableError):
            store.append_segment(1, offset, b"lost?")
    assert not store.path.exists()
    store.path.mkdir()  # the mount point, without its disk
    with pytest.raises(StoreUnavailableError):
        store.append_segment(1, 0, b"lost?")
    assert list(store.path.iterdir()) == []
    store.path.rmdir()
    away.rename(store.path)

    store.append_segment(1, 4, b" on")

    assert store.read_segment(1, 0, 100) == b"kept on"


def test_append_to_many_segments_keeps_one_descriptor(store: LocalStore) -> None:
    """Only the newest segment stays open, and nothing once nobody has the store any more."""
    before = descriptor_count()
    own = LocalStore(path=store.path)
    for segment_id in range(5):
        own.append_segment(segment_id, 0, b"x")
    assert descriptor_count() == before + 1
    own.seal_segment(4)
    assert descriptor_count() == before
    own.append_segment(4, 1, b"x")

    del own

    assert descriptor_count() == before


def test_put_syncs_the_bytes_before_they_get_their_name(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that was put is whole under its name, or not there; the name is durable."""
    calls = record_syncs(monkeypatch)
    names: list[bool] = []
    replace = Path.replace

    def note_replace(path: Path, target: Path) -> Path:
        names.append(target.exists())
        calls.append("rename")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", note_replace)

    store.put_segment(3, [b"who", b"le"])

    assert calls[0].startswith(f"fdatasync {os.getpid()}-")
    assert calls[1:] == ["rename", "fsync segments"]
    assert names == [False]
    assert stat.S_IMODE(segment_path(store, 3).stat().st_mode) == 0o600


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_put_with_failing_sync_is_told_and_leaves_nothing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A segment that may not be durable is not acknowledged."""
    store.put_segment(3, [b"old"])
    fail_once(monkeypatch, call)

    with pytest.raises(StoreUnavailableError):
        store.put_segment(3, [b"new"])

    assert store.read_segment(3, 0, 9) in ((b"old",) if call == "fdatasync" else (b"old", b"new"))
    assert list((store.path / "tmp").iterdir()) == []


def test_sweep_spares_a_segment_being_put(store: LocalStore) -> None:
    """A sweep does not take a segment on its way for the leftover of a dead process."""
    swept: list[int] = []

    def pieces() -> list[bytes]:
        swept.append(store.sweep(older_than_s=None))
        return [b"x"]

    store.put_segment(3, (piece for _ in range(2) for piece in pieces()))

    assert swept == [0, 0]
    assert store.read_segment(3, 0, 9) == b"xx"


def test_read_segment_from_disk_drops_the_cache_first(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading back what was written asks the disk, not the memory that the bytes came from."""
    store.append_segment(1, 0, b"x")
    advice: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *rest: advice.append(rest))

    store.read_segment(1, 0, 1)
    assert advice == []
    store.read_segment(1, 0, 1, from_disk=True)
    assert advice == [(0, 0, os.POSIX_FADV_DONTNEED)]


def test_list_segments_passes_over_foreign_names(store: LocalStore) -> None:
    """What is not a segment's file is not taken for one."""
    store.append_segment(12, 0, b"x")
    directory = store.path / "segments"
    for name in ("0000000012.wal~", "12.wal", "00000000013.wal", "wal.active"):
        (directory / name).write_bytes(b"x")
    (directory / "0000000014.wal").mkdir()

    assert store.list_segments() == [(12, 1)]


def test_quarantine_keeps_the_bytes_under_damaged(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found damaged can still be looked at, each time, even twice in a millisecond."""
    monkeypatch.setattr("dfs.storage.local_store.now_ms", lambda: 1_000_000_000_000)
    for content in (b"first", b"second!"):
        store.put_segment(5, [content])
        store.quarantine_segment(5)

    kept = sorted((store.path / "damaged").iterdir(), key=lambda path: path.stat().st_size)
    assert [path.read_bytes() for path in kept] == [b"first", b"second!"]
    assert all(path.name.startswith("0000000005.wal-") for path in kept)


def test_store_that_is_gone_is_unavailable_for_segments(store: LocalStore) -> None:
    """A store whose directory vanished does not look like one without segments."""
    store.append_segment(1, 0, b"x")
    store.path.rename(store.path.with_name("away"))
    calls: list[Callable[[], object]] = [
        store.list_segments,
        lambda: store.append_segment(2, 0, b"x"),
        lambda: store.read_segment(1, 0, 1),
        lambda: store.seal_segment(1),
        lambda: store.put_segment(1, [b"x"]),
        lambda: store.quarantine_segment(1),
    ]

    for call in calls:
        with pytest.raises(StoreUnavailableError):
            call()
    assert not store.path.exists()


def test_read_segment_with_fault_of_the_disk_is_unavailable(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreadable sector is a fault of the store, and not a missing segment."""
    store.append_segment(1, 0, b"x")
    fail_once(monkeypatch, "pread")

    with pytest.raises(StoreUnavailableError):
        store.read_segment(1, 0, 1)
    with pytest.raises(BlobMissingError):
        store.read_segment(2, 0, 1)
