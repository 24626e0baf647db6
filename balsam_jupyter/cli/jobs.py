"""``job`` and ``kill``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import BadInput, NotFound, nearest
from ..models import JOB_STATES, TERMINAL, JobRow, Query
from .common import (
    MOST,
    Group,
    Shown,
    at_any_site,
    at_site,
    limit_option,
    pairs,
    said,
    scalars,
    shows,
    wants_json,
    wide_option,
)  # fmt: skip

if TYPE_CHECKING:
    from ..api import Site

F = TypeVar("F", bound=Callable[..., Any])
_TAIL = 10
_CHUNK = 1 << 16
_FOLLOW_S = 0.5


@click.group(cls=Group)
def job() -> None:
    """What runs: one invocation of an app each."""


def chooses(command: F) -> F:
    """Give a command the options that choose jobs."""
    options = (
        click.option("-s", "--state", "states", multiple=True, metavar="STATE", help="Only in this state."),
        click.option("-ns", "--exclude-state", "not_states", multiple=True, metavar="STATE", help="Not in this state."),
        click.option("-t", "-tag", "--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Only with this tag."),
        click.option("-a", "--app", help="Only of this app."),
        click.option("--ensemble", help="Only of this ensemble."),
        click.option("--allocation", type=int, metavar="ID", help="Only run by this allocation."),
        click.option("-i", "--id", "ids", type=int, multiple=True, help="Only these."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def query_of(
    site: Site,
    states: tuple[str, ...],
    not_states: tuple[str, ...],
    tags: tuple[str, ...],
    app: str | None,
    ensemble: str | None,
    allocation: int | None,
    ids: tuple[int, ...],
) -> Query:
    """The query of those options; a name that does not exist is a mistake."""
    from ..submission import newest
    from ..verbs import known

    for state in (*states, *not_states):
        if state.upper() not in JOB_STATES:
            hint = nearest(state.upper(), JOB_STATES) or f" The states: {', '.join(JOB_STATES)}."
            raise BadInput(f"{state!r} is not a job state.{hint}")
    if app is not None:
        app = site.app(app).name
    names = list(newest(site.engine.ensembles()))
    if ensemble is not None and ensemble not in names:
        raise NotFound(f"Site {site.name!r} has no ensemble {ensemble!r}. {known(ensemble, names)}")
    wanted = tuple(state.upper() for state in states) or (JOB_STATES if not_states else None)
    if wanted is not None:
        wanted = tuple(state for state in wanted if state not in {state.upper() for state in not_states})
    return Query(
        ids=ids or None, states=wanted, tags=pairs(tags, "--tag") or None, ensemble=ensemble, app_name=app,
        batch_job_id=allocation,
    )  # fmt: skip


@job.command("ls")
@chooses
@click.option("-w", "--workdir", help="Only the one that works there.")
@click.option("--by-state", is_flag=True, help="Count them instead.")
@click.option("--error", is_flag=True, help="Those that failed, with the last lines of what they said.")
@click.option("--history", is_flag=True, help="With every change of their states.")
@click.option("--order", default="id", show_default=True, help="A column such as -runtime_s ('-': descending).")
@click.option("-v", "--verbose", is_flag=True, help="Everything there is about each.")
@wide_option
@limit_option
@at_any_site
@shows
def job_ls(
    site: Site,
    workdir: str | None,
    by_state: bool,
    error: bool,
    history: bool,
    order: str,
    verbose: bool,
    limit: int | None,
    **chosen: Any,
) -> Shown:
    """List jobs.

    balsam-jupyter job ls --state FAILED --ensemble scan-1 --error
    """
    query = replace(query_of(site, **chosen), workdir=workdir)
    if error:
        if chosen["states"] or chosen["not_states"]:
            raise BadInput("--error shows the jobs in state FAILED; leave --state out.")
        query = replace(query, states=("FAILED",))
    counts = site.engine.count(query)
    if by_state:
        ordered = {state: counts[state] for state in JOB_STATES if state in counts}
        return Shown(ordered, ("state", "jobs"), list(ordered.items()))
    most = MOST if limit is None else limit
    found = site.engine.jobs(replace(query, order=order, limit=most))
    left_out = max(0, sum(counts.values()) - len(found))
    listed = [document(row) for row in found]
    lines: list[str] = []
    if error:
        for row, plain in zip(found, listed, strict=True):
            plain["tail"] = _why(site, row)
            lines += [f"job {row.id} ({row.app_name}) in {row.workdir}:", *(f"  {line}" for line in plain["tail"])]
    if history:
        for row, plain in zip(found, listed, strict=True):
            plain["history"] = _history(site, row)
            lines += [f"job {row.id}:", *(_step(one) for one in plain["history"])]
    if verbose:
        for plain in listed:
            lines += [*(f"{key}: {value}" for key, value in plain.items()), ""]
    columns, rows = ("id", "app", "state", "ensemble", "row", "workdir", "runtime_s", "code", "tags"), []
    if not lines:
        rows = [_row(row) for row in found]
        if not rows:
            lines = ["No such job."] if any(chosen.values()) or error or workdir else ["There are no jobs."]
    return Shown({"jobs": listed, "left_out": left_out}, columns if rows else (), rows, lines, left_out)


def _row(row: JobRow) -> list[object]:
    runtime = "" if row.runtime_s is None else f"{row.runtime_s:.3g}"
    code = "" if row.return_code is None else row.return_code
    number = "" if row.row is None else row.row
    return [row.id, row.app_name, row.state, row.ensemble or "", number, row.workdir, runtime, code, said(row.tags)]


def document(row: JobRow) -> dict[str, Any]:
    """A job as JSON."""
    import json

    from ..export import as_json, iso

    plain = {name: value for name, value in vars(row).items() if name not in ("exception", "resources")}
    for name in ("parameters", "value"):
        stored = as_json(plain[name])
        plain[name] = None if stored is None else json.loads(stored)
    for name in ("submit_time", "start_time", "end_time"):
        plain[name] = iso(plain[name])
    return {**plain, "resources": asdict(row.resources)}


def _why(site: Site, row: JobRow) -> list[str]:
    from ..failures import log_of

    return log_of(site.engine, row, _TAIL).splitlines()[1:]


def _history(site: Site, row: JobRow) -> list[dict[str, Any]]:
    from ..export import iso

    steps = [
        {"from": left, "to": reached, "time": iso(time), "data": data}
        for event in site.engine.history([row.id])
        for left, reached, time, data in event.steps(row.id)
    ]
    if row.error and steps and steps[-1]["to"] == "FAILED" and not steps[-1]["data"]:
        steps[-1]["data"] = {"error": row.error}  # of a hook, which is kept with the job only
    return steps


def _step(one: dict[str, Any]) -> str:
    error = str(one["data"].get("error", "")).strip().splitlines()
    return f"  {one['time']}  {one['to'] or '(deleted)'}" + (f"  {error[-1]}" if error else "")


@job.command("create")
@click.option("-a", "--app", required=True, help="The app's name or id.")
@click.option("-w", "--workdir", help="Its directory, relative to data/; by default the app's name and the job's id.")
@click.option("-p", "--param", "parameters", multiple=True, metavar="NAME=VALUE",
              help="A parameter; numbers, true, false, null and [lists] are read as YAML.")  # fmt: skip
@click.option("-tag", "--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag.")
@click.option("-n", "--num-nodes", type=int, help="Nodes (default 1).")
@click.option("-rpn", "--ranks-per-node", type=int, help="MPI ranks on each node (default 1).")
@click.option("--num-procs", type=int, help="MPI ranks in all.")
@click.option("-tpr", "--threads-per-rank", type=int, default=1, show_default=True, help="Threads of each rank.")
@click.option("-tpc", "--threads-per-core", type=int, default=1, show_default=True, help="Threads on a core.")
@click.option("-g", "--gpus-per-rank", type=float, default=0, show_default=True, help="GPUs of each rank.")
@click.option("-npc", "--node-packing-count", type=int, help="Jobs at most on one node.")
@click.option(
    "-lp", "--launch-param", "launch_params", multiple=True, metavar="KEY=VALUE", help="For the MPI launcher."
)
@click.option("-t", "--wall-time-min", type=int, default=0, show_default=True, help="Minutes it may take; 0: unknown.")
@click.option("-pid", "--parent-id", "parents", type=int, multiple=True, help="A job that must be finished before.")
@click.option(
    "--on-parent-failure", type=click.Choice(["fail", "wait"]), default="fail", show_default=True,
    help="When a parent fails: fail, too, or wait until it is retried.",
)  # fmt: skip
@click.option("--max-retries", type=int, default=0, show_default=True, help="Run it again so often if it fails.")
@click.option("--scratch", is_flag=True, help="Remove its directory once it has finished well.")
@click.option("-s", "--stage-data", "transfers", multiple=True, metavar="SLOT=LOCATION:PATH", help="A file to bring.")
@click.option("-y", "--yes", is_flag=True, hidden=True)  # Balsam asks; its scripts say -y
@at_site
@shows
def job_create(
    site: Site,
    app: str,
    workdir: str | None,
    parameters: tuple[str, ...],
    tags: tuple[str, ...],
    num_nodes: int | None,
    ranks_per_node: int | None,
    num_procs: int | None,
    launch_params: tuple[str, ...],
    parents: tuple[int, ...],
    transfers: tuple[str, ...],
    yes: bool,
    **wants: Any,
) -> Shown:
    """Add a job.

    balsam-jupyter job create -a melt -p T=300 -p element=Ar --tag study=eos
    """
    from ..api import Job
    from ..api_check import layout
    from ..submission import LONE_TASKS, slug

    record = site.app(int(app) if app.isdecimal() else app)
    nodes, each = layout(num_procs, num_nodes, ranks_per_node)
    made = Job(
        record.id,
        workdir or f"{LONE_TASKS}/{slug(record.name)}_{{id}}",
        scalars(parameters, "-p"),
        pairs(tags, "--tag"),
        num_nodes=nodes,
        ranks_per_node=each,
        launch_params=pairs(launch_params, "-lp"),
        parent_ids=parents,
        transfers=pairs(transfers, "-s", "SLOT=LOCATION:PATH"),
        site_name=site,
        **wants,
    )
    made.save()
    (row,) = site.engine.jobs(Query(ids=(made.id,)))
    return Shown(document(row), lines=[f"Job {row.id} of {row.app_name} in {row.workdir}: {row.state}"])


@job.command("kill")
@click.argument("what", nargs=-1, metavar="ID|ENSEMBLE…")
@chooses
@click.option("--now", is_flag=True, help="SIGKILL at once, instead of SIGTERM and half a second.")
@click.option("--revoke", is_flag=True, help="At a Balsam site: revoke the allocations in which they run.")
@at_any_site
@shows
def job_kill(site: Site, what: tuple[str, ...], now: bool, revoke: bool, **chosen: Any) -> Shown:
    """End jobs that are not done: by id or name, by ensemble, or those the options choose."""
    from ..verbs import kill

    wait_time, force = 0.0 if now else 0.5, "revoke" if revoke else ""
    lines = [kill(site.engine, query, words, wait_time, force) for query, words in _chosen(site, what, chosen)]
    return Shown({"said": lines}, lines=lines)


kill = click.Command("kill", params=job_kill.params, callback=job_kill.callback, help=job_kill.help)


@job.command("retry")
@click.argument("what", nargs=-1, metavar="ID|ENSEMBLE…")
@chooses
@at_site
@shows
def job_retry(site: Site, what: tuple[str, ...], **chosen: Any) -> Shown:
    """Run jobs that failed or were killed again; the old log stays as job.out.1."""
    from ..verbs import retry

    done = [retry(site.engine, query, words) for query, words in _chosen(site, what, chosen)]
    number = sum(one for one, _ in done)
    return Shown({"retried": number}, lines=[line for _, line in done], code=0 if number else 1)


@job.command("rm")
@click.argument("what", nargs=-1, metavar="ID|ENSEMBLE…")
@chooses
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@at_any_site
@shows
def job_rm(site: Site, what: tuple[str, ...], yes: bool, **chosen: Any) -> Shown:
    """Forget jobs that do not run; their directories stay."""
    queries = _chosen(site, what, chosen)
    number = sum(sum(site.engine.count(query).values()) for query, _ in queries)
    if not number:
        raise NotFound("No job is chosen by that; nothing was removed.")
    if not yes and not click.confirm(f"Forget {_jobs(number)} for ever?", err=True):
        return Shown({"removed": 0}, lines=["Nothing was removed."], code=1)
    removed = sum(site.engine.delete(query) for query, _ in queries)
    left = f" {_jobs(number - removed)} still run: kill them first." if removed < number else ""
    return Shown({"removed": removed}, lines=[f"{_jobs(removed)} removed.{left}"], code=1 if left else 0)


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number:,} jobs"


def _chosen(site: Site, what: tuple[str, ...], chosen: dict[str, Any]) -> list[tuple[Query, str]]:
    """Queries for the names given, or one for the options; never for all jobs of a site by mistake."""
    from ..verbs import find

    given = {name: value for name, value in chosen.items() if value}
    if what and given:
        raise BadInput("Give names, or options that choose; not both.")
    if not what and not given:
        raise BadInput("Which jobs? Give ids, an ensemble, or an option such as --tag or --state.")
    if what:
        return [find(site.engine, text) for text in what]
    return [(query_of(site, **chosen), "the jobs chosen")]


@job.command("logs")
@click.argument("what", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on with what the job writes, until it has ended.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@at_any_site
@shows
def job_logs(site: Site, what: str, follow: bool, tail: int | None) -> Shown | None:
    """Print the log (job.out) of a job: by id, name or directory."""
    from ..verbs import find

    query, words = find(site.engine, what)
    if query.ensemble is not None:
        raise BadInput(f"{words} has many jobs; name one: balsam-jupyter job ls --ensemble {what} shows their ids.")
    (row,) = site.engine.jobs(query)
    if wants_json():
        if follow:
            raise BadInput("--follow has no end to make a JSON document of; leave one of the two out.")
        return Shown({"id": row.id, "state": row.state, "log": site.engine.output(row.id, tail)})
    if not follow and not site.engine.read_output(row.id, 0, 1):
        click.echo(_no_log(site, row), err=True)
    with contextlib.suppress(KeyboardInterrupt):  # the way to leave --follow
        _print_log(site, row, tail, follow)
    return None


def _no_log(site: Site, row: JobRow) -> str:
    what = "wrote nothing to its log" if row.attempts else "has no log, for it has not run"
    if row.attempts and not site.engine.site.here:
        what = f"has its log at site {site.name!r}, not on this machine"
    return f"Job {row.id} ({row.state}) {what}." + (f"\n{row.error.rstrip()}" if row.error else "")


def _print_log(site: Site, row: JobRow, tail: int | None, follow: bool) -> None:
    engine = site.engine
    start = 0
    cursor = engine.events("now").cursor
    if tail is not None:
        last = engine.output(row.id, tail)
        click.echo(last, nl=bool(last) and not last.endswith("\n"))
        if not follow:
            return
        while piece := engine.read_output(row.id, start, 1 << 24):  # to its end, unseen
            start += len(piece)
    while True:
        found = engine.jobs(Query(ids=(row.id,)))
        if found and found[0].attempts != row.attempts:
            row, start = found[0], 0  # it runs again, with a new log
        while piece := engine.read_output(row.id, start, _CHUNK):
            start += len(piece)
            click.echo(piece, nl=False)
        if not follow or not found or found[0].state in TERMINAL:
            return
        cursor = engine.events(cursor, _FOLLOW_S).cursor
