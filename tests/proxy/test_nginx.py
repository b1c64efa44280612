"""nginx by deploy/nginx/dfs.conf: it sends what dfs has found sound, and nothing else changes."""

from __future__ import annotations

import email
import os
import shutil
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from bench.servers import HOST
from tests.proxy.rig import (
    PREFIX,
    TIMEOUT_S,
    Answer,
    ProxiedNode,
    proxied_node,
    tls_context,
    wait_until,
)

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("proxied")]

BODY = os.urandom(3_000_000)
MIB = 1 << 20
OF_ONE_ANSWER = ("Date", "X-Request-ID")


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedNode]:
    """A node behind nginx."""
    with proxied_node(tmp_path_factory.mktemp("proxied")) as node:
        yield node


def headers_of(answer: Answer) -> list[tuple[str, str]]:
    """Return what an answer says of its file, each header as often as it was sent."""
    return sorted(item for item in answer.headers.items() if item[0] not in OF_ONE_ANSWER)


def flip_byte(proxied: ProxiedNode, path: str) -> None:
    """Damage the blob file of a download, in place."""
    with proxied.blob_file(path).open("r+b") as file:
        file.seek(1_500_000)
        byte = file.read(1)[0]
        file.seek(1_500_000)
        file.write(bytes([byte ^ 1]))


def test_first_download_is_by_dfs_and_the_second_by_nginx(proxied: ProxiedNode) -> None:
    """The bytes and every header are the same, and the metrics count it."""
    path = proxied.store(os.urandom(10) + BODY)
    before = proxied.handed_over()
    first, second = proxied.ask("GET", path), proxied.ask("GET", path)
    assert (first.status, first.sender, first.body[10:]) == (200, "dfs", BODY)
    assert (second.status, second.sender, second.body) == (200, "nginx", first.body)
    assert headers_of(first) == headers_of(second)
    assert second.headers["ETag"].strip('"') == proxied.blob_file(path).name
    assert proxied.handed_over() == before + 1


def test_small_files_are_always_sent_by_dfs(proxied: ProxiedNode) -> None:
    """They lie in the log."""
    path = proxied.store(b"small")
    answers = [proxied.ask("GET", path) for _ in range(3)]
    assert {(answer.body, answer.sender) for answer in answers} == {(b"small", "dfs")}


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (5, MIB + 1), (2_999_990, 3_000_000)])
def test_range_by_nginx_is_exactly_that(proxied: ProxiedNode, start: int, stop: int) -> None:
    """A file that was found sound is sent by nginx in parts, too, also with `If-Range`."""
    path = proxied.store_verified(BODY)
    etag = proxied.ask("HEAD", path).headers["ETag"]
    date = proxied.ask("HEAD", path).headers["Last-Modified"]
    for condition in ({}, {"If-Range": etag}, {"If-Range": date}):
        headers = {"Range": f"bytes={start}-{stop - 1}", **condition}
        answer = proxied.ask("GET", path, headers=headers)
        assert (answer.status, answer.sender) == (206, "nginx")
        assert answer.body == BODY[start:stop]
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(BODY)}"
        assert answer.headers.get_all("ETag") == [etag]


def test_ranges_by_nginx_are_parts(proxied: ProxiedNode) -> None:
    """Several ranges come in the order asked for, each with the type of the file."""
    path = proxied.store_verified(BODY)
    wanted = [(100, 150), (0, 10), (MIB - 5, MIB + 5)]
    listed = ",".join(f"{start}-{stop - 1}" for start, stop in wanted)
    answer = proxied.ask("GET", path, headers={"Range": f"bytes={listed}"})
    assert (answer.status, answer.sender) == (206, "nginx")
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    parts: Any = email.message_from_bytes(head + answer.body).get_payload()
    for part, (start, stop) in zip(parts, wanted, strict=True):
        assert part.get_payload(decode=True) == BODY[start:stop]
        assert part["Content-Range"] == f"bytes {start}-{stop - 1}/{len(BODY)}"
        assert part["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Range": "bytes=5-3"}, 200),
        ({"Range": "bytes=0-9,5-20"}, 200),
        ({"Range": "bytes=" + ",".join(f"{n}-{n}" for n in range(17))}, 200),
        ({"Range": "bytes=0-9", "If-Range": '"other"'}, 200),
        ({"Range": "bytes=9999999-"}, 416),
        ({"If-Match": '"other"'}, 412),
        ({"If-Unmodified-Since": "Thu, 01 Jan 2026 00:00:00 GMT"}, 412),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-Modified-Since": "Thu, 01 Jan 2026 00:00:00 GMT"}, 200),
        ({"If-None-Match": "*"}, 304),
    ],
)
def test_what_nginx_might_judge_otherwise_is_answered_by_dfs(
    proxied: ProxiedNode, headers: dict[str, str], status: int
) -> None:
    """Conditions, and ranges that are to be ignored or cannot be satisfied: as without nginx."""
    path = proxied.store_verified(BODY)
    answer = proxied.ask("GET", path, headers=headers)
    assert (answer.status, answer.sender) == (status, "dfs")
    if status == 200:
        assert answer.body == BODY


def test_conditions_that_hold_are_not_judged_again(proxied: ProxiedNode) -> None:
    """The blob file of an old file may be newer, or that of a new file older, than the file is."""
    path = proxied.store_verified(BODY)
    known = proxied.ask("HEAD", path).headers
    blob = proxied.blob_file(path)
    for moment_s in (0, 4_000_000_000):
        os.utime(blob, (moment_s, moment_s))
        assert [proxied.ask("GET", path).sender for _ in range(2)] == ["dfs", "nginx"]
        assert proxied.ask("GET", path).headers["Last-Modified"] == known["Last-Modified"]
        for condition in (
            {"If-Match": known["ETag"]},
            {"If-Unmodified-Since": known["Last-Modified"]},
            {"If-Modified-Since": "Thu, 01 Jan 2026 00:00:00 GMT"},
        ):
            assert proxied.ask("GET", path, headers=condition).status == 200
    answer = proxied.ask("GET", path, headers={"If-None-Match": known["ETag"]})
    assert (answer.status, answer.headers["ETag"]) == (304, known["ETag"])


def test_head_is_answered_by_dfs_as_ever(proxied: ProxiedNode) -> None:
    """It costs no reading anyway."""
    path = proxied.store_verified(BODY)
    head = proxied.ask("HEAD", path)
    assert (head.status, head.sender, head.body) == (200, "dfs", b"")
    assert headers_of(head) == headers_of(proxied.ask("GET", path))


def test_damage_after_verification_is_never_sent(proxied: ProxiedNode) -> None:
    """The file has changed, so dfs reads it again, and finds the bytes on the replica."""
    body = os.urandom(3_000_000)
    path = proxied.store_verified(body)
    flip_byte(proxied, path)
    for headers in ({}, {"Range": "bytes=1499990-1500009"}):
        answer = proxied.ask("GET", path, headers=headers)
        start = 1_499_990 if headers else 0
        assert answer.sender == "dfs"
        assert answer.body == (body[start : start + 20] if headers else body)


def test_removed_blob_file_is_answered_from_the_replica(proxied: ProxiedNode) -> None:
    """nginx is not even asked: dfs looks whether the file is there."""
    body = os.urandom(3_000_000)
    path = proxied.store_verified(body)
    proxied.blob_file(path).unlink()
    answer = proxied.ask("GET", path)
    assert (answer.status, answer.sender, answer.body) == (200, "dfs", body)


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_replaced_blob_file_is_read_anew(proxied: ProxiedNode, kind: str) -> None:
    """What has the name of a blob and is another file was never found sound."""
    body = os.urandom(3_000_000)
    path = proxied.store_verified(body)
    blob = proxied.blob_file(path)
    other = blob.with_name("other")
    blob.rename(other)
    if kind == "file":
        other.write_bytes(bytes(len(body)))
        shutil.copy2(other, blob)
    elif kind == "link":
        blob.symlink_to(other)
    else:
        blob.mkdir()
    answers = [proxied.ask("GET", path) for _ in range(2)]
    assert {(answer.sender, answer.body) for answer in answers} == {("dfs", body)}


def test_mended_blob_file_is_sent_by_nginx_again(proxied: ProxiedNode) -> None:
    """The same bytes, stored again, take the place of the damaged ones, and are found sound."""
    body = os.urandom(3_000_000)
    path = proxied.store_verified(body)
    flip_byte(proxied, path)
    proxied.store(body)
    answers = [proxied.ask("GET", path) for _ in range(2)]
    assert [(answer.sender, answer.body) for answer in answers] == [("dfs", body), ("nginx", body)]


def test_client_cannot_have_or_stop_a_handover(proxied: ProxiedNode) -> None:
    """What a client says in the header is replaced by nginx; without nginx it has to be exact."""
    path = proxied.store_verified(BODY)
    for word in ("", "1", "/elsewhere/"):
        assert proxied.ask("GET", path, headers={"DFS-Accel": word}).sender == "nginx"
        assert proxied.ask_directly(path, {"DFS-Accel": word}) == (200, BODY)
    assert proxied.ask_directly(path, {}) == (200, BODY)
    small, name = proxied.store(b"small"), proxied.blob_file(path).name
    place = f"{PREFIX}{name[:2]}/{name[2:4]}/{name}"
    assert proxied.ask("GET", small, headers={"X-Accel-Redirect": place}).body == b"small"


def test_internal_location_is_nobodys(proxied: ProxiedNode) -> None:
    """A client that knows the digest gets nothing by it, with a key or without."""
    path = proxied.store_verified(BODY)
    name = proxied.blob_file(path).name
    for place in (f"{PREFIX}{name[:2]}/{name[2:4]}/{name}", PREFIX, f"{PREFIX}../x"):
        for token in (None, "wrong"):
            answer = proxied.ask("GET", place, token=token)
            assert answer.status == 404
            assert len(answer.body) < 1000


def test_deleted_file_is_gone_at_once(proxied: ProxiedNode) -> None:
    """Though its blob file is still there, and known to be sound."""
    path = proxied.store_verified(BODY)
    blob = proxied.blob_file(path)
    assert proxied.ask("DELETE", path.replace("download", "files")).status == 204
    answer = proxied.ask("GET", path)
    assert (answer.status, answer.sender, blob.exists()) == (404, "dfs", True)


def test_revoked_key_gets_nothing_from_nginx(proxied: ProxiedNode) -> None:
    """Every download asks dfs first."""
    path = proxied.store_verified(BODY)
    asked = b'{"name": "passing", "scopes": ["read"]}'
    made = proxied.ask("POST", "/admin/keys", asked, {"Content-Type": "application/json"}).json
    token = f"{made['token']}"
    answer = proxied.ask("GET", path, token=token)
    assert (answer.sender, answer.body) == ("nginx", BODY)
    assert proxied.ask("DELETE", f"/admin/keys/{made['id']}").status == 204
    wait_until(lambda: proxied.ask("GET", path, token=token).status == 401)
    assert proxied.ask("GET", path).sender == "nginx"


def test_proxy_speaks_http_2(proxied: ProxiedNode) -> None:
    """Clients that offer it get it."""
    context = tls_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection((HOST, proxied.proxy.tls.port), TIMEOUT_S) as plain,
        context.wrap_socket(plain) as secured,
    ):
        assert secured.selected_alpn_protocol() == "h2"


def begin_upload(proxied: ProxiedNode, size: int, sent: int) -> socket.socket:
    """Begin an upload through nginx; return the connection when dfs has all that was sent."""
    plain = socket.create_connection((HOST, proxied.proxy.tls.port), TIMEOUT_S)
    connection = tls_context().wrap_socket(plain)
    connection.sendall(
        f"POST /upload?name=big HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
        f"Authorization: Bearer {proxied.token}\r\nContent-Length: {size}\r\n\r\n".encode()
    )
    connection.sendall(bytes(sent))
    written = sent - 2 * MIB  # the rest may wait in buffers
    wait_until(lambda: sum(path.stat().st_size for path in proxied.temporaries()) >= written)
    return connection


def test_upload_is_not_kept_by_nginx(proxied: ProxiedNode) -> None:
    """64 MiB reach dfs while they are sent, and nginx makes no file of them."""
    with begin_upload(proxied, 64 * MIB, 32 * MIB) as connection:
        connection.sendall(bytes(32 * MIB))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 201 ")
    assert not list((proxied.proxy.directory / "client_body").rglob("*"))
    assert "temporary file" not in (proxied.proxy.directory / "error.log").read_text()


def test_upload_that_is_broken_off_leaves_nothing(proxied: ProxiedNode) -> None:
    """nginx tells dfs that the client has gone."""
    count = len(proxied.ask("GET", "/files?name=big").json["files"])
    begin_upload(proxied, 64 * MIB, 32 * MIB).close()
    wait_until(lambda: not proxied.temporaries())
    assert len(proxied.ask("GET", "/files?name=big").json["files"]) == count
