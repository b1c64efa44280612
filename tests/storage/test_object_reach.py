"""Reaching the server of an object store: one that is away, wrong keys, forks, memory."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfs.core.errors import (
    ConfigError,
    StoreUnavailableError,
)
from dfs.storage.identity import new_identity
from dfs.storage.object_store import ObjectStore
from tests.s3 import S3Server
from tests.storage.conftest import ObjectStoreOpener

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]
OPEN_STORE = """
import os, sys
from dfs.core.errors import StoreUnavailableError
from dfs.storage.object_store import ObjectStore

def open_store():
    url, endpoint, key, secret = sys.argv[1:5]
    return ObjectStore(
        url=url, name="child", endpoint=endpoint, access_key_id=key, secret_access_key=secret
    )

store = open_store()
"""
FORK = (
    OPEN_STORE
    + """
if sys.argv[5] == "used":
    store.prepare()
if os.fork() == 0:
    for one in (store, open_store()):
        try:
            print(one.has(bytes(32), 0), flush=True)
        except StoreUnavailableError as error:
            print(error.message, flush=True)
    os._exit(0)
os.wait()
"""
)
MEASURE = (
    OPEN_STORE
    + """
import hashlib

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) >> 10

def copy_blob(pieces):
    staged, digest = store.stage(), hashlib.sha256()
    for number in range(pieces):
        piece = bytes([number]) * (1 << 20)
        staged.write(piece)
        digest.update(piece)
    staged.seal(digest.digest())
    store.publish([(staged, digest.digest(), pieces << 20)])
    with store.open(digest.digest()) as reader:
        for number in range(pieces):
            assert reader.read(number << 20, 1 << 20) == bytes([number]) * (1 << 20)

copy_blob(1)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = status("VmRSS")
copy_blob(100)
print(status("VmHWM") - before)
"""
)


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """Address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed_endpoint() -> str:
    """Address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def put(store: ObjectStore, content: bytes) -> bytes:
    staged, digest = store.stage(), hashlib.sha256(content).digest()
    staged.write(content)
    staged.seal(digest)
    try:
        store.publish([(staged, digest, len(content))])
    finally:
        staged.discard()
    return digest


def run_child(
    script: str, server: S3Server, bucket: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in a process that has not used an object store."""
    keys = (server.access_key_id, server.secret_access_key)
    return subprocess.run(
        [sys.executable, "-c", script, f"s3://{bucket}/p", server.endpoint, *keys, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def every_call(store: ObjectStore) -> list[Callable[[], object]]:
    """Return each question and change that a store can be asked for."""
    return [
        store.prepare,
        store.read_identity,
        lambda: store.adopt(new_identity()),
        lambda: put(store, b"content"),
        lambda: store.has(bytes(32), 0),
        lambda: store.confirm(bytes(32), 0),
        lambda: store.open(bytes(32)),
        lambda: list(store.list_blobs()),
        lambda: store.remove(bytes(32)),
        lambda: store.quarantine_blob(bytes(32)),
        store.list_segments,
        lambda: store.append_segment(1, 0, b"x"),
        lambda: store.read_segment(1, 0, 1),
        lambda: store.seal_segment(1),
        lambda: store.put_segment(1, [b"x"]),
        lambda: store.quarantine_segment(1),
    ]


def test_closed_endpoint_is_unavailable_at_once(
    open_object_store: ObjectStoreOpener, closed_endpoint: str
) -> None:
    """A server that is down fails every call within its time, and says so."""
    store = open_object_store(endpoint=closed_endpoint, timeout_s=2)
    for call in every_call(store):
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="cannot be connected to") as caught:
            call()
        assert time.monotonic() - started < 3
        assert "s3://" in str(caught.value.context["path"])
    store.withdraw([bytes(32)])


def test_silent_endpoint_is_unavailable_in_time(
    open_object_store: ObjectStoreOpener, silent_endpoint: str
) -> None:
    """A server that takes the connection and does not answer holds nobody up for long."""
    store = open_object_store(endpoint=silent_endpoint, timeout_s=0.1)
    for call in every_call(store):
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="did not answer in time"):
            call()
        assert time.monotonic() - started < 1.5


def test_missing_bucket_is_unavailable_and_not_empty(open_object_store: ObjectStoreOpener) -> None:
    """A bucket that is gone, or misspelt, does not look like an empty store."""
    store = open_object_store(url="s3://no-such-bucket-anywhere/prefix")

    for call in every_call(store):
        with pytest.raises(StoreUnavailableError, match="NoSuchBucket"):
            call()


def test_wrong_keys_are_unavailable_and_not_shown(
    open_object_store: ObjectStoreOpener, s3_server: S3Server
) -> None:
    """Keys that the server refuses are told as such, without the keys."""
    secret = "WrongSecret0123456789WrongSecret01234567"
    for access_key_id in (s3_server.access_key_id, "AKIAWRONGWRONGWRONG1"):
        store = open_object_store(access_key_id=access_key_id, secret_access_key=secret)
        for call in every_call(store):
            with pytest.raises(StoreUnavailableError, match=r"it answered 40[134]\b") as caught:
                call()
            assert secret not in f"{caught.value} {caught.value.__cause__!r}"
            assert caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "s3://"},
        {"url": "s3:///prefix"},
        {"url": "s3://x/prefix"},
        {"url": "s3://key:hidden@bucket/prefix"},
        {"url": "s3://bucket/a//b"},
        {"url": "s3://bucket/a/../b"},
        {"url": "s3://bucket/a b"},
        {"url": "gs://bucket/a"},
        {"url": "bucket"},
        {"endpoint": "127.0.0.1:9000"},
        {"endpoint": "ftp://hidden"},
        {"endpoint": "http://"},
        {"endpoint": "http://host:port"},
        {"endpoint": "http://key:hidden@host"},
        {"access_key_id": None},
        {"secret_access_key": None},
        {"access_key_id": "key\n"},
        {"secret_access_key": ""},
        {"secret_access_key": "hidden hidden"},
    ],
)
def test_malformed_argument_is_refused_at_once(changes: dict[str, object]) -> None:
    """What can never work is found when the node starts, and secrets are not repeated."""
    good: dict[str, object] = {
        "url": "s3://bucket/prefix",
        "name": "replica1",
        "endpoint": "http://127.0.0.1:9000",
        "access_key_id": "key",
        "secret_access_key": "hidden",
    }
    with pytest.raises(ConfigError) as caught:
        ObjectStore(**good | changes)  # type: ignore[arg-type]
    assert "hidden" not in str(caught.value)


def test_keys_of_the_environment_are_used_when_none_are_given(
    open_object_store: ObjectStoreOpener, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys may come the way that other tools get them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_access_key)
    store = open_object_store(access_key_id=None, secret_access_key=None)

    assert store.has(put(store, b"x"), 1)


def test_use_after_fork_is_refused_instead_of_waiting_for_ever(
    s3_server: S3Server, s3_bucket: str
) -> None:
    """In the child of a process that used a store every store says so at once, an old or a new."""
    completed = run_child(FORK, s3_server, s3_bucket, "used")

    assert completed.returncode == 0, completed.stderr
    lines = completed.stdout.splitlines()
    assert lines == ["This process was forked from one that had used the object store."] * 2


def test_first_use_after_fork_works(s3_server: S3Server, s3_bucket: str) -> None:
    """A process may fork as long as it has only made the store."""
    completed = run_child(FORK, s3_server, s3_bucket, "unused")

    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.splitlines() == ["False", "False"]


def test_copy_of_a_large_blob_takes_little_memory(s3_server: S3Server, s3_bucket: str) -> None:
    """A blob of 100 MiB goes out and comes back in pieces."""
    completed = run_child(MEASURE, s3_server, s3_bucket)

    assert completed.returncode == 0, completed.stderr
    assert 1 <= int(completed.stdout) <= 24


def test_other_threads_run_while_a_call_waits(
    open_object_store: ObjectStoreOpener, silent_endpoint: str
) -> None:
    """A server that does not answer holds up its caller, and nobody else in the process."""
    store = open_object_store(endpoint=silent_endpoint, timeout_s=0.5)

    def wait() -> None:
        with pytest.raises(StoreUnavailableError):
            store.prepare()

    caller = threading.Thread(target=wait)
    caller.start()
    turns = 0
    while caller.is_alive():
        turns += 1
        os.sched_yield()

    assert turns > 100
