"""The OpenAPI document of each route: parameters, bodies, answers."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from marshmallow import Schema

from dfs.api.answers import (
    EntriesSchema,
    FilePageSchema,
    FileSchema,
    HealthSchema,
    ProblemSchema,
    ReadySchema,
    ScrubStartSchema,
    SegmentReportSchema,
    SegmentsSchema,
    StoredFileSchema,
    StoredFilesSchema,
    StoresSchema,
    SyncSchema,
    UsageSchema,
)
from dfs.api.forms import FILES_MAX
from dfs.api.problems import MEDIA_TYPE
from dfs.api.requests import REPLICATION_MODES
from dfs.api.schemas import StoreChoiceSchema, UploadQuerySchema

JSON = "application/json"

Doc = dict[str, Any]

FILE_ID: Doc = {
    "in": "path",
    "name": "file_id",
    "required": True,
    "schema": {"type": "string"},
    "description": "ULID of the file.",
}
SEGMENT_ID: Doc = {
    "in": "path",
    "name": "segment_id",
    "required": True,
    "schema": {"type": "integer", "minimum": 0},
    "description": "Number of the segment.",
}


def header_parameter(name: str, description: str, **schema: Any) -> Doc:
    """Return a parameter that is an optional header."""
    return {
        "in": "header",
        "name": name,
        "description": description,
        "schema": {"type": "string", **schema},
    }


def answer(description: str, schema: type[Schema] | Doc, headers: Doc | None = None) -> Doc:
    """Return a JSON answer."""
    documented: Doc = {"description": description, "content": {JSON: {"schema": schema}}}
    return documented | ({"headers": headers} if headers else {})


def header(description: str) -> Doc:
    """Return a header of an answer."""
    return {"description": description, "schema": {"type": "string"}}


def problems(*statuses: int) -> Doc:
    """Return problem answers for these statuses, and for all others that may come."""
    documented: Doc = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": ProblemSchema}},
        }
        for status in statuses
    }
    documented["default"] = {
        "description": "Any other error.",
        "content": {MEDIA_TYPE: {"schema": ProblemSchema}},
    }
    return documented


_WRITE_HEADERS: Doc = {
    "DFS-LSN": header("Number of the last record of the change in the log."),
    "DFS-Durable-Copies": header("On how many stores record and bytes are synced."),
}
_IF_MATCH = header_parameter("If-Match", "Only if the file has one of these entity tags.")
_REPLICATION = header_parameter(
    "DFS-Replication",
    "`sync`: answer when `DFS_WRITE_QUORUM` stores have the change on disk, and 503 with nothing "
    "stored if that fails. `async`: answer when the primary has it. Left out: as the node is set.",
    enum=list(REPLICATION_MODES),
)
_DIGESTS = [
    header_parameter(
        name, f"{what}, verified as the body is received: 422 and nothing stored if it differs."
    )
    for name, what in (
        ("Content-MD5", "Base64 of the MD5"),
        ("Content-Digest", "sha-256, sha-512 or md5 after RFC 9530"),
        ("Repr-Digest", "sha-256, sha-512 or md5 after RFC 9530"),
    )
]

UPLOAD_DOC: Doc = {
    "description": "Send the bytes of one file as they are, with its name in the query and its "
    f"type in `Content-Type`; or up to {FILES_MAX} files as a form. Either all files of a form are "
    "stored or none. The answer comes when they are on disk.",
    "parameters": [
        {"in": "query", "schema": UploadQuerySchema(exclude=("metadata",))},
        {
            "in": "header",
            "name": "DFS-Metadata",
            "description": "Names and values of the client's own.",
            "content": {
                JSON: {"schema": {"type": "object", "additionalProperties": {"type": "string"}}}
            },
        },
        header_parameter("If-None-Match", "`*`: only if no file has that name.", enum=["*"]),
        _REPLICATION,
        *_DIGESTS,
    ],
    "requestBody": {
        "required": False,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                        },
                        "metadata": {
                            "type": "string",
                            "description": "JSON object whose values are strings; for all files.",
                        },
                        "expires_at": {"type": "string", "format": "date-time"},
                        "ttl_s": {"type": "integer", "minimum": 1},
                    },
                    "additionalProperties": False,
                }
            },
        },
    },
    "responses": {
        "201": {
            "description": "Stored and synced.",
            "headers": {
                **_WRITE_HEADERS,
                "Location": header("Where the file is described; only for a single file."),
                "ETag": header("Entity tag of the file; only for a single file."),
            },
            "content": {JSON: {"schema": {"anyOf": [StoredFileSchema, StoredFilesSchema]}}},
        },
        **problems(400, 412, 413, 415, 422, 503, 507),
    },
}

_BYTES: Doc = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
_FILE_HEADERS: Doc = {
    "ETag": header("Entity tag: the SHA-256 of the bytes in hexadecimal, in quotes."),
    "Last-Modified": header("When the file was last changed."),
}
_READ_HEADERS: Doc = {
    **_FILE_HEADERS,
    "Accept-Ranges": header("bytes"),
    "Content-Disposition": header("Name of the file; `attachment` for what a browser might run."),
    "Repr-Digest": header("SHA-256 of the whole file (RFC 9530)."),
}
DOWNLOAD_DOC: Doc = {
    "description": "Every block is checked before it is sent.",
    "parameters": [
        FILE_ID,
        header_parameter("Range", "One or several ranges of bytes. Not for HEAD."),
        header_parameter("If-Range", "Entity tag or date on which `Range` depends."),
        header_parameter("If-Match", "412 unless the file has one of these entity tags."),
        header_parameter("If-None-Match", "304 if the file has one of these entity tags."),
        header_parameter("If-Modified-Since", "304 unless changed after this date."),
        header_parameter("If-Unmodified-Since", "412 if changed after this date."),
    ],
    "responses": {
        "200": {"description": "The whole file.", "headers": _READ_HEADERS, "content": _BYTES},
        "206": {
            "description": "The ranges asked for; several as multipart/byteranges.",
            "headers": {**_READ_HEADERS, "Content-Range": header("For a single range.")},
            "content": _BYTES,
        },
        "304": {"description": "The client has the file.", "headers": _FILE_HEADERS},
        **problems(404, 412, 416, 422, 500, 503),
    },
}

FILES_DOC: Doc = {
    "responses": {
        "200": answer(
            "A page of files, ordered by name and then id.",
            FilePageSchema,
            {"Link": header('The next page, rel="next".')},
        ),
        **problems(422, 503),
    }
}
FILE_DOC: Doc = {
    "parameters": [FILE_ID],
    "responses": {"200": answer("The file.", FileSchema), **problems(404, 422, 503)},
}
PATCH_DOC: Doc = {
    "description": "To set when the file expires needs the scope `delete`, too.",
    "parameters": [FILE_ID, _IF_MATCH, _REPLICATION],
    "responses": {
        "200": answer("Changed and synced.", StoredFileSchema, _WRITE_HEADERS),
        **problems(400, 404, 412, 413, 415, 422, 503, 507),
    },
}
DELETE_DOC: Doc = {
    "parameters": [FILE_ID, _IF_MATCH, _REPLICATION],
    "responses": {
        "204": {"description": "Deleted; the record is synced.", "headers": _WRITE_HEADERS},
        **problems(404, 412, 422, 503, 507),
    },
}
RESTORE_DOC: Doc = {
    "description": "For `DFS_DELETE_GRACE_S` after it was deleted, a file can be had back as it "
    "was. An expiry that has passed meanwhile is void.",
    "parameters": [FILE_ID, _IF_MATCH, _REPLICATION],
    "responses": {
        "200": answer("Restored and synced.", StoredFileSchema, _WRITE_HEADERS),
        **problems(404, 412, 422, 503, 507),
    },
}

HEALTH_DOC: Doc = {
    "responses": {"200": answer("The process lives.", HealthSchema), **problems(422)}
}
READY_DOC: Doc = {
    "responses": {
        "200": answer("The node serves.", ReadySchema),
        "503": answer("It does not; the reasons say why.", ReadySchema),
        **problems(422),
    }
}

SEGMENTS_DOC: Doc = {
    "responses": {"200": answer("All segments.", SegmentsSchema), **problems(422, 503)}
}
ENTRIES_DOC: Doc = {
    "responses": {"200": answer("Some records.", EntriesSchema), **problems(422, 500, 503)}
}
INSPECT_DOC: Doc = {
    "parameters": [SEGMENT_ID],
    "responses": {
        "200": answer("What was found.", SegmentReportSchema),
        **problems(404, 422, 500, 503),
    },
}

USAGE_DOC: Doc = {
    "responses": {"200": answer("What is held now.", UsageSchema), **problems(422, 503)}
}

_STORE_CHOICE: Doc = {
    "required": False,
    "description": "Instead of the query.",
    "content": {JSON: {"schema": StoreChoiceSchema}},
}
REPLICAS_DOC: Doc = {
    "responses": {
        "200": answer("All stores, the primary first.", StoresSchema),
        **problems(422, 503),
    }
}
SYNC_DOC: Doc = {
    "description": "Stores that are left alone after failures are tried at once.",
    "requestBody": _STORE_CHOICE,
    "responses": {
        "202": answer("The jobs that do it are queued, or run already.", SyncSchema),
        **problems(400, 404, 413, 415, 422, 503),
    },
}
SCRUB_DOC: Doc = {
    "description": "The status tells how far they are. When all stores are asked for, those that "
    "are not there are passed. 400: the settings say that no store is ever scrubbed.",
    "requestBody": _STORE_CHOICE,
    "responses": {
        "202": answer("Scrubs have begun, or run already.", ScrubStartSchema),
        **problems(400, 404, 413, 415, 422, 503),
    },
}
