"""From what befalls the services to what the metrics count, in web and worker processes alike."""

from __future__ import annotations

import structlog

from dfs.core.model import Debt, DebtKind
from dfs.services.batch import CommitReport
from dfs.services.hooks import Hooks
from dfs.telemetry.commits import CommitMetrics
from dfs.telemetry.stores import StoreCounters


def count_events(
    commits: CommitMetrics, stores: StoreCounters, *, is_verbose: bool = False
) -> Hooks:
    """Return what has the services counted; `is_verbose`: each commit logged, too."""

    def count_commit(report: CommitReport) -> None:
        commits.observe_commit(
            changes=report.changes,
            syncs=1,
            bytes=report.log_bytes,
            sync_s=report.sync_s,
            lock_wait_s=report.lock_wait_s,
            locked_s=report.locked_s,
        )
        if is_verbose:
            _log_commit(report)

    def count_damage(store: str, kind: DebtKind) -> None:
        stores.observe_damage(store, kind.name.lower())

    def count_attempt(debt: Debt, is_paid: bool) -> None:
        stores.observe_attempt(debt.store, debt.kind.name.lower(), is_paid=is_paid)

    return Hooks(
        on_commit=count_commit,
        on_damage=count_damage,
        on_attempt=count_attempt,
        on_rescue=stores.observe_rescue,
        on_handover=stores.observe_handover,
    )


def _log_commit(report: CommitReport) -> None:
    structlog.get_logger().debug(
        "committed",
        **report.facts(),
        lock_wait_ms=round(1000 * report.lock_wait_s, 3),
        sync_ms=round(1000 * report.sync_s, 3),
    )
