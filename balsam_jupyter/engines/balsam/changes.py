"""Keeping the mirror up to date: what changed at the service since, in at most three requests.

The truth is the jobs by their last update, with overlap (a change can be stored later than its time says), and their
numbers by state, one of which is compared at a time: where it differs twice, all jobs are read anew. Events are only
asked for by job, for the times and errors that jobs themselves do not have.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import BadInput, BalsamJupyterError, NoAnswer, NotFound, NotSignedIn, ServiceError
from ..embedded.store import records
from . import apps, mirror, queue, transfers, wire
from .mirror import Mirror
from .news import Apply
from .rest import IDS, PAGE, Rest
from .story import by_job

log = logging.getLogger(__name__)

PERIOD_S, IDLE_S = 2.0, 10.0
"""Least time between two looks at the service, and most while nothing changes and somebody waits."""
OVERLAP_S = 6.0
_SITE_S = 30.0
_STATES = ("", "JOB_FINISHED", "FAILED", "RUNNING", "PREPROCESSED", "STAGED_IN", "RESTART_READY", "RUN_DONE",
           "AWAITING_PARENTS", "READY", "RUN_ERROR", "RUN_TIMEOUT", "POSTPROCESSED", "STAGED_OUT")  # fmt: skip


@dataclass
class Silence:
    """Since when (monotonic seconds) the service has not answered, and why."""

    since: float
    error: BalsamJupyterError


class Changes:
    """Looks at one site, for all threads of this process: one at a time, and no more often than it may."""

    def __init__(self, rest: Rest, store: Mirror, site_id: int, settle: Callable[[], int]) -> None:
        self._rest, self._store, self._site = rest, store, site_id
        self._settle = settle
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._put_off = False
        self._pause = PERIOD_S
        self._turn = 0
        self._suspect = ""  # the state whose number differs from the service's
        self._site_read = float("-inf")
        self._app_read: dict[int, float] = {}  # when (monotonic), by id
        self._offset = 0
        self._behind = False
        self._odd: dict[tuple[str, int], int] = {}  # ensembles of which the service counts jobs that are no rows here
        self._generation = 0
        self.answered = time.monotonic()
        """When the service last gave a good answer (monotonic seconds)."""
        self.silence: Silence | None = None

    def after_fork(self) -> None:
        """In a forked child: the thread that may have held the lock stayed in the parent."""
        self._lock = threading.Lock()

    def due_in(self) -> float:
        """Seconds until somebody who waits looks again."""
        return max(0.0, self._looked + self._pause - time.monotonic())

    def hurry(self) -> None:
        """Something was asked of the service: its effect is looked for soon."""
        self._pause = PERIOD_S

    def seen(self) -> None:
        """What was submitted is in the mirror: the next look need not be at once (put off once, not for ever)."""
        if not self._put_off:
            self._looked, self._put_off = time.monotonic(), True
        self.hurry()

    def look(self, now: bool = False, patience: float = 0.0) -> None:
        """Look, unless that was done less than 2 s ago (`now`: all the same). What goes wrong is kept as `silence`.

        Raises
        ------
        NoAnswer, NotSignedIn
            If nothing was ever read of the site.
        """
        generation = self._generation
        with self._lock:
            recent = time.monotonic() - self._looked < PERIOD_S and self._store.note("since") is not None
            if (recent and not now) or (now and self._generation != generation and recent):
                return
            try:
                changed = self._understood(patience)
                if self.silence is not None:
                    log.warning("%s answers again.", self._rest.address)
                self.silence = None
                self.answered = time.monotonic()
                self._pause = PERIOD_S if changed or self._behind else min(1.5 * self._pause, IDLE_S)
            except BalsamJupyterError as error:  # also a refusal: the site is gone, or the service is another version
                if self.silence is None:
                    self.silence = Silence(self.answered, error)
                    if self._store.note("since") is not None:
                        log.warning("%s What is known of the site stays; it goes on when it answers again.", error)
                self.silence.error = error
                self._pause = min(1.5 * self._pause, IDLE_S)
                if self._store.note("since") is None:
                    raise
            finally:
                self._generation += 1
                self._looked, self._put_off = time.monotonic(), False

    def _understood(self, patience: float) -> int:
        try:
            return self._poll(patience)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.debug("a poll", exc_info=True)
            raise ServiceError(
                f"{self._rest.address} gave an answer that cannot be understood ({type(error).__name__}: {error}): is "
                "it another version of Balsam?"
            ) from error

    def check(self, ensemble: str, generation: int) -> bool:
        """Have all rows of an ensemble here, also what another machine submitted or somebody deleted just now.

        Whether there was any such. Where their numbers differ, what changed is read; if they still do, all jobs are.
        """
        tags = [("tags", f"{wire.ENSEMBLE}:{ensemble}"), ("tags", f"{wire.GENERATION}:{generation}")]
        place = ensemble, generation
        for missed in (self.catch_up, self._resync_now):
            there, _ = self._rest.page("/jobs/", [("site_id", self._site), *tags, ("limit", 0)])
            if there - mirror.rows(self._store.con, *place) == self._odd.get(place, 0):
                return missed != self.catch_up
            missed()
        self._odd[place] = there - mirror.rows(self._store.con, *place)
        return True

    def catch_up(self) -> None:
        """Look until all is read that has changed up to now."""
        self.look(now=True)
        while self._offset and self.silence is None:
            self.look(now=True)

    def _resync_now(self) -> None:
        with self._lock:
            self.resync()

    def _poll(self, patience: float) -> int:
        if self._store.note("since") is None:
            self.resync()
            return 1
        changed, left = self._changed_jobs(patience)  # of the three requests, one is made
        self._turn += 1
        if left and time.monotonic() - self._site_read > _SITE_S:
            self._read_site(patience)
            left -= 1
        if self._turn == 1:  # whoever opens the site is told of allocations that were asked for elsewhere
            turns = (1, 0) if queue.any_live(self._store.con) else (0,)
            changed += sum(queue.read(self._rest, self._store, self._site, patience, turn) for turn in turns)
            left = max(0, left - len(turns))
        elif left and (changed or self._turn % 4 == 0 or queue.any_live(self._store.con)):
            changed += queue.read(self._rest, self._store, self._site, patience, self._turn)
            left -= 1
        if left and self._turn % 2 == 0 and (states := transfers.waiting(self._store.con)):
            changed += transfers.fail(self._rest, self._store, self._site, states[self._turn // 2 % len(states)])
            left -= 1
        if left and (self._suspect or self._turn % 2):
            self._compare(patience)
            left -= 1
        if left and (pending := mirror.untold(self._store.con, IDS)):
            changed += self._tell(pending, patience)
            self._behind = self._behind or len(pending) == IDS
        return changed + self._settle()

    def _changed_jobs(self, patience: float) -> tuple[int, int]:
        """Take in what changed; how many jobs, and how many more requests may be made."""
        since = self._store.note("since")
        params = [("site_id", self._site), ("last_update_after", wire.utc(since)), ("ordering", "id"), ("limit", PAGE)]
        asked = self._clock()
        count, rows = self._rest.page("/jobs/", [*params, ("offset", self._offset)], patience)
        asked = self._rest.clock or asked
        taken = self._take(rows)  # only then is it not asked for again
        self._behind = self._offset + len(rows) < count
        if self._behind:
            self._offset += len(rows)
        else:
            self._offset = 0
            with self._store.transaction() as con:
                mirror.keep(con, "since", max(since, asked - OVERLAP_S))
        return taken

    def _clock(self) -> float:
        return self._rest.clock or time.time()

    def _take(self, rows: list[dict[str, Any]]) -> tuple[int, int]:
        """Take in changed jobs, with their events; how many there are, and how many more requests may be made."""
        before = mirror.known(self._store.con, (row["id"] for row in rows))
        news = [row for row in rows if row["id"] not in before or before[row["id"]].last_update != wire.stamp(row)]
        if not news:
            return 0, 2
        self.learn_apps(news)
        # Few: their events come along, so that what is told of them is whole at once.
        ids = [row["id"] for row in news if row["state"] not in ("STAGED_IN", "AWAITING_PARENTS", "READY")]
        events = by_job(self._events(ids)) if 0 < len(ids) <= IDS else {}
        with self._store.transaction() as con:
            apply = Apply(con, time.time())
            apply.jobs(news, events)
            apply.done()
        left = 1 if events else 2
        elsewhere = [row for row in news if row["id"] not in before]
        return apply.changed, max(0, left - transfers.learn(self._rest, self._store, self._site, elsewhere))

    def _events(self, ids: Iterable[int], patience: float = 0.0) -> list[dict[str, Any]]:
        wanted = [("job_id", one) for one in ids]
        return self._rest.page("/events/", [*wanted, ("limit", 20 * IDS), ("ordering", "timestamp")], patience)[1]

    def _tell(self, ids: list[int], patience: float) -> int:
        events = by_job(self._events(ids, patience))
        with self._store.transaction() as con:
            apply = Apply(con, time.time())
            apply.told(events, ids)
        return apply.changed

    def tell(self, ids: Iterable[int]) -> None:
        """Read the events of these jobs, as far as they were not: somebody asks for times and errors."""
        wanted = [*ids]
        try:
            while pending := mirror.untold(self._store.con, IDS, wanted):
                self._tell(pending, 0.0)
                wanted = [one for one in wanted if one not in set(pending)] if len(pending) == IDS else []
        except (NoAnswer, NotSignedIn):
            return  # the next look says so

    def _compare(self, patience: float) -> None:
        """Compare one number; a difference that is there twice means that something was missed."""
        state = _STATES[self._turn // 2 % len(_STATES)]
        if self._suspect:
            state = "" if self._suspect == "all" else self._suspect
        params: list[tuple[str, Any]] = [("site_id", self._site), ("limit", 0)]
        count, _ = self._rest.page("/jobs/", [*params, *([("state", state)] if state else [])], patience)
        here = mirror.counts(self._store.con)
        mine = here.get(state, 0) if state else sum(here.values())
        if count == mine:
            self._suspect = ""
        elif self._suspect == (state or "all"):  # twice
            self.resync()
            self._suspect = ""
        else:
            self._suspect = state or "all"

    def _read_site(self, patience: float) -> None:
        try:
            record = self._rest.get(f"/sites/{self._site}", patience=patience)
        except NotFound:
            raise NotFound(f"{self._rest.address} has this site no more: somebody deleted it there.") from None
        with self._store.transaction() as con:
            mirror.keep(con, "site", record)
        self._site_read = time.monotonic()

    def learn_apps(self, rows: Iterable[dict[str, Any]]) -> None:
        """Read the apps anew if one of these jobs is of one that is not known."""
        if {row["app_id"] for row in rows} - {number for (number,) in self._store.con.execute("SELECT id FROM app")}:
            apps.read(self._rest, self._store, self._site)

    def read_app(self, app_id: int) -> None:
        """Look whether an app is still as it is known here, unless that was done just now.

        Raises
        ------
        BadInput
            If another machine has changed it since; from now on it is known as it is there.
        """
        if time.monotonic() - self._app_read.get(app_id, float("-inf")) < _SITE_S:
            return
        try:
            there = apps.record(self._rest.get(f"/apps/{app_id}", patience=0.0))
        except (NoAnswer, NotSignedIn):
            return  # what comes next says so
        except NotFound:
            raise NotFound(f"App {app_id} was deleted at the service: register it again.") from None
        here = next((one for one in records.apps(self._store.con) if one.id == app_id), there)
        self._app_read[app_id] = time.monotonic()
        if not apps.same(here, there):
            apps.put(self._store, there)
            raise BadInput(
                f"App {there.name} was changed from another machine since it was read here. Nothing was stored: the "
                "same again takes it as it is there; to have yours, register it first."
            )

    def resync(self) -> None:
        """Read all jobs of the site: at the beginning, and where something was missed."""
        began = self._clock()
        self._read_site(1.0)
        apps.read(self._rest, self._store, self._site)
        ids: set[int] = set()
        for rows in self._rest.all("/jobs/", [("site_id", self._site), ("ordering", "id")]):
            ids.update(row["id"] for row in rows)
            self.learn_apps(rows)
            with self._store.transaction() as con:
                apply = Apply(con, time.time())
                apply.jobs(rows, places=True)
                apply.done()
        with self._store.transaction() as con:
            here = {job_id for (job_id,) in con.execute("SELECT id FROM job")}
            Apply(con, time.time()).gone(here - ids)
            mirror.keep(con, "since", min(began, self._clock()) - OVERLAP_S)
        transfers.learn(self._rest, self._store, self._site)
        queue.read_all(self._rest, self._store, self._site)
