"""The part of Dockerfiles that dfs's own uses. What it does not know it refuses.

Source: https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import PurePosixPath

_VARIABLE = re.compile(r"\$(?:\{([A-Z0-9_]+)\}|([A-Z0-9_]+))")
_PAIR = re.compile(r'([A-Za-z0-9_.]+)=("[^"]*"|\S*)')
_OPTION = re.compile(r"--[a-z-]+=\S+")


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction.

    Attributes:
        word: RUN, COPY, ...
        text: what stands behind it, on one line.
    """

    word: str
    text: str


@dataclass(slots=True)
class Stage:
    """What a FROM begins.

    Attributes:
        base: the image that it is built on.
        name: empty for the last one.
    """

    base: str
    name: str = ""
    steps: list[Step] = field(default_factory=list)


def read_steps(text: str) -> list[Step]:
    """Return the instructions, lines that belong together joined, without comments."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", kept)
    split = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [Step(word, rest.strip()) for word, rest in split]


def read_stages(text: str) -> list[Stage]:
    """Return the stages. An ARG before the first of them has its default."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for step in read_steps(text):
        if step.word == "FROM":
            base, _, name = step.text.partition(" AS ")
            stages.append(Stage(fill_in(base, arguments), name))
        elif stages:
            stages[-1].steps.append(step)
        else:
            name, _, value = step.text.partition("=")
            arguments[name] = value
    return stages


def fill_in(text: str, values: Mapping[str, str]) -> str:
    """Return a text with $NAME and ${NAME} replaced."""
    return _VARIABLE.sub(lambda match: values.get(match[1] or match[2], ""), text)


def read_pairs(text: str, values: Mapping[str, str]) -> dict[str, str]:
    """Return the pairs of an ENV or LABEL."""
    return {name: fill_in(value.strip('"'), values) for name, value in _PAIR.findall(text)}


def read_command(text: str) -> list[str]:
    """Return a command in the form of a JSON array, with any options before it left out."""
    command: list[str] = json.loads(_OPTION.sub("", text).replace("CMD", "", 1).strip())
    return command


def is_ignored(path: PurePosixPath, patterns: Iterable[str]) -> bool:
    """Tell whether a `.dockerignore` leaves a path out; the last pattern that matches decides."""
    ignored = False
    places = [str(place) for place in (path, *path.parents)][:-1]
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if bare.startswith("**/"):
            found = any(fnmatch(place.rpartition("/")[2], bare[3:]) for place in places)
        else:
            found = bare == "*" or bare in places
        if found:
            ignored = not pattern.startswith("!")
    return ignored
