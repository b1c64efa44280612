"""`POST /upload`: take in one file as a raw body, or several as a form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec
from flask import request
from marshmallow import ValidationError

from dfs.api.auth import caller_of, trust_in
from dfs.api.blueprints import Blueprint
from dfs.api.forms import FormReader, parse_boundary
from dfs.api.parking import Course
from dfs.api.represent import durability_headers, represent_durability, represent_file
from dfs.api.requests import read_replication, services
from dfs.api.responses import Answer, answer_json
from dfs.api.schemas import (
    UploadFormSchema,
    UploadQuerySchema,
    check_content_type,
    load_checked,
    parse_query,
)
from dfs.api.spec import UPLOAD_DOC
from dfs.api.streams import BodyStream, open_body
from dfs.api.traffic import name_caller, upload_slots
from dfs.core.access import Caller
from dfs.core.clock import now_ms
from dfs.core.errors import InvalidRequestError, TooLargeError, UnauthorizedError
from dfs.services.changes import Upload
from dfs.services.files import FileService, Stored
from dfs.services.pending import Pending
from dfs.services.upload import BlobWriter

blueprint = Blueprint("uploads", __name__)

ANNOUNCE_BYTES_MAX = 64 << 10
EXPIRES_AT_MS_MAX = 253_402_300_799_999
"""The last moment that RFC 3339 can write."""
DEFAULT_TYPE = "application/octet-stream"
_TYPES_OF_NO_FILE = ("", "application/x-www-form-urlencoded")
"""What a client sends that names no type: nothing, or what `curl --data-binary` adds by itself."""


class _Terms(msgspec.Struct, frozen=True):
    """On what terms files are stored, see `FileService.store`.

    Attributes:
        is_trusted: tells whether the caller may still do what he was let in for.
    """

    if_absent: bool
    replication: str | None
    caller: Caller
    is_trusted: Callable[[], bool]


_QUERY_SCHEMA = UploadQuerySchema()
_FORM_SCHEMA = UploadFormSchema()


@blueprint.route("/upload", methods=["POST"])
@blueprint.doc(**UPLOAD_DOC)
def upload() -> Course[Answer]:
    """Store one or several files"""
    environ = request.environ
    terms = _Terms(
        _reads_if_absent(environ),
        read_replication(environ),
        caller_of(environ),
        trust_in(environ),
    )
    options = _read_options(environ)
    content_type = environ.get("CONTENT_TYPE", "")
    boundary = parse_boundary(content_type) if content_type[:10].lower() == "multipart/" else None
    body = open_body(environ)
    slots, name = upload_slots(), name_caller(environ)
    slots.take(name)
    try:
        if boundary is not None:
            return _answer((yield from _store_form(body, boundary, options, terms)))
        return _answer((yield from _store_raw(body, content_type, options, terms)))
    finally:
        slots.give_back(name)


def _store_raw(
    body: BodyStream, content_type: str, options: dict[str, Any], terms: _Terms
) -> Course[Stored]:
    key = options.get("name")
    if key is None:
        raise InvalidRequestError("The query is not valid.", fields={"name": ["is needed"]})
    content_type = _checked_type(content_type)
    small = body.length is not None and body.length <= ANNOUNCE_BYTES_MAX
    files = services().files
    if not small:
        # Storing does so, too, but this body is not worth receiving first.
        files.check_name(key, terms.caller)
    limit = files.bytes_max(terms.caller)
    if body.length is not None and body.length > limit:
        raise TooLargeError(f"A file may have at most {limit} bytes.")
    files.expect(body)
    blob = files.new_blob(terms.caller)
    try:
        _receive(body, blob)
        with files.announce() if small else nullcontext():
            while _receive(body, blob):
                pass
            body.verify()
            upload = Upload(
                blob, key, content_type, options.get("metadata") or {}, _expires_at_ms(options)
            )
            pending = _begin_store(files, (upload,), terms)
        yield pending
        return pending.result()
    finally:
        blob.discard()
        files.forget(body)


def _receive(body: BodyStream, blob: BlobWriter) -> int:
    """Take the next bytes of the body; returns how many. None are kept while the next ones come."""
    if body.complete:
        return 0
    room = blob.room()
    return blob.write(body.read()) if room is None else blob.fill(body.read_into(room))


def _store_form(
    body: BodyStream, boundary: bytes, options: dict[str, Any], terms: _Terms
) -> Course[Stored]:
    files = services().files
    files.expect(body)
    config = services().config
    form = FormReader(
        new_blob=partial(files.new_blob, terms.caller),
        files_max=config.form_files_max,
        field_bytes_max=config.form_field_bytes_max,
    )
    try:
        form.read(body, boundary)
        body.verify()
        for name in form.fields:
            if name in options:
                raise InvalidRequestError(
                    "The form is not valid.", fields={name: ["given in the query or a header too"]}
                )
        options |= load_checked(_FORM_SCHEMA, form.fields, "form")
        key: str | None = options.get("name")
        if key is not None and len(form.files) > 1:
            raise InvalidRequestError(
                "The query is not valid.", fields={"name": ["only for a form with one file"]}
            )
        uploads = [
            Upload(
                file.blob,
                file.name if key is None else key,
                _checked_type(file.content_type),
                options.get("metadata") or {},
                _expires_at_ms(options),
            )
            for file in form.files
        ]
        pending = _begin_store(files, uploads, terms)
        yield pending
        return pending.result()
    finally:
        for file in form.files:
            file.blob.discard()
        files.forget(body)


def _begin_store(files: FileService, uploads: Sequence[Upload], terms: _Terms) -> Pending[Stored]:
    if not terms.is_trusted():  # the client may have sent the body for days
        raise UnauthorizedError("The API key was good when the upload began, and is not any more.")
    return files.begin_store(
        uploads, if_absent=terms.if_absent, replication=terms.replication, caller=terms.caller
    )


def _reads_if_absent(environ: Mapping[str, Any]) -> bool:
    condition = environ.get("HTTP_IF_NONE_MATCH")
    if condition is None:
        return False
    if condition.strip() != "*":
        raise InvalidRequestError(
            "Only If-None-Match: * can be asked of an upload.",
            fields={"If-None-Match": ["must be *"]},
        )
    return True


def _read_options(environ: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options given in query and header; the schema is asked only where it is needed."""
    options: dict[str, Any] = parse_query(environ)
    header = environ.get("HTTP_DFS_METADATA")
    if header is None and options.keys() <= {"name"}:
        return options
    if "metadata" in options:
        raise InvalidRequestError(
            "The query is not valid.", fields={"metadata": ["Unknown field."]}
        )
    if header is not None:
        options["metadata"] = header.encode("latin-1")
    return load_checked(_QUERY_SCHEMA, options, "query")


def _checked_type(content_type: str) -> str:
    if content_type in _TYPES_OF_NO_FILE:
        return DEFAULT_TYPE
    try:
        check_content_type(content_type)
    except ValidationError as error:
        raise InvalidRequestError(
            "The type of the file is malformed.", fields={"Content-Type": list(error.messages)}
        ) from error
    return content_type


def _expires_at_ms(options: Mapping[str, Any]) -> int | None:
    if "ttl_s" in options:
        return check_future(now_ms() + 1000 * int(options["ttl_s"]))
    expires_at_ms: int | None = options.get("expires_at")
    return None if expires_at_ms is None else check_future(expires_at_ms)


def check_future(expires_at_ms: int) -> int:
    """Return a time of expiry if it lies ahead. Raises InvalidRequestError."""
    if expires_at_ms <= now_ms():
        raise InvalidRequestError(
            "A file cannot expire in the past.", fields={"expires_at": ["must lie in the future"]}
        )
    if expires_at_ms > EXPIRES_AT_MS_MAX:
        raise InvalidRequestError(
            "A file cannot expire so late.",
            fields={"expires_at": ["must be before the year 10000"]},
        )
    return expires_at_ms


def _answer(stored: Stored) -> Answer:
    headers = durability_headers(stored.durability)
    if len(stored.files) > 1:
        listed = [represent_file(file) for file in stored.files]
        durability = represent_durability(stored.durability)
        return answer_json({"files": listed, "durability": durability}, 201, headers)
    file = stored.files[0]
    headers.append(("Location", f"/files/{quote(file.id)}"))
    headers.append(("ETag", f'"{file.etag}"'))
    return answer_json(represent_file(file, stored.durability), 201, headers)
