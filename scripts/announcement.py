"""Tells on the terminal when a node is ready, and whom it serves: python -m scripts.announcement.

A process of its own, which ends with that: the libraries for it took as much memory as all else
that `make run` needs while the node runs.
"""

from __future__ import annotations

import ssl
import sys
import time

import urllib3

POLL_INTERVAL_S = 0.1


def describe_access(auth: str, http: urllib3.PoolManager, url: str) -> str:
    """Return whom the node serves, in a sentence or two."""
    if auth == "off":
        return "  DFS_AUTH=off: whoever reaches it may do everything."
    try:
        is_open = http.request("GET", f"{url}/docs").status == 200
    except urllib3.exceptions.HTTPError:
        return ""
    if not is_open:
        return "  Requests need an API key; `make key` makes one more."
    return (
        "  It has no API key, so it serves this machine only, and everybody on it. "
        "`make key` makes the first."
    )


def announce_when_ready(url: str, auth: str) -> None:
    """Print address and access once `/ready` answers 200, and until then that it does not."""
    told = ""
    # It is our own child that we ask, whatever name is in its certificate, and for no secret.
    context = urllib3.util.create_urllib3_context(cert_reqs=ssl.CERT_NONE)
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    # A connection that stays open lets a node that is stopped wait for another request.
    brief = {"Connection": "close"}
    with urllib3.PoolManager(retries=False, timeout=5, headers=brief, ssl_context=context) as http:
        while True:
            time.sleep(POLL_INTERVAL_S)
            try:
                answer = http.request("GET", f"{url}/ready")
            except urllib3.exceptions.HTTPError:  # not listening yet, or recovering
                continue
            if answer.status == 200:
                print(f"\n  dfs is ready: {url}   Ctrl-C stops it.\n", flush=True)
                print(describe_access(auth, http, url), flush=True)
                return
            reason = answer.data.decode(errors="replace").strip()
            if reason != told:
                print(f"dfs is not ready yet: {reason}", flush=True)
                told = reason


if __name__ == "__main__":
    announce_when_ready(*sys.argv[1:])
