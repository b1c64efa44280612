"""The protocol of commit and recovery, tried out in full for small cases. See docs/model.md."""

from __future__ import annotations

import pytest

from tests.model.explore import exploring
from tests.model.lives import run_scenario
from tests.model.planted import BUGS
from tests.model.scenario import Violation
from tests.model.scenarios import ALL

pytestmark = [
    pytest.mark.crash,
    pytest.mark.timeout(300),
    # A process that was killed has closed nothing.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SHORT = {
    "commit": 1,
    "first-start": 1,
    "delete": 1,
    "blob-file": 1,
    "rotation": 1,
    "fault": 1,
    "death-then-fault": 1,
    "two-commits": 1,
    "start-beside": 1,
}
"""Scenario -> crashes one after the other. The others, and more: `python -m tests.model`."""


@pytest.mark.parametrize("name", SHORT)
def test_every_interleaving_and_every_crash_keeps_every_promise(name: str) -> None:
    """Whatever comes in between, and whatever a crash leaves: the next start has it right."""
    with exploring() as explorer:
        run_scenario(explorer, ALL[name], crashes_max=SHORT[name])
    assert explorer.tally.images > 100
    assert explorer.tally.states > explorer.tally.images / 2


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_of_the_protocol_is_found(name: str) -> None:
    """A promise that the code does not keep is found broken."""
    bug = BUGS[name]
    with (
        exploring() as explorer,
        bug.planted(),
        pytest.raises(Violation),
    ):
        run_scenario(explorer, ALL[bug.scenario], crashes_max=bug.crashes)
