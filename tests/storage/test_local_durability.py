"""The order of a local store's calls to the system, as the kernel sees them, and kills between.

A child process stores a blob under strace, which shows each call, or makes one of them fail, or
kills the child as it enters one.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dfs.storage.local_store import LocalStore

REPEATS = 1000
CONTENT = b"durable" * REPEATS
DIGEST = hashlib.sha256(CONTENT).digest()
LARGE_REPEATS = 1_000_000
"""So large that it goes past the kernel's cache, in the end, and whole blocks do not make it up."""
STORE_BLOB = """
import hashlib, os, sys
from pathlib import Path
from dfs.storage.local_store import LocalStore

content = b"durable" * int(sys.argv[2])
digest = hashlib.sha256(content).digest()
store = LocalStore(path=Path(sys.argv[1]))
os.access("/mark/begin", os.F_OK)
staged = store.stage()
staged.write(content[:5000])
staged.write(content[5000:])
staged.seal(digest)
os.access("/mark/sealed", os.F_OK)
assert store.publish([(staged, digest, len(content))]) == [digest]
os.access("/mark/published", os.F_OK)
assert store.publish([]) == []
staged.discard()
store.remove(digest) if len(sys.argv) > 3 else None
"""
QUICK = "--seccomp-bpf"  # Stops the child at the traced calls only. It cannot inject signals.
CALLS = "access,write,mkdir,fdatasync,fsync,rename,unlink,flock"
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)", re.MULTILINE)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(path=tmp_path / "store")
    store.prepare()
    return store


def run_traced(
    store: LocalStore,
    trace: Path,
    *options: str,
    repeats: int = REPEATS,
    arguments: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run the child under strace; the trace names the path of each descriptor."""
    strace = shutil.which("strace")
    assert strace is not None, "these tests need strace: apt-get install strace"
    child = [sys.executable, "-B", "-c", STORE_BLOB, str(store.path), str(repeats), *arguments]
    return subprocess.run(
        [strace, "-f", "-y", "-s", "300", "-o", str(trace), *options, *child],
        capture_output=True,
        text=True,
        check=False,
    )


def traced_calls(store: LocalStore, trace: Path, *arguments: str) -> list[str]:
    """Return the calls that touch the store, as "name path [path]" relative to it, and the marks.

    The temporary file is called TMP, the blob file BLOB, and its directory SHARD.
    """
    completed = run_traced(store, trace, QUICK, "-e", f"trace={CALLS}", arguments=arguments)
    assert completed.returncode == 0, completed.stderr
    blob = store.blob_path(DIGEST)
    names = {str(blob): "BLOB", str(blob.parent): "SHARD", str(blob.parent.parent): "SHARD1"}
    calls = []
    for name, text, _ in _CALL.findall(trace.read_text()):
        if mark := re.search(r"/mark/(\w+)", text):
            calls.append(mark[1])
            continue
        paths = re.findall(re.escape(str(store.path)) + r"[^\">]*", text)
        paths = ["TMP" if Path(path).parent == store.path / "tmp" else path for path in paths]
        if paths:
            calls.append(" ".join([name, *(names.get(path, Path(path).name) for path in paths)]))
    return calls


def test_store_blob_syncs_each_thing_before_what_relies_on_it(
    store: LocalStore, tmp_path: Path
) -> None:
    """Bytes are synced before they get a name, and directories before anybody is told."""
    assert traced_calls(store, tmp_path / "trace") == [
        "begin",
        "flock TMP",
        "write TMP",
        "write TMP",
        "mkdir SHARD1",
        "mkdir SHARD",
        "fdatasync TMP",
        "fsync blobs",
        "fsync SHARD1",
        "sealed",
        "rename TMP BLOB",
        "fsync SHARD",
        "published",
    ]


def test_last_bytes_of_a_large_blob_are_written_before_the_sync(
    store: LocalStore, tmp_path: Path
) -> None:
    """Some gather in memory: they go to the disk before the sync, not after it or never."""
    trace = tmp_path / "trace"

    completed = run_traced(
        store, trace, QUICK, "-e", "trace=write,fdatasync", repeats=LARGE_REPEATS
    )

    assert completed.returncode == 0, completed.stderr
    calls = [
        (name, int(result))
        for name, text, result in _CALL.findall(trace.read_text())
        if str(store.path / "tmp") in text
    ]
    assert calls[-1] == ("fdatasync", 0)
    assert {name for name, _ in calls[:-1]} == {"write"}
    assert sum(written for _, written in calls) == len(b"durable" * LARGE_REPEATS)


def test_store_blob_that_is_there_syncs_its_directories_again(
    store: LocalStore, tmp_path: Path
) -> None:
    """Whoever put it there may have died before the syncs, so each of them is done again."""
    blob = store.blob_path(DIGEST)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(CONTENT)
    trace = tmp_path / "trace"

    run_traced(store, trace, QUICK, "-e", "trace=fsync,rename")

    text = trace.read_text()
    assert "rename(" in text  # by the bytes just received, which are known to be sound
    for directory in (store.path / "blobs", blob.parent.parent, blob.parent):
        assert f"<{directory}>)" in text


def test_remove_blob_syncs_its_directory_after(store: LocalStore, tmp_path: Path) -> None:
    """A removal that was reported does not come undone."""
    calls = traced_calls(store, tmp_path / "trace", "remove")

    assert calls[-2:] == ["unlink BLOB", "fsync SHARD"]


@pytest.mark.crash
@pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("flock", 1),
        ("mkdir", 1),
        ("mkdir", 2),
        ("fdatasync", 1),
        ("fsync", 1),
        ("fsync", 2),
        ("rename", 1),
        ("fsync", 3),
    ],
)
def test_kill_at_each_call_leaves_the_blob_whole_or_absent(
    store: LocalStore, tmp_path: Path, call: str, nth: int
) -> None:
    """Wherever the process dies, a blob is whole or not there, and a sweep cleans up the rest."""
    completed = run_traced(
        store,
        tmp_path / "trace",
        *("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:error=EIO:when={nth}"),
    )
    assert completed.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)

    published = (call, nth) == ("fsync", 3)
    assert store.sweep(older_than_s=None) == (0 if published else 1)
    assert list((store.path / "tmp").iterdir()) == []
    expected = [(DIGEST, len(CONTENT))] if published else []
    assert list(store.list_blobs()) == expected
    if published:
        assert store.blob_path(DIGEST).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("call", "nth", "error"),
    [
        ("flock", 1, "ENOLCK"),
        ("write", 1, "ENOSPC"),
        ("mkdir", 1, "ENOSPC"),
        ("mkdir", 2, "EDQUOT"),
        ("fdatasync", 1, "EIO"),
        ("fsync", 1, "EIO"),
        ("fsync", 2, "EIO"),
        ("rename", 1, "ENOSPC"),
        ("fsync", 3, "EIO"),
    ],
)
def test_fault_at_each_call_is_told_and_publishes_nothing(
    store: LocalStore, tmp_path: Path, call: str, nth: int, error: str
) -> None:
    """No call may fail unnoticed: the child ends with the translated error, and without a blob."""
    completed = run_traced(
        store,
        tmp_path / "trace",
        *(QUICK, "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={nth}"),
    )

    expected = "NoSpaceError" if error in ("ENOSPC", "EDQUOT") else "StoreUnavailableError"
    assert completed.returncode == 1
    assert f"dfs.core.errors.{expected}: " in completed.stderr
    assert f"errno={error}" in completed.stderr
    assert list(store.list_blobs()) == []
