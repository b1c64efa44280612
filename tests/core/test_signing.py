"""Secrets and signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.core.signing import (
    derive_signing_key,
    format_token,
    hash_secret,
    is_key_id,
    make_key_id,
    make_secret,
    make_signature,
    parse_token,
    sign_url,
)

KEY = b"k" * 32


def test_secrets_and_ids_are_of_the_documented_form() -> None:
    """And another each time."""
    ids, secrets = {make_key_id() for _ in range(500)}, {make_secret() for _ in range(500)}
    assert len(ids) == len(secrets) == 500
    assert all(is_key_id(key_id) for key_id in ids)
    assert {len(base64.urlsafe_b64decode(secret + "=")) for secret in secrets} == {32}
    assert len(set("".join(ids))) == 32


@pytest.mark.parametrize("text", ["", "0" * 11, "0" * 13, "I" * 12, "a" * 12, "0" * 11 + "\n"])
def test_what_is_no_id_is_told(text: str) -> None:
    """Before any database is asked for it."""
    assert not is_key_id(text)


def test_token_is_parsed_as_it_was_formatted() -> None:
    """Even if the secret has underscores, as base64url may."""
    key_id, secret = make_key_id(), "_a_" * 10
    assert parse_token(format_token(key_id, secret)) == (key_id, secret)


@given(st.text())
def test_token_of_any_text_is_parsed_without_a_fault(text: str) -> None:
    """Or refused."""
    parsed = parse_token(text)
    assert parsed is None or format_token(*parsed) == text


def test_signing_key_tells_nothing_of_the_hash() -> None:
    """And is the HMAC of a fixed label."""
    secret = make_secret()
    expected = hmac.new(secret.encode(), b"dfs signed url v1", hashlib.sha256).digest()
    assert derive_signing_key(secret) == expected != hash_secret(secret)


def test_signature_is_the_one_of_the_documentation() -> None:
    """A vector: what another program, written after the text, must come to."""
    text = "dfs-url-1\nPOST\n/upload\nsig_bytes=10&sig_key=K&sig_prefix=a%2Fb+c&sig_until=7"
    digest = hmac.new(KEY, text.encode(), hashlib.sha256).digest()
    expected = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    url = sign_url(
        "K",
        KEY,
        method="POST",
        path="/upload",
        until_s=7,
        restrictions={"sig_prefix": "a/b c", "sig_bytes": "10"},
    )
    query = parse_qs(urlsplit(url).query)
    assert query.pop("sig") == [expected]
    assert query == {
        "sig_key": ["K"],
        "sig_until": ["7"],
        "sig_prefix": ["a/b c"],
        "sig_bytes": ["10"],
    }


TEXT = st.text(max_size=5)


@given(one=st.tuples(TEXT, TEXT, TEXT, TEXT), other=st.tuples(TEXT, TEXT, TEXT, TEXT))
def test_signature_of_anything_else_is_another(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    """Parameters cannot flow into each other."""

    def sign(values: tuple[str, str, str, str]) -> str:
        path, key_id, name, prefix = values
        parameters = {"sig_key": key_id, "sig_name": name, "sig_prefix": prefix}
        return make_signature(KEY, "POST", f"/{path.replace(chr(10), '')}", parameters)

    same = (one[0].replace("\n", ""), *one[1:]) == (other[0].replace("\n", ""), *other[1:])
    assert (sign(one) == sign(other)) == same
