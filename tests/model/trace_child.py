"""A process that does for real what the model does. Run by test_trace.py under strace.

python -m tests.model.trace_child DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

import structlog

from dfs.wiring import Services, open_services
from tests.model.scenario import config_of, delete, store
from tests.model.scenarios import LARGE, ROTATING_BYTES

CHANGES = (store("a", b"1"), store("b", b"2"), store("c", LARGE), delete("d", "a-0"))


def work(directory: Path) -> None:
    """Open a new node, make changes, and open it again."""
    for changes in (CHANGES, ()):
        node: Services = open_services(config_of(directory, segment_bytes=ROTATING_BYTES))
        for change in changes:
            change.submit(node)
        node.close()


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    work(Path(sys.argv[1]))
