"""Turns the figures of a run into Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.results import Outcome, Table, Target

METHOD = """\
Every figure and the reference beside it were measured in the same run, in turn; figures are medians
of the rounds, with the lowest and the highest in brackets, and a ratio is the median of the ratios
of the rounds.
"""
INTRODUCTIONS = {
    "benchmarks": f"""\
# Benchmarks

Written by `make bench`; the figures beside it are in `benchmarks.json`. How costs change with
workers, processes and files is what `make scaling` writes to `scaling.md`; memory over time is what
`make soak` writes to `soak.md`; `make peers` compares with other stores in `peers.md`. {METHOD}""",
    "scaling": f"""\
# Scaling

Written by `make scaling`; the figures beside it are in `scaling.json`. {METHOD}""",
    "soak": """\
# Soak

Written by `make soak`; the figures beside it are in `soak.json`.
""",
    "peers": f"""\
# dfs beside other stores

Written by `make peers`, once the other stores are installed (CONTRIBUTING.md says how); the figures
beside it are in `peers.json`. {METHOD}""",
}
"""What each page begins with, by its name."""


def format_report(page: str, machine: Mapping[str, str], outcomes: Mapping[str, Outcome]) -> str:
    """Return a whole page as Markdown."""
    targets = [target for outcome in outcomes.values() for target in outcome.targets]
    parts = [INTRODUCTIONS[page], "## The machine\n", _format_pairs(machine)]
    parts += ["## Targets\n", _format_targets(targets), "## Figures\n"]
    for outcome in outcomes.values():
        for table in outcome.tables:
            parts += [f"### {table.title}\n", _format_table(table)]
        parts += [f"{note}\n" for note in outcome.notes]
        parts += [f"![{Path(name).stem}]({name})\n" for name in outcome.plots]
    return "\n".join(parts)


def write_report(
    directory: Path, page: str, machine: Mapping[str, str], outcomes: Mapping[str, Outcome]
) -> None:
    """Write a page, its figures as JSON beside it, and the plots."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{page}.md").write_text(format_report(page, machine, outcomes))
    for outcome in outcomes.values():
        for name, svg in outcome.plots.items():
            (directory / name).write_text(svg)
    figures = {
        "machine": dict(machine),
        "targets": [
            {**asdict(target), "met": target.is_met}
            for outcome in outcomes.values()
            for target in outcome.targets
        ],
        "figures": {
            name: values
            for outcome in outcomes.values()
            for name, values in outcome.figures.items()
        },
    }
    (directory / f"{page}.json").write_text(json.dumps(figures, indent=2) + "\n")


def _format_pairs(pairs: Mapping[str, str]) -> str:
    return _format_rows(("", ""), pairs.items())


def _format_targets(targets: Sequence[Target]) -> str:
    rows = []
    for target in targets:
        unit = f" {target.unit}" if target.unit else ""
        bound = f"{'at most' if target.at_most else 'at least'} {target.limit:,g}{unit}"
        reached = f"{target.reached:,.{target.digits}f}{unit}"
        rows.append((target.name, bound, reached, "yes" if target.is_met else "**no**"))
    return _format_rows(("what", "target", "reached", "met"), rows)


def _format_table(table: Table) -> str:
    return _format_rows(table.header, table.rows)


def _format_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
