"""What is answered: schemas for the OpenAPI document, and for the tests that hold answers to it.

Answers themselves are built by hand, because marshmallow takes longer than a whole download.
"""

from __future__ import annotations

from marshmallow import Schema, fields, validate

_LSN = {"description": "Number of a record in the log."}


class FileSchema(Schema):
    """A stored file."""

    id = fields.String(required=True, metadata={"description": "ULID."})
    name = fields.String(required=True)
    size = fields.Integer(required=True, metadata={"description": "Bytes."})
    sha256 = fields.String(required=True, metadata={"description": "Digest, hexadecimal."})
    etag = fields.String(
        required=True, metadata={"description": "For If-Match and If-None-Match, without quotes."}
    )
    content_type = fields.String(required=True)
    metadata = fields.Dict(keys=fields.String(), values=fields.String(), required=True)
    created_at = fields.AwareDateTime(required=True)
    updated_at = fields.AwareDateTime(required=True)
    expires_at = fields.AwareDateTime(required=True, allow_none=True)
    lsn = fields.Integer(required=True, metadata=_LSN)


class DurabilitySchema(Schema):
    """What the acknowledgement of a write guarantees."""

    lsn = fields.Integer(required=True, metadata=_LSN)
    copies = fields.Integer(
        required=True, metadata={"description": "Stores that have record and bytes on disk."}
    )
    stores = fields.List(fields.String(), required=True)


class StoredFileSchema(FileSchema):
    """A file just stored or changed."""

    durability = fields.Nested(DurabilitySchema, required=True)


class StoredFilesSchema(Schema):
    """The files of one form, stored together."""

    files = fields.List(fields.Nested(FileSchema), required=True)
    durability = fields.Nested(DurabilitySchema, required=True)


class FilePageSchema(Schema):
    """A page of files."""

    files = fields.List(fields.Nested(FileSchema), required=True)
    next = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Pass it as `after` for the next page; null on the last."},
    )


class ProblemSchema(Schema):
    """What went wrong (RFC 9457)."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    code = fields.String(required=True, metadata={"description": "Stable, for programs."})
    request_id = fields.String(required=True)
    errors = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"description": "Messages for each offending field."},
    )


class HealthSchema(Schema):
    """The process lives."""

    status = fields.String(required=True, validate=validate.Equal("ok"))


class ReadySchema(Schema):
    """Whether the node can serve."""

    status = fields.String(
        required=True,
        validate=validate.OneOf(["ready", "degraded", "unready"]),
        metadata={"description": "degraded: all is served, but background work is late."},
    )
    reasons = fields.Dict(
        keys=fields.String(),
        values=fields.String(allow_none=True),
        required=True,
        metadata={"description": "For each part why it does not work; null: it does."},
    )


class SegmentSchema(Schema):
    """A file of the log."""

    id = fields.Integer(required=True)
    first_lsn = fields.Integer(required=True)
    last_lsn = fields.Integer(
        required=True, metadata={"description": "`first_lsn` - 1: no record yet."}
    )
    size_bytes = fields.Integer(required=True)
    state = fields.String(required=True, validate=validate.OneOf(["active", "sealed", "abandoned"]))
    created_at = fields.AwareDateTime(required=True)
    sealed_at = fields.AwareDateTime(required=True, allow_none=True)


class SegmentsSchema(Schema):
    """All segments, oldest first."""

    segments = fields.List(fields.Nested(SegmentSchema), required=True)


class EntrySchema(Schema):
    """A record of the log, verified as it was read."""

    lsn = fields.Integer(required=True, metadata=_LSN)
    type = fields.String(required=True)
    segment_id = fields.Integer(required=True)
    offset = fields.Integer(required=True, metadata={"description": "Bytes into the segment."})
    length = fields.Integer(required=True, metadata={"description": "Bytes of the record."})
    meta = fields.Dict(keys=fields.String(), required=True)
    data_length = fields.Integer(
        required=True, metadata={"description": "Bytes of the inline blob in it."}
    )


class EntriesSchema(Schema):
    """Some records, oldest first."""

    entries = fields.List(fields.Nested(EntrySchema), required=True)
    next = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "Pass it as `after` for more; null: there are no more."},
    )


class SegmentReportSchema(Schema):
    """What reading every record of a segment has shown."""

    segment = fields.Nested(SegmentSchema, required=True)
    records = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata={"description": "How many of each type."},
    )
    outcome = fields.String(required=True, validate=validate.OneOf(["clean", "torn", "corrupt"]))
    fault = fields.String(required=True, allow_none=True)
    fault_offset = fields.Integer(required=True, allow_none=True)
