"""What the magics say about node-hours: of a site, and of an allocation before it is asked for."""

from __future__ import annotations

from typing import Any

from ..accounts import node_hours
from ..api import Site
from ..api_check import allocation_request
from .report import MOST_ROWS, Report, Table
from .session import Session


def of_site(session: Session) -> Report:
    """What the site has used, and each of its ensembles, the one begun last first."""
    used = session.site.engine.usage()
    ensembles = session.executor.ensembles()[::-1]
    rows = []
    for ensemble in ensembles[:MOST_ROWS]:
        cost = ensemble.cost()
        asked = "unknown" if cost.node_hours is None else node_hours(cost.node_hours)
        rows.append([ensemble.name, ensemble.app_name, node_hours(cost.used_node_hours), cost.tasks, asked])
    columns = ["ensemble", "app", "used", "tasks to run", "they ask for"]
    table = [Table(columns, rows, len(ensembles))] if rows else []
    return Report(f"Site {session.site.name!r}: {used}", table)


def of_allocation(site: Site, **wanted: Any) -> Report:
    """The price of an allocation; nothing is asked for.

    Raises
    ------
    BadInput
        If it cannot be, or could take the site over a limit.
    """
    request = allocation_request(site.engine.site, **wanted)
    used = site.engine.usage()
    site.engine.accounts.check(request)
    nodes = "1 node" if request.num_nodes == 1 else f"{request.num_nodes} nodes"
    price = node_hours(request.num_nodes * request.wall_time_min / 60)
    return Report(
        f"Dry run: {nodes} for {request.wall_time_min:g} min, {price}; nothing was asked for.",
        lines=[f"Site {site.name!r}: {used}"],
    )
