"""`/admin/wal`: the log, verified as it is read."""

from __future__ import annotations

import re
from typing import Any

from dfs.api.blueprints import Blueprint
from dfs.api.represent import format_timestamp
from dfs.api.requests import services
from dfs.api.responses import Answer, answer_json
from dfs.api.schemas import EntriesQuerySchema
from dfs.api.spec import ENTRIES_DOC, INSPECT_DOC, SEGMENTS_DOC
from dfs.core.errors import NoSuchSegmentError
from dfs.services.inspection import EntryInfo, SegmentInfo

blueprint = Blueprint("admin", __name__, url_prefix="/admin/wal")


@blueprint.route("/segments", methods=["GET"])
@blueprint.doc(**SEGMENTS_DOC)
@blueprint.without_query
def list_segments() -> Answer:
    """List the segments of the log"""
    segments = services().wal_inspection.segments()
    return answer_json({"segments": [_represent_segment(segment) for segment in segments]})


@blueprint.route("/entries", methods=["GET"])
@blueprint.doc(**ENTRIES_DOC)
@blueprint.arguments(EntriesQuerySchema, location="query")
def list_entries(query: dict[str, Any]) -> Answer:
    """List records of the log"""
    entries = services().wal_inspection.entries(**query)
    more = len(entries) == query["limit"]
    return answer_json(
        {
            "entries": [_represent_entry(entry) for entry in entries],
            "next": entries[-1].lsn if more else None,
        }
    )


@blueprint.route("/inspect/<segment_id>", methods=["GET"])
@blueprint.doc(**INSPECT_DOC)
@blueprint.without_query
def inspect_segment(segment_id: str) -> Answer:
    """Read and check every record of a segment"""
    if not re.fullmatch(r"[0-9]{1,18}", segment_id):
        raise NoSuchSegmentError("The log has no segment of that id.")
    report = services().wal_inspection.inspect(int(segment_id))
    return answer_json(
        {
            "segment": _represent_segment(report.segment),
            "records": report.records,
            "outcome": report.outcome,
            "fault": report.fault,
            "fault_offset": report.fault_offset,
        }
    )


def _represent_segment(segment: SegmentInfo) -> dict[str, Any]:
    sealed_at_ms = segment.sealed_at_ms
    return {
        "id": segment.id,
        "first_lsn": segment.first_lsn,
        "last_lsn": segment.last_lsn,
        "size_bytes": segment.size_bytes,
        "state": segment.state,
        "created_at": format_timestamp(segment.created_at_ms),
        "sealed_at": None if sealed_at_ms is None else format_timestamp(sealed_at_ms),
    }


def _represent_entry(entry: EntryInfo) -> dict[str, Any]:
    return {
        "lsn": entry.lsn,
        "type": entry.type,
        "segment_id": entry.segment_id,
        "offset": entry.offset,
        "length": entry.length,
        "meta": entry.meta,
        "data_length": entry.data_length,
    }
