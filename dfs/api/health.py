"""`/health` and `/ready`: for whoever watches the node."""

from __future__ import annotations

import math
from typing import Any

import structlog
from flask import request

from dfs.api.auth import recognize
from dfs.api.blueprints import Blueprint
from dfs.api.errors import RETRY_AFTER_S
from dfs.api.permissions import ADMIN
from dfs.api.requests import services
from dfs.api.responses import Answer, answer_json
from dfs.api.spec import HEALTH_DOC, READY_DOC
from dfs.core.disk import Space
from dfs.core.errors import DfsError

log = structlog.get_logger()
blueprint = Blueprint("health", __name__)

OPTIONAL_PARTS = frozenset(("room", "queue", "replicas"))
"""Parts without which the node serves: all but uploads without `room`, all without the others."""


@blueprint.route("/health", methods=["GET"])
@blueprint.doc(**HEALTH_DOC)
@blueprint.without_query
def get_health() -> Answer:
    """Tell that the process lives"""
    return answer_json({"status": "ok"})


@blueprint.route("/ready", methods=["GET"])
@blueprint.doc(**READY_DOC)
@blueprint.without_query
def get_ready() -> Answer:
    """Tell whether the node can serve, and to administrators why not"""
    disks: dict[str, Any] = {}
    try:
        health = services().health
        reasons = health.reasons()
        disks = {name: _represent_space(space) for name, space in health.spaces().items()}
    except DfsError as error:
        log.error("services_unopened", code=error.code, error=str(error))
        reasons = {"recovery": error.message}
    failing = {part for part, reason in reasons.items() if reason is not None}
    status = "ready" if not failing else "degraded" if failing <= OPTIONAL_PARTS else "unready"
    body: dict[str, Any] = {"status": status}
    caller = recognize(request.environ)
    if caller is not None and caller.scopes & ADMIN:
        body |= {"reasons": reasons, "disks": disks}
    if status == "unready":
        return answer_json(body, 503, [("Retry-After", RETRY_AFTER_S)])
    return answer_json(body)


def _represent_space(space: Space) -> dict[str, int | None]:
    has_inodes = math.isfinite(space.inodes)
    return {
        "free_bytes": space.bytes,
        "free_inodes": int(space.inodes) if has_inodes else None,
    }
