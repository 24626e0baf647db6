"""``%balsam_service``: what it takes, and what it does."""

from __future__ import annotations

from ..api import Site
from ..service import ServiceReport
from .grammar import FLAG, NUMBER, PAIR, WHOLE, argument, option
from .line import Asked

ARGUMENTS = (
    argument("verb", "what to do: start, stop or status (the default)", choices=("start", "stop", "status"),
             default="status"),
    option("--min-nodes", "nodes of an allocation, at least (default 1)", kind=WHOLE, default=1),
    option("--max-nodes", "nodes of all it asks for together (default: all of the site)", kind=WHOLE),
    option("-t --minutes", "minutes of each allocation (default 60)", "wall_time_min", NUMBER, "MINUTES", default=60),
    option("-q --queue", "the queue", default="local", completes="queue"),
    option("-A --project", "the project that is charged", default="local", completes="project"),
    option("-j --job-mode", "'mpi' (the default) or 'serial'", metavar="MODE", default="mpi", completes="mode"),
    option("--max-queued", "how many allocations may wait for nodes (default 1)", kind=WHOLE, default=1),
    option("--tag", "only for tasks with this tag", "filter_tags", PAIR, many=True),
    option("--wf-filter", "only for tasks whose ensemble has this in its name", metavar="TEXT", default="",
           completes="ensemble"),
    option("--period", "seconds between two allocations, at least (default 1)", kind=NUMBER, metavar="S", default=1.0),
    option("--replace", "with start: stop one that runs with other settings", kind=FLAG),
    option("--revoke", "with stop: end its allocations, too", kind=FLAG),
)  # fmt: skip


def act(site: Site, asked: Asked) -> ServiceReport:
    """Do what the options say; returns how the service is then."""
    if asked.verb == "stop":
        site.service.stop(asked.revoke)
    elif asked.verb == "start":
        return site.service.start(
            min_nodes=asked.min_nodes,
            max_nodes=asked.max_nodes,
            wall_time_min=asked.wall_time_min,
            job_mode=asked.job_mode,
            max_queued=asked.max_queued,
            filter_tags=dict(asked.filter_tags),
            wf_filter=asked.wf_filter,
            queue=asked.queue,
            project=asked.project,
            period=asked.period,
            replace=asked.replace,
        )
    return site.service.status()
