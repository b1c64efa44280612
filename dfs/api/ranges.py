"""Byte ranges of a download.

Source: RFC 9110 sections 14.1 and 14.2.
"""

from __future__ import annotations

import re
from itertools import pairwise

from dfs.core.errors import InvalidRangeError

RANGES_MAX = 16
"""Ranges answered in one response; a request for more is answered with the whole file."""

_RANGE = re.compile(r"(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))", re.ASCII)


def parse_ranges(header: str, size: int) -> list[tuple[int, int]] | None:
    """Return the ranges a `Range` header asks for.

    Args:
        header: the value of the header.
        size: bytes in the file.

    Returns:
        (start, stop) of each satisfiable range, stop excluded, in the order asked for; None when
        the header is to be ignored: another unit, malformed, too many ranges, overlapping ones.

    Raises:
        InvalidRangeError: no byte of the file lies in any of the ranges.
    """
    unit, separator, listed = header.partition("=")
    if not separator or unit.strip(" \t").lower() != "bytes":
        return None
    specs = [spec for spec in (part.strip(" \t") for part in listed.split(",")) if spec]
    if not 0 < len(specs) <= RANGES_MAX:
        return None
    ranges: list[tuple[int, int]] = []
    for spec in specs:
        span = _parse_span(spec, size)
        if span is None:
            return None
        if span[0] < span[1]:
            ranges.append(span)
    if not ranges:
        raise InvalidRangeError("No byte of the file lies in the requested range.", size=size)
    if any(later[0] < earlier[1] for earlier, later in pairwise(sorted(ranges))):
        return None
    return ranges


def _parse_span(spec: str, size: int) -> tuple[int, int] | None:
    """Return (start, stop) of one range, empty if it is not satisfiable; None if malformed."""
    match = _RANGE.fullmatch(spec)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        if size == 0 and int(suffix) > 0:
            return None  # satisfiable, but an empty range cannot be written in Content-Range
        return max(0, size - int(suffix)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size
