"""What a remote site has spent, as far as its allocations tell, and what its jobs will."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ...accounts import Load, Run, Usage
from ...models import Query, Resources
from ..embedded.launcher.placement import footprint
from ..embedded.store import demand, spending

if TYPE_CHECKING:
    from .engine import BalsamEngine


class RemoteAccounts:
    """See `engines.base.Accounts` for what the calls do."""

    def __init__(self, engine: BalsamEngine) -> None:
        self._engine = engine

    def usage(self) -> Usage:
        self._engine.refresh()
        return spending.usage(self._engine.store.con, None)

    def loads(self, query: Query) -> list[Load]:
        self._engine.refresh()
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
        return list(self._engine.queues())

    def projects(self) -> list[str]:
        return list(self._engine.remote_site().get("allowed_projects") or ())
