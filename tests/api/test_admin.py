"""The log as operators see it."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from dfs.api.answers import EntriesSchema, SegmentReportSchema, SegmentsSchema
from tests.api.conftest import MakeApp
from tests.services.dropped import compact


@pytest.fixture
def file_ids(client: FlaskClient) -> list[str]:
    """Store two files, change the first, and delete the second."""
    ids = []
    for body in (b"one", b"two"):
        file: Any = client.post("/upload", query_string={"name": "a"}, data=body).json
        ids.append(file["id"])
    client.patch(f"/files/{ids[0]}", json={"name": "b", "expires_at": "2100-01-01T00:00:00Z"})
    client.delete(f"/files/{ids[1]}")
    return ids


def test_wal_segments_are_listed(client: FlaskClient, file_ids: list[str]) -> None:
    """The active segment holds all records so far."""
    response: Any = client.get("/admin/wal/segments")
    assert SegmentsSchema().validate(response.json) == {}
    (segment,) = response.json["segments"]
    assert (segment["state"], segment["first_lsn"], segment["last_lsn"]) == ("active", 1, 6)


def test_wal_entries_are_paged_by_lsn(client: FlaskClient, file_ids: list[str]) -> None:
    """Following `next` visits each record once."""
    lsns: list[int] = []
    after: int | None = 0
    while after is not None:
        response: Any = client.get(f"/admin/wal/entries?after={after}&limit=4")
        assert EntriesSchema().validate(response.json) == {}
        lsns += [entry["lsn"] for entry in response.json["entries"]]
        after = response.json["next"]
    assert lsns == [1, 2, 3, 4, 5, 6]


def test_wal_entries_of_a_file_are_its_history(client: FlaskClient, file_ids: list[str]) -> None:
    """One file's records, oldest first."""
    response: Any = client.get(f"/admin/wal/entries?file_id={file_ids[1]}")
    types = [entry["type"] for entry in response.json["entries"]]
    assert types == ["PutFile", "DeleteFile"]


def test_wal_inspection_reports_a_segment(client: FlaskClient, file_ids: list[str]) -> None:
    """Every record is read and counted."""
    response: Any = client.get("/admin/wal/inspect/1")
    assert SegmentReportSchema().validate(response.json) == {}
    assert response.json["outcome"] == "clean"
    assert sum(response.json["records"].values()) == 6


@pytest.mark.parametrize("segment_id", ["2", "x", "-1", "9" * 18, "9" * 5000, "1.0", "\u0661"])
def test_wal_inspection_of_an_unknown_segment_is_404(client: FlaskClient, segment_id: str) -> None:
    """Whatever is no segment of the log is not found."""
    response: Any = client.get(f"/admin/wal/inspect/{segment_id}")
    assert (response.status_code, response.json["code"]) == (404, "no_such_segment")


@pytest.mark.parametrize(
    "query", ["after=-1", "after=" + "9" * 19, "limit=0", "limit=1001", "file_id=x", "lsn=1"]
)
def test_wal_entries_query_invalid_is_refused(client: FlaskClient, query: str) -> None:
    """Each fault is 422 and names its parameter."""
    response: Any = client.get(f"/admin/wal/entries?{query}")
    assert (response.status_code, list(response.json["errors"])) == (422, [query.partition("=")[0]])


def test_wal_tells_of_a_dropped_segment(make_app: MakeApp) -> None:
    """The list says that it was dropped, its entry says so, and reading its stub finds no fault."""
    app = make_app(DFS_WAL_SEGMENT_BYTES=str(1 << 17))
    client = app.test_client()
    for number in range(5):
        client.post("/upload", query_string={"name": "a"}, data=bytes([number]) * 30_000)
    drop = compact(app.extensions["dfs"].services, 1)[0]
    listed: Any = client.get("/admin/wal/segments").json
    assert SegmentsSchema().validate(listed) == {}
    assert [segment["state"] for segment in listed["segments"]] == ["dropped", "sealed", "active"]
    entries: Any = client.get("/admin/wal/entries?limit=1").json
    assert EntriesSchema().validate(entries) == {}
    assert entries["entries"][0]["meta"]["moved_lsn"] == drop.moved_lsn
    report: Any = client.get("/admin/wal/inspect/1").json
    assert SegmentReportSchema().validate(report) == {}
    assert (report["outcome"], report["records"]) == ("clean", {"DropSegment": 1})
