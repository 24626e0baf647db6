"""``submit-launch``, ``launcher`` and ``queue``: allocations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import BadInput, NotFound, listing
from .common import (
    Group,
    Shown,
    at_any_site,
    at_site,
    capped,
    limit_option,
    pairs,
    said,
    shows,
    wants_json,
    wide_option,
)

if TYPE_CHECKING:
    from ..api import Site
    from ..models import Allocation, AllocationRequest

F = TypeVar("F", bound=Callable[..., Any])
LIVE = ("pending_submission", "queued", "running", "pending_deletion")

_REQUEST = (
    click.option("-A", "--project", default="local", show_default=True, help="The account that is charged."),
    click.option("-q", "--queue", default="local", show_default=True, help="The scheduler's queue."),
    click.option("-t", "--wall-time-min", "--minutes", type=float, default=10, show_default=True, help="Minutes."),
    click.option("-n", "--num-nodes", "--nodes", type=int, help="Nodes (default 1, or those of the partitions)."),
    click.option("-j", "--job-mode", default="serial", show_default=True, help="'serial' or 'mpi'."),
    click.option("-tag", "--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Run only jobs with this tag."),
    click.option("--wf-filter", default="", metavar="TEXT", help="Run only jobs whose tag 'workflow' has this in it."),
    click.option(
        "-p",
        "--part",
        "--partition",
        "partitions",
        multiple=True,
        metavar="MODE:NODES[:KEY=VALUE…]",
        help="A part with a mode, nodes and tags of its own.",
    ),
    click.option(
        "-x",
        "--extra-param",
        "extra",
        multiple=True,
        metavar="KEY=VALUE",
        help="A variable of the site's job-template.sh.",
    ),
    click.option(
        "--max-node-hours", type=float, help="Refuse it if the site might use more than so many with it, in all."
    ),
)


def asks(command: F) -> F:
    """Give a command the options of an allocation."""
    for option in reversed(_REQUEST):
        command = option(command)
    return command


def _request(site: Site, asked: dict[str, Any]) -> AllocationRequest:
    from ..api_check import allocation_request, nodes_of, partition

    parts = [partition(text) for text in asked["partitions"]]
    return allocation_request(
        site.engine.site,
        nodes_of(asked["num_nodes"], parts),
        asked["wall_time_min"],
        asked["job_mode"],
        asked["queue"],
        asked["project"],
        pairs(asked["extra"], "-x"),
        pairs(asked["tags"], "--tag"),
        parts,
        asked["wf_filter"],
        asked["max_node_hours"],
    )


def _submit(site: Site, **asked: Any) -> Shown:
    from ..status import describe, queued_behind

    given = site.engine.allocate(_request(site, asked))
    behind = queued_behind(site.engine, given.id)
    lines = [describe(given) + (f", behind {behind}" if behind else "")]
    return Shown(document(given), lines=lines)


_HELP = """Ask for an allocation, whose launcher runs jobs; it goes on when you log out.

    balsam-jupyter submit-launch -A PROJECT -q QUEUE -t 5 -n 2 --job-mode=serial --wf-filter=scan

    balsam-jupyter submit-launch -t 60 -p mpi:2:role=leader -p serial:6:role=worker
"""


@click.command(help=_HELP)
@asks
@at_site
@shows
def submit_launch(site: Site, **asked: Any) -> Shown:  # noqa: D103
    return _submit(site, **asked)


@click.command()
@asks
@at_site
@shows
def launcher(site: Site, **asked: Any) -> Shown:
    """Run a launcher in the foreground: an allocation that lasts until its end, or until Ctrl-C.

    It stops gracefully: running jobs are ended and become ready to run again.
    """
    from ..status import describe

    def show(line: str) -> None:
        click.echo(line, err=wants_json())

    ended = site.engine.run_allocation(_request(site, asked), show)
    return Shown(document(ended), lines=[describe(ended)], code=0 if ended.state == "finished" else 1)


@click.group(cls=Group)
def queue() -> None:
    """Allocations: blocks of nodes for some minutes."""


@queue.command("submit", help=_HELP.replace("submit-launch", "queue submit"))
@asks
@at_site
@shows
def queue_submit(site: Site, **asked: Any) -> Shown:  # noqa: D103
    return _submit(site, **asked)


@queue.command("ls")
@click.option("--history", is_flag=True, help="Also those that have ended, the last ones first.")
@wide_option
@limit_option
@at_any_site
@shows
def queue_ls(site: Site, history: bool, limit: int | None) -> Shown:
    """List the allocations that wait or run."""
    every = site.engine.allocations()
    chosen = every[::-1] if history else [one for one in every if one.state in LIVE]
    shown, left_out = capped(chosen, limit)
    rows = [_row(one) for one in shown]
    columns = ("id", "state", "nodes", "minutes", "mode", "for", "left", "queue", "project", "note")
    lines = [] if rows else [f"No allocation waits or runs ({len(every)} have ended: --history)."]
    table = columns if rows else ()
    return Shown({"allocations": [document(one) for one in shown], "left_out": left_out}, table, rows, lines, left_out)


@queue.command("rm")
@click.argument("ids", nargs=-1, metavar="ID…|all")
@click.option("--timeout", type=float, default=60, show_default=True, help="Seconds to wait for the end of each.")
@at_any_site
@shows
def queue_rm(site: Site, ids: tuple[str, ...], timeout: float) -> Shown:
    """End allocations; running jobs are stopped gracefully and run again in the next one."""
    known = {str(one.id): one for one in site.engine.allocations()}
    live = [number for number, one in known.items() if one.state in LIVE]
    if not ids:
        raise BadInput(f"Which one? Allocations that wait or run: {listing(live)}. Give ids, or 'all'.")
    if wrong := [number for number in ids if number not in ("all", *known)]:
        raise NotFound(f"There is no allocation {wrong[0]} at site {site.name!r}; there are {listing(live)}.")
    chosen = live if "all" in ids else list(dict.fromkeys(ids))
    gone = {number: site.engine.revoke(int(number), timeout) for number in chosen}
    lines = [
        f"Allocation {number} had ended."
        if number not in live
        else f"Allocation {number} {'has ended' if ended else 'is still ending'}."
        for number, ended in gone.items()
    ]
    lines = lines or ["No allocation waits or runs."]
    return Shown(
        {"ended": {int(number): ended for number, ended in gone.items()}}, lines=lines, code=int(not all(gone.values()))
    )


def document(one: Allocation) -> dict[str, Any]:
    """An allocation as JSON."""
    from dataclasses import asdict

    plain = asdict(one)
    return {"id": plain.pop("id"), "state": plain.pop("state"), **plain.pop("request"), **plain}


def _row(one: Allocation) -> list[object]:
    request = one.request
    wanted = [said(request.filter_tags), f"workflow~{request.wf_filter}" if request.wf_filter else ""]
    wanted += [f"[{part['job_mode']}:{part['num_nodes']} {said(part['filter_tags'])}]" for part in request.partitions]
    mode = "(parts)" if request.partitions else request.job_mode
    left = "" if one.remaining_s is None else f"{one.remaining_s / 60:.1f} min"
    note = "; ".join(str(text) for text in one.status_info.values())
    note = "; ".join(text for text in ("by the service" if request.by_service else "", note) if text)
    return [
        one.id, one.state, request.num_nodes, f"{request.wall_time_min:g}", mode,
        " ".join(filter(None, wanted)), left, request.queue, request.project, note,
    ]  # fmt: skip
