"""The identity of a store, and opening one by its place."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.core.errors import ConfigError, StoreIdentityError, StoreUnavailableError
from dfs.storage.identity import (
    FORMAT_VERSION,
    StoreIdentity,
    new_identity,
    read_identity,
    require_cluster,
    write_identity,
)
from dfs.storage.local_store import LocalStore
from dfs.storage.object_store import ObjectStore
from dfs.storage.open import S3Settings, open_store

IDENTITY = StoreIdentity(
    cluster_id=bytes(range(16)), store_id=bytes(range(16, 32)), created_at_ms=1_795_371_893_007
)
DOCUMENT = {
    "format_version": 1,
    "cluster_id": "000102030405060708090a0b0c0d0e0f",
    "store_id": "101112131415161718191a1b1c1d1e1f",
    "created_at": "2026-11-22T18:24:53.007Z",
}


def write_document(path: Path, document: object) -> None:
    (path / "dfs.json").write_text(json.dumps(document))


def test_read_identity_of_no_store_is_none(tmp_path: Path) -> None:
    """An empty directory, or none at all, is not a store yet."""
    assert read_identity(tmp_path) is None
    assert read_identity(tmp_path / "missing") is None


def test_write_identity_reads_back_the_same(tmp_path: Path) -> None:
    """What was written is what is read, in a file private to the owner."""
    write_identity(tmp_path, IDENTITY)

    assert read_identity(tmp_path) == IDENTITY
    assert json.loads((tmp_path / "dfs.json").read_text()) == DOCUMENT
    assert stat.S_IMODE((tmp_path / "dfs.json").stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["dfs.json"]


def test_read_identity_of_the_released_format_is_understood(tmp_path: Path) -> None:
    """The format on disk is fixed: unknown fields are passed over."""
    write_document(tmp_path, DOCUMENT | {"colour": "green"})

    assert read_identity(tmp_path) == IDENTITY


def test_write_identity_without_directory_is_refused(tmp_path: Path) -> None:
    """A directory that is missing is not created: the disk may not be mounted."""
    with pytest.raises(StoreUnavailableError):
        write_identity(tmp_path / "missing", IDENTITY)
    assert list(tmp_path.iterdir()) == []


def test_new_identity_is_unique_in_the_given_cluster() -> None:
    """Each store has an id of its own; the cluster is the one given, or a new one."""
    first, second = new_identity(cluster_id=bytes(16)), new_identity()

    assert first.cluster_id == bytes(16)
    assert len({first.cluster_id, second.cluster_id, first.store_id, second.store_id}) == 4
    assert {len(value) for value in (second.cluster_id, first.store_id, second.store_id)} == {16}
    assert first.format_version == FORMAT_VERSION


def test_write_identity_twice_keeps_the_store(tmp_path: Path) -> None:
    """Writing the same identity again is no error; another one never takes its place."""
    write_identity(tmp_path, IDENTITY)
    write_identity(tmp_path, IDENTITY)

    with pytest.raises(StoreIdentityError, match="a store already"):
        write_identity(tmp_path, new_identity(cluster_id=IDENTITY.cluster_id))
    assert read_identity(tmp_path) == IDENTITY


def test_read_identity_of_newer_format_is_refused(tmp_path: Path) -> None:
    """A newer program's store is left alone, even if the rest of its file has changed."""
    write_document(tmp_path, {"format_version": FORMAT_VERSION + 1, "cluster_id": 7})

    with pytest.raises(StoreIdentityError, match="format version 2") as caught:
        read_identity(tmp_path)
    assert "newer dfs" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("format_version"),
        lambda document: document.pop("cluster_id"),
        lambda document: document.pop("store_id"),
        lambda document: document.pop("created_at"),
        lambda document: document.update(format_version="1"),
        lambda document: document.update(format_version=0),
        lambda document: document.update(cluster_id="00" * 15),
        lambda document: document.update(cluster_id="0g" * 16),
        lambda document: document.update(store_id=" " * 32),
        lambda document: document.update(store_id=None),
        lambda document: document.update(created_at="yesterday"),
        lambda document: document.update(created_at="2026-11-22T18:24:53"),
    ],
)
def test_read_identity_malformed_is_refused(
    tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    """A file that is not exactly an identity is not guessed at."""
    document: dict[str, object] = dict(DOCUMENT)
    change(document)
    write_document(tmp_path, document)

    with pytest.raises(StoreIdentityError, match="malformed"):
        read_identity(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x00" * 40, b"[]", b"{", b'\xff\xfe{"a"', b"null"])
def test_read_identity_of_other_bytes_is_refused(tmp_path: Path, data: bytes) -> None:
    """An emptied or overwritten file is an error that names the file."""
    (tmp_path / "dfs.json").write_bytes(data)

    with pytest.raises(StoreIdentityError) as caught:
        read_identity(tmp_path)
    assert caught.value.context["path"] == str(tmp_path / "dfs.json")


def test_read_identity_that_cannot_be_read_is_not_taken_for_absent(tmp_path: Path) -> None:
    """What is no file is malformed; a fault of the disk is not taken for a store without one."""
    (tmp_path / "dfs.json").mkdir()
    with pytest.raises(StoreIdentityError, match="no file"):
        read_identity(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailableError):
        read_identity(tmp_path / "file")


def test_require_cluster_refuses_another(tmp_path: Path) -> None:
    """A store of another cluster is refused by name of both."""
    require_cluster(IDENTITY, cluster_id=IDENTITY.cluster_id, path=tmp_path)

    with pytest.raises(StoreIdentityError) as caught:
        require_cluster(IDENTITY, cluster_id=bytes(16), path=tmp_path)
    assert IDENTITY.cluster_id.hex() in caught.value.message
    assert bytes(16).hex() in caught.value.message


@pytest.mark.parametrize("kind", [str, Path])
def test_open_store_by_path_is_a_local_store_ready_for_use(
    tmp_path: Path, kind: Callable[[Path], str | Path]
) -> None:
    """A path gives a store in that directory, created if need be."""
    store = open_store(kind(tmp_path / "a" / "b"), name="replica1")

    assert isinstance(store, LocalStore)
    assert store.name == "replica1"
    assert store.path == tmp_path / "a" / "b"
    store.stage().discard()


def test_open_store_unprepared_touches_nothing(tmp_path: Path) -> None:
    """A replica that is opened before its disk is mounted is left alone."""
    store = open_store(tmp_path / "replica", name="replica1", prepare=False)

    assert store.name == "replica1"
    assert list(tmp_path.iterdir()) == []


def test_open_store_by_s3_url_is_an_object_store_not_asked_yet(tmp_path: Path) -> None:
    """An s3:// address gives a store in that bucket; nothing is asked of a server that is away."""
    s3 = S3Settings(
        endpoint="http://127.0.0.1:9",
        access_key_id="key",
        secret_access_key="hidden",
        timeout_s=0.5,
        spool_path=tmp_path,
    )
    store = open_store("s3://bucket/prefix", name="replica1", s3=s3, prepare=False)

    assert isinstance(store, ObjectStore)
    assert store.name == "replica1"
    assert "hidden" not in repr(s3)
    with pytest.raises(StoreUnavailableError):
        open_store("s3://bucket/prefix", name="replica1", s3=s3)


@pytest.mark.parametrize(("name", "is_kept"), [("primary", False), ("replica1", True)])
def test_open_store_by_another_name_than_the_primary_is_shared(
    tmp_path: Path, name: str, is_kept: bool
) -> None:
    """What several processes write to keeps a blob that one of them failed to make durable."""
    store = open_store(tmp_path / "store", name=name)
    assert isinstance(store, LocalStore)
    entries = []
    for content in (b"first", b"second"):
        staged, digest = store.stage(), hashlib.sha256(content).digest()
        staged.write(content)
        staged.seal(digest)
        entries.append((staged, digest, len(content)))
    store.blob_path(entries[1][1]).parent.rmdir()

    with pytest.raises(StoreUnavailableError):
        store.publish(entries)

    assert store.has(entries[0][1], 5) is is_kept
    entries[1][0].discard()


@pytest.mark.parametrize("location", ["http://host", "file:///tmp/x"])
def test_open_store_by_url_is_refused(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that is not understood is not taken for the name of a directory."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError) as caught:
        open_store(location)
    assert location.partition(":")[0] + "://" in caught.value.message
    assert list(tmp_path.iterdir()) == []
