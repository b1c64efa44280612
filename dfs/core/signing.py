"""Secrets of API keys, and URLs signed with them. For clients, too: it uses nothing of dfs.

A secret has 256 random bits. So its SHA-256 is kept, once and unsalted: who has the hash can only
guess, and that many guesses nobody can make; a slow hash protects secrets that people choose. URLs
are signed with another key that follows from the secret, so that the node can check them without
knowing the secret; who steals it can sign URLs until the key is revoked, and nothing else.

A signed URL is the address of a download or of an upload with these parameters beside others:

    sig_key       id of the key
    sig_until     good until then, in seconds since 1970
    sig_bytes     upload: bytes that a file may have at most; and one of
    sig_name      upload: the name that the file must have
    sig_prefix    upload: how its name must begin
    sig           HMAC-SHA256 in base64url without padding, over the lines
                  "dfs-url-1", the method (GET, also for HEAD; POST), the path, and the parameters
                  above but for the last, sorted by name and encoded as in a form

Source: RFC 2104 (HMAC), RFC 4648 section 5 (base64url).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from urllib.parse import urlencode

SECRET_BYTES = 32
KEY_ID_CHARS = 12
TOKEN_PREFIX = "dfs_"  # noqa: S105 # not a secret, but what a scanner for secrets can look for
SIGNATURE = "sig"
SIGNED_PARAMETERS = frozenset(("sig_key", "sig_until", "sig_name", "sig_prefix", "sig_bytes"))
URL_LIFE_S_MAX = 7 * 86400
"""A URL that is good for longer than this from now is refused, whoever signed it."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_KEY_ID = re.compile(f"[{_ALPHABET}]{{{KEY_ID_CHARS}}}")
_TOKEN = re.compile(f"{TOKEN_PREFIX}[{_ALPHABET}]{{{KEY_ID_CHARS}}}_[A-Za-z0-9_-]{{43}}")
_SIGNING_LABEL = b"dfs signed url v1"
_URL_LABEL = "dfs-url-1"


def make_key_id() -> str:
    """Return a new id: `KEY_ID_CHARS` characters of base 32, 60 random bits."""
    return "".join(_ALPHABET[byte & 31] for byte in secrets.token_bytes(KEY_ID_CHARS))


def is_key_id(text: str) -> bool:
    """Tell whether a text can be the id of a key at all."""
    return _KEY_ID.fullmatch(text) is not None


def make_secret() -> str:
    """Return a new secret: 256 random bits in 43 characters of base64url."""
    return secrets.token_urlsafe(SECRET_BYTES)


def hash_secret(secret: str) -> bytes:
    """Return what the node keeps of a secret to know it again: its SHA-256."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def derive_signing_key(secret: str) -> bytes:
    """Return the 32 bytes that sign URLs for the holder of a secret."""
    return hmac.digest(secret.encode(), _SIGNING_LABEL, "sha256")


def format_token(key_id: str, secret: str) -> str:
    """Return the text that stands behind `Authorization: Bearer`."""
    return f"{TOKEN_PREFIX}{key_id}_{secret}"


def make_token() -> str:
    """Return a new key that no node knows yet."""
    return format_token(make_key_id(), make_secret())


def is_strong_token(token: str) -> bool:
    """Tell whether a token is one as `make_token` makes them: nobody thought of it."""
    return _TOKEN.fullmatch(token) is not None


def parse_token(token: str) -> tuple[str, str] | None:
    """Return (id, secret) of a token, or None if it is none."""
    start = len(TOKEN_PREFIX)
    end = start + KEY_ID_CHARS
    if token[:start] != TOKEN_PREFIX or token[end : end + 1] != "_":
        return None
    return token[start:end], token[end + 1 :]


def make_signature(
    signing_key: bytes, method: str, path: str, parameters: Mapping[str, str]
) -> str:
    """Return the value of `sig`.

    Args:
        method: GET or POST.
        path: percent-decoded, such as `/download/01J...`.
        parameters: those that are signed, and only those.
    """
    query = urlencode(sorted(parameters.items()))
    text = "\n".join((_URL_LABEL, method, path, query))
    digest = hmac.digest(signing_key, text.encode("utf-8", "surrogatepass"), "sha256")
    return base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")


def sign_url(
    key_id: str,
    signing_key: bytes,
    *,
    method: str,
    path: str,
    until_s: int,
    restrictions: Mapping[str, str] | None = None,
) -> str:
    """Return path and query of a signed URL.

    Args:
        method: GET for a download, POST for an upload.
        path: `/download/FILE_ID` or `/upload`.
        until_s: when it ceases to be good, in seconds since 1970.
        restrictions: `sig_name`, `sig_prefix`, `sig_bytes`.
    """
    parameters = {"sig_key": key_id, "sig_until": str(until_s), **(restrictions or {})}
    signature = make_signature(signing_key, method, path, parameters)
    return f"{path}?{urlencode({**parameters, SIGNATURE: signature})}"
