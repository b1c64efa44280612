"""Values of settings, from the text a user gives. Each raises ValueError with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_ACCEL_PREFIX = re.compile(r"/(?:[A-Za-z0-9_-]+/)+")
_RATE_PERIODS_S = {"second": 1, "minute": 60, "hour": 3600}


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in each period of so many seconds."""

    count: int
    period_s: int

    def __str__(self) -> str:
        periods = {seconds: name for name, seconds in _RATE_PERIODS_S.items()}
        return f"{self.count}/{periods[self.period_s]}"


def parse_bool(text: str) -> bool:
    """Return the truth of 1/0, true/false, yes/no, on/off. Raises ValueError for anything else."""
    lowered = text.lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError("must be true or false")


def parse_int(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return a parser for whole numbers from `minimum` to `maximum`, both included."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError("must be a whole number") from None
        if value < minimum:
            raise ValueError(f"must be at least {minimum}")
        if maximum is not None and value > maximum:
            raise ValueError(f"must be at most {maximum}")
        return value

    return parse


def parse_share(minimum: float, maximum: float) -> Callable[[str], float]:
    """Return a parser for a share from `minimum` to `maximum`, both included, such as 0.5."""

    def parse(text: str) -> float:
        try:
            share = float(text)
        except ValueError:
            raise ValueError("must be a number like 0.5") from None
        if not minimum <= share <= maximum:
            raise ValueError(f"must be from {minimum:g} to {maximum:g}")
        return share

    return parse


def parse_path(text: str) -> Path:
    """Return an absolute path; a relative one starts at the working directory."""
    if not text:
        raise ValueError("must name a directory")
    return Path(text).expanduser().absolute()


def parse_optional_path(text: str) -> Path | None:
    """Return an absolute path, or None when it is not set."""
    return parse_path(text) if text else None


def _require_coded(url: str) -> None:
    """Raise ValueError, which says nothing of the URL, if a password in it has a bare / or ? or #.

    Libraries would take what is before it for the port, and say so in the log.
    """
    parts = urlsplit(url)
    behind = parts.path or (parts.query + parts.fragment if ":" in parts.netloc else "")
    if parts.netloc and "@" not in parts.netloc and "@" in behind:
        raise ValueError("must have / in a password written as %2F, ? as %3F and # as %23")


def parse_database_url(text: str) -> str:
    """Return a database address with an absolute path, if it is one that dfs can use."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "sqlite" and len(rest) > 1:
        return f"sqlite:///{Path(rest[1:]).expanduser().absolute()}"
    if separator and scheme in ("postgresql", "postgres") and rest:
        _require_coded(text)
        return f"postgresql://{rest}"
    raise ValueError("must be sqlite:///PATH or postgresql://USER@HOST/NAME")


def parse_redis_url(text: str) -> str | None:
    """Return the address of the queue's Redis, or None when it is not set."""
    if not text:
        return None
    if text.partition("://")[0] not in ("redis", "rediss", "unix"):
        raise ValueError("must be redis://, rediss:// or unix://")
    _require_coded(text)
    return text


def trust_any_certificate(redis_url: str) -> str:
    """Return the address with the word that Redis's certificate is not to be checked.

    Source: https://redis.readthedocs.io/en/stable/connections.html (`from_url`, `ssl_cert_reqs`).
    """
    if not redis_url.startswith("rediss://") or "ssl_cert_reqs=" in redis_url:
        return redis_url
    return f"{redis_url}{'&' if '?' in redis_url else '?'}ssl_cert_reqs=none"


def parse_location(text: str) -> str:
    """Return where a replica is: an absolute path or `s3://BUCKET/PREFIX`; empty for none."""
    if not text:
        return ""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return str(parse_path(text))
    if scheme != "s3" or not rest.strip("/"):
        raise ValueError("must be a directory or s3://BUCKET/PREFIX")
    return text.rstrip("/")


def parse_accel_prefix(text: str) -> str:
    """Return the place of files in a proxy, a path that ends with a slash; empty for none."""
    if text and not _ACCEL_PREFIX.fullmatch(text):
        raise ValueError("must be such as /dfs-blobs/")
    return text


def parse_rate(text: str) -> Rate | None:
    """Return a rate such as `100/minute`; None when it is not set."""
    if not text:
        return None
    count, _, period = text.partition("/")
    if not count.isdecimal() or not 0 < int(count) < 1 << 31 or period not in _RATE_PERIODS_S:
        raise ValueError("must be such as 100/second, 100/minute or 100/hour")
    return Rate(int(count), _RATE_PERIODS_S[period])


def parse_optional(text: str) -> str | None:
    """Return the text, or None when it is not set."""
    return text or None


def parse_choice(*choices: str) -> Callable[[str], str]:
    """Return a parser that takes one of these words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"must be {' or '.join(choices)}")
        return text.lower()

    return parse


def parse_node_id(text: str) -> str:
    """Return the name of this node among those that share one index."""
    if not text.isascii() or not text.replace("-", "").isalnum() or len(text) > 64:
        raise ValueError("must be 1 to 64 ASCII letters, digits and dashes")
    return text
