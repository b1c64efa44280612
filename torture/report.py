"""The figures of many lives, added up, as a line and as the table of `docs/reliability.md`.

python -m torture.report docs/reliability.json docs/reliability.md
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
SUMS = ("rounds", "kills", "power_cuts", "operations_hit", "downloads_checked", "seconds")
FINDINGS = ("lost", "corrupt", "resurrected", "unexplained")


def add_up(runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of some lives together; findings as counts."""
    total: dict[str, Any] = dict.fromkeys(SUMS, 0)
    total |= {"lives": 0, "acknowledged": 0, "faults": Counter(), "findings": Counter()}
    for run in runs:
        total["lives"] += 1
        for name in SUMS:
            total[name] += run[name]
        total["acknowledged"] += sum(run["acknowledged"].values())
        total["faults"].update(run["faults"])
        total["findings"].update({kind: len(run["findings"][kind]) for kind in FINDINGS})
    return total


def describe(total: Mapping[str, Any]) -> str:
    """Return the figures as one line."""
    found = ", ".join(f"{total['findings'][kind]} {kind}" for kind in FINDINGS)
    return (
        f"{total['rounds']} rounds, {total['kills']} kills, {total['power_cuts']} power cuts, "
        f"{sum(total['faults'].values())} faults in all, {total['acknowledged']} acknowledged "
        f"changes: {found}; {total['seconds']:.0f} s"
    )


def format_tables(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures of each mode, and how often each fault happened, as Markdown."""
    modes = sorted({run["mode"] for run in runs})
    rows = [(mode, add_up(run for run in runs if run["mode"] == mode)) for mode in modes]
    rows.append(("all", add_up(runs)))
    lines = [
        "| mode | lives | rounds | kills | power cuts | operations made to fail or wait "
        "| changes acknowledged | downloads checked | lost | corrupt | resurrected | unexplained |",
        "|---|" + "---:|" * 11,
    ]
    for mode, total in rows:
        names = ("lives", "rounds", "kills", "power_cuts", "operations_hit")
        figures = [total[name] for name in (*names, "acknowledged", "downloads_checked")]
        figures += [total["findings"][kind] for kind in FINDINGS]
        lines.append(f"| {mode} | " + " | ".join(f"{figure:,}" for figure in figures) + " |")
    faults = rows[-1][1]["faults"]
    lines += ["", "| fault | times |", "|---|---:|"]
    lines += [f"| `{kind}` | {count:,} |" for kind, count in sorted(faults.items())]
    hours = rows[-1][1]["seconds"] / 3600
    lines += ["", f"All of it took {hours:.1f} hours of one machine."]
    return "\n".join(lines)


def main() -> int:
    """Write the tables into the document. Returns the exit status."""
    figures, document = Path(sys.argv[1]), Path(sys.argv[2])
    head, _, rest = document.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    tables = format_tables(json.loads(figures.read_text()))
    document.write_text(f"{head}{BEGIN}\n{tables}\n{END}{tail}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
