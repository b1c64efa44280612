"""Byte ranges: which are answered, ignored, refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.api.ranges import RANGES_MAX, parse_ranges
from dfs.core.errors import InvalidRangeError


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-", [(0, 100)]),
        ("bytes=99-", [(99, 100)]),
        ("bytes=10-19", [(10, 20)]),
        ("bytes=90-1000", [(90, 100)]),
        ("bytes=-1", [(99, 100)]),
        ("bytes=-1000", [(0, 100)]),
        ("BYTES=0-1", [(0, 2)]),
        ("bytes= 0-1 ,\t5-6", [(0, 2), (5, 7)]),
        ("bytes=5-6,0-1", [(5, 7), (0, 2)]),
        ("bytes=0-1,,5-6,", [(0, 2), (5, 7)]),
        ("bytes=0-1,200-300", [(0, 2)]),
        ("bytes=0-9223372036854775807", [(0, 100)]),
    ],
)
def test_ranges_well_formed_are_returned(header: str, expected: list[tuple[int, int]]) -> None:
    """Each satisfiable range becomes [start, stop), in the order asked for."""
    assert parse_ranges(header, 100) == expected


@pytest.mark.parametrize(
    "header",
    [
        "items=0-1",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=a-b",
        "bytes=-",
        "bytes=5-4",
        "bytes=0-1;5-6",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=\u0661-2",
        "bytes=0-" + "9" * 5000,
        "bytes=0-10,5-15",
        "bytes=0-,0-",
        "bytes=" + ",".join(f"{i}-{i}" for i in range(RANGES_MAX + 1)),
    ],
)
def test_ranges_malformed_many_or_overlapping_are_ignored(header: str) -> None:
    """A header that cannot or should not be honoured means the whole file."""
    assert parse_ranges(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=100-,-0"])
def test_ranges_outside_the_file_raise(header: str) -> None:
    """A header without any satisfiable range is refused, with the size for Content-Range."""
    with pytest.raises(InvalidRangeError) as caught:
        parse_ranges(header, 100)
    assert caught.value.size == 100


def test_ranges_of_an_empty_file_are_refused_or_ignored() -> None:
    """No byte can be the first one, but the last n bytes of nothing are nothing."""
    assert parse_ranges("bytes=-5", 0) is None
    with pytest.raises(InvalidRangeError):
        parse_ranges("bytes=0-", 0)


@given(header=st.text() | st.from_regex(r"bytes=[0-9,\- ]*", fullmatch=True), size=st.integers(0))
def test_ranges_of_any_text_lie_within_the_file(header: str, size: int) -> None:
    """Whatever a client sends, the ranges returned are non-empty, inside, and disjoint."""
    try:
        ranges = parse_ranges(header, size)
    except InvalidRangeError:
        return
    covered: set[tuple[int, int]] = set()
    for start, stop in ranges or []:
        assert 0 <= start < stop <= size
        assert all(stop <= first or last <= start for first, last in covered)
        covered.add((start, stop))
