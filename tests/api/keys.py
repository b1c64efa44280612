"""API keys for tests, and the headers that show them."""

from __future__ import annotations

import base64

from dfs.core.access import ALL_SCOPES, OPERATOR
from dfs.core.signing import format_token
from dfs.services.keys import NewKey
from dfs.wiring import Services


def make_key(services: Services, scopes: int = ALL_SCOPES, **terms: object) -> NewKey:
    """Make a key, with all scopes unless told otherwise."""
    return services.keys.create(name="test", scopes=int(scopes), caller=OPERATOR, **terms)  # type: ignore[arg-type]


def bearer(token: str) -> dict[str, str]:
    """Return the header of a token."""
    return {"Authorization": f"Bearer {token}"}


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header of HTTP Basic."""
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {encoded}"}


def bearer_of(made: NewKey) -> dict[str, str]:
    """Return the header that shows a key."""
    return bearer(format_token(made.key.id, made.secret))


def basic_of(made: NewKey) -> dict[str, str]:
    """Return the same in the way of curl and browsers."""
    return basic(made.key.id, made.secret)
