"""What Linux does with the children of a process that ends. Elsewhere nothing is changed."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def end_with_parent() -> None:
    """Have this process get SIGTERM when its parent ends, whoever that is now.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    _control(_PR_SET_PDEATHSIG, signal.SIGTERM)


def adopt_orphans() -> None:
    """Have this process be the parent of those below it whose own parent ends.

    Source: prctl(2), PR_SET_CHILD_SUBREAPER.
    """
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def _control(operation: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(operation, value, 0, 0, 0)
