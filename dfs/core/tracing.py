"""What the program knows of traces: where a span begins and ends, whoever may be told of it.

The layers below `dfs.telemetry` never see the library that records spans. They are handed `Spans`,
which by default are nobody's.
"""

from __future__ import annotations

TRACE_ID_KEY = "dfs.trace_id"
"""The environment of a request has the id of its trace, if it has one."""
