"""What an engine with a store here does for views of many jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...models import Query
from ..search import Cells, Search
from .store import Store, pages


class PageCalls:
    """Pages of jobs. See `engines.base.Engine` for what the calls do."""

    store: Store

    def span(self, query: Query) -> range:
        return pages.span(self.store.con, query)

    def scan(self, search: Search, ids: range | Sequence[int]) -> list[tuple[int, Any]]:
        return pages.scan(self.store.con, search, ids)

    def cells(self, ids: Sequence[int]) -> list[Cells]:
        return pages.cells(self.store.con, ids)
