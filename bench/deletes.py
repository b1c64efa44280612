"""Durable deletes of 4 KiB files, beside the uploads that stored them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.commits import CommitCounter
from bench.load import Rate, delete_listed, list_ids, post_small
from bench.plan import Plan
from bench.repeated import CLIENTS, SIZE, Repeated, draw_rates, judge_tail
from bench.results import Outcome, Table, Target, measure_rounds
from bench.servers import Server, run_node


@dataclass(slots=True)
class Turnover:
    """Uploads files, and deletes those that the newest upload has stored."""

    node: Server
    directory: Path
    clients: int
    seconds: float
    word: str = field(default="", init=False)

    def upload(self) -> Rate:
        """Store files of 4 KiB."""
        self.word = secrets.token_hex(8)
        return post_small(
            self.node,
            "/upload",
            clients=self.clients,
            size=SIZE,
            seconds=self.seconds,
            word=self.word,
        )

    def delete(self) -> Rate:
        """Delete them, each once, until all are gone or the time is over."""
        paths = self.directory / "deleted"
        ids = list_ids(self.node, prefix=self.word)
        paths.write_text("".join(f"/files/{file_id}\n" for file_id in ids))
        return delete_listed(self.node, paths, clients=self.clients, seconds=self.seconds)


def measure_deletes(plan: Plan) -> Outcome:
    """Durable deletes a second, against the uploads of the same files."""
    outcome = Outcome()
    rows: list[tuple[str, ...]] = []
    with plan.scratch("deletes") as directory, run_node(directory) as node:
        for clients in CLIENTS:
            turnover = Turnover(node, directory, clients, plan.seconds)
            rows.append(_measure(turnover, plan, outcome))
    header = (
        *("clients", "deletes/s", "p50 ms", "p99 ms", "CPU us", "syncs a delete"),
        *("changes a commit", "peak RSS MiB", "uploads/s", "of the uploads"),
    )
    outcome.tables.append(Table("Durable deletes of 4 KiB files", header, rows))
    outcome.notes.append(
        "Each round deletes, once each, the files that it has stored just before; the answer is "
        "sent after the fdatasync of the delete's record."
    )
    outcome.plots["bench-deletes.svg"] = draw_rates(
        "Deletes of 4 KiB files, and their uploads,",
        {"deletes": "delete_4k_{}_per_s", "uploads": "delete_4k_{}_upload_per_s"},
        outcome,
    )
    return outcome


def _measure(turnover: Turnover, plan: Plan, outcome: Outcome) -> tuple[str, ...]:
    clients, counter = turnover.clients, CommitCounter(turnover.node)
    upload = Repeated(turnover.upload)
    delete = Repeated(partial(counter.around, turnover.delete))
    measure_rounds(plan.rounds, (upload, delete), warm_up=clients == CLIENTS[0])
    name = f"delete_4k_{clients}"
    figures = delete.keep(name, plan.rounds, outcome)
    stored = upload.keep(f"{name}_upload", plan.rounds, outcome)
    ratio = outcome.keep(f"{name}_over_upload", figures.per_s.over(stored.per_s))
    syncs = outcome.keep(f"{name}_syncs", counter.syncs(plan.rounds))
    group = outcome.keep(f"{name}_group", counter.groups(plan.rounds))
    label = f"4 KiB deletes, {clients} client{'s'[: clients - 1]}"
    outcome.targets.append(Target(f"{label}, of the uploads", ratio.median, 1.0))
    if clients == CLIENTS[-1]:
        outcome.targets.append(judge_tail(label, figures))
    return (
        str(clients),
        *figures.cells(f"{syncs.median:.3f}", f"{group.median:.1f}"),
        stored.per_s.format(),
        ratio.format(2),
    )
