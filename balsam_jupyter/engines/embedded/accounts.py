"""The site's accounts: what it has spent, what it may spend, what its jobs need."""

from __future__ import annotations

import math
import sqlite3
import sys
from typing import TYPE_CHECKING

from ...accounts import Load, Run, Usage, check_allocation
from ...models import AllocationRequest, Query, Resources
from .launcher.placement import footprint
from .site import Settings
from .store import demand, records, spending

if TYPE_CHECKING:
    from .engine import EmbeddedEngine


class SiteAccounts:
    """See `engines.base.Accounts` for what the calls do."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        self._engine = engine

    def usage(self) -> Usage:
        return spending.usage(self._engine.store.con, self.limit())

    def limit(self) -> float | None:
        """The site's `max_node_hours` as its settings say now."""
        limit = Settings.read(self._engine.path / "settings.yml").max_node_hours
        return None if limit == math.inf else limit

    def loads(self, query: Query) -> list[Load]:
        return spending.loads(self._engine.store.con, query)

    def ahead(self) -> list[Load]:
        con = self._engine.store.con
        waiting = [
            Load(group.app_name, "PREPROCESSED", group.resources, group.tags, group.number)
            for group in demand.waiting(con, sys.maxsize)
        ]
        return spending.running(con) + waiting

    def runs(self, app_name: str, most: int) -> list[Run]:
        return spending.runs(self._engine.store.con, app_name, most)

    def footprint(self, wants: Resources) -> float:
        return footprint(wants, self._engine.settings)

    def queues(self) -> list[str]:
        return ["local"]

    def projects(self) -> list[str]:
        return []

    def book(self, con: sqlite3.Connection, request: AllocationRequest) -> int:
        """Store an allocation and return its id, unless it could take the site over a limit.

        The check is made in the transaction that stores it, so that two who ask at once cannot both have the rest.
        """
        usage = spending.usage(con, self.limit())
        name = self._engine.site.name
        check_allocation(usage, request.num_nodes, request.wall_time_min, request.max_node_hours, name)
        return records.add_allocation(con, request)
