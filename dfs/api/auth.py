"""Who asks, and whether he may.

A hook before every view finds out who the caller is and whether the route's scope is his, see
`permissions`. Everything behind it, limits for each caller too, asks `caller_of(environ)`.

    Authorization: Bearer dfs_ID_SECRET     an API key
    Authorization: Basic ID:SECRET          the same, for curl and browsers
    ?sig_key=...&sig=...                    a URL that a key has signed, see `dfs.core.signing`
    nothing                                 anybody, if the node has no keys and listens on loopback

The last is decided by the address that the node listens on, never by the one that the client has:
to a node behind a proxy all clients seem to be local. Such a node also refuses what came through a
proxy, or by a name that is not the machine's own.

Source: RFC 6750 (Bearer), RFC 7617 (Basic), RFC 9110 section 11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import Flask, current_app
from flask.globals import request_ctx
from structlog.contextvars import bind_contextvars
from werkzeug.datastructures import Authorization

from dfs.api.attempts import Attempts
from dfs.api.origin import is_proxied, names_loopback, refuse_other_sites
from dfs.api.permissions import PUBLIC, SIGNED, find_needed
from dfs.api.signed import SignedUrl, read_signed_url
from dfs.core.access import ANYBODY, Caller, Key
from dfs.core.address import is_loopback
from dfs.core.clock import now_ms
from dfs.core.errors import (
    CrossSiteError,
    DfsError,
    ForbiddenError,
    KeysUnavailableError,
    RequestError,
    TooManyAttemptsError,
    UnauthorizedError,
)
from dfs.core.signing import hash_secret, parse_token
from dfs.services.keyring import Keyring, has_secret

CALLER_KEY = "dfs.caller"
_GATE_KEY = "dfs.gate"
_OF_URLS = "signed"
"""Stands for the key when signatures of URLs are counted."""
_BEARER = "bearer "
_BASIC = "basic "


def caller_of(environ: Mapping[str, Any]) -> Caller:
    """Return who asks. Known in every view but the public ones."""
    caller: Caller = environ[CALLER_KEY]
    return caller


def install_gate(app: Flask, gate: Gate) -> None:
    """Have a gate before every view of `app`."""
    app.extensions[_GATE_KEY] = gate
    app.before_request(gate.check)


def recognize(environ: dict[str, Any]) -> Caller | None:
    """Return who asks on a public route, see `Gate.recognize`."""
    gate: Gate = current_app.extensions[_GATE_KEY]
    return gate.recognize(environ)


def trust_in(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """Return what tells, later on, whether the caller may still do what he was let in for.

    It raises MetadataError while that cannot be looked up.
    """
    gate: Gate = current_app.extensions[_GATE_KEY]
    return partial(gate.trusts, caller_of(environ))


class Gate:
    """Lets through who may.

    Args:
        find_keyring: returns the keys; raises DfsError while the node cannot be opened.
        is_off: everybody may do everything.
    """

    def __init__(self, *, find_keyring: Callable[[], Keyring], is_off: bool) -> None:
        self._find_keyring = find_keyring
        self._is_off = is_off
        self._attempts = Attempts()

    def check(self) -> None:
        """Find out who asks, and raise unless he may. Called before every view.

        Raises:
            UnauthorizedError, ForbiddenError, CrossSiteError, TooManyAttemptsError.
            KeysUnavailableError: the node, or the index, which has the keys, is not there.
        """
        request = request_ctx.request
        rule = request.url_rule
        if rule is None:  # no such route, which says nothing of the node
            return
        needed = find_needed(rule.rule, request.method)
        if needed == PUBLIC:
            return
        try:
            caller = self.identify(request.environ)
        except RequestError:
            raise
        except DfsError as error:
            raise KeysUnavailableError(
                "The API keys cannot be looked up at the moment.", reason=str(error)
            ) from error
        if needed & ~caller.scopes:
            caller.require_scope(needed)
        request.environ[CALLER_KEY] = caller
        if caller.key_id:
            bind_contextvars(key_id=caller.key_id)

    def identify(self, environ: dict[str, Any]) -> Caller:
        """Return who asks. Raises as `check`, but for a lack of scopes."""
        signed = read_signed_url(environ)
        if self._is_off:
            refuse_other_sites(environ)
            return ANYBODY
        if signed is not None:
            return self._identify_signer(signed, environ)
        header = environ.get("HTTP_AUTHORIZATION")
        if header is not None:
            return self._identify_holder(header, environ)
        if self._find_keyring().is_empty() and is_loopback(environ["SERVER_NAME"]):
            _refuse_distant(environ)
            return ANYBODY
        raise UnauthorizedError("This needs an API key.")

    def recognize(self, environ: dict[str, Any]) -> Caller | None:
        """Return who asks on a public route; None for a stranger, or if keys cannot be looked up.

        Raises:
            UnauthorizedError, TooManyAttemptsError: he shows credentials, and they are wrong.
        """
        try:
            return self.identify(environ)
        except (ForbiddenError, CrossSiteError):
            return None
        except UnauthorizedError:
            if "HTTP_AUTHORIZATION" in environ:
                raise
            return None
        except RequestError:
            raise
        except DfsError:
            return None

    def trusts(self, caller: Caller) -> bool:
        """Tell whether one who was let in may still be. Raises MetadataError."""
        if self._is_off:
            return True
        keyring = self._find_keyring()
        return keyring.find(caller.key_id) is not None if caller.key_id else keyring.is_empty()

    def _identify_holder(self, header: str, environ: dict[str, Any]) -> Caller:
        key_id, secret = _parse_header(header)
        address = environ.get("REMOTE_ADDR", "")
        secret_hash = hash_secret(secret)
        keyring = self._find_keyring()
        key = keyring.find(key_id)
        known_id = "" if key is None else key.id
        self._require_patience(address, known_id, secret_hash)
        if key is None or not has_secret(key, secret_hash):
            self._attempts.note_wrong(address, known_id, secret_hash)
            raise UnauthorizedError("There is no such API key, or it is not good any more.")
        self._attempts.note_right(address, known_id, secret_hash)
        keyring.note_use(key)
        if header[:6].lower() == _BASIC:  # which browsers send without being asked to
            refuse_other_sites(environ)
        return _caller_with(key)

    def _identify_signer(self, signed: SignedUrl, environ: Mapping[str, Any]) -> Caller:
        """Return who may do what a signed URL is for, and nothing else.

        Each signature is looked at: the id of the key stands in every URL, so that whoever has seen
        one could keep others from using theirs. Only wrong ones are counted.
        """
        keyring = self._find_keyring()
        key = keyring.find(signed.key_id)
        request = request_ctx.request
        method = "GET" if request.method == "HEAD" else request.method
        if key is None or not signed.is_signed_by(key.signing_key, method, request.path):
            address, signature_hash = environ.get("REMOTE_ADDR", ""), hash_secret(signed.signature)
            self._require_patience(address, _OF_URLS, signature_hash)
            self._attempts.note_wrong(address, _OF_URLS, signature_hash)
            raise UnauthorizedError("The URL is not signed by an API key that is good.")
        rule = request.url_rule
        if rule is None or (rule.rule, method) not in SIGNED:
            raise UnauthorizedError("A signed URL is good for a download or an upload only.")
        keyring.note_use(key)
        return signed.caller(key, now_ms())

    def _require_patience(self, address: str, key_id: str, credentials: bytes) -> None:
        pause_s = self._attempts.find_pause_s(address, key_id, credentials)
        if pause_s:
            raise TooManyAttemptsError(
                "Too many wrong credentials came from this address.", retry_after_s=pause_s
            )


def _caller_with(key: Key) -> Caller:
    return Caller(key_id=key.id, scopes=key.scopes, prefix=key.prefix, key=key)


def _parse_header(header: str) -> tuple[str, str]:
    """Return id and secret; empty ones, which no key has, if the header is malformed."""
    if header[:7].lower() == _BEARER:
        return parse_token(header[7:].strip()) or ("", "")
    try:
        given = Authorization.from_header(header)
    except ValueError:  # not even ASCII
        return "", ""
    if given is None or given.type != "basic":
        return "", ""
    return given.username or "", given.password or ""


def _refuse_distant(environ: Mapping[str, Any]) -> None:
    """Raise unless a client on this machine asks by a name of this machine, not for another."""
    host = environ.get("HTTP_HOST")
    if host is not None and not names_loopback(host):
        raise ForbiddenError(
            "A node without API keys answers only to names of its own machine, such as localhost."
        )
    if is_proxied(environ):
        raise ForbiddenError("A node without API keys answers nobody through a proxy.")
    refuse_other_sites(environ)
