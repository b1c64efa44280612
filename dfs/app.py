"""The application factory: Flask, the routes of `dfs.api`, and the node behind them."""

from __future__ import annotations

import logging
from dataclasses import replace

from flask import Flask

from dfs.api.access_log import install_access_log
from dfs.api.application import DfsFlask
from dfs.api.auth import Gate, install_gate
from dfs.api.dashboard import Dashboard
from dfs.api.docs import install_api
from dfs.api.errors import install_error_handlers
from dfs.api.streams import find_received
from dfs.api.traffic import install_traffic
from dfs.core.config import Config, load_config
from dfs.core.logging import style_of
from dfs.counting import count_events
from dfs.gauges import make_readers
from dfs.node import Node
from dfs.telemetry.metrics import install_metrics
from dfs.telemetry.tracing import open_tracing


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
    tracing = open_tracing(node_id=config.node_id, database_url=config.database_url)
    app.extensions["dfs.tracing"] = tracing
    tracing.watch_app(app)
    metrics = install_metrics(
        app,
        readers=make_readers(lambda: app.extensions["dfs"]),
        stores=config.store_names,
        find_received=find_received,
    )
    is_verbose = style_of(config).level <= logging.DEBUG
    hooks = count_events(metrics.commits, metrics.stores, is_verbose=is_verbose)
    hooks = replace(hooks, on_store=tracing.watch_store, spans=tracing.spans)
    node = app.extensions["dfs"] = Node(config, hooks=hooks)
    install_gate(app, Gate(find_keyring=lambda: node.services.keyring, is_off=config.auth == "off"))
    install_traffic(app, config)
    install_error_handlers(app)
    app.access_log = install_access_log(app, config)
    install_api(app)
    if config.redis_url is not None:
        Dashboard(redis_url=config.redis_url).install(app)
    return app
