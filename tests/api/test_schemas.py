"""Schemas: what they take, and that they name what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema

from dfs.api.schemas import (
    EntriesQuerySchema,
    FilePatchSchema,
    FilesQuerySchema,
    UploadFormSchema,
    UploadQuerySchema,
    decode_json,
    load_checked,
    parse_query,
)
from dfs.core.errors import InvalidNameError, InvalidRequestError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01.5z", 1500),
        ("1970-01-01 01:00:00+01:00", 0),
        ("2030-01-31T12:00:00.123456789Z", 1896091200123),
    ],
)
def test_timestamp_is_milliseconds(text: str, expected: int) -> None:
    """RFC 3339 in any offset becomes milliseconds since 1970."""
    assert UploadFormSchema().load({"expires_at": text}) == {"expires_at": expected}


@pytest.mark.parametrize(
    ("schema", "data", "field"),
    [
        (FilesQuerySchema, {"limit": "0"}, "limit"),
        (FilesQuerySchema, {"limit": "1001"}, "limit"),
        (FilesQuerySchema, {"limit": "1_0"}, "limit"),
        (FilesQuerySchema, {"limit": "\u0661"}, "limit"),
        (FilesQuerySchema, {"limit": "9" * 5000}, "limit"),
        (FilesQuerySchema, {"prefix": "a\x00"}, "prefix"),
        (FilesQuerySchema, {"offset": "1"}, "offset"),
        (UploadQuerySchema, {"name": ""}, "name"),
        (UploadFormSchema, {"name": "x"}, "name"),
        (UploadFormSchema, {"expires_at": "tomorrow"}, "expires_at"),
        (UploadFormSchema, {"expires_at": "2030-01-31T12:00:00"}, "expires_at"),
        (UploadFormSchema, {"expires_at": "2030-02-31T12:00:00Z"}, "expires_at"),
        (UploadFormSchema, {"ttl_s": "0"}, "ttl_s"),
        (UploadFormSchema, {"ttl_s": "1", "expires_at": "2030-01-31T12:00:00Z"}, "ttl_s"),
        (UploadFormSchema, {"metadata": "[]"}, "metadata"),
        (UploadFormSchema, {"metadata": '{"a": 1}'}, "metadata"),
        (UploadFormSchema, {"metadata": '{"": "x"}'}, "metadata"),
        (UploadFormSchema, {"metadata": '{"a\\n": "x"}'}, "metadata"),
        (UploadFormSchema, {"metadata": '{"a": "\\u0000"}'}, "metadata"),
        (UploadFormSchema, {"metadata": '{"a": "\\ud800"}'}, "metadata"),
        (UploadFormSchema, {"metadata": "[" * 10000}, "metadata"),
        (UploadFormSchema, {"metadata": '{"a": "' + "x" * 9000 + '"}'}, "metadata"),
        (FilePatchSchema, {"content_type": "text"}, "content_type"),
        (FilePatchSchema, {"content_type": "text/plain\r\nX: y"}, "content_type"),
        (FilePatchSchema, {"content_type": "text/plain\n"}, "content_type"),
        (FilePatchSchema, {"metadata": {"a": 1}}, "metadata.a.value"),
        (FilePatchSchema, {"expires_at": 5}, "expires_at"),
        (FilePatchSchema, {"name": None}, "name"),
        (FilePatchSchema, {"size": 5}, "size"),
        (EntriesQuerySchema, {"file_id": "x"}, "file_id"),
        (EntriesQuerySchema, {"after": "-1"}, "after"),
    ],
)
def test_schema_refuses_and_names_the_field(
    schema: type[Schema], data: dict[str, Any], field: str
) -> None:
    """Each fault is reported under the name of its field."""
    with pytest.raises(InvalidRequestError) as caught:
        load_checked(schema(), data, "query")
    assert list(caught.value.fields) == [field]


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/plain; charset=utf-8",
        'text/plain;charset="utf 8"; x=y',
        "application/vnd.a+json",
    ],
)
def test_content_type_well_formed_is_taken(content_type: str) -> None:
    """Media types may have parameters, quoted ones too."""
    assert FilePatchSchema().load({"content_type": content_type})


def test_query_repeated_parameter_is_refused() -> None:
    """Which of two values counts is not for us to guess."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_query({"QUERY_STRING": "a=1&b=2&a=3"})
    assert list(caught.value.fields) == ["a"]


@pytest.mark.parametrize("text", ["name=%FF", "name=\xff", "name=%ED%A0%80"])
def test_query_that_is_no_utf8_is_refused(text: str) -> None:
    """Bytes that are no text are no name."""
    with pytest.raises(InvalidNameError):
        parse_query({"QUERY_STRING": text})


def test_query_with_raw_utf8_is_read() -> None:
    """A client that does not escape is understood."""
    assert parse_query({"QUERY_STRING": "name=ä+b".encode().decode("latin-1")}) == {"name": "ä b"}


@given(text=st.text(st.characters(max_codepoint=255)))
def test_query_of_any_bytes_raises_only_request_errors(text: str) -> None:
    """No query leads to any other error."""
    try:
        query = parse_query({"QUERY_STRING": text})
    except (InvalidNameError, InvalidRequestError):
        return
    assert all(isinstance(value, str) for value in query.values())


@given(data=st.binary())
def test_json_of_any_bytes_raises_only_invalid_request(data: bytes) -> None:
    """No body leads to any other error."""
    try:
        decode_json(data)
    except InvalidRequestError:
        return
