"""A row of the table of settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    Attributes:
        name: the environment variable.
        attribute: the attribute of `Config` that holds the value.
        parse: turns the text into the value; raises ValueError with a reason.
        default: as text, as a user would write it; empty means unset.
        help: what it does, with its unit.
    """

    name: str
    attribute: str
    parse: Callable[[str], Any]
    default: str
    help: str
