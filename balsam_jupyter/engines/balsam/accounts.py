"""What a remote site has spent, as far as its allocations tell, and what its jobs will."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...accounts import Load, Usage, check_allocation
from ...models import AllocationRequest, Query
from ..embedded.accounts import StoreAccounts
from . import truth

if TYPE_CHECKING:
    from .engine import BalsamEngine


class RemoteAccounts(StoreAccounts):
    """The accounts of a site by its mirror, brought up to date."""

    def __init__(self, engine: BalsamEngine) -> None:
        super().__init__(engine)
        self._remote = engine

    def usage(self) -> Usage:
        self._remote.refresh()
        return super().usage()

    def loads(self, query: Query) -> list[Load]:
        self._remote.refresh()
        return super().loads(query)

    def check(self, request: AllocationRequest) -> None:
        minutes = truth.request(self._remote, request)["wall_time_min"]
        check_allocation(self.usage(), request.num_nodes, minutes, request.max_node_hours, self._remote.site.name)

    def queues(self) -> list[str]:
        return list(self._remote.queues())

    def projects(self) -> list[str]:
        return list(self._remote.remote_site().get("allowed_projects") or ())
