"""What may be asked: schemas of queries, form fields and JSON bodies, and how they are applied.

Whatever a schema does not name is refused, so that a misspelt parameter is never silently ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema

from dfs.core.errors import InvalidNameError, InvalidRequestError
from dfs.core.names import REFUSED_CHARACTERS, has_refused_characters
from dfs.services.files import CURSOR

METADATA_BYTES_MAX = 8192
METADATA_NAME_CHARS_MAX = 128
KEY_CHARS_MAX = 1024
FILE_ID_CHARS = 26
CONTENT_TYPE_CHARS_MAX = 255
LSN_MAX = (1 << 63) - 1
STORE_NAME_CHARS_MAX = 64
WAIT_S_MAX = 300
TTL_S_MAX = 100 * 366 * 86400

_QUERY_FIELDS_MAX = 50
TEXT_PATTERN = rf"^[^{REFUSED_CHARACTERS}]*$"  # for the document
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_QUOTED = r'"[ !#-\[\]-~]*"'
_CONTENT_TYPE = re.compile(rf"{_WORD}/{_WORD}(?:[ \t]*;[ \t]*(?:{_WORD}=(?:{_WORD}|{_QUOTED}))?)*")


class Timestamp(fields.Field[int]):
    """A time as RFC 3339 writes it, in milliseconds since 1970."""

    default_error_messages = {"invalid": "Not a time like 2030-01-31T12:00:00Z."}  # noqa: RUF012

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if not isinstance(value, str) or not _TIMESTAMP.fullmatch(value):
            raise self.make_error("invalid")
        try:
            moment = datetime.fromisoformat(value.upper())
            return (moment - _EPOCH) // timedelta(milliseconds=1)
        except (ValueError, OverflowError) as error:
            raise self.make_error("invalid") from error


class QueryInteger(fields.Integer):
    """A whole number written in decimal digits, as a query carries it."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if not isinstance(value, str) or not re.fullmatch(r"-?[0-9]{1,19}", value):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class JsonInteger(fields.Integer):
    """A whole number as JSON carries it: 5.0 is one, "5" is none."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.make_error("invalid", input=value)
        if isinstance(value, float) and not value.is_integer():
            raise self.make_error("invalid", input=value)
        return super()._deserialize(int(value), attr, data, **kwargs)


class WholeText(validate.Regexp):
    """The whole of a text matches. Stands so in the document, where a pattern may match a part."""

    def __init__(self, pattern: str) -> None:
        super().__init__(f"^{pattern}$")
        self._whole = re.compile(pattern)

    def __call__(self, value: str) -> str:  # type: ignore[override] # as the base means it
        """Return the text. Raises ValidationError."""
        if self._whole.fullmatch(value) is None:
            raise ValidationError(self.error)
        return value


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raise ValidationError unless the user metadata can be stored."""
    size = 0
    for name, value in metadata.items():
        if not 0 < len(name) <= METADATA_NAME_CHARS_MAX:
            raise ValidationError(f"A name must have 1 to {METADATA_NAME_CHARS_MAX} characters.")
        if has_refused_characters(name):
            raise ValidationError("A name must not hold control characters.")
        if "\0" in value:
            raise ValidationError("A value must not hold U+0000.")
        size += len(name.encode()) + len(value.encode())
    if size > METADATA_BYTES_MAX:
        raise ValidationError(f"Names and values must have {METADATA_BYTES_MAX} bytes at most.")


def check_content_type(content_type: str) -> None:
    """Raise ValidationError unless the text is a media type, with or without parameters."""
    if len(content_type) > CONTENT_TYPE_CHARS_MAX or not _CONTENT_TYPE.fullmatch(content_type):
        raise ValidationError("Not a media type like text/plain; charset=utf-8.")


def check_prefix(prefix: str) -> None:
    """Raise ValidationError if the text holds what no name holds."""
    if has_refused_characters(prefix):
        raise ValidationError("Must not hold control characters.")


class MetadataText(fields.Field[dict[str, str]]):
    """User metadata as the text of a JSON object of strings, as a header or form carries it."""

    default_error_messages = {"invalid": "Not a JSON object of strings."}  # noqa: RUF012

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> dict[str, str]:
        try:
            return msgspec.json.decode(value, type=dict[str, str])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise self.make_error("invalid") from error


class StrictSchema(Schema):
    """Refuses what it does not name."""

    class Meta:
        unknown = RAISE


class ExpirySchema(StrictSchema):
    """When a file ceases to exist: a time or a number of seconds from now."""

    expires_at = Timestamp(
        metadata={
            "type": "string",
            "format": "date-time",
            "description": "When the file expires (RFC 3339). It must lie in the future.",
        }
    )
    ttl_s = QueryInteger(
        validate=validate.Range(1, TTL_S_MAX),
        metadata={"description": "Seconds until the file expires, instead of `expires_at`."},
    )

    @validates_schema
    def _check_one(self, data: Mapping[str, Any], **_: object) -> None:
        if "expires_at" in data and "ttl_s" in data:
            raise ValidationError("Cannot be given together with expires_at.", "ttl_s")


class UploadQuerySchema(ExpirySchema):
    """Query of an upload."""

    name = fields.String(
        validate=validate.Length(1, KEY_CHARS_MAX),
        metadata={
            "description": "Name of the file. Needed for a raw body; in a form with one file it "
            "replaces the name given there.",
            "pattern": TEXT_PATTERN,
        },
    )
    metadata = MetadataText(validate=check_metadata)


class UploadFormSchema(ExpirySchema):
    """Fields of a form beside its files. They apply to every file of it."""

    metadata = MetadataText(
        validate=check_metadata,
        metadata={"type": "string", "description": "JSON object whose values are strings."},
    )


class FilesQuerySchema(StrictSchema):
    """Query of a listing."""

    limit = QueryInteger(
        load_default=100,
        validate=validate.Range(1, 1000),
        metadata={"description": "Files in a page at most."},
    )
    after = fields.String(
        load_default=None,
        validate=validate.Length(27, FILE_ID_CHARS + KEY_CHARS_MAX),
        metadata={"description": "`next` of the page before.", "pattern": f"^{CURSOR.pattern}$"},
    )
    prefix = fields.String(
        load_default="",
        validate=[validate.Length(max=KEY_CHARS_MAX), check_prefix],
        metadata={"description": "Only files whose name begins so.", "pattern": TEXT_PATTERN},
    )
    name = fields.String(
        load_default=None,
        validate=[validate.Length(1, KEY_CHARS_MAX), check_prefix],
        metadata={"description": "Only files with exactly this name.", "pattern": TEXT_PATTERN},
    )
    deleted = fields.Boolean(
        load_default=False,
        truthy={"true"},
        falsy={"false"},
        metadata={"description": "List the trash: deleted files that can still be restored."},
    )


class FilePatchSchema(StrictSchema):
    """What can be changed in a file. What is left out stays as it is."""

    name = fields.String(
        validate=validate.Length(1, KEY_CHARS_MAX),
        metadata={"description": "The new name.", "pattern": TEXT_PATTERN},
    )
    content_type = fields.String(
        validate=[validate.Length(max=CONTENT_TYPE_CHARS_MAX), check_content_type],
        metadata={"description": "The new media type.", "pattern": f"^{_CONTENT_TYPE.pattern}$"},
    )
    metadata = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        validate=check_metadata,
        metadata={"description": "Replaces the user metadata as a whole."},
    )
    expires_at = Timestamp(
        allow_none=True,
        metadata={
            "type": "string",
            "format": "date-time",
            "description": "When the file expires; null: never.",
        },
    )


class EntriesQuerySchema(StrictSchema):
    """Query of the entries of the log."""

    after = QueryInteger(
        load_default=0,
        validate=validate.Range(0, LSN_MAX),
        metadata={"description": "Only entries with a higher LSN."},
    )
    limit = QueryInteger(
        load_default=100,
        validate=validate.Range(1, 1000),
        metadata={"description": "Entries at most."},
    )
    file_id = fields.String(
        load_default=None,
        validate=WholeText(r"[0-9A-HJKMNP-TV-Z]{26}"),
        metadata={"description": "Only entries of this file."},
    )


class StoreChoiceSchema(StrictSchema):
    """One store, or all of them."""

    store = fields.String(
        load_default=None,
        validate=validate.Length(1, STORE_NAME_CHARS_MAX),
        metadata={"description": "Name of the store. Left out: all."},
    )


class SyncQuerySchema(StoreChoiceSchema):
    """Query of what has the stores paid."""

    wait = QueryInteger(
        load_default=0,
        validate=validate.Range(0, WAIT_S_MAX),
        metadata={
            "description": "Answer when nothing is owed any more that is owed now, or after so "
            "many seconds. At once when too many requests wait already."
        },
    )


class NoQuerySchema(StrictSchema):
    """No query."""


_PLAIN_PARAMETER = re.compile(r"([\w.-]+)=([\w./-]*)", re.ASCII)
"""A query with one parameter and nothing to decode, as most uploads have it."""


def parse_query(environ: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of a request's query.

    Raises:
        InvalidNameError: the query is not UTF-8.
        InvalidRequestError: a parameter is given twice, or there are too many.
    """
    text: str = environ.get("QUERY_STRING", "")
    if not text:
        return {}
    plain = _PLAIN_PARAMETER.fullmatch(text)
    if plain is not None:
        return {plain[1]: plain[2]}
    try:
        pairs = parse_qsl(
            text if text.isascii() else text.encode("latin-1").decode(),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_QUERY_FIELDS_MAX,
        )
    except UnicodeDecodeError as error:
        raise InvalidNameError("The query is not UTF-8.") from error
    except ValueError as error:
        raise InvalidRequestError("The query has too many parameters.") from error
    query = dict(pairs)
    if len(query) != len(pairs):
        names = [name for name, _ in pairs]
        twice = {name: ["given more than once"] for name in query if names.count(name) > 1}
        raise InvalidRequestError("The query is not valid.", fields=twice)
    return query


def load_checked(schema: Schema, data: object, what: str) -> dict[str, Any]:
    """Return `data` as the schema understands it.

    Args:
        what: names the data in the message of the error: "query", "body", ...

    Raises:
        InvalidRequestError: naming each offending field.
    """
    try:
        loaded: dict[str, Any] = schema.load(data)  # type: ignore[arg-type]
    except ValidationError as error:
        messages = error.normalized_messages()  # type: ignore[no-untyped-call]
        faults = flatten_messages(messages)
        raise InvalidRequestError(f"The {what} is not valid.", fields=faults) from error
    return loaded


def flatten_messages(messages: Any, path: str = "") -> dict[str, list[str]]:
    """Return marshmallow's nested messages as lists by dotted path."""
    if isinstance(messages, Mapping):
        flat: dict[str, list[str]] = {}
        for name, inner in messages.items():
            part = "" if name == "_schema" else str(name)
            flat.update(flatten_messages(inner, ".".join(filter(None, (path, part)))))
        return flat
    listed = messages if isinstance(messages, list) else [messages]
    return {path: [str(message) for message in listed]}


def decode_json(data: bytes) -> object:
    """Return the value of a JSON text.

    Raises:
        InvalidRequestError: the bytes are no JSON in UTF-8.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequestError("The body is not valid JSON.") from error
