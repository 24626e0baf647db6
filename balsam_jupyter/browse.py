"""Looking through any number of tasks: listings that are paged at any place, put together a little at a time.

A listing is an array of ids, 8 bytes a task. Where all tasks of an ensemble are asked for and their ids are
consecutive, it is a range, and costs nothing. Else it is made from scans, each for as long as who asks lets it:
nothing goes on while nobody asks.
"""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .codec import decode
from .engines.search import Cells, Search
from .filters import NUMBERS, parse
from .models import EventRow, Query

if TYPE_CHECKING:
    from .engines.base import Engine

MOST_ROWS = 200
"""Of one page."""
SLICE_S = 0.1
"""How long one answer may look through tasks."""
MOST_S = 60.0
"""How long a listing may look through tasks altogether; it then says how far it came."""
_TIMES = {"started": "start_time", "ended": "end_time", "submitted": "submit_time"}
_NAMES_AGE_S = 10.0
_RENEW_S = 2.0  # least age of an order of something that changes
_KEPT = 4  # listings
_EVENTS = 5_000  # changes that are followed one by one; after more the listing is made anew
_FIRST_STEP, _LEAST_STEP, _LONGEST_STEP = 5_000, 100, 400_000  # tasks of one scan
_PATIENCE = 20  # a listing in order of something that changes is made anew at most every so many times what it cost


class Page(NamedTuple):
    """Part of a listing.

    `rows` stand at `start` and after; a row whose task was deleted a moment ago is None. `total` is how many
    there are among the first `looked` of `among` tasks, and `complete` whether no more are looked at. `version`
    changes when what was at some position no longer is. `stale` is how many changes the order does not know of.
    """

    start: int
    rows: list[Cells | None]
    total: int
    looked: int
    among: int
    complete: bool
    version: int
    stale: int


class Listing:
    """The tasks that match a search, in its order."""

    def __init__(self, engine: Engine, search: Search) -> None:
        self.engine, self.search = engine, search
        self.cost = 0.0
        self.version = self.stale = 0
        self._by_id = search.order == "id"
        self._keys: list[Any] = []
        self._begin()

    def _begin(self) -> None:
        self._cursor = self.engine.events("now").cursor  # before the first look, so that no change is missed
        self._span = self.engine.span(self.search.query)
        self.ids: Sequence[int] = array("q")
        self._next, self._step = self._span.start, _FIRST_STEP
        if self.search.plain and self._by_id and len(self._span) == sum(self.engine.count(self.search.query).values()):
            self.ids, self._next = self._span, self._span.stop
        self._sorted = self._by_id

    @property
    def among(self) -> int:
        """How many tasks are to be looked through (with those of other ensembles in between)."""
        return len(self._span)

    @property
    def looked(self) -> int:
        """How many have been."""
        return self._next - self._span.start

    @property
    def complete(self) -> bool:
        """Whether all were looked at, or as many as may be, and are in order."""
        return self._sorted and (self._next >= self._span.stop or self.cost >= MOST_S)

    # -- looking ------------------------------------------------------------------------------------------

    def work(self, seconds: float = SLICE_S) -> None:
        """Look further, for about so long; one step at least, so that it comes to an end however slow the store is."""
        deadline = time.monotonic() + seconds
        while not self.complete:
            began = time.monotonic()
            if self._next < self._span.stop and self.cost < MOST_S:
                part = range(self._next, min(self._next + self._step, self._span.stop))
                self._append(part, self.engine.scan(self.search, part))
                self._next = part.stop
            else:
                self._sort()
            took = time.monotonic() - began
            self.cost += took
            if took < seconds / 5:
                self._step = min(2 * self._step, _LONGEST_STEP)
            elif took > seconds:
                self._step = max(self._step // 2, min(self._step, _LEAST_STEP))
            if began + took >= deadline:
                return

    def _append(self, part: range, found: list[tuple[int, Any]]) -> None:
        if isinstance(self.ids, range):
            if len(found) == len(part) and part.start == self.ids.stop:
                self.ids = range(self.ids.start, part.stop)
                return
            self.ids = array("q", self.ids)
        assert isinstance(self.ids, array)
        self.ids.extend([job_id for job_id, _ in found])
        if not self._by_id:
            self._keys += [key for _, key in found]

    def _sort(self) -> None:
        """Once all have been found."""
        self.ids = array("q", ordered(self.ids, self._keys, self.search.descending))
        self._keys = []
        self.version += 1
        self._sorted = True

    # -- following ----------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Take in what has changed since the last look."""
        page = self.engine.events(self._cursor, limit=_EVENTS)
        self._cursor = page.cursor
        if not page.rows and not page.reset:
            return
        if page.reset or len(page.rows) == _EVENTS:
            self._anew()
            return
        newest = max((row.last_id for row in page.rows if row.path[0] == ""), default=0)
        if newest >= self._span.stop:
            if self._by_id:
                self._span = range(self._span.start, newest + 1)
            else:
                self.stale += newest + 1 - self._span.stop
        changed = _changed(page.rows, self.search.plain and self._by_id, range(self._span.start, self._next))
        if changed is None:
            self._anew()
        elif changed and self._by_id:
            self._put(changed)
        elif changed:
            self.stale += len(changed)

    def _anew(self) -> None:
        """There were too many changes to follow."""
        if self._by_id:
            self.version += 1
            self.cost = 0.0
            self._begin()
        else:
            self._cursor = self.engine.events("now").cursor
            self.stale += _EVENTS

    def _put(self, changed: list[int]) -> None:
        """Take in or out the tasks that match, or no longer do."""
        now = {job_id for job_id, _ in self.engine.scan(self.search, changed)}
        moves = []
        for job_id in changed:
            at = bisect_left(self.ids, job_id)
            there = at < len(self.ids) and self.ids[at] == job_id
            if there != (job_id in now):
                moves.append((at, job_id, there))
        if not moves:
            return
        self.version += 1
        self.ids = _spliced(self.ids, moves)


def _changed(rows: Iterable[EventRow], only_gone: bool, known: range) -> list[int] | None:
    """The known ids that changed (of these only those that are gone), ascending; None if there are too many."""
    changed: set[int] = set()
    for row in rows:
        if only_gone and row.path[-1] != "":
            continue
        part = range(max(row.first_id, known.start), min(row.last_id + 1, known.stop))
        if len(part) + len(changed) > 2 * _EVENTS:
            return None
        changed.update(part)
    return sorted(changed)


def _spliced(ids: Sequence[int], moves: list[tuple[int, int, bool]]) -> array[int]:
    """The array without or with each of some ids; in pieces, since to move the rest for each would be slow."""
    new, reached = array("q"), 0
    for at, job_id, out in moves:
        new.extend(ids[reached:at])
        reached = at
        if out:
            reached += 1
        else:
            new.append(job_id)
    new.extend(ids[reached:])
    return new


def ordered(ids: Sequence[int], keys: Sequence[Any], descending: bool = False) -> list[int]:
    """The ids in the order of their keys: numbers, then text, then other values by how they read; None comes last.

    Equal ones stay in the order of their ids.
    """
    numbers: list[int] = []
    texts: list[int] = []
    others: list[int] = []
    last: list[int] = []
    for at, key in enumerate(keys):
        if key is None or key != key:
            last.append(at)
        else:
            (numbers if isinstance(key, (int, float)) else texts if isinstance(key, str) else others).append(at)
    numbers.sort(key=keys.__getitem__, reverse=descending)
    texts.sort(key=keys.__getitem__, reverse=descending)
    others.sort(key=lambda at: repr(keys[at]), reverse=descending)
    groups = [others, texts, numbers] if descending else [numbers, texts, others]
    return [ids[at] for group in (*groups, last) for at in group]


class _Kept(NamedTuple):
    listing: Listing
    made: float
    newer: Listing | None = None
    """Takes its place when it is complete."""


class Browser:
    """Pages of the tasks of an ensemble, or (for "") of a site; keeps the listings that were used last.

    Safe to use from several threads: newer kernels answer a page in a thread of their own while a cell runs.

    Parameters
    ----------
    engine : Engine
        Where they are.
    ensemble : str
        Its name.
    generation : int or None
        Of that name; None: the newest.
    """

    def __init__(self, engine: Engine, ensemble: str = "", generation: int | None = None) -> None:
        self.engine, self.ensemble, self.generation = engine, ensemble or None, generation
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._versions = 0
        self._lock = threading.Lock()
        self._names: tuple[float, list[str]] = float("-inf"), []

    def names(self) -> list[str]:
        """The names of the parameters of these tasks: of the first one, and of their apps."""
        read, known = self._names
        if time.monotonic() - read > _NAMES_AGE_S:
            first = self.engine.cells(self.engine.span(Query(ensemble=self.ensemble, generation=self.generation))[:1])
            apps = [app for app in self.engine.apps() if not self.ensemble or (first and app.name == first[0].app_name)]
            passed = shown_parameters(first[0].parameters) if first else {}
            known = list(dict.fromkeys([*passed, *(name for app in apps for name in app.parameters)]))
            self._names = time.monotonic(), known
        return known

    def search(self, line: str = "", states: Sequence[str] = (), order: str = "id", descending: bool = False) -> Search:
        """The search for what was typed; `order` is a name that `filters.NUMBERS` has, ``"state"`` or a parameter's.

        Raises
        ------
        BadInput
            If a condition cannot be.
        """
        column = (
            NUMBERS.get(order) or _TIMES.get(order) or (order if order in ("id", "state") else f"parameter.{order}")
        )
        if column == "row" and self.ensemble:
            column = "id"  # rows are in the order of their ids
        found = parse(line, self.names(), states)
        return found.search(self.ensemble, self.generation, column, descending)

    def page(self, search: Search, start: int, number: int, seconds: float = SLICE_S) -> Page:
        """The tasks at some positions as they are now, after having looked further for at most so many seconds."""
        with self._lock:
            listing = self._listing(search, seconds)
            total = len(listing.ids)
            start = max(0, min(start, total))
            stop = min(start + min(number, MOST_ROWS), total)
            backwards = search.descending and search.order == "id"
            ids = list(listing.ids[total - stop : total - start])[::-1] if backwards else list(listing.ids[start:stop])
            found = Page(
                start, [], total, listing.looked, listing.among, listing.complete, listing.version, listing.stale
            )
        cells = {one.id: one for one in self.engine.cells(ids)} if ids else {}
        return found._replace(rows=[cells.get(job_id) for job_id in ids])

    def ids(self, search: Search) -> Sequence[int] | None:
        """All that match, in no particular order; None as long as not all were looked at."""
        with self._lock:
            listing = self._listing(search, SLICE_S)
            return listing.ids if listing.complete else None

    def _listing(self, search: Search, seconds: float) -> Listing:
        key, now = repr(search), time.monotonic()
        kept = self._kept.pop(key, None) or _Kept(self._new(search), now)
        kept.listing.follow()
        if kept.newer is None and _is_old(kept, now):
            kept = kept._replace(newer=self._new(search))
        if kept.newer is not None:
            kept.newer.follow()
            kept.newer.work(seconds)
            if kept.newer.complete:
                kept = _Kept(kept.newer, now)
        else:
            kept.listing.work(seconds)
        self._kept[key] = kept
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return kept.listing

    def _new(self, search: Search) -> Listing:
        listing = Listing(self.engine, search)
        self._versions += 1_000_000  # so that no two listings have a version in common
        listing.version = self._versions
        return listing


def _is_old(kept: _Kept, now: float) -> bool:
    listing = kept.listing
    return listing.complete and listing.stale > 0 and now - kept.made > max(_RENEW_S, _PATIENCE * listing.cost)


def shown_parameters(stored: str | bytes | None) -> dict[str, Any]:
    """Parameters as stored; nothing where this process cannot read them."""
    try:
        found = decode(stored)
    except Exception:  # of a class that this process does not have
        return {}
    return found if isinstance(found, dict) else {}
