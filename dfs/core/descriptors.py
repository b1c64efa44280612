"""How many files and connections a process may have open at once."""

from __future__ import annotations

import resource
from contextlib import suppress

import structlog

DESCRIPTORS_ADVISED = 8192
"""A thousand connections, each with a file; the log's segments; the connections to the index."""


def raise_descriptor_limit() -> None:
    """Raise the soft limit of this process, and of those it starts, to the hard one.

    A hard limit below DESCRIPTORS_ADVISED is logged.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS says "unlimited" and then refuses it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS_ADVISED:
        structlog.get_logger().warning(
            "descriptors_scarce",
            limit=soft,
            advised=DESCRIPTORS_ADVISED,
            hint="Raise the hard limit: ulimit -Hn, or LimitNOFILE= of systemd.",
        )
