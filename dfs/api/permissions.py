"""Which scope each route needs: the one table. What is not in it nobody may do.

`SOMEBODY` is any key at all. `PUBLIC` is for strangers, too: such a route shows them nothing of the
node but whether it lives and serves.
"""

from __future__ import annotations

from collections.abc import Mapping

from dfs.core.access import ALL_SCOPES, Scope

SIGNED = frozenset((("/download/<file_id>", "GET"), ("/upload", "POST")))
"""Routes and methods for which a signed URL can be good."""
PUBLIC = -1
SOMEBODY = 0
READ, WRITE, DELETE, ADMIN = map(int, Scope)

NEEDED: Mapping[str, Mapping[str, int]] = {
    "/upload": {"POST": WRITE},
    "/download/<file_id>": {"GET": READ},
    "/files": {"GET": READ},
    # PATCH needs DELETE, too, if it has the file expire, see `files.change_file`.
    "/files/<file_id>": {"GET": READ, "PATCH": WRITE, "DELETE": DELETE},
    "/files/<file_id>/restore": {"POST": WRITE},
    "/signed-urls": {"POST": SOMEBODY},  # and what the URL is for, see `keys.create_url`
    "/admin/keys": {"GET": ADMIN, "POST": ADMIN},
    "/admin/keys/<key_id>": {"GET": ADMIN, "DELETE": ADMIN},
    "/health": {"GET": PUBLIC},
    "/ready": {"GET": PUBLIC},
    "/metrics": {"GET": ADMIN},
    "/openapi.json": {"GET": SOMEBODY},
    "/docs": {"GET": SOMEBODY},
    "/docs/assets/<path:name>": {"GET": SOMEBODY},
    "/admin/audit": {"GET": ADMIN},
    "/admin/usage": {"GET": ADMIN},
    "/admin/replicas/status": {"GET": ADMIN},
    "/admin/replicas/sync": {"POST": ADMIN},
    "/admin/replicas/scrub": {"POST": ADMIN},
    "/admin/wal/segments": {"GET": ADMIN},
    "/admin/wal/entries": {"GET": ADMIN},
    "/admin/wal/inspect/<segment_id>": {"GET": ADMIN},
    "/admin/rq": {"GET": ADMIN, "POST": ADMIN},
    "/admin/rq/": {"GET": ADMIN, "POST": ADMIN},
    "/admin/rq/<path:path>": {"GET": ADMIN, "POST": ADMIN},
}


def find_needed(rule: str, method: str) -> int:
    """Return the scopes that a route needs; all of them, if it is not in the table."""
    if method == "HEAD":
        method = "GET"
    elif method == "OPTIONS":  # answered by Flask, for every route
        return SOMEBODY
    return NEEDED.get(rule, {}).get(method, ALL_SCOPES)
