"""`GET /admin/usage`: how much the node holds."""

from __future__ import annotations

from typing import Any

from dfs.api.blueprints import Blueprint
from dfs.api.requests import services
from dfs.api.responses import Answer, answer_json
from dfs.api.spec import USAGE_DOC
from dfs.core.model import Usage

blueprint = Blueprint("usage", __name__, url_prefix="/admin")


@blueprint.route("/usage", methods=["GET"])
@blueprint.doc(**USAGE_DOC)
@blueprint.without_query
def get_usage() -> Answer:
    """Tell how much the node holds"""
    report = services().usage.report()
    blobs = report.blobs
    return answer_json(
        {
            **_represent_files(report.files),
            "quota_bytes": report.quota_bytes or None,
            "buckets": {name: _represent_files(usage) for name, usage in report.buckets.items()},
            "blobs": {
                "files": blobs.blob_files,
                "file_bytes": blobs.blob_file_bytes,
                "unused_files": blobs.unused_blob_files,
                "unused_bytes": blobs.unused_bytes,
                "inline": blobs.inline_blobs,
                "inline_bytes": blobs.inline_bytes,
            },
            "deduplicated_bytes": report.deduplicated_bytes,
            "log_bytes": report.log_bytes,
            "dead_bytes": report.dead_bytes,
            "owed_copy_bytes": report.copy_bytes,
            "owed_removal_bytes": report.removal_bytes,
        }
    )


def _represent_files(usage: Usage) -> dict[str, Any]:
    return {
        "files": usage.files,
        "bytes": usage.bytes,
        "deleted_files": usage.deleted_files,
        "deleted_bytes": usage.deleted_bytes,
    }
