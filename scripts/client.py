"""A node as its clients see it: what the acceptance run and the load test share.

Every byte that goes up or comes down is hashed on its way, and an acknowledgement is only taken for
one if it is that of the bytes sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

import urllib3

READ_BYTES = 1 << 20
PAGE_FILES = 1000
TIMEOUT = urllib3.Timeout(connect=10, read=300)
HEALTH_TIMEOUT_S = 10
KEY_VARIABLE = "DFS_KEY"
_BOUNDARY = "dfs-scripts-7c1f0b5e9a3d"

T = TypeVar("T")


class StatusError(ValueError):
    """The node answered with another status than the one that says that all is well.

    Attributes:
        status: of the answer.
    """

    def __init__(self, what: str, answer: urllib3.BaseHTTPResponse) -> None:
        super().__init__(f"{what} answered {answer.status}: {answer.data[:300]!r}")
        self.status = answer.status


class WrongAnswerError(ValueError):
    """The node acknowledged something other than what was sent."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What the answer to an upload says.

    Attributes:
        sha256: in hexadecimal.
        copies: stores that have the file durably.
        lsn: of its record.
    """

    id: str
    sha256: str
    size: int
    copies: int
    lsn: int


class HashingBody:
    """Pieces of bytes as the body of a request; hashes what it gives out.

    Attributes:
        size: bytes given out so far.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self._hash = hashlib.sha256()
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for data in self._pieces:
            self._hash.update(data)
            self.size += len(data)
            yield data

    def sha256(self) -> str:
        """Return the digest of what was given out so far, in hexadecimal."""
        return self._hash.hexdigest()


class Client:
    """Speaks to one node over connections that are kept until `close`. Shared by all threads.

    Args:
        connections: how many are kept; one for each thread.
        key: an API key, `dfs_ID_SECRET`; None: that of the environment variable DFS_KEY, if it is
            set.
        write_headers: further headers of every request that changes something.

    Raises, all methods but `is_alive` and `close`:
        urllib3.exceptions.HTTPError: there was no answer, or it broke off.
        StatusError: it is not the one wanted.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int,
        key: str | None = None,
        write_headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._base = (urllib3.util.parse_url(self.url).path or "").rstrip("/")
        key = key or os.environ.get(KEY_VARIABLE)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._write_headers = {**self._headers, **(write_headers or {})}
        self._http = urllib3.connection_from_url(
            self.url, maxsize=connections, block=False, retries=False, timeout=TIMEOUT
        )

    def close(self) -> None:
        """Close the connections. Safe to call twice; nothing can be asked afterwards."""
        self._http.close()

    def is_alive(self) -> bool:
        """Return whether the node answers at all."""
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            answer = self._http.request("GET", f"{self._base}/health", timeout=HEALTH_TIMEOUT_S)
            return answer.status == 200
        return False

    def upload(
        self, pieces: Iterable[bytes], size: int, name: str, *, multipart: bool = False
    ) -> Acknowledged:
        """Upload a file.

        Args:
            pieces: its bytes, `size` in all. What they are made from may still raise OSError.
            multipart: as a form, as a browser does.

        Raises:
            WrongAnswerError: the answer is not the acknowledgement of these bytes.
        """
        body = HashingBody(pieces)
        answer = self._send(body, size, name, multipart=multipart)
        if answer.status != 201:
            raise StatusError("upload", answer)
        stored = answer.json()
        sent = (body.sha256(), body.size, name)
        try:
            if (stored["sha256"], stored["size"], stored["name"]) != sent:
                raise WrongAnswerError(f"upload acknowledged other bytes: {stored}")
            copies, lsn = int(answer.headers["DFS-Durable-Copies"]), int(answer.headers["DFS-LSN"])
        except KeyError as error:
            raise WrongAnswerError(f"the answer to an upload lacks {error}: {stored}") from error
        if copies < 1 or lsn < 1:
            raise WrongAnswerError("upload does not say what is guaranteed")
        return Acknowledged(stored["id"], body.sha256(), body.size, copies, lsn)

    def _send(
        self, body: HashingBody, size: int, name: str, *, multipart: bool
    ) -> urllib3.BaseHTTPResponse:
        if not multipart:
            return self._http.request(
                "POST",
                f"{self._base}/upload?{urlencode({'name': name})}",
                body=body,
                headers={
                    "Content-Length": str(size),
                    "Content-Type": "application/octet-stream",
                    **self._write_headers,
                },
            )
        quoted = name.replace("\\", "\\\\").replace('"', "%22")
        head = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
        return self._http.request(
            "POST",
            f"{self._base}/upload",
            body=itertools.chain([head], body, [tail]),
            headers={
                "Content-Length": str(len(head) + size + len(tail)),
                "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
                **self._write_headers,
            },
        )

    def download(self, file_id: str) -> tuple[str, int]:
        """Return (SHA-256 in hexadecimal, size) of what a download brings."""
        answer = self._http.request(
            "GET",
            f"{self._base}/download/{file_id}",
            headers=self._headers,
            preload_content=False,
            decode_content=False,
        )
        with contextlib.closing(answer):
            if answer.status != 200:
                raise StatusError("download", answer)
            digest = hashlib.sha256()
            size = 0
            for data in answer.stream(READ_BYTES, decode_content=False):
                digest.update(data)
                size += len(data)
        answer.release_conn()
        return digest.hexdigest(), size

    def delete(self, file_id: str) -> None:
        """Delete a file."""
        path = f"{self._base}/files/{file_id}"
        answer = self._http.request("DELETE", path, headers=self._write_headers)
        if answer.status != 204:
            raise StatusError("delete", answer)

    def list_page(
        self, prefix: str, *, after: str | None = None, limit: int = PAGE_FILES
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return (files, `after` of the next page) of what the node lists under a prefix."""
        place = {} if after is None else {"after": after}
        query = urlencode({"limit": limit, "prefix": prefix, **place})
        answer = self._http.request("GET", f"{self._base}/files?{query}", headers=self._headers)
        if answer.status != 200:
            raise StatusError("listing", answer)
        page = answer.json()
        return page["files"], page["next"]

    def list_files(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield what the node lists under a prefix, page by page."""
        after: str | None = None
        while True:
            files, after = self.list_page(prefix, after=after)
            yield from files
            if after is None:
                return


def for_each(
    work: Callable[[T], None], items: Iterable[T], stop: threading.Event, *, threads: int
) -> None:
    """Call `work` with each item from some threads, until all are done or `stop` is set."""
    shared = iter(items)
    lock = threading.Lock()

    def run() -> None:
        while not stop.is_set():
            with lock:
                item = next(shared, None)
            if item is None:
                return
            work(item)

    with ThreadPoolExecutor(threads) as pool:
        for thread in [pool.submit(run) for _ in range(threads)]:
            thread.result()
