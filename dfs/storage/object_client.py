"""Objects in a bucket of an S3-compatible server. The one module that uses obstore.

What obstore asks of its users, found by trying:

- It runs threads of its own, one set for the whole process. They are gone after a fork, and then
  every call waits for ever. So the client is made at its first call, and a process whose parent
  has used one is refused.
- An iterator that is being uploaded must not call obstore: that ends in a panic. So only files are
  uploaded.
- Not found may mean the object or the bucket, and an answer without a body does not say which.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from dfs.core.errors import BlobMissingError, StoreUnavailableError
from dfs.storage.object_faults import (
    NO_SUCH_KEY,
    RANGE_BEHIND_END,
    describe_fault,
    storage_fault,
)

if TYPE_CHECKING:
    from obstore import ObjectMeta

CHUNK_BYTES = 5 << 20
"""The smallest part that S3 takes, except for the last one."""
CHUNKS_MAX = 10_000
"""The most parts that S3 takes."""
UPLOADS_MAX = 1
"""Parts of one upload under way at once. With the next one, 14 MiB of memory were measured."""
PARALLEL_MAX = 4
PATIENCE = 6
"""A request that moves much, or has the server move much, may take so many times as long."""
RETRIES_MAX = 2
ANSWER_AGE_S_MAX = 5.0
"""For so long after an answer that proves it, the bucket is taken to be there."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing says of an object.

    Attributes:
        name: relative to the prefix of the client.
        etag: changes with the bytes; None if the server gives none.
        written_at_ms: by the clock of the server.
    """

    name: str
    size: int
    etag: str | None
    written_at_ms: int


class ObjectClient:
    """The objects below one prefix of one bucket. Shared by all threads of a process.

    Every call raises, beside what it names itself: NoSpaceError, StoreUnavailableError. Each ends
    within a small multiple of `timeout_s`, uploads and copies within that of each of their parts.

    Args:
        endpoint: `http://` or `https://` address; None for what the environment or AWS say.
        access_key_id, secret_access_key: None for the credentials of the environment.
        timeout_s: for one request.
    """

    _library_pid: ClassVar[int | None] = None
    """The process whose threads the library has. Of the class, as the library's are."""

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str,
        endpoint: str | None,
        region: str | None,
        access_key_id: str | None,
        secret_access_key: str | None,
        timeout_s: float,
    ) -> None:
        self._place = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = prefix or None
        self._timeout_s = timeout_s
        self._allow_http = endpoint is not None and endpoint.startswith("http://")
        config = {
            "endpoint": endpoint,
            "region": region,
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
        }
        self._config = {name: value for name, value in config.items() if value is not None}
        self._stores: dict[bool, S3Store] = {}
        self._making = threading.Lock()
        self._answered_s = float("-inf")

    @property
    def place(self) -> str:
        """Where the objects are, for logs: `s3://bucket/prefix`."""
        return self._place

    def put(self, name: str, data: bytes) -> str | None:
        """Write a small object, replacing what is there; return its ETag. Durable on return."""
        result = self._call(obstore.put, name, data, use_multipart=False, writes=True)
        return cast("str | None", result["e_tag"])

    def create(self, name: str, data: bytes) -> bool:
        """Write a small object if there is none of that name; return whether there was none.

        A server that knows no such condition overwrites: read back what is there.
        """
        try:
            self._call(obstore.put, name, data, mode="create", writes=True)
        except StoreUnavailableError as error:
            if isinstance(error.__cause__, AlreadyExistsError):
                return False
            if error.context.get("code") != "NotImplemented":
                raise
            self.put(name, data)
        return True

    def upload(self, name: str, file: IO[bytes], size: int) -> None:
        """Write an object of any size from a file, by all or nothing. Durable on return.

        Memory: at most 16 MiB; beyond 50 GB in proportion.
        """
        chunk_bytes = max(CHUNK_BYTES, -(-size // CHUNKS_MAX))
        file.seek(0)
        self._call(
            obstore.put,
            name,
            file,
            chunk_size=chunk_bytes,
            max_concurrency=UPLOADS_MAX,
            writes=True,
            patient=True,
        )

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` > 0 bytes from `offset`; fewer only where the object ends.

        Raises:
            BlobMissingError: there is no such object.
        """
        try:
            data = self._call(obstore.get_range, name, start=offset, length=length)
        except StoreUnavailableError as error:
            if error.context.get("status") == RANGE_BEHIND_END:
                return b""
            raise
        return bytes(data)

    def head(self, name: str) -> StoredObject | None:
        """Return what is known of an object; None if there is none."""
        try:
            meta = self._call(obstore.head, name)
        except BlobMissingError:
            return None
        return _describe(meta, name)

    def list(self, folder: str, *, after: str | None = None) -> Iterator[StoredObject]:
        """Yield the objects below a folder in the order of their names.

        Args:
            folder: without a slash at its end.
            after: only names behind this one.
        """
        chunks = iter(obstore.list(self._store(), folder, offset=after, chunk_size=1000))
        while True:
            try:
                chunk = next(chunks, None)
            except BaseError as error:
                raise storage_fault(error, place=f"{self._place}/{folder}") from error
            self._answered_s = time.monotonic()
            if chunk is None:
                return
            for meta in chunk:
                yield _describe(meta, meta["path"])

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects; those that are missing are no error."""
        if names:
            self._call(obstore.delete, names, writes=True)

    def copy(self, source: str, target: str) -> None:
        """Have the server copy an object of at most 5 GiB. Durable on return.

        Raises:
            BlobMissingError: there is no such object.
        """
        self._call(obstore.copy, source, target, patient=True)

    def check(self) -> None:
        """Raise StoreUnavailableError unless the bucket is there and can be listed."""
        next(self.list("segments"), None)

    def _call(
        self,
        function: Callable[..., Any],
        name: str | Sequence[str],
        *arguments: object,
        writes: bool = False,
        patient: bool = False,
        **options: object,
    ) -> Any:
        """Call a function of the library with the store and `name` first; translate its errors.

        Raises:
            BlobMissingError: there is no such object, though the bucket is there.
        """
        store = self._store(patient=patient)
        place = f"{self._place}/{name}" if isinstance(name, str) else self._place
        try:
            result = function(store, name, *arguments, **options)
        except FileNotFoundError as error:
            fault = describe_fault(error)
            if writes or (fault.code and fault.code not in NO_SUCH_KEY):
                raise storage_fault(error, place=place) from error
            if not fault.code and time.monotonic() - self._answered_s > ANSWER_AGE_S_MAX:
                self.check()
            raise BlobMissingError("The store does not hold the object.", path=place) from error
        except (BaseError, OSError) as error:
            raise storage_fault(error, place=place) from error
        self._answered_s = time.monotonic()
        return result

    def _store(self, *, patient: bool = False) -> S3Store:
        """Return the library's client, made at the first call.

        Raises:
            StoreUnavailableError: this process was forked from one that has used the library.
        """
        if ObjectClient._library_pid not in (None, os.getpid()):
            raise StoreUnavailableError(
                "This process was forked from one that had used the object store.",
                hint="Use the object store only in processes that are not forked afterwards.",
                path=self._place,
            )
        with self._making:
            if patient not in self._stores:
                ObjectClient._library_pid = os.getpid()
                self._stores[patient] = self._make_store(
                    self._timeout_s * (PATIENCE if patient else 1)
                )
            return self._stores[patient]

    def _make_store(self, timeout_s: float) -> S3Store:
        timeout = timedelta(seconds=timeout_s)
        return S3Store(
            self._bucket,
            prefix=self._prefix,
            config=self._config,  # type: ignore[arg-type]
            client_options={
                "allow_http": self._allow_http,
                "timeout": timeout,
                "connect_timeout": timedelta(seconds=self._timeout_s / 2),
            },
            retry_config={
                "max_retries": RETRIES_MAX,
                "retry_timeout": timeout,
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=1),
                    "base": 2,
                },
            },
        )


def _describe(meta: ObjectMeta, name: str) -> StoredObject:
    written_at_ms = int(meta["last_modified"].timestamp() * 1000)
    return StoredObject(name, meta["size"], meta["e_tag"], written_at_ms)


def call_each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return `function` of each item, in order, several being called at once.

    Raises:
        The error of the first item that failed, once none is being called any more.
    """
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(len(items), PARALLEL_MAX)) as threads:
        futures = [threads.submit(function, item) for item in items]
    return [future.result() for future in futures]
