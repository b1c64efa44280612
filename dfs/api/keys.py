"""`/admin/keys` and `/signed-urls`: make, list and revoke API keys, and have one sign a URL."""

from __future__ import annotations

import time
from typing import Any

from flask import request

from dfs.api.auth import caller_of
from dfs.api.blueprints import Blueprint
from dfs.api.key_spec import (
    KEY_DOC,
    KEYS_DOC,
    NEW_KEY_DOC,
    NEW_URL_DOC,
    REVOKE_DOC,
    NewKeySchema,
    NewUrlSchema,
)
from dfs.api.permissions import READ, WRITE
from dfs.api.represent import format_optional, format_timestamp
from dfs.api.requests import checked_file_id, services
from dfs.api.responses import Answer, answer_json
from dfs.core.access import Caller, Key, Scope, scope_names
from dfs.core.clock import now_ms
from dfs.core.errors import ForbiddenError
from dfs.core.names import validate_key
from dfs.core.signing import format_token, sign_url

blueprint = Blueprint("keys", __name__)

NO_STORE = ("Cache-Control", "no-store")


@blueprint.route("/admin/keys", methods=["GET"])
@blueprint.doc(**KEYS_DOC)
@blueprint.without_query
def list_keys() -> Answer:
    """List the API keys"""
    keys = services().keys.list()
    return answer_json({"keys": [_represent_key(key) for key in keys]})


@blueprint.route("/admin/keys", methods=["POST"])
@blueprint.doc(**NEW_KEY_DOC)
@blueprint.without_query
@blueprint.arguments(NewKeySchema, location="json")
def create_key(body: dict[str, Any]) -> Answer:
    """Make an API key"""
    made = services().keys.create(
        name=body["name"],
        scopes=sum({int(Scope[name.upper()]) for name in body["scopes"]}),
        prefix=body["prefix"],
        expires_at_ms=body["expires_at"],
        caller=caller_of(request.environ),
    )
    shown = {
        **_represent_key(made.key),
        "secret": made.secret,
        "token": format_token(made.key.id, made.secret),
    }
    return answer_json(shown, 201, [("Location", f"/admin/keys/{made.key.id}"), NO_STORE])


@blueprint.route("/admin/keys/<key_id>", methods=["GET"])
@blueprint.doc(**KEY_DOC)
@blueprint.without_query
def get_key(key_id: str) -> Answer:
    """Describe an API key"""
    return answer_json(_represent_key(services().keys.find(key_id)))


@blueprint.route("/admin/keys/<key_id>", methods=["DELETE"])
@blueprint.doc(**REVOKE_DOC)
@blueprint.without_query
def revoke_key(key_id: str) -> Answer:
    """Revoke an API key"""
    services().keys.revoke(key_id, caller=caller_of(request.environ))
    return Answer(204, [], b"")


@blueprint.route("/signed-urls", methods=["POST"])
@blueprint.doc(**NEW_URL_DOC)
@blueprint.without_query
@blueprint.arguments(NewUrlSchema, location="json")
def create_url(body: dict[str, Any]) -> Answer:
    """Have a URL signed"""
    caller = caller_of(request.environ)
    if caller.key is None:
        raise ForbiddenError("Whoever asks without an API key has nothing to sign with.")
    if "file_id" in body:
        method, path = "GET", _find_download(body["file_id"], caller)
        restrictions: dict[str, str] = {}
    else:
        method, path = "POST", "/upload"
        restrictions = _restrict_upload(body, caller)
    until_s = int(time.time()) + body["ttl_s"]
    url = sign_url(
        caller.key.id,
        caller.key.signing_key,
        method=method,
        path=path,
        until_s=until_s,
        restrictions=restrictions,
    )
    shown = {"method": method, "url": url, "expires_at": format_timestamp(1000 * until_s)}
    return answer_json(shown, 201, [NO_STORE])


def _find_download(file_id: str, caller: Caller) -> str:
    """Return the path of a download that the caller may ask for. Raises NoSuchFileError."""
    caller.require_scope(READ)
    file = services().files.find(checked_file_id(file_id), caller)
    return f"/download/{file.id}"


def _restrict_upload(body: dict[str, Any], caller: Caller) -> dict[str, str]:
    """Return what is signed of an upload that the caller may ask for."""
    caller.require_scope(WRITE)
    restrictions = {"sig_bytes": str(body["bytes_max"])}
    if "name" in body:
        restrictions["sig_name"] = validate_key(body["name"])
    else:
        restrictions["sig_prefix"] = body["prefix"]
    caller.require_name(restrictions.get("sig_name", body.get("prefix", "")))
    return restrictions


def _represent_key(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": scope_names(key.scopes),
        "prefix": key.prefix,
        "created_at": format_timestamp(key.created_at_ms),
        "created_by": key.created_by,
        "expires_at": format_optional(key.expires_at_ms),
        "expired": key.has_expired(now_ms()),
        "last_used_at": format_optional(key.last_used_at_ms),
    }
