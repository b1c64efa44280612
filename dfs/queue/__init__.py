"""Background jobs: a hint that there is work. What is owed stands in the index, never only here.

redis imports a part of OpenTelemetry wherever that is installed, for metrics that dfs does not ask
it for, and that would be megabytes of each process. So it is hidden from redis; whoever imports
that imports this package first.
"""

from __future__ import annotations

from dfs.core.imports import hiding

with hiding("opentelemetry"):
    import redis  # noqa: F401
