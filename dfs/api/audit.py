"""`GET /admin/audit`: who has done what."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from dfs.api.blueprints import Blueprint
from dfs.api.represent import format_timestamp
from dfs.api.requests import services
from dfs.api.responses import Answer, answer_json
from dfs.api.schemas import EntriesQuerySchema, WholeText
from dfs.api.spec import answer, problems
from dfs.core.signing import KEY_ID_CHARS
from dfs.services.audit import ACTIONS, Deed

blueprint = Blueprint("audit", __name__, url_prefix="/admin")


class AuditQuerySchema(EntriesQuerySchema):
    """Query of the audit trail."""

    by = fields.String(
        load_default=None,
        validate=WholeText(rf"[0-9A-Za-z]{{1,{KEY_ID_CHARS}}}"),
        metadata={"description": "Only what was done with this key; or `node`, or `operator`."},
    )


class DeedSchema(Schema):
    """What somebody did."""

    lsn = fields.Integer(required=True, metadata={"description": "Of the record of the log."})
    at = fields.AwareDateTime(required=True)
    action = fields.String(required=True, validate=validate.OneOf(list(ACTIONS.values())))
    by = fields.String(
        required=True,
        allow_none=True,
        metadata={
            "description": "Id of the key; `node`: it did that by itself; `operator`: from the "
            "command line; null: somebody without a key, when none was needed."
        },
    )
    by_name = fields.String(required=True, allow_none=True)
    file_id = fields.String(required=True, allow_none=True)
    file_name = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The name that the file got, or else has now; null: it is gone."},
    )
    key_id = fields.String(
        required=True, allow_none=True, metadata={"description": "The key made or revoked."}
    )
    key_name = fields.String(required=True, allow_none=True)
    copy = fields.Boolean(
        required=True,
        metadata={
            "description": "Compaction has written this record in the place of older ones; the "
            "original may still be there, too."
        },
    )


class AuditSchema(Schema):
    """Some deeds, oldest first."""

    deeds = fields.List(fields.Nested(DeedSchema), required=True)
    next = fields.Integer(
        required=True,
        allow_none=True,
        metadata={
            "description": "Pass it as `after` for more, even if this page has few or none; null: "
            "there are no more."
        },
    )


@blueprint.route("/audit", methods=["GET"])
@blueprint.doc(responses={"200": answer("Deeds.", AuditSchema), **problems(422, 500, 503)})
@blueprint.arguments(AuditQuerySchema, location="query")
def list_deeds(query: dict[str, Any]) -> Answer:
    """Tell who has changed what"""
    page = services().audit.read(**query)
    deeds = [_represent_deed(deed) for deed in page.deeds]
    return answer_json({"deeds": deeds, "next": page.next})


def _represent_deed(deed: Deed) -> dict[str, Any]:
    return {
        "lsn": deed.lsn,
        "at": format_timestamp(deed.at_ms),
        "action": deed.action,
        "by": deed.by,
        "by_name": deed.by_name,
        "file_id": deed.file_id,
        "file_name": deed.file_name,
        "key_id": deed.key_id,
        "key_name": deed.key_name,
        "copy": deed.is_copy,
    }
