"""Named steps of a change, for tests that stop the world at each of them.

Whoever changes what is on disk announces each step to a plain function it was given. In production
that is `ignore_step`; the crash tests pass one that kills the process or raises.
"""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[str], None]


def ignore_step(name: str) -> None:
    """Do nothing."""
