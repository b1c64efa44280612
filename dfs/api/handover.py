"""Downloads that a reverse proxy on this machine sends in the place of dfs.

    proxy -> dfs     DFS-Accel: /dfs-blobs/                       "I have the blob files there"
    dfs -> proxy     X-Accel-Redirect: /dfs-blobs/ab/cd/<sha256>  all headers of the file, no body
    proxy -> client  those headers, and the bytes of the blob file, in the ranges asked for

dfs decides all that there is to decide before. Only files that it has found sound a short while ago
are handed over, see `services.verified_files`; of all others it sends the bytes itself.

Source: https://nginx.org/en/docs/http/ngx_http_proxy_module.html (`X-Accel-Redirect`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfs.api.conditions import has_conditions
from dfs.api.requests import services
from dfs.core.address import is_loopback
from dfs.services.download import Download


def find_place(opened: Download, environ: Mapping[str, Any]) -> str | None:
    """Return where the proxy that asks finds the bytes of a file; None if dfs is to send them.

    A client that does not come through it would be left without a body. So the header must name the
    very place that the setting does, and come from this machine.

    Conditions on which dfs has decided already would be judged once more by the proxy, by the dates
    of the blob file instead of those of the file: with one of them dfs sends the bytes.
    """
    asked = environ.get("HTTP_DFS_ACCEL")
    if not asked or asked != services().config.accel_prefix:
        return None
    if has_conditions(environ) or not is_loopback(environ.get("REMOTE_ADDR", "")):
        return None
    name = opened.find_sound_file()
    return None if name is None else asked + name
