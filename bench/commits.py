"""What a node's own metrics say of its commits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.load import Rate
from bench.results import Series
from bench.servers import Server, get

_NAMES = ("dfs_commit_changes_count", "dfs_commit_changes_sum", "dfs_commit_syncs_total")


@dataclass(frozen=True, slots=True)
class Commits:
    """Commits, the changes in them, and the syncs of the log that they made; since the start."""

    commits: float
    changes: float
    syncs: float

    def since(self, before: Commits) -> Commits:
        """Return what has come since then."""
        return Commits(
            self.commits - before.commits,
            self.changes - before.changes,
            self.syncs - before.syncs,
        )

    @property
    def group(self) -> float:
        """Changes a commit."""
        return self.changes / self.commits

    @property
    def syncs_each(self) -> float:
        """Syncs a change."""
        return self.syncs / self.changes


def read_commits(node: Server) -> Commits:
    """Ask a node for its counts."""
    return parse_commits(get(node, "/metrics")[1].decode())


def parse_commits(text: str) -> Commits:
    """Return the counts in an answer of `/metrics`; one that is not there yet is 0."""
    matches = (re.search(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE) for name in _NAMES)
    return Commits(*(float(match[1]) if match else 0.0 for match in matches))


@dataclass(slots=True)
class CommitCounter:
    """Runs loads that change something, and keeps what each has cost in commits."""

    node: Server
    counts: list[Commits] = field(default_factory=list)

    def around(self, load: Callable[[], Rate]) -> Rate:
        """Run a load, and keep the commits it made."""
        before = read_commits(self.node)
        rate = load()
        self.counts.append(read_commits(self.node).since(before))
        return rate

    @property
    def last_group(self) -> int:
        """Changes a commit in the newest load, a whole number."""
        return max(1, round(self.counts[-1].group))

    def groups(self, rounds: int) -> Series:
        """Return the changes a commit of the newest rounds."""
        return Series(tuple(count.group for count in self.counts[-rounds:]))

    def syncs(self, rounds: int) -> Series:
        """Return the syncs a change of the newest rounds."""
        return Series(tuple(count.syncs_each for count in self.counts[-rounds:]))
