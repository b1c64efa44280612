"""Where a request comes from: by which name, and at the wish of which web site.

Source: Fetch Metadata Request Headers (`Sec-Fetch-Site`), https://www.w3.org/TR/fetch-metadata/
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from dfs.core.address import is_loopback
from dfs.core.errors import CrossSiteError

_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))


def refuse_other_sites(environ: Mapping[str, Any], *, is_change: bool = False) -> None:
    """Raise CrossSiteError if another web site has made a browser ask for a change.

    Args:
        is_change: the request changes something though its method says it does not. Then a browser
            must say that it comes from here; with other methods the absence of any word on it
            means that it does not come from a browser.
    """
    is_safe = environ["REQUEST_METHOD"] in _SAFE_METHODS
    if is_safe and not is_change:
        return
    is_ours = _is_same_origin(environ)
    if is_ours or (is_ours is None and not is_safe):
        return
    raise CrossSiteError("Another web site cannot ask for this.")


def is_proxied(environ: Mapping[str, Any]) -> bool:
    """Return whether somebody says that he asks for another."""
    return (
        "HTTP_FORWARDED" in environ
        or "HTTP_X_FORWARDED_FOR" in environ
        or "HTTP_X_REAL_IP" in environ
        or "HTTP_VIA" in environ
    )


@lru_cache(maxsize=256)
def names_loopback(host: str) -> bool:
    """Return whether a header `Host` names the machine itself.

    A browser here may run the script of a site whose name has been pointed to this machine.
    """
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _is_same_origin(environ: Mapping[str, Any]) -> bool | None:
    """Return whether the page that asks is one of this node's; None if no browser says so."""
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None:
        return bool(site == "same-origin")
    origin = environ.get("HTTP_ORIGIN")
    if origin is None:
        return None
    try:
        return bool(urlsplit(origin).netloc == environ.get("HTTP_HOST"))
    except ValueError:
        return False
