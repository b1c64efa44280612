"""Which names a file may have."""

from __future__ import annotations

import re

from dfs.core.errors import InvalidNameError

KEY_BYTES_MAX = 1024
REFUSED_CHARACTERS = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
"""As a class of a regular expression: controls, breaks of lines and paragraphs, and what embeds,
overrides or isolates a direction of writing, so that a name would not be what it seems to be."""
_REFUSED = re.compile(rf"[{REFUSED_CHARACTERS}\ud800-\udfff]")


def validate_key(key: str, bytes_max: int = KEY_BYTES_MAX) -> str:
    """Return `key` if a file may have that name.

    A key is 1 to `bytes_max` bytes of UTF-8 without `REFUSED_CHARACTERS`. It is stored as it is,
    never normalized. It is never a path on our disks: slashes and dots are characters like any
    other.

    Raises:
        InvalidNameError: saying what is wrong with it.
    """
    if not key:
        raise InvalidNameError("A file needs a name.")
    if has_refused_characters(key):
        raise InvalidNameError(
            "The name of a file must not hold control characters, nor such as break lines or turn "
            "the direction of writing."
        )
    if len(key.encode("utf-8")) > bytes_max:
        raise InvalidNameError(
            f"The name of a file must not be longer than {bytes_max} bytes of UTF-8."
        )
    return key


def has_refused_characters(text: str) -> bool:
    """Tell whether a text holds `REFUSED_CHARACTERS` or lone surrogates."""
    # The first question is quick, but takes unusual blanks and joiners for unprintable.
    return not text.isprintable() and _REFUSED.search(text) is not None
