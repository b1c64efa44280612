"""A store in a bucket of an S3-compatible server, below a prefix.

    <prefix>/blobs/ab/cd/<sha256>    blobs, immutable
    <prefix>/segments/...            copies of the log, see `object_segments`
    <prefix>/damaged/<name>-<ms>     what was found damaged, kept
    <prefix>/dfs.json                see `identity`

An object appears whole or not at all, and is durable when the server has said so. The keys must
allow to list the bucket and to read, write and delete objects below the prefix. What a process
leaves behind that is killed in the middle of an upload the server keeps out of sight; a lifecycle
rule of the bucket removes it (AbortIncompleteMultipartUpload).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from dfs.core.clock import now_ms
from dfs.core.errors import BlobMissingError, ConfigError, StorageError
from dfs.storage.base import BlobReader, StagedBlob
from dfs.storage.identity import (
    IDENTITY_NAME,
    StoreIdentity,
    decode_identity,
    encode_identity,
    require_free,
)
from dfs.storage.names import DAMAGED, PutAside, blob_name, damaged_name, parse_damaged
from dfs.storage.object_client import ObjectClient, StoredObject, call_each
from dfs.storage.object_segments import ObjectSegments
from dfs.storage.object_staging import ObjectStagedBlob, Spool

READ_AHEAD_BYTES = 4 << 20
"""So much is asked for when a reader goes on where it stopped."""
COPY_BYTES_MAX = 5 << 30
"""The largest object that S3 copies by one request."""
_IDENTITY_BYTES_MAX = 1 << 16
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_PREFIX_PART = re.compile(r"(?!\.{1,2}(?:/|$))[A-Za-z0-9!_.*'()=+@-]+")
_KEY = re.compile(r"[!-~]+")
_BLOB = re.compile(r"blobs/([0-9a-f]{2})/([0-9a-f]{2})/(\1\2[0-9a-f]{60})")

_log = structlog.get_logger(__name__)


class ObjectBlobReader(BlobReader):
    """An open blob of an `ObjectStore`. It holds no more than a few MiB of it."""

    def __init__(self, *, client: ObjectClient, stored: StoredObject) -> None:
        self._client = client
        self._stored = stored
        self._is_closed = False
        # (offset, bytes from there) of the last read. Threads may replace it under each other's
        # hands: each goes by the one it saw.
        self._ahead = (0, b"")

    @property
    def size(self) -> int:
        """See `BlobReader`."""
        return self._stored.size

    def read(self, offset: int, length: int) -> bytes:
        """See `BlobReader`."""
        if self._is_closed:
            raise ValueError("the reader is closed")
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        start, data = self._ahead
        if start <= offset and offset + length <= start + len(data):
            return data[offset - start : offset - start + length]
        if offset != start + len(data):
            return self._client.read(self._stored.name, offset, length)
        wanted = min(max(length, READ_AHEAD_BYTES), self.size - offset)
        data = self._client.read(self._stored.name, offset, wanted)
        self._ahead = (offset, data)
        return data[:length]

    def drop_cache(self) -> None:
        """See `BlobReader`."""
        self._ahead = (0, b"")

    def close(self) -> None:
        """See `BlobReader`."""
        self._is_closed = True
        self._ahead = (0, b"")


class ObjectStore:
    """A `BlobStore` in a bucket, with all further powers but sweeping. Shared by its nature.

    Not for a process that forks afterwards: see `object_client`. Nothing is asked of the server
    before the first call.

    Args:
        url: `s3://bucket` or `s3://bucket/prefix`.
        name: how the store is called in answers and logs.
        endpoint: address of the server; None for AWS, or what the environment says. The bucket is
            part of the path there, not of the host.
        region: None for what the environment says, else `us-east-1`.
        access_key_id, secret_access_key: both or neither; the environment's when None.
        timeout_s: for one request. A server that does not answer is given up after about as long;
            a single request that moves much may take six times as long.
        spool_path: directory of this machine for blobs on their way; None for that of the system.

    Raises:
        ConfigError: an argument is malformed.
    """

    def __init__(
        self,
        *,
        url: str,
        name: str,
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        timeout_s: float = 10.0,
        spool_path: Path | None = None,
    ) -> None:
        bucket, prefix = _parse_url(url)
        _check_endpoint(endpoint)
        _check_keys(access_key_id, secret_access_key)
        self._name = name
        self._spool = Spool(path=spool_path)
        self._client = ObjectClient(
            bucket=bucket,
            prefix=prefix,
            endpoint=endpoint,
            region=region,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            timeout_s=timeout_s,
        )
        self._segments = ObjectSegments(client=self._client, spool=self._spool)

    @property
    def name(self) -> str:
        """See `BlobStore`."""
        return self._name

    def prepare(self) -> None:
        """See `BlobStore`. The bucket must be there."""
        self._client.check()

    def is_mount(self) -> bool:
        """See `BlobStore`."""
        return False

    def read_identity(self) -> StoreIdentity | None:
        """See `BlobStore`."""
        try:
            data = self._client.read(IDENTITY_NAME, 0, _IDENTITY_BYTES_MAX)
        except BlobMissingError:
            return None
        return decode_identity(data, path=f"{self._client.place}/{IDENTITY_NAME}")

    def adopt(self, identity: StoreIdentity) -> None:
        """See `BlobStore`. Of two that adopt it at once, one is refused."""
        if self.read_identity() is None:
            self._client.create(IDENTITY_NAME, encode_identity(identity))
        require_free(self.read_identity(), identity, path=self._client.place)

    def stage(self) -> ObjectStagedBlob:
        """See `BlobStore`."""
        return ObjectStagedBlob(spool=self._spool)

    def publish(self, staged: Sequence[tuple[StagedBlob, bytes, int]]) -> list[bytes]:
        """See `BlobStore`. The bytes go out now, several blobs at once."""
        files = {digest: _own_file(blob, digest, size) for blob, digest, size in staged}
        sizes = {digest: size for _, digest, size in staged}

        def upload(digest: bytes) -> bool:
            name = blob_name(digest)
            was_there = self._client.head(name) is not None
            self._client.upload(name, files[digest], sizes[digest])
            return not was_there

        is_new = call_each(upload, files)
        for blob, _, _ in staged:
            blob.discard()
        return [digest for digest, new in zip(files, is_new, strict=True) if new]

    def withdraw(self, digests: Sequence[bytes]) -> None:
        """See `BlobStore`."""
        try:
            self._client.delete([blob_name(digest) for digest in digests])
        except StorageError as error:
            _log.warning("blob_not_withdrawn", store=self._name, error=str(error))

    def has(self, digest: bytes, size: int) -> bool:
        """See `BlobStore`."""
        found = self._client.head(blob_name(digest))
        return found is not None and found.size == size

    def confirm(self, digest: bytes, size: int) -> bool:
        """See `BlobStore`. What the server shows is durable."""
        return self.has(digest, size)

    def open(self, digest: bytes) -> ObjectBlobReader:
        """See `BlobStore`."""
        stored = self._client.head(blob_name(digest))
        if stored is None:
            raise BlobMissingError(
                "The store does not hold the blob.", digest=digest.hex(), path=self._client.place
            )
        return ObjectBlobReader(client=self._client, stored=stored)

    def list_blobs(self) -> Iterator[tuple[bytes, int]]:
        """See `ListsBlobs`. Names that are no blob's are passed over."""
        for stored in self._client.list("blobs"):
            match = _BLOB.fullmatch(stored.name)
            if match is not None:
                yield bytes.fromhex(match[3]), stored.size

    def written_at_ms(self, digest: bytes) -> int | None:
        """See `ListsBlobs`. Of a large blob it is when its upload began."""
        stored = self._client.head(blob_name(digest))
        return None if stored is None else stored.written_at_ms

    def remove(self, digest: bytes) -> bool:
        """See `RemovesBlobs`."""
        name = blob_name(digest)
        if self._client.head(name) is None:
            return False
        self._client.delete([name])
        return True

    def quarantine_blob(self, digest: bytes) -> None:
        """See `QuarantinesBlobs`."""
        name = blob_name(digest)
        stored = self._client.head(name)
        if stored is None:
            return
        self._copy(stored, damaged_name(name, now_ms=now_ms()))
        self._client.delete([name])

    def list_put_aside(self) -> Iterator[PutAside]:
        """See `QuarantinesBlobs`."""
        for stored in self._client.list(DAMAGED):
            unit = parse_damaged(stored.name.removeprefix(f"{DAMAGED}/"))
            if unit is not None:
                yield unit

    def remove_put_aside(self, unit: PutAside) -> None:
        """See `QuarantinesBlobs`."""
        self._client.delete([f"{DAMAGED}/{unit.name}"])

    def list_segments(self) -> list[tuple[int, int]]:
        """See `KeepsSegments`."""
        return self._segments.list()

    def append_segment(self, segment_id: int, offset: int, data: bytes | memoryview) -> None:
        """See `KeepsSegments`."""
        self._segments.append(segment_id, offset, data)

    def read_segment(
        self, segment_id: int, offset: int, length: int, *, from_disk: bool = False
    ) -> bytes:
        """See `KeepsSegments`."""
        return self._segments.read(segment_id, offset, length)

    def seal_segment(self, segment_id: int) -> None:
        """See `KeepsSegments`."""
        self._segments.seal(segment_id)

    def put_segment(self, segment_id: int, pieces: Iterable[bytes]) -> None:
        """See `KeepsSegments`."""
        self._segments.put(segment_id, pieces)

    def quarantine_segment(self, segment_id: int) -> None:
        """See `KeepsSegments`."""
        self._segments.quarantine(segment_id)

    def _copy(self, stored: StoredObject, target: str) -> None:
        """Copy an object, by way of this machine if it is too large for the server to do it."""
        if stored.size <= COPY_BYTES_MAX:
            self._client.copy(stored.name, target)
            return
        with self._spool.open() as file:
            for start in range(0, stored.size, READ_AHEAD_BYTES):
                file.write(self._client.read(stored.name, start, READ_AHEAD_BYTES))
            self._client.upload(target, file, stored.size)


def _own_file(blob: StagedBlob, digest: bytes, size: int) -> io.FileIO:
    """Return the file of a blob that an object store staged and sealed so; raises ValueError."""
    if not isinstance(blob, ObjectStagedBlob):
        raise ValueError("the staged blob belongs to another store")
    return blob.sealed_file(digest, size)


def _parse_url(url: str) -> tuple[str, str]:
    """Return (bucket, prefix without slashes at its ends). Raises ConfigError."""
    scheme, separator, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    parts = prefix.split("/") if prefix else []
    if scheme != "s3" or not separator or not _BUCKET.fullmatch(bucket):
        raise ConfigError(
            "The address of an object store must be s3://BUCKET or s3://BUCKET/PREFIX."
        )
    if not all(_PREFIX_PART.fullmatch(part) for part in parts):
        raise ConfigError(
            f"The prefix {prefix!r} has an empty part, or a character that not every server takes."
        )
    return bucket, prefix


def _check_endpoint(endpoint: str | None) -> None:
    """Raise ConfigError unless the address of the server is one."""
    if endpoint is None:
        return
    try:
        parts = urlsplit(endpoint)
        is_address = parts.port != 0 and bool(parts.hostname)
    except ValueError:
        is_address = False
    if not is_address or parts.scheme not in ("http", "https") or parts.username is not None:
        raise ConfigError("The endpoint of the object store must be http://HOST or https://HOST.")


def _check_keys(access_key_id: str | None, secret_access_key: str | None) -> None:
    """Raise ConfigError unless the keys are there or not there together."""
    if (access_key_id is None) is not (secret_access_key is None):
        raise ConfigError("The keys of the object store must be given both or not at all.")
    for key in (access_key_id, secret_access_key):
        if key is not None and not _KEY.fullmatch(key):
            raise ConfigError("A key of the object store is empty, or has spaces in it.")
