"""`/files`: list files, and read, change, delete and restore one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypedDict
from urllib.parse import urlencode

from flask import request

from dfs.api.auth import caller_of
from dfs.api.blueprints import Blueprint
from dfs.api.conditions import parse_if_match
from dfs.api.parking import Course
from dfs.api.permissions import DELETE
from dfs.api.represent import durability_headers, represent_file
from dfs.api.requests import checked_file_id, read_replication, services
from dfs.api.responses import Answer, answer_json
from dfs.api.schemas import FilePatchSchema, FilesQuerySchema
from dfs.api.spec import DELETE_DOC, FILE_DOC, FILES_DOC, PATCH_DOC, RESTORE_DOC
from dfs.api.uploads import check_future
from dfs.core.access import Caller
from dfs.core.errors import InvalidRequestError
from dfs.core.model import File
from dfs.services.files import Stored

blueprint = Blueprint("files", __name__)

_FIELDS = {
    "name": "key",
    "content_type": "content_type",
    "metadata": "metadata",
    "expires_at": "expires_at_ms",
}


@blueprint.route("/files", methods=["GET"])
@blueprint.doc(**FILES_DOC)
@blueprint.arguments(FilesQuerySchema, location="query")
def list_files(query: dict[str, Any]) -> Answer:
    """List files by name"""
    page = services().files.list(**query, caller=caller_of(request.environ))
    headers = []
    if page.next is not None:
        filters = ("name",) if query["name"] else ("prefix",)  # both could make the link too long
        given = {name: query[name] for name in ("limit", *filters) if query[name]}
        if query["deleted"]:
            given["deleted"] = "true"
        link = urlencode({"after": page.next, **given})
        headers.append(("Link", f'</files?{link}>; rel="next"'))
    body = {"files": [represent_file(file) for file in page.files], "next": page.next}
    return answer_json(body, headers=headers)


@blueprint.route("/files/<file_id>", methods=["GET"])
@blueprint.doc(**FILE_DOC)
@blueprint.without_query
def get_file(file_id: str) -> Answer:
    """Describe a file"""
    return answer_json(represent_file(_find(file_id)))


@blueprint.route("/files/<file_id>", methods=["PATCH"])
@blueprint.doc(**PATCH_DOC)
@blueprint.without_query
@blueprint.arguments(FilePatchSchema, location="json")
def change_file(patch: dict[str, Any], file_id: str) -> Answer:
    """Change a file's name, type, metadata or expiry"""
    if not patch:
        raise InvalidRequestError("The body is not valid.", fields={"": ["nothing to change"]})
    if patch.get("expires_at") is not None:
        check_future(patch["expires_at"])
        caller_of(request.environ).require_scope(DELETE)  # it is to be gone then
    changes = {_FIELDS[name]: value for name, value in patch.items()}
    files = services().files
    terms = _read_terms(request.environ)
    with files.announce():
        stored = files.update(checked_file_id(file_id), changes, **terms)
    return _answer(stored)


@blueprint.route("/files/<file_id>", methods=["DELETE"])
@blueprint.doc(**DELETE_DOC)
@blueprint.without_query
def delete_file(file_id: str) -> Course[Answer]:
    """Delete a file"""
    terms = _read_terms(request.environ)
    pending = services().files.begin_delete(checked_file_id(file_id), **terms)
    yield pending
    return Answer(204, durability_headers(pending.result()), b"")


@blueprint.route("/files/<file_id>/restore", methods=["POST"])
@blueprint.doc(**RESTORE_DOC)
@blueprint.without_query
def restore_file(file_id: str) -> Answer:
    """Take a deleted file out of the trash"""
    files = services().files
    terms = _read_terms(request.environ)
    with files.announce():
        return _answer(files.restore(checked_file_id(file_id), **terms))


class _Terms(TypedDict):
    """On what terms a file is changed, see `FileService.update`."""

    if_match: Collection[str] | None
    replication: str | None
    caller: Caller


def _read_terms(environ: Mapping[str, Any]) -> _Terms:
    return {
        "if_match": parse_if_match(environ.get("HTTP_IF_MATCH")),
        "replication": read_replication(environ),
        "caller": caller_of(environ),
    }


def _find(file_id: str) -> File:
    return services().files.find(checked_file_id(file_id), caller_of(request.environ))


def _answer(stored: Stored) -> Answer:
    """Return the file that a change has left, and what is guaranteed of it."""
    body = represent_file(stored.files[0], stored.durability)
    return answer_json(body, headers=durability_headers(stored.durability))
