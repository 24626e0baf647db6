"""The site's accounts: what it has spent, what it may spend, what its jobs need."""

from __future__ import annotations

import math
import sqlite3
import sys
from typing import TYPE_CHECKING, Protocol

from ...accounts import Load, Run, Usage, check_allocation
from ...models import AllocationRequest, Query, Resources
from . import checks
from .launcher.placement import footprint
from .site import Settings
from .store import Store, demand, records, spending

if TYPE_CHECKING:
    from .engine import EmbeddedEngine


class _Kept(Protocol):
    """An engine with a store here."""

    @property
    def store(self) -> Store: ...

    @property
    def settings(self) -> Settings: ...


class StoreAccounts:
    """What a store tells. See `engines.base.Accounts` for what the calls do."""

    def __init__(self, engine: _Kept) -> None:
        self._engine = engine

    def limit(self) -> float | None:
        """How many node-hours the site may use; None: any."""
        return None

    def usage(self) -> Usage:
        return spending.usage(self._engine.store.con, self.limit())

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


class SiteAccounts(StoreAccounts):
    """The accounts of a site on this machine."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        super().__init__(engine)
        self._site, self._path, self._name = engine, engine.path, engine.site.name

    def limit(self) -> float | None:
        """The site's `max_node_hours` as its settings say now."""
        limit = Settings.read(self._path / "settings.yml").max_node_hours
        return None if limit == math.inf else limit

    def check(self, request: AllocationRequest) -> None:
        checks.request(self._site, request)
        check_allocation(self.usage(), request.num_nodes, request.wall_time_min, request.max_node_hours, self._name)

    def book(self, con: sqlite3.Connection, request: AllocationRequest) -> int:
        """Store an allocation and return its id, unless it could take the site over a limit.

        The check is made in the transaction that stores it, so that two who ask at once cannot both have the rest.
        """
        usage = spending.usage(con, self.limit())
        check_allocation(usage, request.num_nodes, request.wall_time_min, request.max_node_hours, self._name)
        return records.add_allocation(con, request)
