"""API keys and signed URLs: what may be asked, what is answered, and its documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from dfs.api.schemas import (
    KEY_CHARS_MAX,
    TEXT_PATTERN,
    JsonInteger,
    StrictSchema,
    Timestamp,
    check_prefix,
)
from dfs.api.spec import FILE_ID, Doc, answer, header, problems
from dfs.core.access import ALL_SCOPES, scope_names
from dfs.core.signing import URL_LIFE_S_MAX
from dfs.services.keys import NAME_CHARS_MAX

BYTES_MAX = 1 << 50
URL_LIFE_S = 3600
_SCOPES = scope_names(ALL_SCOPES)


class NewKeySchema(StrictSchema):
    """A key to be made."""

    name = fields.String(
        required=True,
        validate=[validate.Length(1, NAME_CHARS_MAX), check_prefix],
        metadata={"description": "For people.", "pattern": TEXT_PATTERN},
    )
    scopes = fields.List(
        fields.String(validate=validate.OneOf(_SCOPES)),
        required=True,
        validate=validate.Length(1, len(_SCOPES)),
    )
    prefix = fields.String(
        load_default="",
        validate=[validate.Length(max=KEY_CHARS_MAX), check_prefix],
        metadata={
            "pattern": TEXT_PATTERN,
            "description": "The key is good for files whose names begin so; to it there are no "
            "others. Not together with the scope admin.",
        },
    )
    expires_at = Timestamp(
        load_default=None,
        allow_none=True,
        metadata={"type": "string", "format": "date-time", "description": "null: never."},
    )


class KeySchema(Schema):
    """An API key, without its secret."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    scopes = fields.List(fields.String(validate=validate.OneOf(_SCOPES)), required=True)
    prefix = fields.String(required=True)
    created_at = fields.AwareDateTime(required=True)
    created_by = fields.String(
        required=True,
        metadata={"description": "Id of the key that made it; operator: from the command line."},
    )
    expires_at = fields.AwareDateTime(required=True, allow_none=True)
    expired = fields.Boolean(required=True)
    last_used_at = fields.AwareDateTime(
        required=True,
        allow_none=True,
        metadata={"description": "To the minute; null: never, or the index was rebuilt since."},
    )


class MadeKeySchema(KeySchema):
    """A key just made. The secret is shown only now."""

    secret = fields.String(
        required=True, metadata={"description": "The password for HTTP Basic; the id is the user."}
    )
    token = fields.String(required=True, metadata={"description": "For Authorization: Bearer."})


class KeysSchema(Schema):
    """All keys."""

    keys = fields.List(fields.Nested(KeySchema), required=True)


class NewUrlSchema(StrictSchema):
    """A URL to be signed: for the download of one file, or for uploads."""

    file_id = fields.String(metadata={"description": "Of the file that can be downloaded with it."})
    name = fields.String(
        validate=validate.Length(1, KEY_CHARS_MAX),
        metadata={
            "description": "The name that an uploaded file must have.",
            "pattern": TEXT_PATTERN,
        },
    )
    prefix = fields.String(
        validate=[validate.Length(max=KEY_CHARS_MAX), check_prefix],
        metadata={
            "description": "How the names of uploaded files must begin.",
            "pattern": TEXT_PATTERN,
        },
    )
    bytes_max = JsonInteger(
        validate=validate.Range(1, BYTES_MAX),
        metadata={"description": "Bytes that an uploaded file may have at most; needed for those."},
    )
    ttl_s = JsonInteger(
        load_default=URL_LIFE_S,
        validate=validate.Range(1, URL_LIFE_S_MAX),
        metadata={"description": "Seconds for which it is good."},
    )

    @validates_schema
    def _check_purpose(self, data: Mapping[str, Any], **_: object) -> None:
        purposes = [name for name in ("file_id", "name", "prefix") if name in data]
        if len(purposes) != 1:
            raise ValidationError("Exactly one of file_id, name and prefix is needed.")
        if ("bytes_max" in data) == ("file_id" in data):
            raise ValidationError("Needed for uploads, and only for those.", "bytes_max")


URL_PURPOSES: list[Doc] = [
    {"required": ["file_id"], "properties": {"name": False, "prefix": False, "bytes_max": False}},
    {"required": ["name", "bytes_max"], "properties": {"file_id": False, "prefix": False}},
    {"required": ["prefix", "bytes_max"], "properties": {"file_id": False, "name": False}},
]
"""What the check above demands, for the document."""


class UrlSchema(Schema):
    """A signed URL. Whoever has it can use it, as often as he likes, until it expires."""

    method = fields.String(required=True, validate=validate.OneOf(["GET", "POST"]))
    url = fields.String(required=True, metadata={"description": "Without scheme and host."})
    expires_at = fields.AwareDateTime(required=True)


KEY_ID: Doc = {**FILE_ID, "name": "key_id", "description": "Id of the key."}
KEYS_DOC: Doc = {"responses": {"200": answer("All keys.", KeysSchema), **problems(422, 503)}}
NEW_KEY_DOC: Doc = {
    "responses": {
        "201": answer(
            "Made and synced. Its secret cannot be had again.",
            MadeKeySchema,
            {"Location": header("Where the key is described.")},
        ),
        **problems(400, 413, 415, 422, 503, 507),
    }
}
KEY_DOC: Doc = {
    "parameters": [KEY_ID],
    "responses": {"200": answer("The key.", KeySchema), **problems(404, 422, 503)},
}
REVOKE_DOC: Doc = {
    "description": "It is good for nothing within half a second, in all processes. The last key "
    "stays: without it the node would be open to everybody on its machine.",
    "parameters": [KEY_ID],
    "responses": {
        "204": {"description": "Revoked; the record is synced."},
        **problems(404, 409, 422, 503, 507),
    },
}
NEW_URL_DOC: Doc = {
    "description": "Signed with the key that asks, which must have the scope `read` for a download "
    "and `write` for an upload, and is good no longer than that key. A client that knows the "
    "secret of its key can sign by itself, see docs/access.md.",
    "responses": {
        "201": answer("The URL.", UrlSchema),
        **problems(400, 404, 413, 415, 422, 503),
    },
}
