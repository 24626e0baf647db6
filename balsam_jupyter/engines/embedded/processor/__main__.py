"""The processor of a site: ``python -m balsam_jupyter.engines.embedded.processor --site PATH``.

One process for each site while there is work for it. It checks out jobs that wait for a hook or a transfer, a few
hands (threads, each with a warm Python process for hooks) carry them through their stages, and what came of it is
committed in groups. When it dies, its jobs go back to the state they were stored in, so a hook may run again.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....errors import SiteError
from ....models import AppRecord, JobRow, Query
from .. import detached, processes, trash
from ..doorbell import Bell, Listener, readable, runtime_folder
from ..launcher.__main__ import forget_python_path
from ..launcher.prepare import clean_environment
from ..sessions import Session
from ..site import Settings
from ..store import Store, flow, jobs, records, work
from ..store.flow import Step
from ..store.schema import StoreBusy
from ..store.work import Fenced
from .hand import Hand

log = logging.getLogger("balsam_jupyter.processor")

IDLE_S = 5.0  # it ends when there has been nothing to do for so long
GROUP_S = 0.02  # steps wait this long at most for their commit while more are coming
TICK_S = 1.0  # fallback for rings that got lost
STOCK = 64  # jobs taken at a time
MOST_HANDS = 8


class Processor:
    """Checks out, hands out, commits. The hands call `next`, `post` and `done`; all else is the main thread's."""

    def __init__(self, site: Path, store: Store, settings: Settings, session: Session) -> None:
        self.site, self.store, self.session = site, store, session
        self.environment = clean_environment() | {"BALSAM_SESSION": session.mark, "BALSAM_JUPYTER_SITE": str(site)}
        self.bell, self.ear = Bell(runtime_folder(site)), Listener(runtime_folder(site))
        self.changed = threading.Condition()
        self.queue: deque[tuple[JobRow, AppRecord]] = deque()
        self.posted: list[tuple[Step, Mapping[str, Any]]] = []
        self.active: dict[int, Hand] = {}
        self.stopping = ""
        self.has_trash = False
        self.apps: dict[int, tuple[int, AppRecord]] = {}
        self.waker_in, self.waker_out = os.pipe()
        os.set_blocking(self.waker_in, False)
        os.set_blocking(self.waker_out, False)
        self.hands = [Hand(self, number) for number in range(min(MOST_HANDS, max(2, settings.cores_per_node)))]

    # -- what hands call ----------------------------------------------------------------------------------

    def next(self, hand: Hand) -> tuple[JobRow, AppRecord] | None:
        """The next job for this hand; None when it is time to go."""
        with self.changed:
            while not self.queue and not self.stopping:
                self.changed.wait()
            if self.stopping:
                return None
            task = self.queue.popleft()
            self.active[task[0].id] = hand
            return task

    def post(self, step: Step, edits: Mapping[str, Any]) -> None:
        """Leave to the next commit what came of a stage."""
        with self.changed:
            self.posted.append((step, edits))
        self.wake()

    def done(self, job: int) -> None:
        with self.changed:
            self.active.pop(job, None)
        self.wake()

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self.waker_out, b"!")

    # -- the loop -----------------------------------------------------------------------------------------

    def run(self) -> str:
        """Until there is nothing left to do, or it is told to stop; returns the reason."""
        for hand in self.hands:
            hand.start()
        busy_at = last_look = time.monotonic()
        news = True
        while not self.stopping:
            self.session.beat(self.store)
            now = time.monotonic()
            if news or now - last_look >= TICK_S:
                last_look, news = now, False
                self.look_for_kills()
            if self.commit() or self.queue or self.active or self.posted:
                busy_at = time.monotonic()
            elif now - busy_at >= IDLE_S:
                return f"nothing to do for {IDLE_S:g} s"
            patience = 0.0 if self.posted else TICK_S
            ready = readable(patience, self.ear.fileno(), self.waker_in)
            news = self.ear.fileno() in ready and self.ear.drain()
            if self.waker_in in ready:
                os.read(self.waker_in, 4096)
            if self.queue:  # more is coming
                time.sleep(GROUP_S)
        return self.stopping

    def commit(self) -> bool:
        """Write down what was done and fetch what is next, in one transaction; whether there was anything."""
        with self.changed:
            posted, self.posted = self.posted, []
            room = len(self.queue) < STOCK // 2
        want = room and not self.stopping and flow.any_due(self.store.con)
        if not posted and not want:
            return False
        try:
            with self.store.transaction() as con:
                work.require_open(con, self.session.id)
                for step, edits in posted:
                    if edits:
                        jobs.edit(con, [step.job_id], edits, self.session.id)
                flow.commit_steps(con, self.session.id, [step for step, _ in posted])
                taken = flow.check_out_due(con, self.session.id, STOCK) if want else []
        except (StoreBusy, OSError) as error:
            log.warning("the store could not be written, trying again: %s", error)
            with self.changed:
                self.posted[:0] = posted
            time.sleep(GROUP_S)
            return True
        if taken:
            fresh = [(row, self.app(row.app_id)) for row in jobs.select(self.store.con, Query(ids=tuple(taken)))]
            with self.changed:
                self.queue.extend(fresh)
                self.changed.notify_all()
        if self.has_trash:
            self.has_trash = False
            trash.ensure(self.site)
        if posted:
            self.bell.ring(but=self.ear)
        if any(step.let_go for step, _ in posted):
            self.wake()
        return True

    def app(self, app_id: int) -> AppRecord:
        """The app as it is now."""
        changes = records.app_changes(self.store.con, app_id)
        if app_id not in self.apps or self.apps[app_id][0] != changes:
            self.apps[app_id] = changes, records.apps(self.store.con, app_id)[0]
        return self.apps[app_id][1]

    def look_for_kills(self) -> None:
        for job, wait in work.kills(self.store.con, self.session.id):
            with self.changed:
                waiting = next((task for task in self.queue if task[0].id == job), None)
                if waiting is not None:
                    self.queue.remove(waiting)
                    self.posted.append((Step(job, (waiting[0].state, "USER_KILLED")), {}))
                hand = self.active.get(job)
            if hand is not None:
                hand.kill(job, None if wait < 0 else wait)

    def stop(self, reason: str) -> None:
        self.stopping = reason
        self.wake()

    def close(self) -> None:
        """End the hooks that run, and give back what is not done."""
        with self.changed:
            self.stopping = self.stopping or "closing"
            self.changed.notify_all()
        for hand in self.hands:
            hand.close()
        processes.end([{"BALSAM_SESSION": self.session.mark}], 0)
        for hand in self.hands:
            hand.join()
        self.commit()
        with self.store.transaction() as con:
            work.require_open(con, self.session.id)
            held = flow.give_back(con, self.session.id)
        self.session.close(self.store)
        if held:
            self.bell.ring()
        self.ear.close()
        self.bell.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="processor", description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    site = parser.parse_args().site
    forget_python_path()
    detached.inherited_lock()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s", stream=sys.stderr)
    store = Store(site / "balsam.db")
    try:
        settings = Settings.read(site / "settings.yml")
    except SiteError as error:  # whoever sees what is due tries again
        log.error("%s", error)
        return 1
    session = Session(site, store, None, "processor")
    processor = Processor(site, store, settings, session)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: processor.stop(f"it received {signal.Signals(n).name}"))
    log.info("processor: session %d, %d hands", session.id, len(processor.hands))
    try:
        reason = processor.run()
        processor.close()
    except Fenced:
        log.error("another process has taken over from this session; leaving")
        return 0
    log.info("ending: %s", reason)
    store.checkpoint()
    return 0


if __name__ == "__main__":
    sys.exit(main())
