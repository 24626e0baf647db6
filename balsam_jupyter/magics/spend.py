"""The magics that ask for machine time and fill it: allocate, revoke, the service, submit."""

from __future__ import annotations

from typing import Any

from ..api_check import nodes_of, partition
from ..errors import BadInput, listing
from ..status import queued_behind
from . import cost, service
from .grammar import FLAG, NUMBER, PAIR, PARAMETERS, WHOLE, argument, option
from .line import Asked
from .magic import magic
from .progress import point_to_failed
from .report import Report
from .session import Session
from .submission import RESOURCES, dry_run, sweep_of

_LIVE = ("pending_submission", "queued", "running", "pending_deletion")


@magic(
    option("-n --nodes", "nodes (default 1, or as many as the partitions have)", "num_nodes", WHOLE),
    option("-t --minutes", "minutes of wall time (default 10)", "wall_time_min", NUMBER, "MINUTES", default=10),
    option("-q --queue", "the queue", default="local", completes="queue"),
    option("-A --project", "the project that is charged", default="local", completes="project"),
    option("-j --job-mode", "'serial' (the default) or 'mpi'", metavar="MODE", default="serial", completes="mode"),
    option("--tag", "run only tasks with this tag", "filter_tags", PAIR, many=True),
    option("--wf-filter", "run only tasks whose ensemble has this in its name", metavar="TEXT", default="",
           completes="ensemble"),
    option("-p --partition", "a part with a job mode, nodes and tags of its own", metavar="MODE:NODES[:KEY=VALUE]",
           many=True, completes="partition"),
    option("--max-node-hours", "refuse it if the site could use more than this with it", kind=NUMBER),
    option("--dry-run", "show the price; ask for nothing", kind=FLAG),
)  # fmt: skip
def balsam_allocate(session: Session, asked: Asked) -> Any:
    """Ask for nodes for some minutes, in which tasks then run. Returns the BatchJob.

    Examples::

        %balsam_allocate -n 1 -t 10 -q local -A local --job-mode serial
        %balsam_allocate -t 10 -p mpi:2:role=leader -p serial:6:role=worker
        %balsam_allocate -n 4 -t 120 --max-node-hours 10 --dry-run
    """
    parts = [partition(text) for text in asked.partition]
    wanted = {
        "num_nodes": nodes_of(asked.num_nodes, parts),
        "wall_time_min": asked.wall_time_min,
        "job_mode": asked.job_mode,
        "queue": asked.queue,
        "project": asked.project,
        "filter_tags": dict(asked.filter_tags),
        "partitions": parts,
        "wf_filter": asked.wf_filter,
        "max_node_hours": asked.max_node_hours,
    }
    if asked.dry_run:
        return cost.of_allocation(session.site, **wanted)
    allocation = session.executor.submit_allocation(session.site.id, **wanted)
    if behind := queued_behind(session.site.engine, allocation.id):
        print(f"Allocation {allocation.id} is queued, behind {behind}.")
    return allocation


@magic(
    argument("which", "the allocation's id, or 'all'; left out: the only one there is", "ID", default=None,
             completes="allocation"),
)  # fmt: skip
def balsam_revoke(session: Session, asked: Asked) -> Any:
    """End an allocation; its running tasks are stopped gracefully and run again in the next one.

    Example::

        %balsam_revoke 1
    """
    from ..api import BatchJob

    known = {str(one.id): one for one in BatchJob.objects.all()} if session.site else {}
    live = {number: one for number, one in known.items() if one.state in _LIVE}
    if asked.which is None and len(live) > 1:
        raise BadInput(f"Which one? Allocations {listing(live)} are there: give an id, or 'all'.")
    if asked.which not in (None, "all", *known):
        there = f"there is {listing(live)}" if live else "none is queued or running"
        raise asked.wrong("which", f"There is no allocation {asked.which}; {there}.")
    chosen = live if asked.which in (None, "all") else {asked.which: known[asked.which]}
    if not chosen:
        return Report("No allocation is queued or running; nothing to revoke.")
    ended = {number: session.executor.revoke_allocation(one) for number, one in chosen.items()}
    said = [f"Allocation {at} {'ended' if gone else 'is still ending'}." for at, gone in ended.items()]
    return Report("", [], said)


@magic(*service.ARGUMENTS)
def balsam_service(session: Session, asked: Asked) -> Any:
    """Let the site ask for allocations by itself while work waits: start, stop or status.

    Examples::

        %balsam_service start --max-nodes 2 -t 20 --job-mode serial
        %balsam_service status
        %balsam_service stop
    """
    return service.act(session.site, asked)


@magic(
    argument("app", "the app's name", completes="app"),
    argument("values", "the parameters", "name=expression …", kind=PARAMETERS),
    option("--name", "the ensemble's name; left out: the app's and a hash of the sweep", completes="ensemble"),
    option("--tag", "a tag of the tasks", "tags", PAIR, many=True),
    option("--num-procs", "processes (ranks) of a task", kind=WHOLE),
    option("--num-nodes", "nodes of a task", kind=WHOLE),
    option("--procs-per-node", "processes on each node", kind=WHOLE),
    option("--max-tasks-per-node", "tasks at most on one node", kind=WHOLE),
    option("--threads-per-rank", "threads of each process", kind=WHOLE, default=1),
    option("--gpus-per-rank", "GPUs of each process", kind=NUMBER, metavar="N", default=0),
    option("--wall-time-min", "what a task may take", kind=NUMBER, metavar="MINUTES", default=0),
    option("--max-retries", "run a task that fails again so often", kind=WHOLE, default=0),
    option("--scratch", "remove the directory of a task once it has finished well", kind=FLAG),
    option("--max-node-hours", "refuse them if the site is expected to use more than this", kind=NUMBER),
    option("--keep", "where the app has changed since rows ended: let them count as they are", kind=FLAG),
    option("--fresh", "where the app has changed since rows ended: run all rows, as a new generation", kind=FLAG),
    option("--zip", "pair the lists item by item instead of a grid", kind=FLAG),
    option("--dry-run", "show the price, the rows and the first commands; store nothing", kind=FLAG),
    cell="the sweep, where it is too long for the line",
)
def balsam_submit(session: Session, asked: Asked, cell: str | None) -> Any:
    """Submit a task for each row of a sweep. Returns the ensemble.

    Values are Python expressions in your namespace. Lists, ranges and arrays are the sweep's dimensions; numbers
    and (quoted) texts are the same for all rows. The same name again keeps its rows and adds the new ones.

    As a cell magic, the cell is the sweep, and what the line has is the same for all its rows. A first line
    ``name: …`` or ``- …`` makes the cell YAML; one with only names and commas makes it CSV with that header;
    anything else is one Python expression in your namespace. A mapping is a grid of its lists (or pairs them, with
    --zip); a list of mappings and CSV are the rows; a Python expression may also be a Sweep or a DataFrame.

    Examples::

        %balsam_submit melt T=[1.0, 2.0] P=np.linspace(0, 1, 5) element='Ar' --name scan-1 --tag study=eos

        %%balsam_submit melt --name scan-2
        T: [300, 400, 500]
        P: [0.1, 1.0]
        element: Ar
    """
    if asked.keep and asked.fresh:
        raise asked.wrong("fresh", "--keep and --fresh contradict each other: give one of them.")
    sweep = sweep_of(asked, cell)
    if asked.dry_run:
        return dry_run(session.executor, asked, sweep)
    wants = {name: getattr(asked, name) for name in (*RESOURCES, "max_retries", "max_node_hours", "scratch")}
    if_changed = "keep" if asked.keep else "fresh" if asked.fresh else None
    ensemble = session.executor.submit_sweep(
        asked.app, sweep, name=asked.name, tags=dict(asked.tags), if_changed=if_changed, **wants
    )
    if ensemble.kept:
        point_to_failed(ensemble)
    return ensemble
