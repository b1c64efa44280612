"""Uploads stop before a disk is full; all that makes room again, or needs none, goes on."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from dfs.api.answers import ReadySchema
from dfs.wiring import Services
from tests.api.conftest import MakeApp
from tests.mounts import SmallDisk, small_disk

MIB = 1 << 20
DISK_BYTES = 48 * MIB
DISK_INODES = 400
ROOM_BYTES = 10 * MIB
BALLAST_BYTES = 3 * MIB
INLINE, LARGE = 60_000, 400_000
OVERSHOOT_BYTES = 6 * MIB
"""Of one thread: a MiB in hand, one given out already, and the zeros ahead in the log."""

Disk = Callable[..., SmallDisk]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Return a maker of the disk at `name`, below the directory of the test."""
    with ExitStack() as disks:
        yield lambda name: disks.enter_context(
            small_disk(tmp_path / name, size_bytes=DISK_BYTES, inodes=DISK_INODES)
        )


def start(make_app: MakeApp, disk: SmallDisk, **settings: str) -> FlaskClient:
    """Return a client of a node that may write so much to the disk, besides the reserve."""
    reserve = {
        "DFS_RESERVE_BYTES": str(disk.free_bytes - ROOM_BYTES - BALLAST_BYTES),
        "DFS_RESERVE_INODES": "0",
        "DFS_WAL_SEGMENT_BYTES": str(4 * MIB),
    }
    disk.put_ballast(BALLAST_BYTES)
    return make_app(**(reserve | settings)).test_client()


def upload_until_full(client: FlaskClient, size: int) -> dict[str, bytes]:
    """Upload files of a size until one is refused for lack of room; return those stored, by id."""
    stored: dict[str, bytes] = {}
    while True:
        data = os.urandom(size)
        response: Any = client.post("/upload?name=a", data=data)
        if response.status_code != 201:
            assert (response.status_code, response.json["code"]) == (507, "no_space")
            return stored
        stored[response.json["id"]] = data
        assert len(stored) < 1000, "the disk never fills"


def require_the_rest_works(client: FlaskClient, stored: dict[str, bytes]) -> None:
    """Read, list, change and delete on a disk on which only the reserve is left."""
    listed: Any = client.get("/files?limit=1000").json
    assert {file["id"] for file in listed["files"]} == set(stored)
    for file_id, data in stored.items():
        assert client.get(f"/download/{file_id}").data == data
    victim, kept = list(stored)[:2]
    assert client.patch(f"/files/{kept}", json={"name": "renamed"}).status_code == 200
    assert client.delete(f"/files/{victim}").status_code == 204
    assert client.get(f"/files/{victim}").status_code == 404
    ready: Any = client.get("/ready")
    assert ReadySchema().validate(ready.json) == {}
    assert (ready.status_code, ready.json["status"]) == (200, "degraded")
    assert "only the reserve" in ready.json["reasons"]["room"]


@pytest.mark.parametrize(
    ("where", "size"), [("all", INLINE), ("all", LARGE), ("wal", INLINE), ("primary", LARGE)]
)
def test_upload_is_refused_before_the_disk_is_full(
    make_app: MakeApp, disk: Disk, tmp_path: Path, where: str, size: int
) -> None:
    """Whether log and blobs share a disk or not. The rest works, and room ends it by itself."""
    full = disk(where)
    places = {"STORAGE_PATH": "all/primary", "WAL_PATH": "all/wal"} if where == "all" else {}
    paths = {name: str(tmp_path / place) for name, place in places.items()}
    client = start(make_app, full, **paths)
    services: Services = client.application.extensions["dfs"].services
    stored = upload_until_full(client, size)
    assert len(stored) * size > ROOM_BYTES // 3
    assert full.free_bytes > services.config.reserve_bytes - OVERSHOOT_BYTES
    require_the_rest_works(client, stored)
    require_nothing_half(services)
    full.drop_ballast()
    assert client.post("/upload?name=b", data=os.urandom(size)).status_code == 201
    ready: Any = client.get("/ready").json
    assert ready["status"] == "ready"


def require_nothing_half(services: Services) -> None:
    """No upload that was refused has left anything."""
    primary = services.config.storage_path
    assert list((primary / "tmp").iterdir()) == []
    blobs = [path for path in (primary / "blobs").rglob("*") if path.is_file()]
    assert len(blobs) == services.scrub._index.blob_file_totals()[0]


class Unread(io.RawIOBase):
    """A body that must not be read."""

    def tell(self) -> int:
        return 0

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0

    def readinto(self, buffer: object) -> int:
        raise AssertionError("the body was read")


@pytest.mark.parametrize("content_type", ["", "multipart/form-data; boundary=x"])
def test_upload_that_does_not_fit_is_refused_before_it_is_read(
    make_app: MakeApp, disk: Disk, content_type: str
) -> None:
    """By its declared length; the connection is closed, since the body would come next."""
    client = start(make_app, disk("primary"))
    response: Any = client.post(
        "/upload?name=a",
        input_stream=Unread(),
        content_type=content_type,
        environ_overrides={"CONTENT_LENGTH": str(ROOM_BYTES + 1)},
    )
    assert (response.status_code, response.json["code"]) == (507, "no_space")
    assert response.headers["Connection"] == "close"
    fits = client.post("/upload?name=a", data=bytes(ROOM_BYTES - MIB))
    assert fits.status_code == 201


def test_upload_without_a_length_is_refused_while_it_comes(make_app: MakeApp, disk: Disk) -> None:
    """It is not read to its end, and leaves nothing."""
    full = disk("primary")
    client = start(make_app, full)
    before = full.free_bytes
    body = io.BytesIO(bytes(2 * ROOM_BYTES))
    response: Any = client.post(
        "/upload?name=a",
        input_stream=body,
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert response.status_code == 507
    assert body.tell() <= ROOM_BYTES + 2 * MIB
    assert full.free_bytes >= before - (64 << 10)  # the identity of the store is new
    require_nothing_half(client.application.extensions["dfs"].services)


def test_upload_is_refused_before_the_inodes_are_used_up(make_app: MakeApp, disk: Disk) -> None:
    """On a disk with bytes enough; what needs no new file goes on."""
    full = disk("primary")
    reserve = full.free_inodes - DISK_INODES // 2
    client = start(make_app, full, DFS_RESERVE_BYTES="0", DFS_RESERVE_INODES=str(reserve))
    stored = upload_until_full(client, 70_000)
    assert len(stored) > DISK_INODES // 2 // 4
    # Room is looked at while an upload lacks the two directories that it has been given room for.
    assert full.free_inodes >= reserve - 2
    require_the_rest_works(client, stored)
    require_nothing_half(client.application.extensions["dfs"].services)


def test_log_goes_on_rotating_within_the_reserve(make_app: MakeApp, disk: Disk) -> None:
    """Many changes of many segments, none of which writes zeros ahead."""
    full = disk("wal")
    client = start(make_app, full, DFS_WAL_SEGMENT_BYTES=str(64 << 10))
    stored = upload_until_full(client, INLINE)
    services: Services = client.application.extensions["dfs"].services
    free_bytes, segment_id = full.free_bytes, services.log.position.segment_id
    before = services.log.position
    for number in range(60):
        changes = {"metadata": {"number": str(number), "text": "x" * 4000}}
        assert client.patch(f"/files/{min(stored)}", json=changes).status_code == 200
    assert services.log.position.segment_id >= segment_id + 3
    written = services.log.position.lsn - before.lsn
    assert free_bytes - full.free_bytes < written * 5000 + (64 << 10)
    assert client.get("/ready").json["status"] == "degraded"  # type: ignore[index]


def test_metrics_and_readiness_tell_what_is_left(make_app: MakeApp, disk: Disk) -> None:
    """Of each disk, the reserve included; those that share one say the same."""
    full = disk("primary")
    client = start(make_app, full, DFS_RESERVE_BYTES="12345", DFS_RESERVE_INODES="67")
    text = client.get("/metrics").text
    ready: Any = client.get("/ready").json
    assert set(ready["disks"]) == {"log", "primary", "index"}
    assert ready["disks"]["primary"]["free_bytes"] == full.free_bytes
    assert ready["disks"]["primary"]["free_inodes"] == full.free_inodes
    told = dict(re.findall(r'(dfs_disk_free_\w+){disk="primary"} (\S+)', text))
    assert float(told["dfs_disk_free_bytes"]) == full.free_bytes
    assert float(told["dfs_disk_free_inodes"]) == full.free_inodes
    assert 'dfs_disk_free_bytes{disk="log"}' in text
    assert "dfs_reserve_bytes 12345.0" in text
    assert "dfs_reserve_inodes 67.0" in text


@pytest.mark.parametrize(
    ("where", "size"), [("wal", INLINE), ("primary", LARGE), ("index", INLINE)]
)
def test_disk_that_others_have_filled_stops_no_reading(
    make_app: MakeApp, disk: Disk, where: str, size: int
) -> None:
    """To the last byte: what is refused has not happened, and room ends it by itself."""
    full = disk(where)
    client = start(make_app, full, DFS_RESERVE_BYTES="0")
    first: Any = client.post("/upload?name=a", data=bytes(size)).json
    stored = {first["id"]: bytes(size)}
    full.drop_ballast()
    if full.is_own:
        full.fill()
        stored |= upload_until_full(client, size)
        ready: Any = client.get("/ready")
        assert (ready.status_code, ready.json["status"]) == (503, "unready")
        assert ready.json["disks"]["log" if where == "wal" else where]["free_bytes"] < MIB
    for file_id, data in stored.items():
        assert client.get(f"/download/{file_id}").data == data
    listed: Any = client.get("/files?limit=1000").json
    assert {file["id"] for file in listed["files"]} == set(stored)
    if full.is_own:
        full.drop_ballast()
    require_nothing_half(client.application.extensions["dfs"].services)
    assert client.post("/upload?name=b", data=os.urandom(size)).status_code == 201
    assert client.delete(f"/files/{first['id']}").status_code == 204
    assert client.get("/ready").status_code == 200
