"""Headers that keep browsers from doing harm; and of downloads: names, dates, what may be shown.

Source: RFC 6266 and RFC 8187 (`Content-Disposition`), RFC 9110 section 5.6.7 (dates), Content
Security Policy Level 3, and the Fetch standard (`Cross-Origin-Resource-Policy`, `nosniff`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from werkzeug.datastructures import Headers

SIGNED_KEY = "dfs.signed"
"""In the environment of a request by a signed URL."""
CSP = "Content-Security-Policy"
CORP = "Cross-Origin-Resource-Policy"
GUARDS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    (CSP, "default-src 'none'; frame-ancestors 'none'"),
    (CORP, "same-origin"),
)
"""Of every answer that says nothing else: no page may use it, show it or learn where it came from,
and it runs nothing if it is opened as a page."""
_DOWNLOAD_POLICY = (
    "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
)
DOWNLOAD_GUARDS = ((CSP, _DOWNLOAD_POLICY), *GUARDS[:2])
"""Of what clients have stored: opened in a browser it is a page of no site, without scripts, which
can only show itself."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9 !#$&'()+,.;=@\[\]^_`{}~-]*")
_UNSAFE = re.compile(r'[^\x20-\x7e]|["\\%/]')
_ATTR_CHARS = "!#$&+-.^_`|~"
_SHOWN = frozenset(
    (
        "application/json",
        "image/avif",
        "image/bmp",
        "image/gif",
        "image/jpeg",
        "image/png",
        "image/webp",
        "text/csv",
        "text/plain",
    )
)


def guard_answer(headers: Headers, environ: Mapping[str, Any]) -> None:
    """Add the headers of `GUARDS` that an answer does not have.

    A download by a signed URL may be used by any page: whoever signed it gave it away.
    """
    listed = headers._list  # these are constants of ours, which need no looking over
    if (CSP, _DOWNLOAD_POLICY) not in listed:
        given = {name for name, _ in listed}
        listed.extend(guard for guard in GUARDS if guard[0] not in given)
    elif SIGNED_KEY not in environ:
        listed.append(GUARDS[-1])


@lru_cache(maxsize=1024)
def format_http_date(seconds: int) -> str:
    """Return a time in seconds since 1970 as HTTP writes it."""
    moment = time.gmtime(seconds)
    return (
        f"{_DAYS[moment.tm_wday]}, {moment.tm_mday:02} {_MONTHS[moment.tm_mon - 1]} "
        f"{moment.tm_year:04} {moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02} GMT"
    )


def is_shown_safely(content_type: str) -> bool:
    """Return whether a browser shows the type without running anything in it.

    Whatever is not known to be passive (HTML, SVG, XML, scripts, PDF, types unheard of) is not.
    """
    mimetype = content_type.partition(";")[0].strip().lower()
    return mimetype in _SHOWN or mimetype.startswith(("audio/", "video/"))


def format_disposition(key: str, inline: bool) -> str:
    """Return the `Content-Disposition` of a file: its name is the last part of its key."""
    kind = "inline" if inline else "attachment"
    name = key.rpartition("/")[2]
    if _PLAIN_NAME.fullmatch(name):
        return f'{kind}; filename="{name}"'
    fallback = _UNSAFE.sub("_", name)
    return f"{kind}; filename=\"{fallback}\"; filename*=UTF-8''{quote(name, safe=_ATTR_CHARS)}"
