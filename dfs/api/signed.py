"""URLs that an API key has signed: see `dfs.core.signing` for what stands in them."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from dfs.api.headers import SIGNED_KEY
from dfs.api.permissions import READ, WRITE
from dfs.api.schemas import parse_query
from dfs.core.access import Caller, Key
from dfs.core.errors import ForbiddenError, UnauthorizedError
from dfs.core.signing import SIGNATURE, SIGNED_PARAMETERS, URL_LIFE_S_MAX, make_signature

_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """What a URL says of itself.

    Attributes:
        parameters: those that are signed.
    """

    signature: str
    parameters: Mapping[str, str]

    @property
    def key_id(self) -> str:
        """Id of the key that is said to have signed it."""
        return self.parameters.get("sig_key", "")

    def is_signed_by(self, signing_key: bytes, method: str, path: str) -> bool:
        """Tell whether a key has signed it, for this method and path. In constant time."""
        expected = make_signature(signing_key, method, path, self.parameters)
        given = self.signature.encode("utf-8", "surrogatepass")
        return hmac.compare_digest(expected.encode("ascii"), given)

    def caller(self, key: Key, at_ms: int) -> Caller:
        """Return who may do what the URL is for.

        Args:
            key: which has signed it.

        Raises:
            UnauthorizedError: it has expired, or lacks what it must say.
            ForbiddenError: the key itself may not do it.
        """
        left_s = self._number("sig_until") - at_ms / 1000
        if left_s <= 0:
            raise UnauthorizedError("The signed URL has expired.")
        if left_s > URL_LIFE_S_MAX:
            raise UnauthorizedError("The signed URL would be good for too long.")
        given = self.parameters
        if given.keys() == {"sig_key", "sig_until"}:
            return Caller(key.id, key.scopes & READ, key.prefix)
        bytes_max = self._number("sig_bytes")
        if not bytes_max:
            raise UnauthorizedError("The signed URL is good for no byte at all.")
        if ("sig_name" in given) == ("sig_prefix" in given):
            raise UnauthorizedError("The signed URL needs either sig_name or sig_prefix.")
        name = given.get("sig_name")
        prefix = given.get("sig_prefix", key.prefix)
        if not (name if name is not None else prefix).startswith(key.prefix):
            raise ForbiddenError("The key that has signed the URL is not good for such names.")
        return Caller(key.id, key.scopes & WRITE, prefix, name=name, upload_bytes_max=bytes_max)

    def _number(self, name: str) -> int:
        text = self.parameters.get(name, "")
        if not _NUMBER.fullmatch(text):
            raise UnauthorizedError(f"The signed URL needs a number {name}.")
        return int(text)


def read_signed_url(environ: dict[str, Any]) -> SignedUrl | None:
    """Return what a request's URL says, if it is signed. The query then has the rest alone.

    Raises:
        InvalidNameError, InvalidRequestError: see `parse_query`.
    """
    if f"{SIGNATURE}=" not in environ.get("QUERY_STRING", ""):
        return None
    query = parse_query(environ)
    signature = query.pop(SIGNATURE, None)
    if signature is None:
        return None
    parameters = {name: query.pop(name) for name in SIGNED_PARAMETERS & query.keys()}
    if "sig_name" in parameters:
        query.setdefault("name", parameters["sig_name"])
    environ["QUERY_STRING"] = urlencode(query)
    environ[SIGNED_KEY] = True
    return SignedUrl(signature, parameters)
