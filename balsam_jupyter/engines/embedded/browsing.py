"""What the engine does for views of many jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...models import Query
from ..search import Cells, Search
from . import files
from .store import Store, pages


class PageCalls:
    """Pages of jobs, and of their logs. See `engines.base.Engine` for what the calls do."""

    store: Store
    _workdir: Callable[[int], Path]

    def span(self, query: Query) -> range:
        return pages.span(self.store.con, query)

    def scan(self, search: Search, ids: range | Sequence[int]) -> list[tuple[int, Any]]:
        return pages.scan(self.store.con, search, ids)

    def cells(self, ids: Sequence[int]) -> list[Cells]:
        return pages.cells(self.store.con, ids)

    def output_size(self, job_id: int) -> int:
        return files.log_size(self._workdir(job_id))
