"""The services of docker-compose.yml as far as the check runs them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_INTERPOLATED = re.compile(r"\$(?:\$|\{([A-Z0-9_]+)(?::-([^}]*))?\})")


@dataclass(frozen=True, slots=True)
class Service:
    """A container.

    Attributes:
        volumes: name of the volume, or path on the host, and where it is mounted.
        tmpfs: place and options of each file system in memory.
        health: its own command; empty: that of the image.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    volumes: tuple[tuple[str, str], ...]
    tmpfs: tuple[tuple[str, str], ...]
    health: tuple[str, ...]
    stop_grace_s: int


def read_compose(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the document with variables replaced as `docker compose` does: in each text alone."""

    def fill_in(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else environ.get(match[1]) or match[2] or ""

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [replaced(inner) for inner in value]
        return _INTERPOLATED.sub(fill_in, value) if isinstance(value, str) else value

    document: dict[str, Any] = replaced(yaml.safe_load(path.read_text()))
    return document


def read_service(document: Mapping[str, Any], name: str) -> Service:
    """Return a service of the node."""
    found = document["services"][name]
    return Service(
        name=name,
        command=tuple(map(str, found["command"])),
        environment={key: str(value) for key, value in found["environment"].items()},
        volumes=tuple(_split(volume) for volume in found["volumes"]),
        tmpfs=tuple(_split(place) for place in found["tmpfs"]),
        health=tuple(found.get("healthcheck", {}).get("test", ["CMD"])[1:]),
        stop_grace_s=int(found["stop_grace_period"].removesuffix("s")),
    )


def _split(text: str) -> tuple[str, str]:
    first, _, rest = text.partition(":")
    return first, rest
