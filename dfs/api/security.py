"""What the OpenAPI document says of who may do what: taken from the table of permissions."""

from __future__ import annotations

import re
from typing import Any

from dfs.api.permissions import PUBLIC, find_needed
from dfs.api.problems import MEDIA_TYPE
from dfs.core.access import scope_names

SCHEMES: dict[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key: `dfs_ID_SECRET`.",
    },
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "The same: its id as user, its secret as password.",
    },
}
_REFUSALS = {
    "401": "There is no API key, or it is not good. (A node that has none asks for none.)",
    "403": "The key may not do this.",
    "429": "Too many wrong credentials came from this address.",
}


def describe_security(document: dict[str, Any]) -> None:
    """Add to each operation of the document what it needs, and how it is refused."""
    document["components"]["securitySchemes"] = SCHEMES
    for path, operations in document["paths"].items():
        rule = re.sub(r"{(\w+)}", r"<\1>", path)
        for method, operation in operations.items():
            if method != "parameters":
                _describe(operation, find_needed(rule, method.upper()))


def _describe(operation: dict[str, Any], needed: int) -> None:
    if needed == PUBLIC:
        operation["security"] = [{}, *_alternatives()]
    else:
        operation["security"] = _alternatives()
        said = operation.get("description", "")
        scopes = ", ".join(f"`{name}`" for name in scope_names(needed))
        demand = f"Needs the scope {scopes}." if scopes else "Needs a key, with any scope."
        operation["description"] = f"{said} {demand}".strip()
    for status, description in _REFUSALS.items():
        operation["responses"][status] = {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }


def _alternatives() -> list[dict[str, list[str]]]:
    return [{name: []} for name in SCHEMES]
