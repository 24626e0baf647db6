"""The failed tasks in groups, for views: looked for in a thread of their own, when their number has changed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ..api import Site
from ..failures import SHOWN, Failures
from ..models import Query

MOST = 5_000
"""So many failed tasks are grouped, so that it takes a moment whatever their number."""
_REST = 40.0
"""So many times as long as it took it rests."""

log = logging.getLogger(__name__)


class Groups:
    """Keeps the groups of a view's failed tasks.

    Parameters
    ----------
    site : Site
        Where they are.
    query : Query
        Which tasks.
    found : callable
        Told, in the thread that looked, that there is something new in `shown`.
    """

    def __init__(self, site: Site, query: Query, found: Callable[[], object]) -> None:
        self._site, self._query, self._found = site, query, found
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted = 0
        self._rested = 0.0
        self.shown: dict[str, Any] = {"total": 0, "of": 0, "groups": [], "more": 0}
        """What a page shows: how many have failed, how many of these were looked at, and the largest groups."""

    def look(self, failed: int, wait: bool = False) -> None:
        """Have them looked for, if there are not as many as before.

        Parameters
        ----------
        failed : int
            How many have failed by now.
        wait : bool
            Look now, in this thread.
        """
        with self._lock:
            self._wanted = failed
            if wait:
                self._rested = 0.0
            if failed == self.shown["total"] or self._thread is not None:
                return
            self._thread = threading.Thread(target=self._look, name="balsam-failures", daemon=True)
        if wait:
            self._look()
        else:
            self._thread.start()

    def _look(self) -> None:
        while True:
            time.sleep(max(0.0, self._rested - time.monotonic()))
            began = time.monotonic()
            wanted = self._wanted
            try:
                self.shown = self._group(wanted)
            except Exception as error:  # the engine will answer again, and then the number is compared again
                log.warning("the failures of a view: %s", error)
                wanted = self._wanted
            else:
                self._found()
            took = time.monotonic() - began
            self._rested = began + took + max(1.0, _REST * took)
            with self._lock:
                if wanted == self._wanted:
                    self._thread = None
                    return

    def _group(self, total: int) -> dict[str, Any]:
        failures = Failures.among(self._site, self._query, self._query.ensemble or "", MOST) if total else None
        if failures is None:
            return {"total": 0, "of": 0, "groups": [], "more": 0}
        groups = [
            {"title": one.title, "shape": one.shape, "log": one.log, "example": one.example, "hand": one.run_by_hand}
            for one in failures[:SHOWN]
        ]
        return {"total": total, "of": failures.total, "groups": groups, "more": len(failures) - len(groups)}
