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
    deleted_at = fields.AwareDateTime(
        required=True,
        allow_none=True,
        metadata={"description": "Since when the file is in the trash; null: it is not."},
    )
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
    trace_id = fields.String(metadata={"description": "If the node traces requests."})
    errors = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"description": "Messages for each offending field."},
    )


class HealthSchema(Schema):
    """The process lives."""

    status = fields.String(required=True, validate=validate.Equal("ok"))


class SpaceSchema(Schema):
    """What is left of a disk, the reserve included."""

    free_bytes = fields.Integer(required=True)
    free_inodes = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "null: this file system makes them as they are needed."},
    )


class ReadySchema(Schema):
    """Whether the node can serve."""

    status = fields.String(
        required=True,
        validate=validate.OneOf(["ready", "degraded", "unready"]),
        metadata={
            "description": "degraded: uploads are refused for lack of room, or background work "
            "is late; all else is served."
        },
    )
    reasons = fields.Dict(
        keys=fields.String(),
        values=fields.String(allow_none=True),
        metadata={
            "description": "To administrators: for each part why it does not work; null: it does."
        },
    )
    disks = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(SpaceSchema),
        metadata={"description": "To administrators: by what lies there: log, primary, index."},
    )


class SegmentSchema(Schema):
    """A file of the log."""

    id = fields.Integer(required=True)
    first_lsn = fields.Integer(required=True)
    last_lsn = fields.Integer(
        required=True, metadata={"description": "`first_lsn` - 1: no record yet."}
    )
    size_bytes = fields.Integer(required=True)
    state = fields.String(
        required=True, validate=validate.OneOf(["active", "sealed", "abandoned", "dropped"])
    )
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


_AGE = {"description": "Seconds since the oldest is owed; null: nothing is, or it is not known."}


class OwedSchema(Schema):
    """What a store owes of one kind."""

    count = fields.Integer(required=True, metadata={"description": "Units; of the log: records."})
    bytes = fields.Integer(required=True, metadata={"description": "As far as they are known."})
    failing = fields.Integer(
        required=True, metadata={"description": "How many of them have been tried in vain."}
    )
    oldest_s = fields.Float(required=True, allow_none=True, metadata=_AGE)
    due_at = fields.AwareDateTime(
        required=True,
        allow_none=True,
        metadata={"description": "When the last of them may be paid; null: all may be now."},
    )
    last_error = fields.String(required=True, allow_none=True)


class OwedKindsSchema(Schema):
    """What a store owes, by kind."""

    log = fields.Nested(OwedSchema, required=True)
    blob = fields.Nested(OwedSchema, required=True)
    segment = fields.Nested(OwedSchema, required=True)
    removal = fields.Nested(
        OwedSchema,
        required=True,
        metadata={"description": "Of what is not wanted any more: its bytes will be free."},
    )


class DebtsSchema(Schema):
    """What a store owes: to a replica copies are owed, to the primary mends."""

    lag_records = fields.Integer(
        required=True, metadata={"description": "Records of the log that it does not have."}
    )
    oldest_debt_s = fields.Float(required=True, allow_none=True, metadata=_AGE)
    owed_bytes = fields.Integer(
        required=True, metadata={"description": "To be copied, of all kinds."}
    )
    debts = fields.Nested(OwedKindsSchema, required=True)


class PositionSchema(Schema):
    """A place in the log."""

    segment_id = fields.Integer(required=True)
    offset = fields.Integer(required=True)
    lsn = fields.Integer(required=True, metadata=_LSN)


class ScrubSchema(Schema):
    """How far the scrub of a store is, and what the last one found."""

    running = fields.Boolean(required=True)
    share = fields.Float(
        required=True,
        allow_none=True,
        validate=validate.Range(0, 1),
        metadata={"description": "Of what it has to read; null: none is running."},
    )
    bytes_read = fields.Integer(required=True)
    bytes_total = fields.Integer(required=True)
    bytes_per_s = fields.Float(required=True, allow_none=True)
    eta_s = fields.Float(
        required=True, allow_none=True, metadata={"description": "Seconds until it is done."}
    )
    damaged = fields.Integer(required=True, metadata={"description": "Found so far."})
    started_at = fields.AwareDateTime(required=True, allow_none=True)
    last_finished_at = fields.AwareDateTime(required=True, allow_none=True)
    last_damaged = fields.Integer(
        required=True, metadata={"description": "Found by the last one that was finished."}
    )
    last_bytes = fields.Integer(required=True, metadata={"description": "That it has read."})


class StoreSchema(DebtsSchema):
    """A store: the primary or a replica."""

    name = fields.String(required=True)
    kind = fields.String(required=True, metadata={"description": "`directory`, or a URL's scheme."})
    location = fields.String(required=True, metadata={"description": "Path, or URL without keys."})
    reachable = fields.Boolean(
        required=True, metadata={"description": "Whether it answered just now."}
    )
    unreachable_reason = fields.String(required=True, allow_none=True)
    breaker = fields.String(
        required=True,
        validate=validate.OneOf(["closed", "open", "half-open"]),
        metadata={"description": "open: left alone after failures; half-open: to be tried again."},
    )
    failures = fields.Integer(
        required=True, metadata={"description": "Since it was last used with success."}
    )
    retry_at = fields.AwareDateTime(required=True, allow_none=True)
    last_error = fields.String(required=True, allow_none=True)
    last_error_at = fields.AwareDateTime(required=True, allow_none=True)
    position = fields.Nested(
        PositionSchema,
        required=True,
        allow_none=True,
        metadata={"description": "Up to here it has the log; null for the primary."},
    )
    scrub = fields.Nested(ScrubSchema, required=True)


class StoresSchema(Schema):
    """All stores of the node, the primary first."""

    stores = fields.List(fields.Nested(StoreSchema), required=True)


class SyncSchema(Schema):
    """What came of asking for work on the stores."""

    jobs = fields.List(fields.String(), required=True, metadata={"description": "Their ids."})
    done = fields.Boolean(
        required=True,
        metadata={
            "description": "Nothing is owed any more of what could be paid at the request. "
            "What has to wait is owed still; its `due_at` tells until when."
        },
    )
    owed = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(DebtsSchema),
        required=True,
        metadata={"description": "What is owed now, by name of the store."},
    )


class ScrubStartSchema(Schema):
    """What came of asking for scrubs."""

    jobs = fields.List(fields.String(), required=True, metadata={"description": "Their ids."})
    running = fields.List(
        fields.String(),
        required=True,
        metadata={"description": "Stores whose scrub was under way already."},
    )
    faults = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata={"description": "Stores that cannot be scrubbed now, and why."},
    )


class FileUsageSchema(Schema):
    """What files hold."""

    files = fields.Integer(required=True)
    bytes = fields.Integer(required=True)
    deleted_files = fields.Integer(required=True, metadata={"description": "In the trash."})
    deleted_bytes = fields.Integer(required=True)


class BlobUsageSchema(Schema):
    """What blobs hold: the bytes of files, equal ones once."""

    files = fields.Integer(required=True, metadata={"description": "Blobs that are files."})
    file_bytes = fields.Integer(required=True)
    unused_files = fields.Integer(
        required=True, metadata={"description": "Those of them that no file needs any more."}
    )
    unused_bytes = fields.Integer(required=True)
    inline = fields.Integer(required=True, metadata={"description": "Blobs inside the log."})
    inline_bytes = fields.Integer(required=True)


class UsageSchema(FileUsageSchema):
    """What the node holds."""

    quota_bytes = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "For all files, those in the trash included; null: no limit."},
    )
    buckets = fields.Dict(
        keys=fields.String(), values=fields.Nested(FileUsageSchema), required=True
    )
    blobs = fields.Nested(BlobUsageSchema, required=True)
    deduplicated_bytes = fields.Integer(
        required=True, metadata={"description": "Of files that are the same as others."}
    )
    log_bytes = fields.Integer(required=True)
    dead_bytes = fields.Integer(
        required=True, metadata={"description": "Of the log: what is not needed any more."}
    )
    owed_copy_bytes = fields.Integer(
        required=True, metadata={"description": "Of blobs and segments, to be copied to stores."}
    )
    owed_removal_bytes = fields.Integer(
        required=True, metadata={"description": "Of blobs, to be removed from stores."}
    )
