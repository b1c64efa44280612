"""What can be said of the commands in a page without running them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import dropwhile
from pathlib import Path
from urllib.parse import urlsplit

from opentelemetry.sdk import environment_variables

from dfs.api.permissions import NEEDED
from dfs.core.settings import MORE_REPLICAS, SETTINGS
from tests.docs.clone import DOCUMENTED_ADDRESS
from tests.docs.pages import ROOT, Block
from tests.docs.shell import read_steps

OURS = ("bench", "scripts", "tests", "torture", "workers")
PLAIN_VARIABLES = frozenset(("BENCH_PATH", "JOBS", "NAME", "PYTHON", "SCOPES", "GOBIN"))
"""Of make and of other programs."""
HARMLESS = re.compile(
    "base64|cat|cmp|curl|cut|date|echo|export|grep|head|kill|ls|make|mkdir|mv|openssl|pgrep|printf|"
    "printenv|python3?|rm|sed|seq|sleep|sort|tail|test|touch|tr|true|wc|xargs|xxd"
)
"""Programs that a test may run because a page says so. It may run as root."""
HARMLESS_TARGETS = frozenset(("up", "down", "key"))
SEPARATORS = frozenset((";", "&&", "||", "|", "&"))
ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=.*", re.DOTALL)
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
ROUTE = re.compile(rf"(?<=http://{re.escape(DOCUMENTED_ADDRESS)})[^\s'\"?)]*")


def find_faults(block: Block) -> Iterator[str]:
    """Yield what is wrong with the commands of a block."""
    for words in _read_lines(block):
        for command in _split(words):
            yield from _find_command_faults(command)
        for path in ROUTE.findall(" ".join(words)):
            if not _is_route(path):
                yield f"{path}: there is no such route"


def find_dangers(block: Block) -> Iterator[str]:
    """Yield the commands of a block that a test must not run. Python is the author's to judge."""
    if block.language == "python":
        return
    for words in _read_lines(block):
        for command in _split(words):
            rest = _take_variables(command)
            program = Path(rest[0]).name if rest else "echo"
            if not HARMLESS.fullmatch(program):
                yield program
            elif any(_leads_away(word) for word in rest[1:]) or (
                program == "make" and not HARMLESS_TARGETS & set(rest)
            ):
                yield " ".join(command)


def _leads_away(word: str) -> bool:
    """Tell whether a word names a place outside of the working directory."""
    return word.startswith(("/", "~", "..")) and word not in ("/dev/null", "/dev/stdin")


def _read_lines(block: Block) -> Iterator[list[str]]:
    """Yield the words of each line, and of each substitution in it."""
    for step in read_steps(block, DOCUMENTED_ADDRESS):
        for text in flatten(step.text):
            yield shlex.split(text, comments=True)


def flatten(text: str) -> Iterator[str]:
    """Yield a command without its substitutions, which come after it."""
    inner: list[str] = []
    while (start := text.find("$(")) >= 0:
        depth, end = 1, start + 2
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        inner.append(text[start + 2 : end - 1])
        text = f"{text[:start]}SUBSTITUTE{text[end:]}"
    yield text
    for substitution in inner:
        yield from flatten(substitution)


def _split(words: list[str]) -> Iterator[list[str]]:
    """Yield the simple commands of a line."""
    command: list[str] = []
    for word in words:
        if word in SEPARATORS:
            yield command
            command = []
        else:
            command.append(word)
            if word.endswith(";"):
                yield [*command[:-1], word[:-1]]
                command = []
    yield command


def _find_command_faults(words: list[str]) -> Iterator[str]:
    given, words = words, _take_variables(words)
    if not words:
        return
    for word in given[: -len(words)]:
        name = word.partition("=")[0]
        if not _is_setting(name):
            yield f"{name}: there is no such setting"
    program = Path(words[0]).name
    if program == "make":
        yield from _find_make_faults(words[1:])
    elif program.startswith("python") and "-m" in words[1:2]:
        yield from _find_module_faults(words[2], words[3:])


def _take_variables(words: list[str]) -> list[str]:
    """Return a command without the variables that are set for it."""
    return list(dropwhile(ASSIGNMENT.fullmatch, words))


def _is_setting(name: str) -> bool:
    known = {setting.name for setting in SETTINGS} | PLAIN_VARIABLES
    is_standard = name.startswith("OTEL_") and hasattr(environment_variables, name)
    return name in known or is_standard or MORE_REPLICAS.fullmatch(name) is not None


def _find_make_faults(words: list[str]) -> Iterator[str]:
    for word in words:
        assignment = ASSIGNMENT.fullmatch(word)
        if assignment and not _is_setting(assignment[1]):
            yield f"{assignment[1]}: make knows no such variable"
        elif not assignment and not word.startswith("-") and word not in _targets():
            yield f"make {word}: there is no such target"


@cache
def _targets() -> frozenset[str]:
    return frozenset(TARGET.findall((ROOT / "Makefile").read_text()))


def _find_module_faults(module: str, words: list[str]) -> Iterator[str]:
    if find_spec(module) is None:
        yield f"python -m {module}: there is no such module"
    elif module.partition(".")[0] in OURS:
        source = _source(module)
        for option in (word.split("=")[0] for word in words if word.startswith("--")):
            if f'"{option}"' not in source:
                yield f"python -m {module} {option}: there is no such option"


@cache
def _source(module: str) -> str:
    """Return the source of a module and of its neighbours, which may have its command line."""
    place = ROOT / module.replace(".", "/")
    folder = place if place.is_dir() else place.parent
    return "".join(path.read_text() for path in sorted(folder.glob("*.py")))


def _is_route(path: str) -> bool:
    """Tell whether dfs has this path; parts of it may be variables of the shell."""
    parts = urlsplit(path).path.split("/")
    return (
        path in ("", "/")
        or path.startswith("$")
        or any(
            len(parts) == len(rule.split("/"))
            and all(
                given == part or part.startswith("<")
                for given, part in zip(parts, rule.split("/"), strict=True)
            )
            for rule in NEEDED
        )
    )
