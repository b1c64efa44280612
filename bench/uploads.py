"""Durable uploads of 4 KiB, beside empty applications and plain appends with a sync."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.commits import CommitCounter
from bench.load import get_small, post_small
from bench.plan import Plan
from bench.reference import Appends, append_with_sync
from bench.repeated import CLIENTS, CPU_NOTE, SIZE, Figures, Repeated, draw_rates, judge_tail
from bench.results import Outcome, Series, Table, Target, measure_rounds, over_sum
from bench.servers import (
    BARE_STORE,
    EMPTY_FLASK,
    EMPTY_WSGI,
    OWN_WORKER,
    Server,
    run_empty,
    run_node,
)


@dataclass(frozen=True, slots=True)
class _Servers:
    """The node, and the references beside it on the same Gunicorn settings.

    Those are empty applications, and one that stores and does nothing else.
    """

    node: Server
    flask: Server
    wsgi: Server
    own: Server
    bare: Server


@dataclass(frozen=True, slots=True)
class _Found:
    """What the rounds with one number of clients have shown.

    Attributes:
        syncs: of the log, an upload. group: changes a commit.
        flask, wsgi, own, body, bare: the empty Flask route, the empty WSGI application, the empty
            route on the threads of dfs, the route that reads the body, the application that only
            stores.
        single, grouped: records appended a second, one a sync and `group` of them a sync.
        single_ms: p50 of a write of one record with its sync.
    """

    clients: int
    upload: Figures
    syncs: Series
    group: Series
    flask: Figures
    wsgi: Figures
    own: Figures
    body: Figures
    bare: Figures
    single: Series
    single_ms: Series
    grouped: Series


def measure_uploads(plan: Plan) -> Outcome:
    """Durable uploads a second, against empty applications and against appends with a sync."""
    outcome = Outcome()
    with ExitStack() as stack:
        directory = stack.enter_context(plan.scratch("uploads"))

        def run_reference(name: str, application: str, worker_class: str = "gthread") -> Server:
            scratch = stack.enter_context(plan.scratch(name))
            empty = run_empty(scratch, application=application, worker_class=worker_class)
            return stack.enter_context(empty)

        servers = _Servers(
            node=stack.enter_context(run_node(directory)),
            flask=run_reference("flask", EMPTY_FLASK),
            wsgi=run_reference("wsgi", EMPTY_WSGI),
            own=run_reference("own", EMPTY_FLASK, OWN_WORKER),
            bare=run_reference("bare", BARE_STORE, OWN_WORKER),
        )
        found = [_measure(clients, plan, servers, directory, outcome) for clients in CLIENTS]
    _report_uploads(found, outcome)
    _report_references(found, outcome)
    _report_latency(found[0], outcome)
    outcome.plots["bench-uploads.svg"] = draw_rates(
        "4 KiB uploads and empty requests",
        {
            "dfs, durable": "upload_4k_{}_per_s",
            "empty Flask route": "upload_4k_{}_empty_per_s",
            "empty WSGI app": "upload_4k_{}_empty_wsgi_per_s",
            "route that reads the body": "upload_4k_{}_body_route_per_s",
        },
        outcome,
    )
    return outcome


def _measure(
    clients: int, plan: Plan, servers: _Servers, directory: Path, outcome: Outcome
) -> _Found:
    root, append = directory / "root", directory / "append.dat"
    root.write_text("/\n")
    seconds = plan.seconds
    counter = CommitCounter(servers.node)
    flask, wsgi, own = (
        Repeated(partial(get_small, server, root, clients=clients, seconds=seconds))
        for server in (servers.flask, servers.wsgi, servers.own)
    )
    post = partial(post_small, clients=clients, size=SIZE, seconds=seconds)
    upload = Repeated(partial(counter.around, partial(post, servers.node, "/upload")))
    body = Repeated(partial(post, servers.flask, "/read"))
    bare = Repeated(partial(post, servers.bare, "/"))
    sync = partial(append_with_sync, append, size=SIZE, seconds=seconds / 6)
    singles: list[Appends] = []

    def append_single() -> float:
        singles.append(sync(group=1))
        return singles[-1].per_s

    rates = measure_rounds(
        plan.rounds,
        (
            *(flask, upload, wsgi, own, body, bare),
            append_single,
            lambda: sync(group=counter.last_group).per_s,
        ),
        warm_up=clients == CLIENTS[0],
    )
    name = f"upload_4k_{clients}"
    return _Found(
        clients=clients,
        upload=upload.keep(name, plan.rounds, outcome),
        syncs=outcome.keep(f"{name}_syncs", counter.syncs(plan.rounds)),
        group=outcome.keep(f"{name}_group", counter.groups(plan.rounds)),
        flask=flask.keep(f"{name}_empty", plan.rounds, outcome),
        wsgi=wsgi.keep(f"{name}_empty_wsgi", plan.rounds, outcome),
        own=own.keep(f"{name}_own_empty", plan.rounds, outcome),
        body=body.keep(f"{name}_body_route", plan.rounds, outcome),
        bare=bare.keep(f"{name}_bare", plan.rounds, outcome),
        single=outcome.keep(f"{name}_append_per_s", rates[-2]),
        single_ms=outcome.keep(
            f"{name}_append_p50_ms",
            Series(tuple(each.p50_ms for each in singles[-plan.rounds :])),
        ),
        grouped=outcome.keep(f"{name}_append_grouped_per_s", rates[-1]),
    )


def _report_uploads(found: list[_Found], outcome: Outcome) -> None:
    rows: list[tuple[str, ...]] = []
    for each in found:
        name, upload = f"upload_4k_{each.clients}", each.upload
        ratio = outcome.keep(f"{name}_over_empty", upload.per_s.over(each.flask.per_s))
        rows.append(
            (
                str(each.clients),
                *upload.cells(f"{each.syncs.median:.3f}", f"{each.group.median:.1f}"),
                ratio.format(2),
            )
        )
    label = f"4 KiB uploads, {found[-1].clients} clients"
    outcome.targets.append(Target(f"{label}, of the empty route", ratio.median, 0.65))
    outcome.targets.append(judge_tail(label, found[-1].upload))
    header = (
        *("clients", "uploads/s", "p50 ms", "p99 ms", "CPU us", "syncs an upload"),
        *("changes a commit", "peak RSS MiB", "of the empty Flask route"),
    )
    outcome.tables.append(Table("Durable uploads of 4 KiB", header, rows))
    outcome.notes.append(
        "Every body is different; each answer is sent after the fdatasync. Syncs and changes are "
        "those of the log, by dfs's own metrics. " + CPU_NOTE
    )


def _report_references(found: list[_Found], outcome: Outcome) -> None:
    rows = [
        (
            str(each.clients),
            *(
                f"{figures.per_s.format()}, {figures.cpu_us.median:.0f} us"
                for figures in (each.flask, each.wsgi, each.own, each.body, each.bare)
            ),
            each.single.format(),
            each.grouped.format(),
        )
        for each in found
    ]
    header = (
        *("clients", "empty Flask route", "empty WSGI app", "empty route on dfs's worker"),
        *("route that reads the body", "application that only stores"),
        *("append + fdatasync", "append + fdatasync in groups"),
    )
    outcome.tables.append(Table("Beside them: operations a second, CPU an operation", header, rows))
    outcome.notes.append(
        "The references are on Gunicorn's own threads, but for the empty route on those of dfs and "
        "the application that only stores: it hashes, appends, syncs and commits an index of four "
        "columns, one upload after another in each process, and keeps nothing that could be read. "
        "Workers and threads are as many. The appends go to a preallocated file, in groups as "
        "large as dfs's commits of the same round were."
    )


def _report_latency(found: _Found, outcome: Outcome) -> None:
    """Hold the latency of a lone client against a sync and an empty request, one after another."""
    name = f"upload_4k_{found.clients}_latency_over_sync_and_empty"
    p50 = (found.upload.p50_ms, found.bare.p50_ms, found.single_ms, found.flask.p50_ms)
    ratio = outcome.keep(name, over_sum(p50[0], p50[2:]))
    bare_ratio = outcome.keep(f"{name}_bare", over_sum(p50[1], p50[2:]))
    rates = (found.upload.per_s, found.bare.per_s, found.single, found.flask.per_s)
    means = tuple(Series(tuple(1000 / value for value in rate.values)) for rate in rates)
    mean_ratio = outcome.keep(f"{name}_mean", over_sum(means[0], means[2:]))
    bare_mean_ratio = outcome.keep(f"{name}_bare_mean", over_sum(means[1], means[2:]))
    label = "4 KiB upload, 1 client: p50 over p50 of append + fdatasync and of empty route"
    outcome.targets.append(Target(label, ratio.median, 1.5, at_most=True))
    rows = [
        (title, *(f"{each.median:.3f}" for each in latencies), *(each.format(2) for each in shares))
        for title, latencies, shares in (
            ("p50", p50, (ratio, bare_ratio)),
            ("mean", means, (mean_ratio, bare_mean_ratio)),
        )
    ]
    header = (
        *("ms", "upload", "application that only stores", "append + fdatasync"),
        *("empty Flask route", "upload / sum of the last two", "only storing / that sum"),
    )
    outcome.tables.append(Table("Latency of a 4 KiB upload by one client", header, rows))
