"""What a server answers, told in errors of dfs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from dfs.core.errors import BlobMissingError, NoSpaceError, StorageError, StoreUnavailableError
from dfs.storage.object_client import ObjectClient


@contextmanager
def answering(
    status: int, code: str, *, first: int | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Run a server that gives one answer; yield its address and the methods it was asked for.

    Args:
        first: the status of the very first answer, if it is another one.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(self.command)
            body = f"<Error><Code>{code}</Code><Message>Nothing.</Message></Error>".encode()
            body = b"" if self.command == "HEAD" or not code else body
            self.send_response(first if first and len(asked) == 1 else status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 (the base's names)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def client_of(endpoint: str) -> ObjectClient:
    return ObjectClient(
        bucket="bucket",
        prefix="prefix",
        endpoint=endpoint,
        region=None,
        access_key_id="key",
        secret_access_key="hidden",
        timeout_s=2,
    )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (507, "", NoSpaceError),
        (507, "XMinioStorageFull", NoSpaceError),
        (403, "QuotaExceeded", NoSpaceError),
        (409, "XMinioAdminBucketQuotaExceeded", NoSpaceError),
        (403, "AccessDenied", StoreUnavailableError),
        (401, "", StoreUnavailableError),
        (400, "InvalidRequest", StoreUnavailableError),
        (404, "NoSuchBucket", StoreUnavailableError),
        (404, "", StoreUnavailableError),
        (500, "InternalError", StoreUnavailableError),
        (503, "SlowDown", StoreUnavailableError),
    ],
)
def test_refused_write_is_told_with_its_reason(
    status: int, code: str, expected: type[StorageError]
) -> None:
    """Lack of space is told from every other fault, and the reason is in the message."""
    with answering(status, code) as (endpoint, _), pytest.raises(expected) as caught:
        client_of(endpoint).put("segments/x", b"x")

    assert code in caught.value.message
    assert caught.value.context["path"] == "s3://bucket/prefix/segments/x"
    assert "hidden" not in f"{caught.value} {caught.value.__cause__}"


def test_redirect_is_told_as_a_wrong_region() -> None:
    """A bucket of another region is not followed there, but the reason is clear."""
    with (
        answering(301, "PermanentRedirect") as (endpoint, _),
        pytest.raises(StoreUnavailableError, match="region"),
    ):
        client_of(endpoint).put("segments/x", b"x")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", BlobMissingError),
        (404, "NoSuchBucket", StoreUnavailableError),
        (404, "", StoreUnavailableError),  # so does the question whether there is a bucket
        (403, "AccessDenied", StoreUnavailableError),
        (500, "InternalError", StoreUnavailableError),
    ],
)
def test_refused_read_is_missing_only_if_the_server_says_so(
    status: int, code: str, expected: type[StorageError]
) -> None:
    """Only an object that is known not to be there is missing; all else may be there."""
    with answering(status, code) as (endpoint, _), pytest.raises(expected):
        client_of(endpoint).read("segments/x", 0, 1)


def test_read_of_nothing_behind_the_end_is_empty() -> None:
    """A range behind the end is an answer, not a fault."""
    with answering(416, "InvalidRange") as (endpoint, _):
        assert client_of(endpoint).read("segments/x", 9, 1) == b""


def test_server_error_is_asked_again_before_it_is_told() -> None:
    """A server that fails once is asked again; one that goes on failing is given up soon."""
    with answering(200, "", first=503) as (endpoint, asked):
        assert client_of(endpoint).put("x", b"x") == '"1"'
    assert asked == ["PUT", "PUT"]

    with answering(503, "SlowDown") as (endpoint, asked), pytest.raises(StoreUnavailableError):
        client_of(endpoint).put("x", b"x")
    assert asked == ["PUT"] * 3


def test_create_where_the_server_knows_no_condition_overwrites() -> None:
    """A server without conditional writes can be used, too."""
    with (
        answering(501, "NotImplemented") as (endpoint, asked),
        pytest.raises(StoreUnavailableError, match="NotImplemented"),
    ):
        client_of(endpoint).create("dfs.json", b"{}")
    assert len(asked) == 6  # each of the two ways, and again twice


def test_create_that_is_refused_for_another_reason_is_told() -> None:
    """Only the one answer lets a store be adopted without its condition."""
    with (
        answering(403, "AccessDenied") as (endpoint, asked),
        pytest.raises(StoreUnavailableError, match="AccessDenied"),
    ):
        client_of(endpoint).create("dfs.json", b"{}")
    assert asked == ["PUT"]
