"""What a remote site has spent, as far as its allocations tell, and what its jobs will."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...accounts import Load, Usage
from ...models import Query
from ..embedded.accounts import StoreAccounts

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

    def queues(self) -> list[str]:
        return list(self._remote.queues())

    def projects(self) -> list[str]:
        return list(self._remote.remote_site().get("allowed_projects") or ())
