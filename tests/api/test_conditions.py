"""Conditional requests, in the order of precedence of RFC 9110 section 13.2.2."""

from __future__ import annotations

import pytest

from dfs.api.conditions import is_unmodified, parse_if_match, range_applies
from dfs.core.errors import PreconditionFailedError

ETAG = "ab12"
MODIFIED_S = 1_700_000_000
AT = "Tue, 14 Nov 2023 22:13:20 GMT"
BEFORE = "Tue, 14 Nov 2023 22:13:19 GMT"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False),
        ({"HTTP_IF_NONE_MATCH": '"ab12"'}, True),
        ({"HTTP_IF_NONE_MATCH": 'W/"ab12"'}, True),
        ({"HTTP_IF_NONE_MATCH": '"x", "ab12"'}, True),
        ({"HTTP_IF_NONE_MATCH": "*"}, True),
        ({"HTTP_IF_NONE_MATCH": '"x"'}, False),
        ({"HTTP_IF_NONE_MATCH": "ab12"}, False),
        ({"HTTP_IF_NONE_MATCH": '"x"', "HTTP_IF_MODIFIED_SINCE": AT}, False),
        ({"HTTP_IF_MODIFIED_SINCE": AT}, True),
        ({"HTTP_IF_MODIFIED_SINCE": BEFORE}, False),
        ({"HTTP_IF_MODIFIED_SINCE": "yesterday"}, False),
        ({"HTTP_IF_MATCH": '"ab12"'}, False),
        ({"HTTP_IF_MATCH": "*"}, False),
        ({"HTTP_IF_MATCH": '"ab12"', "HTTP_IF_UNMODIFIED_SINCE": BEFORE}, False),
        ({"HTTP_IF_UNMODIFIED_SINCE": AT}, False),
        ({"HTTP_IF_UNMODIFIED_SINCE": "never"}, False),
    ],
)
def test_conditions_that_hold_tell_whether_to_send(headers: dict[str, str], expected: bool) -> None:
    """True means 304; dates count only where no entity tag was given."""
    assert is_unmodified(headers, ETAG, MODIFIED_S) is expected


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_IF_MATCH": '"x"'},
        {"HTTP_IF_MATCH": 'W/"ab12"'},
        {"HTTP_IF_MATCH": ""},
        {"HTTP_IF_UNMODIFIED_SINCE": BEFORE},
        {"HTTP_IF_MATCH": '"x"', "HTTP_IF_NONE_MATCH": '"ab12"'},
    ],
)
def test_conditions_that_fail_raise(headers: dict[str, str]) -> None:
    """If-Match compares strongly and comes first."""
    with pytest.raises(PreconditionFailedError):
        is_unmodified(headers, ETAG, MODIFIED_S)


@pytest.mark.parametrize(
    ("validator", "expected"),
    [
        (None, True),
        ('"ab12"', True),
        ('W/"ab12"', False),
        ('"x"', False),
        (AT, True),
        (BEFORE, False),
        ("nonsense", False),
    ],
)
def test_if_range_names_the_file_or_the_range_is_ignored(
    validator: str | None, expected: bool
) -> None:
    """If-Range must match exactly: a strong tag, or the very date."""
    headers = {} if validator is None else {"HTTP_IF_RANGE": validator}
    assert range_applies(headers, ETAG, MODIFIED_S) is expected


def test_if_match_keeps_strong_tags_only() -> None:
    """A weak tag can never match, an absent header is no condition."""
    assert parse_if_match(None) is None
    assert parse_if_match(" * ") == {"*"}
    assert parse_if_match('"a", W/"b", "c"') == {"a", "c"}
