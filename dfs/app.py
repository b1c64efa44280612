"""The application factory: Flask, the routes of `dfs.api`, and the node behind them."""

from __future__ import annotations

import logging
from functools import partial

import structlog
from flask import Flask

from dfs.api.access_log import install_access_log
from dfs.api.application import DfsFlask
from dfs.api.auth import Gate, install_gate
from dfs.api.dashboard import Dashboard
from dfs.api.docs import install_api
from dfs.api.errors import install_error_handlers
from dfs.api.traffic import install_traffic
from dfs.core.config import Config, load_config
from dfs.core.logging import style_of
from dfs.core.model import DebtKind
from dfs.node import Node
from dfs.services.batch import CommitReport
from dfs.services.breaker import Breaker
from dfs.services.hooks import Hooks
from dfs.telemetry.disks import DiskGauges
from dfs.telemetry.metrics import Metrics, install_metrics
from dfs.telemetry.stores import StoreGauges
from dfs.telemetry.usage import UsageGauges


def create_app(config: Config | None = None) -> Flask:
    """Return the application. Nothing is opened until the first request needs it.

    Args:
        config: the settings; those of the environment when None.

    Raises:
        ConfigError: a setting is wrong.
    """
    config = load_config() if config is None else config
    app = DfsFlask("dfs", static_folder=None)
    app.url_map.merge_slashes = False  # a name with two slashes is another name, not a redirect
    metrics = install_metrics(
        app,
        read_stores=partial(_read_stores, app),
        read_disks=partial(_read_disks, app),
        read_usage=partial(_read_usage, app),
    )
    is_verbose = style_of(config).level <= logging.DEBUG
    node = app.extensions["dfs"] = Node(config, hooks=_make_hooks(metrics, is_verbose=is_verbose))
    install_gate(app, Gate(find_keyring=lambda: node.services.keyring, is_off=config.auth == "off"))
    install_traffic(app, config)
    install_error_handlers(app)
    app.access_log = install_access_log(app, config)
    install_api(app)
    if config.redis_url is not None:
        Dashboard(redis_url=config.redis_url).install(app)
    return app


def _make_hooks(metrics: Metrics, *, is_verbose: bool) -> Hooks:
    """Return what has the services counted; `is_verbose`: each commit logged, too."""

    def count_commit(report: CommitReport) -> None:
        metrics.commits.observe_commit(
            changes=report.changes,
            syncs=1,
            bytes=report.log_bytes,
            sync_s=report.sync_s,
        )
        if is_verbose:
            _log_commit(report)

    def count_damage(store: str, kind: DebtKind) -> None:
        metrics.stores.observe_damage(store, kind.name.lower())

    return Hooks(
        on_commit=count_commit,
        on_damage=count_damage,
        on_rescue=metrics.stores.observe_rescue,
        on_handover=metrics.stores.observe_handover,
    )


def _log_commit(report: CommitReport) -> None:
    structlog.get_logger().debug(
        "committed",
        changes=report.changes,
        first_lsn=report.first_lsn,
        lsn=report.last_lsn,
        log_bytes=report.log_bytes,
        lock_wait_ms=round(1000 * report.lock_wait_s, 3),
        sync_ms=round(1000 * report.sync_s, 3),
    )


def _read_stores(app: Flask) -> list[StoreGauges]:
    """Return how the stores are, for the metrics. Raises DfsError."""
    node: Node = app.extensions["dfs"]
    return [
        StoreGauges(
            store=report.name,
            lag_s=report.lag_s,
            lag_records=report.lag_records,
            owed={kind.value: (owed.count, owed.bytes) for kind, owed in report.owed.items()},
            is_out=report.breaker is not Breaker.CLOSED,
            failures=report.state.failures,
            scrub_bytes_read=report.scrub.state.bytes_read,
            scrub_damaged_last=report.scrub.state.last_damaged,
            scrub_share=report.scrub.share,
            scrub_bytes_per_s=report.scrub.bytes_per_s,
            scrub_eta_s=report.scrub.eta_s,
        )
        for report in node.services.replicas.recall()
    ]


def _read_disks(app: Flask) -> DiskGauges:
    """Return what is left of the disks, for the metrics. Raises DfsError."""
    node: Node = app.extensions["dfs"]
    return DiskGauges(
        spaces=node.services.health.spaces(),
        reserve_bytes=node.config.reserve_bytes,
        reserve_inodes=node.config.reserve_inodes,
    )


def _read_usage(app: Flask) -> UsageGauges:
    """Return what the node holds, for the metrics. Raises DfsError."""
    node: Node = app.extensions["dfs"]
    report = node.services.usage.report()
    return UsageGauges(report.files, report.blobs, report.log_bytes, report.dead_bytes)
