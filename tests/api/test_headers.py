"""Headers of downloads."""

from __future__ import annotations

from email.utils import formatdate
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.api.headers import format_disposition, format_http_date, is_shown_safely


@given(seconds=st.integers(0, 253402300799))
def test_http_date_is_the_one_of_the_standard_library(seconds: int) -> None:
    """Every second up to the year 9999 is written as email.utils writes it."""
    assert format_http_date(seconds) == formatdate(seconds, usegmt=True)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a.txt", 'inline; filename="a.txt"'),
        ("dir/sub/a b.txt", 'inline; filename="a b.txt"'),
        ("ä.txt", "inline; filename=\"_.txt\"; filename*=UTF-8''%C3%A4.txt"),
        ('a"b\\c', "inline; filename=\"a_b_c\"; filename*=UTF-8''a%22b%5Cc"),
        ("50%.txt", "inline; filename=\"50_.txt\"; filename*=UTF-8''50%25.txt"),
        ("dir/", 'inline; filename=""'),
    ],
)
def test_disposition_has_a_name_every_client_understands(key: str, expected: str) -> None:
    """Plain names are quoted; others come with an ASCII fallback."""
    assert format_disposition(key, inline=True) == expected


@given(key=st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1))
def test_disposition_of_any_name_is_one_ascii_header_that_gives_it_back(key: str) -> None:
    """No name breaks out of the header, and the client gets the real one."""
    header = format_disposition(key, inline=False)
    assert header.isascii()
    assert header.isprintable()
    name = key.rpartition("/")[2]
    if "filename*=" in header:
        assert unquote(header.partition("UTF-8''")[2]) == name
    else:
        assert header == f'attachment; filename="{name}"'


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("image/png", True),
        ("Text/Plain; charset=utf-8", True),
        ("video/mp4", True),
        ("text/html", False),
        ("text/html;charset=utf-8", False),
        ("image/svg+xml", False),
        ("application/xhtml+xml", False),
        ("text/xml", False),
        ("text/javascript", False),
        ("application/pdf", False),
        ("application/octet-stream", False),
        ("x/unheard-of", False),
        ("", False),
    ],
)
def test_types_that_run_are_not_shown(content_type: str, expected: bool) -> None:
    """Only types known to be passive are shown in the browser."""
    assert is_shown_safely(content_type) is expected
