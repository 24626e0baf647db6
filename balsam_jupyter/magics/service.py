"""``%balsam_service``."""
# IPython's decorators have no types.
# mypy: disable-error-code="untyped-decorator, no-untyped-call"

from __future__ import annotations

from typing import Any

from IPython.core.magic_arguments import argument

from ..api import Site
from ..service import ServiceReport
from .appcell import pairs

_OPTIONS = (
    argument("verb", choices=("start", "stop", "status"), nargs="?", default="status", help="what to do"),
    argument("--min-nodes", type=int, default=1, help="nodes of an allocation, at least (default 1)"),
    argument("--max-nodes", type=int, help="nodes of all it asks for together (default: all of the site)"),
    argument("-t", "--minutes", type=float, default=60, help="minutes of each allocation (default 60)"),
    argument("-q", "--queue", default="local", help="the queue"),
    argument("-A", "--project", default="local", help="the project that is charged"),
    argument("-j", "--job-mode", default="mpi", help="'mpi' (the default) or 'serial'"),
    argument("--max-queued", type=int, default=1, help="how many allocations may wait for nodes (default 1)"),
    argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="only for tasks with this tag"),
    argument("--wf-filter", default="", metavar="TEXT", help="only for tasks whose ensemble has this in its name"),
    argument("--period", type=float, default=1.0, help="seconds between two allocations, at least (default 1)"),
    argument("--replace", action="store_true", help="with start: stop one that runs with other settings"),
    argument("--revoke", action="store_true", help="with stop: end its allocations, too"),
)


def arguments(magic: Any) -> Any:
    """Give a magic the options of the service."""
    for option in reversed(_OPTIONS):
        magic = option(magic)
    return magic


def act(site: Site, asked: Any) -> ServiceReport:
    """Do what the options say; returns how the service is then."""
    if asked.verb == "stop":
        site.service.stop(asked.revoke)
    elif asked.verb == "start":
        return site.service.start(
            min_nodes=asked.min_nodes,
            max_nodes=asked.max_nodes,
            wall_time_min=asked.minutes,
            job_mode=asked.job_mode,
            max_queued=asked.max_queued,
            filter_tags=pairs(asked.tag, "--tag"),
            wf_filter=asked.wf_filter,
            queue=asked.queue,
            project=asked.project,
            period=asked.period,
            replace=asked.replace,
        )
    return site.service.status()
