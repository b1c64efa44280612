"""Which names a file may have."""

from __future__ import annotations

import unicodedata

from dfs.core.errors import InvalidNameError

KEY_BYTES_MAX = 1024
_CONTROL_CATEGORIES = frozenset({"Cc", "Cs"})


def validate_key(key: str) -> str:
    """Return `key` if a file may have that name.

    A key is 1 to `KEY_BYTES_MAX` bytes of UTF-8 without control characters. It is never a path on
    our disks: slashes and dots are characters like any other.

    Raises:
        InvalidNameError: saying what is wrong with it.
    """
    if not key:
        raise InvalidNameError("A file needs a name.")
    if has_control_characters(key):
        raise InvalidNameError("The name of a file must not hold control characters.")
    if len(key.encode("utf-8")) > KEY_BYTES_MAX:
        raise InvalidNameError(
            f"The name of a file must not be longer than {KEY_BYTES_MAX} bytes of UTF-8."
        )
    return key


def has_control_characters(text: str) -> bool:
    """Tell whether a text holds control characters or lone surrogates."""
    return not text.isprintable() and any(
        unicodedata.category(character) in _CONTROL_CATEGORIES for character in text
    )  # the first question is quick, but takes unusual blanks for unprintable
