"""The command line of a load test."""

from __future__ import annotations

import argparse
import math
import secrets
from collections.abc import Sequence
from pathlib import Path

import urllib3

KINDS = ("upload", "download", "list", "delete")
URL = "http://127.0.0.1:8000"
MIX = "upload=50,download=40,list=5,delete=5"
SIZES = "0:5,4k:60,64k:20,1m:12,20m:3"
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
CLIENTS = 16
SECONDS = 30.0


def parse_weights(text: str, separator: str) -> dict[str, float]:
    """Return the weights of names in "a=1,b=2.5", for the separator "=".

    Raises:
        argparse.ArgumentTypeError: the text says something else, or all weights are 0.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.partition(separator)
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME{separator}WEIGHT") from None
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise argparse.ArgumentTypeError("weights are 0 or more, and not all of them 0")
    return {name: weight for name, weight in weights.items() if weight}


def parse_mix(text: str) -> dict[str, float]:
    """Return the weight of each kind of operation. Raises argparse.ArgumentTypeError."""
    mix = parse_weights(text, "=")
    unknown = mix.keys() - set(KINDS)
    if unknown:
        raise argparse.ArgumentTypeError(f"{min(unknown)!r} is none of {', '.join(KINDS)}")
    if "upload" not in mix and mix.keys() != {"list"}:
        raise argparse.ArgumentTypeError("without uploads there is nothing to work on")
    return mix


def parse_sizes(text: str) -> dict[int, float]:
    """Return the weight of each size in bytes. Raises argparse.ArgumentTypeError."""
    sizes: dict[int, float] = {}
    for name, weight in parse_weights(text, ":").items():
        unit = UNITS.get(name[-1:].lower(), 1)
        digits = name if unit == 1 else name[:-1]
        if not (digits.isascii() and digits.isdigit()):
            raise argparse.ArgumentTypeError(f"{name!r} is not a size like 0, 4k, 20m or 1g")
        sizes[int(digits) * unit] = weight
    return sizes


def parse_url(text: str) -> str:
    """Return the address of a node. Raises argparse.ArgumentTypeError."""
    try:
        url = urllib3.util.parse_url(text)
    except urllib3.exceptions.LocationParseError:
        url = urllib3.util.Url()
    if url.scheme not in ("http", "https") or not url.host:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address like http://127.0.0.1:8000")
    return text


def parse_count(text: str) -> int:
    """Return a whole number from 1 on. Raises ValueError."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def parse_duration(text: str) -> float:
    """Return a number of seconds above 0. Raises ValueError."""
    if not 0 < float(text) < math.inf:
        raise ValueError
    return float(text)


def parse_options(arguments: Sequence[str] | None, *, description: str) -> argparse.Namespace:
    """Return the options of the command line; exit with status 2 if they are wrong."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", type=parse_url, default=URL, help="default: %(default)s")
    parser.add_argument("--clients", type=parse_count, default=CLIENTS, help="default: %(default)s")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--seconds", type=parse_duration, default=SECONDS, help="how long; default: %(default)s"
    )
    extent.add_argument("--operations", type=parse_count, help="how many, in place of --seconds")
    parser.add_argument("--mix", type=parse_mix, default=MIX, help="weights; default: %(default)s")
    parser.add_argument(
        "--sizes", type=parse_sizes, default=SIZES, help="SIZE:WEIGHT,...; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, help="of all that is random; default: another one")
    parser.add_argument("--sync", action="store_true", help="ask for DFS-Replication: sync")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    parser.add_argument("--no-final-check", action="store_true", help="end with the load")
    options = parser.parse_args(arguments)
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no directory {options.json.absolute().parent}")
    if options.seed is None:
        options.seed = secrets.randbits(32)
    if options.operations is not None:
        options.seconds = None
    return options
