"""`/admin/replicas`: how the stores are, and having the workers work on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import request

from dfs.api.blueprints import Blueprint, read_json
from dfs.api.represent import format_optional
from dfs.api.requests import services
from dfs.api.responses import Answer, answer_json
from dfs.api.schemas import StoreChoiceSchema, SyncQuerySchema, load_checked
from dfs.api.spec import REPLICAS_DOC, SCRUB_DOC, SYNC_DOC
from dfs.core.errors import InvalidRequestError
from dfs.services.reports import Owed, ScrubProgress, StoreReport

blueprint = Blueprint("replicas", __name__, url_prefix="/admin/replicas")

_CHOICE_SCHEMA = StoreChoiceSchema()


@blueprint.route("/status", methods=["GET"])
@blueprint.doc(**REPLICAS_DOC)
@blueprint.without_query
def get_status() -> Answer:
    """Tell how each store is, and what it owes"""
    reports = services().replicas.ask()
    return answer_json({"stores": [_represent_store(report) for report in reports]})


@blueprint.route("/sync", methods=["POST"])
@blueprint.doc(**SYNC_DOC)
@blueprint.arguments(SyncQuerySchema, location="query")
def start_sync(query: dict[str, Any]) -> Answer:
    """Have what the stores owe paid now"""
    report = services().replicas.sync(_choose_store(query), wait_s=query["wait"])
    owed = {store.name: _represent_debts(store) for store in report.stores}
    return answer_json({"jobs": report.jobs, "done": report.is_done, "owed": owed}, 202)


@blueprint.route("/scrub", methods=["POST"])
@blueprint.doc(**SCRUB_DOC)
@blueprint.arguments(StoreChoiceSchema, location="query")
def start_scrub(query: dict[str, Any]) -> Answer:
    """Have stores read through for damage from now on"""
    start = services().replicas.scrub(_choose_store(query))
    body = {"jobs": start.jobs, "running": start.running, "faults": start.faults}
    return answer_json(body, 202)


def _choose_store(query: Mapping[str, Any]) -> str | None:
    """Return the store that query or body names; None for all."""
    store: str | None = query["store"]
    body = read_json(request, is_optional=True)
    chosen: str | None = load_checked(_CHOICE_SCHEMA, body, "body")["store"]
    if store is not None and chosen not in (None, store):
        raise InvalidRequestError(
            "The body is not valid.", fields={"store": ["the query names another one"]}
        )
    return chosen or store


def _represent_store(report: StoreReport) -> dict[str, Any]:
    state, position = report.state, report.position
    return {
        "name": report.name,
        "kind": report.kind,
        "location": report.location,
        "reachable": report.fault is None,
        "unreachable_reason": report.fault,
        "breaker": report.breaker.value,
        "failures": state.failures,
        "retry_at": format_optional(state.retry_at_ms or None),
        "last_error": state.error,
        "last_error_at": format_optional(state.error_at_ms),
        "position": None
        if position is None
        else {
            "segment_id": position.segment_id,
            "offset": position.offset,
            "lsn": position.lsn,
        },
        **_represent_debts(report),
        "scrub": _represent_scrub(report.scrub),
    }


def _represent_debts(report: StoreReport) -> dict[str, Any]:
    """Return what a store owes; part of its status, and of what a sync answers."""
    return {
        "lag_records": report.lag_records,
        "oldest_debt_s": _age_s(report.oldest_at_ms, report.at_ms),
        "owed_bytes": report.owed_bytes,
        "debts": {
            kind.value: _represent_owed(owed, report.at_ms) for kind, owed in report.owed.items()
        },
    }


def _represent_owed(owed: Owed, moment_ms: int) -> dict[str, Any]:
    return {
        "count": owed.count,
        "bytes": owed.bytes,
        "failing": owed.failing,
        "oldest_s": _age_s(owed.oldest_at_ms, moment_ms),
        "due_at": format_optional(_due_at_ms(owed, moment_ms)),
        "last_error": owed.error,
    }


def _due_at_ms(owed: Owed, moment_ms: int) -> int | None:
    """Return when the last of what has to wait may be paid; None if nothing has to."""
    newest_at_ms = owed.newest_at_ms
    return newest_at_ms if newest_at_ms is not None and newest_at_ms > moment_ms else None


def _represent_scrub(progress: ScrubProgress) -> dict[str, Any]:
    state = progress.state
    return {
        "running": progress.is_running,
        "share": _round(progress.share),
        "bytes_read": state.bytes_read,
        "bytes_total": state.bytes_total,
        "bytes_per_s": _round(progress.bytes_per_s),
        "eta_s": _round(progress.eta_s),
        "damaged": state.damaged,
        "started_at": format_optional(state.started_at_ms),
        "last_finished_at": format_optional(state.finished_at_ms),
        "last_damaged": state.last_damaged,
        "last_bytes": state.last_bytes,
    }


def _age_s(at_ms: int | None, moment_ms: int) -> float | None:
    return None if at_ms is None else max(0, moment_ms - at_ms) / 1000


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
