"""What the OpenAPI document says of who may do what: taken from the table of permissions."""

from __future__ import annotations

import re
from typing import Any

from dfs.api.permissions import PUBLIC, SIGNED, find_needed
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
    "signed": {
        "type": "apiKey",
        "in": "query",
        "name": "sig",
        "description": "A URL that an API key has signed, see `/signed-urls`.",
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
                needed = find_needed(rule, method.upper())
                _describe(operation, needed, is_signable=(rule, method.upper()) in SIGNED)


def _describe(operation: dict[str, Any], needed: int, *, is_signable: bool) -> None:
    operation["security"] = [{name: []} for name in SCHEMES if is_signable or name != "signed"]
    if needed == PUBLIC:
        operation["security"].insert(0, {})
    else:
        said = operation.get("description", "")
        scopes = ", ".join(f"`{name}`" for name in scope_names(needed))
        demand = f"Needs the scope {scopes}." if scopes else "Needs a key, with any scope."
        operation["description"] = f"{said} {demand}".strip()
    for status, description in _REFUSALS.items():
        operation["responses"][status] = {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
