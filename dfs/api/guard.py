"""Who may use what changes the node itself, as long as there are no keys.

Source: Fetch Metadata Request Headers (`Sec-Fetch-Site`), https://www.w3.org/TR/fetch-metadata/
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

from werkzeug.datastructures import Authorization

from dfs.api.errors import make_problem
from dfs.api.responses import Answer

_BY_PROXY = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP", "HTTP_VIA")
_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))


def refuse_strangers(environ: Mapping[str, Any], password: str | None) -> Answer | None:
    """Return the answer to a request of somebody who is no administrator; None for one who is.

    Args:
        password: who knows it is one. If there is none, whoever asks from this machine is.
    """
    if password is None:
        if is_local(environ):
            return None
        return make_problem(
            403,
            "forbidden",
            "Only clients on the node's machine may do this while DFS_ADMIN_PASSWORD is unset.",
        )
    if _knows(environ.get("HTTP_AUTHORIZATION"), password):
        return None
    challenge = ("WWW-Authenticate", 'Basic realm="dfs", charset="UTF-8"')
    return make_problem(
        401, "unauthorized", "The password of the administrator is needed.", headers=[challenge]
    )


def refuse_other_sites(environ: Mapping[str, Any], *, is_change: bool) -> Answer | None:
    """Return the answer to a change that another web site has made a browser ask for; else None.

    Args:
        is_change: the request changes something though its method says it does not. Then a browser
            must say that it comes from here; with other methods the absence of any word on it
            means that it does not come from a browser.
    """
    is_safe = environ["REQUEST_METHOD"] in _SAFE_METHODS
    if is_safe and not is_change:
        return None
    is_ours = _is_same_origin(environ)
    if is_ours or (is_ours is None and not is_safe):
        return None
    return make_problem(403, "cross_site", "Another web site cannot ask for this.")


def is_local(environ: Mapping[str, Any]) -> bool:
    """Return whether a client on this machine asks, not for another, by a name of this machine.

    The name matters: a browser here may run the script of a site whose name has been pointed to
    this machine.
    """
    if any(name in environ for name in _BY_PROXY):
        return False
    try:
        host = urlsplit(f"//{environ.get('HTTP_HOST', '')}").hostname or ""
    except ValueError:
        return False
    is_ours = host == "localhost" or _is_loopback(host)
    return is_ours and _is_loopback(environ.get("REMOTE_ADDR", ""))


def _is_loopback(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _knows(header: str | None, password: str) -> bool:
    """Return whether a header `Authorization` has the password. The name of the user is free."""
    given = Authorization.from_header(header)
    if given is None or given.type != "basic":
        return False
    return hmac.compare_digest((given.password or "").encode(), password.encode())


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
