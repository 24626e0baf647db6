"""The launcher's loop: check out, feed the slots, collect, commit in groups, stop gracefully.

One thread does everything; threads beside it only end processes and wait for locks, and report through
`Pilot.later`, so that nothing here needs a lock of its own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..doorbell import Bell, Listener, runtime_folder
from ..recovery import Recovery
from ..sessions import Session
from ..site import Settings
from ..store import Store, records, work
from ..store.schema import StoreBusy
from ..store.work import End, Work
from .ending import Endings
from .prepare import App, Preparer, clean_environment
from .slot import Channel, Slot

log = logging.getLogger("balsam_jupyter.launcher")

GROUP_S = 0.05  # results wait this long at most for their commit while more are coming
TICK_S = 1.0  # fallback for rings that got lost
AHEAD_S = 0.06  # a slot is given work for about so long
BROKEN_S = 10.0  # a Python that did not start is not tried again for so long
STOCK_S = 0.15  # and the launcher holds work for about so long


class Job:
    """A job this launcher holds."""

    __slots__ = ("app", "channel", "kill_wait", "killing", "over", "slot", "state", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.app: App | None = None
        self.slot: Slot | None = None
        self.channel: Channel | None = None
        self.state = work.state  # as stored
        self.killing = False
        self.kill_wait: float | None = None  # seconds from SIGTERM to SIGKILL; None: never
        self.over: threading.Event | None = None  # for who kills it: it has ended, or was given back

    def is_over(self) -> None:
        if self.over is not None:
            self.over.set()


class Pilot:
    """Runs one allocation's jobs until there is a reason to stop."""

    def __init__(
        self, site: Path, store: Store, settings: Settings, session: Session, allocation_id: int, slots: int
    ) -> None:
        self.site, self.store, self.settings, self.session = site, store, settings, session
        self.data = f"{site}/data/"
        self.allocation_id = allocation_id
        request = records.allocation(store.con, allocation_id).request
        self.filter_tags = dict(request.filter_tags)
        self.deadline = time.monotonic() + (records.allocation(store.con, allocation_id).remaining_s or 0.0)
        self.bell, self.ear = Bell(runtime_folder(site)), Listener(runtime_folder(site))
        self.environment = clean_environment()
        self.preparer = Preparer(self.environment)
        self.recovery = Recovery(site, store, self.bell)
        self.slots: list[Slot] = []
        self.slots_wanted = slots
        self.poll = select.poll()
        self.channels: dict[int, tuple[Slot, Channel]] = {}
        self.jobs: dict[int, Job] = {}
        self.backlog: deque[int] = deque()
        self.broken: dict[tuple[Any, ...], tuple[float, str]] = {}  # Pythons that do not start: until when, and why
        self.apps: dict[int, tuple[int, App]] = {}
        self.current_apps: set[int] = set()  # looked at since the last news
        self.tags: dict[int, dict[str, str]] = {}  # of every spec
        self.spec_ids: list[int] = []  # the specs whose tags match this allocation's
        self.starts: dict[int, float] = {}
        self.ends: list[End] = []
        self.released: list[int] = []
        self.mean_s = 0.0  # of recent runs, an exponential average
        self.news = True  # something in the store may concern this launcher
        self.more = True  # and there may be jobs to run
        self.stopping = ""
        self.folded = True  # the write-ahead log holds nothing of ours
        self.last_commit = self.last_tick = 0.0
        self.idle_since = time.monotonic()
        self.calls: deque[Callable[[], None]] = deque()
        self.waker_in, self.waker_out = os.pipe()
        os.set_blocking(self.waker_in, False)
        os.set_blocking(self.waker_out, False)
        self.endings = Endings(self)
        for fd in (self.ear.fileno(), self.waker_in):
            self.poll.register(fd, select.POLLIN)

    # -- the loop -----------------------------------------------------------------------------------------

    def run(self) -> str:
        """Until idle, out of wall time, revoked or told to stop; returns the reason."""
        self.recover()
        while True:
            for fd, _ in self.poll.poll(self.patience() * 1000):
                self.serve(fd)
            while self.calls:
                self.calls.popleft()()
            now = time.monotonic()
            if now - self.last_tick >= TICK_S:
                self.last_tick = now
                self.news = True
                self.recover()
                if not self.jobs and not self.folded:
                    self.store.checkpoint()
                    self.folded = True
            if now >= self.deadline:
                self.stop("its wall time is over")
            if self.commit_due(now):
                self.commit()
            self.feed()
            if self.stopping and not self.jobs and not self.uncommitted:
                return self.stopping
            if self.jobs or self.starts:
                self.idle_since = now
            elif now - self.idle_since >= self.settings.idle_time_s and not self.more:
                self.stop(f"nothing to run for {self.settings.idle_time_s:g} s")

    def later(self, call: Callable[[], None]) -> None:
        """Have the loop make this call; for other threads and signal handlers."""
        self.calls.append(call)
        with contextlib.suppress(BlockingIOError):
            os.write(self.waker_out, b"!")

    def patience(self) -> float:
        """Seconds the loop may sleep."""
        now = time.monotonic()
        if self.commit_due(now):
            return 0.0
        until = min(self.last_tick + TICK_S, self.deadline if not self.stopping else now + TICK_S)
        if self.something_to_commit():
            until = min(until, self.last_commit + GROUP_S)
        return max(0.0, until - now) + 0.0005

    def serve(self, fd: int) -> None:
        if fd == self.ear.fileno():
            self.news |= self.ear.drain()
        elif fd == self.waker_in:
            os.read(fd, 4096)
        elif fd in self.channels:
            slot, channel = self.channels[fd]
            frames, gone = channel.receive()
            for frame in frames:
                self.heard(slot, channel, frame)
            if channel.unsent:
                channel.push()
            if gone:
                self.lost(slot, channel)

    # -- what slot processes say -------------------------------------------------------------------------

    def heard(self, slot: Slot, channel: Channel, frame: tuple) -> None:  # type: ignore[type-arg]
        channel.ready = True
        started, ends, returned, *extracted = frame
        if started is not None and started[0] in self.jobs:
            self.starts[started[0]] = started[1]
        for job_id, code, began, runtime, *outcome in ends:
            channel.jobs.pop(job_id, None)
            self.mean_s = runtime if not self.mean_s else 0.8 * self.mean_s + 0.2 * runtime
            if job_id in self.jobs:
                self.endings.ended(self.jobs[job_id], code, began, runtime, outcome[0] if outcome else None)
        for job_id in reversed(returned):
            channel.jobs.pop(job_id, None)
            self.take_back(job_id)
        channel.slow = bool(channel.jobs) and (bool(returned) or (channel.slow and not ends))
        for job_id, value, note in extracted[0] if extracted else ():
            channel.extracting.discard(job_id)
            self.endings.extracted(job_id, value, note)

    def take_back(self, job_id: int) -> None:
        """A job that was handed to a slot has not started, and will not there."""
        job = self.jobs.get(job_id)
        if job is None:
            return
        job.channel = job.slot = None
        if job.killing or self.stopping:
            self.let_go(job_id)
        else:
            self.backlog.appendleft(job_id)

    def let_go(self, job_id: int) -> None:
        self.jobs.pop(job_id).is_over()
        self.released.append(job_id)

    def lost(self, slot: Slot, channel: Channel) -> None:
        """A slot process has ended: what it had started is in its journal, the rest is for others."""
        self.poll.unregister(channel.outlet)
        del self.channels[channel.outlet]
        code, journal = channel.bury()
        if channel is slot.worker and not (channel.ready or channel.killed or self.stopping):
            why = f"its Python does not start (exit code {code}; log/qlaunch{self.allocation_id}.log says more)"
            self.broken[slot.worker_key] = time.monotonic() + BROKEN_S, why
        self.endings.settle(slot, channel, code, journal)
        if channel is slot.spawner:
            if not self.stopping:
                self.listen_to(slot, slot.start_spawner())
        elif channel is slot.worker:
            slot.worker = None
        else:
            slot.retired.remove(channel)

    def listen_to(self, slot: Slot, channel: Channel) -> None:
        self.channels[channel.outlet] = slot, channel
        self.poll.register(channel.outlet, select.POLLIN)

    # -- the store ----------------------------------------------------------------------------------------

    @property
    def uncommitted(self) -> bool:
        return bool(self.ends or self.starts or self.released)

    def something_to_commit(self) -> bool:
        running_low = self.more and not self.stopping and len(self.backlog) <= self.stock() // 2
        return self.uncommitted or self.news or running_low

    def commit_due(self, now: float) -> bool:
        """In groups while much is going on, at once when it is not."""
        if not self.something_to_commit():
            return False
        quiet = not self.backlog and len(self.jobs) <= len(self.slots)
        hungry = self.more and not self.backlog and any(not slot.handed for slot in self.slots)
        return quiet or hungry or now - self.last_commit >= GROUP_S

    def commit(self) -> None:
        """Write down what happened and fetch what is next, in one transaction."""
        self.last_commit = time.monotonic()
        self.look_around()
        want = 0
        if self.more and not self.stopping and len(self.backlog) <= self.stock() // 2 and self.slots:
            want = self.stock() - len(self.backlog)
            if not work.any_ready(self.store.con):
                want, self.more = 0, False
        if not (self.uncommitted or want):
            return
        starts, ends, released = self.starts, self.ends, self.released
        running = [(job_id, self.jobs[job_id].state, when) for job_id, when in starts.items() if job_id in self.jobs]
        try:
            with self.store.transaction() as con:
                work.require_open(con, self.session.id)
                work.commit_starts(con, self.session.id, running)
                work.commit_ends(con, self.session.id, ends)
                work.release(con, self.session.id, released)
                taken = work.check_out(con, self.session.id, self.allocation_id, self.eligible(), want) if want else []
        except (StoreBusy, OSError) as error:
            log.warning("the store could not be written, trying again: %s", error)
            time.sleep(GROUP_S)
            return
        self.starts, self.ends, self.released = {}, [], []
        for job_id, _, _ in running:
            self.jobs[job_id].state = "RUNNING"
        for each in taken:
            self.jobs[each.id] = Job(each)
            self.backlog.append(each.id)
        if want:
            self.more = len(taken) == want
        self.folded = False
        if running or ends or released:
            self.bell.ring(but=self.ear)

    def look_around(self) -> None:
        """News of the store that concern this launcher: kills, its revocation, new kinds of jobs."""
        if not self.news:
            return
        self.news, self.more = False, True
        self.current_apps.clear()
        if records.allocation(self.store.con, self.allocation_id).state == "pending_deletion":
            self.stop("revoked")
        for job_id, wait in work.kills(self.store.con, self.session.id):
            if job_id in self.jobs:
                self.endings.kill(self.jobs[job_id], None if wait < 0 else wait)
        for spec_id, tags in work.specs(self.store.con, max(self.tags, default=0)):
            self.tags[spec_id] = tags
            if self.filter_tags.items() <= tags.items():
                self.spec_ids.append(spec_id)

    def eligible(self) -> list[int] | None:
        return self.spec_ids if self.filter_tags else None

    def stock(self) -> int:
        """How many jobs to hold in all that have not been handed to a slot."""
        each = STOCK_S / self.mean_s if self.mean_s else 1.0
        return len(self.slots) * int(min(512.0, max(1.0, each)))

    # -- feeding ------------------------------------------------------------------------------------------

    def feed(self) -> None:
        """Hand the backlog to slots, as much to each as it can do in a moment."""
        if not self.backlog or self.stopping:
            return
        depth = int(min(128.0, max(1.0, AHEAD_S / self.mean_s))) if self.mean_s else 1
        for slot in sorted(self.slots, key=lambda s: len(s.spawner.jobs)):
            have = slot.handed
            batches: dict[int, tuple[Channel, list[tuple]]] = {}  # type: ignore[type-arg]
            if have <= depth // 2 and not slot.slow:
                while have < depth and self.backlog and self.hand_over(slot, batches):
                    have += 1
            for channel, tasks in batches.values():
                channel.send(("run", tasks))

    def hand_over(self, slot: Slot, batches: dict[int, tuple[Channel, list[tuple]]]) -> bool:  # type: ignore[type-arg]
        """Give the first job of the backlog to the slot; False if it cannot take it now."""
        job = self.jobs[self.backlog[0]]
        each = job.work
        directory = self.data + each.workdir
        try:
            job.app = app = self.app(each.app_id)
            python = app.record.kind == "python"
            if python and self.broken.get(app.worker_key, (0.0, ""))[0] > time.monotonic():
                raise RuntimeError(self.broken[app.worker_key][1])
            channel = slot.worker_for(app) if python else slot.spawner
            if channel is not None and channel.outlet not in self.channels:
                self.listen_to(slot, channel)
            if channel is None or not channel.ready or slot.handed > len(channel.jobs):
                return False
            if python and channel.extracting:
                return False  # another slot may be free
            if python:
                info = {"tags": self.tags[each.spec_id], "data": json.loads(each.data) if each.data else {}}
                task = self.preparer.call(app, each.id, each.attempt, directory, each.parameters, info)
            else:
                task = self.preparer.command(app, each.id, each.attempt, directory, each.parameters)
            slot.tell(channel, app)
        except Exception as error:  # whatever is wrong with this task or its app is the end of this task alone
            self.backlog.popleft()
            self.endings.failed(job, f"This task could not be prepared: {error}")
            return True
        self.backlog.popleft()
        batches.setdefault(channel.outlet, (channel, []))[1].append(task)
        channel.jobs[each.id] = None
        job.slot, job.channel = slot, channel
        return True

    def app(self, app_id: int) -> App:
        """The app as it is now: a job started after an app was registered anew runs the new one."""
        if app_id not in self.current_apps:
            self.current_apps.add(app_id)
            changes = records.app_changes(self.store.con, app_id)
            if app_id not in self.apps or self.apps[app_id][0] != changes:
                self.apps[app_id] = changes, self.preparer.app(records.apps(self.store.con, app_id)[0])
        return self.apps[app_id][1]

    # -- beginning and end --------------------------------------------------------------------------------

    def recover(self) -> None:
        """Settle what dead launchers left; slots whose old process still finishes a task are not used yet."""
        try:
            orphans = self.recovery.sweep(
                self.allocation_id, stopping=bool(self.stopping), grace_s=self.settings.grace_period_s
            )
        except StoreBusy as error:
            log.warning("%s", error)  # the next tick tries again
            return
        while not self.stopping and len(self.slots) < max(0, self.slots_wanted - orphans):
            slot = Slot(len(self.slots), self.session, self.environment, self.settings.split_stderr)
            self.slots.append(slot)
            self.listen_to(slot, slot.spawner)

    def stop(self, reason: str) -> None:
        """Take nothing more, end what runs (SIGTERM, after the grace period SIGKILL), give the rest back."""
        if self.stopping:
            return
        self.stopping = reason
        log.info("stopping: %s; %d tasks are held", reason, len(self.jobs))
        for job_id in self.backlog:
            self.let_go(job_id)
        self.backlog.clear()
        self.endings.end_all(self.settings.grace_period_s)
        self.recovery.sweep(self.allocation_id, stopping=True, grace_s=self.settings.grace_period_s)

    def close(self) -> None:
        for slot in self.slots:
            for channel in slot.channels:
                if channel.process.stdin is not None and not channel.process.stdin.closed:
                    channel.process.stdin.close()
        for slot in self.slots:
            for channel in slot.channels:
                channel.process.wait()
        self.ear.close()
