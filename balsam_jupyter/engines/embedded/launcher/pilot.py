"""The launcher's loop: check out, feed the slots, collect, commit in groups, stop gracefully.

One thread does everything; threads beside it only end processes and wait for locks, and report through
`Pilot.later`, so that nothing here needs a lock of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ....models import Allocation
from ..doorbell import Bell, Listener, runtime_folder
from ..processor.start import ensure
from ..recovery import Recovery, orphan_places
from ..sessions import Session
from ..site import Settings
from ..store import Store, records, work
from ..store.schema import StoreBusy
from ..store.work import Done, End
from .ending import Endings
from .handing import Handing
from .lines import Job
from .partition import Partition
from .placement import Nodes, Place, idle_nodes
from .prepare import clean_environment
from .slot import Channel, Slot, Start

log = logging.getLogger("balsam_jupyter.launcher")

GROUP_S = 0.05  # results wait this long at most for their commit while more are coming
MANY = 1000  # and so many results do not wait: at the end of the work nobody is to wait for a long commit
TICK_S = 1.0  # fallback for rings that got lost
CORRECT = "correct worker_launch or mpi_launcher in settings.yml"


class Pilot:
    """Runs one allocation's jobs until there is a reason to stop."""

    def __init__(self, site: Path, store: Store, settings: Settings, session: Session, allocation: Allocation) -> None:
        self.site, self.store, self.settings, self.session = site, store, settings, session
        self.data = f"{site}/data/"
        self.allocation_id = allocation.id
        self.deadline = time.monotonic() + (allocation.remaining_s or 0.0)
        self.bell, self.ear = Bell(runtime_folder(site)), Listener(runtime_folder(site))
        self.environment = clean_environment()
        self.recovery = Recovery(site, store, self.bell, settings.stopped_after_s)
        self.partitions = self._partitions(allocation)
        self.slots: list[Slot] = []
        self.lent: dict[Path, Place] = {}  # what tasks of dead launchers still run on, by their journals
        self.poll = select.poll()
        self.channels: dict[int, tuple[Slot, Channel]] = {}
        self.jobs: dict[int, Job] = {}
        self.shapes_seen = 0
        self.tags: dict[int, dict[str, str]] = {}  # of every spec
        self.starts: dict[int, float] = {}
        self.ends: list[End] = []
        self.done: list[Done] = []
        self.released: list[int] = []
        self.news = True  # something in the store may concern this launcher
        self.stopping = ""
        self.trouble = ""  # why the store could not be written
        self.folded = True  # the write-ahead log holds nothing of ours
        self.last_commit = self.last_tick = 0.0
        self.idle_since = time.monotonic()
        self.calls: deque[Callable[[], None]] = deque()
        self.waker_in, self.waker_out = os.pipe()
        os.set_blocking(self.waker_in, False)
        os.set_blocking(self.waker_out, False)
        self.endings = Endings(self)
        self.handing = Handing(self)
        self.workers = {p.workers.fileno(): p.workers for p in self.partitions if p.workers is not None}
        for fd in (self.ear.fileno(), self.waker_in, *self.workers):
            self.poll.register(fd, select.POLLIN)

    def _partitions(self, allocation: Allocation) -> list[Partition]:
        """The allocation as a whole, or its parts, each with nodes of its own."""
        request = allocation.request
        numbers = iter(allocation.nodes or range(request.num_nodes))
        parts = request.partitions or (
            {"num_nodes": request.num_nodes, "job_mode": request.job_mode, "filter_tags": {}},
        )
        return [
            Partition(
                self,
                part["job_mode"],
                Nodes(idle_nodes(itertools.islice(numbers, part["num_nodes"]), self.settings)),
                {**request.filter_tags, **part["filter_tags"]},
                request.wf_filter,
            )
            for part in parts
        ]

    # -- the loop -----------------------------------------------------------------------------------------

    def run(self) -> str:
        """Until idle, out of wall time, revoked or told to stop; returns the reason."""
        self.recover()
        while True:
            ready = self.ready()
            self.session.beat(self.store)
            for fd in ready:
                self.serve(fd)
            for workers in self.workers.values():
                if not workers.patience():
                    workers.serve()
                if workers.hopeless:
                    self.stop(f"its node workers do not start: see log/qlaunch{self.allocation_id}.log; {CORRECT}")
            while self.calls:
                self.calls.popleft()()
            now = time.monotonic()
            if now - self.last_tick >= TICK_S:
                self.last_tick = now
                self.news = True
                self.recover()
                ensure(self.site, self.store)
                if not self.jobs and not self.folded:
                    self.store.checkpoint()
                    self.folded = True
            if now >= self.deadline:
                self.stop("its wall time is over")
            self.feed()
            if self.commit_due(now):
                self.commit()
                self.feed()
            if self.stopping and not self.jobs and not self.uncommitted:
                return self.stopping
            if self.jobs or self.starts:
                self.idle_since = now
            elif now - self.idle_since >= self.settings.idle_time_s and not self.more:
                self.stop(f"nothing to run for {self.settings.idle_time_s:g} s")

    def feed(self) -> None:
        if not self.stopping:
            for partition in self.partitions:
                partition.feed()

    def ready(self) -> list[int]:
        """Descriptors with something to read, waited for as long as there is time; what could not be sent is sent."""
        full = [channel for _, channel in self.channels.values() if channel.unsent]
        for channel in full:
            self.poll.register(channel.inlet, select.POLLOUT)
        found = self.poll.poll(self.patience() * 1000)
        for channel in full:
            self.poll.unregister(channel.inlet)
            channel.push()
        return [fd for fd, _ in found]

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
        return max(0.0, min([until - now, *(workers.patience() for workers in self.workers.values())])) + 0.0005

    def serve(self, fd: int) -> None:
        if fd == self.ear.fileno():
            self.news |= self.ear.drain()
        elif fd == self.waker_in:
            os.read(fd, 4096)
        elif fd in self.workers:
            self.workers[fd].serve()
        elif fd in self.channels:
            slot, channel = self.channels[fd]
            frames, gone = channel.receive()
            for frame in frames:
                self.heard(slot, channel, frame)
            if gone:
                self.lost(slot, channel)

    # -- what slot processes say -------------------------------------------------------------------------

    def heard(self, slot: Slot, channel: Channel, frame: tuple) -> None:  # type: ignore[type-arg]
        channel.ready = True
        started, ends, returned, extracted, done = frame if len(frame) == 5 else (*frame, (), ())
        if started is not None and started[0] in self.jobs:
            self.starts[started[0]] = started[1]
        for job_id, code, began, runtime, *outcome in ends:
            channel.jobs.pop(job_id, None)
            if job_id in self.jobs:
                job = self.jobs[job_id]
                job.line.ran(runtime)
                self.endings.ended(job, code, began, runtime, outcome[0] if outcome else None)
        if done:
            self.endings.done(channel, done)
        for job_id in reversed(returned):
            channel.jobs.pop(job_id, None)
            self.take_back(job_id)
        channel.slow = bool(channel.jobs) and (bool(returned) or (channel.slow and not (ends or done)))
        for job_id, value, note in extracted:
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
            job.line.backlog.appendleft(job)

    def let_go(self, job_id: int) -> None:
        self.jobs.pop(job_id).is_over()
        self.released.append(job_id)

    def lost(self, slot: Slot, channel: Channel) -> None:
        """A slot process has ended: what it had started is in its journal, the rest is for others."""
        self.poll.unregister(channel.outlet)
        del self.channels[channel.outlet]
        code, journal = channel.bury()
        if channel is slot.worker and not (channel.ready or channel.killed or self.stopping):
            self.handing.did_not_start(slot.worker_key[:3], code)
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
        return bool(self.ends or self.done or self.starts or self.released)

    @property
    def more(self) -> bool:
        """Whether the store may have jobs that can run here."""
        return any(line.more for partition in self.partitions for line in partition.lines.values())

    def something_to_commit(self) -> bool:
        return self.uncommitted or self.news or (not self.stopping and any(p.wishes() for p in self.partitions))

    def commit_due(self, now: float) -> bool:
        """In groups while much is going on, at once when it is not."""
        if not self.something_to_commit():
            return False
        waiting = any(line.backlog for partition in self.partitions for line in partition.lines.values())
        quiet = not waiting and len(self.jobs) <= len(self.slots)
        hungry = any(partition.hungry for partition in self.partitions)
        return quiet or hungry or len(self.done) >= MANY or now - self.last_commit >= GROUP_S

    def commit(self) -> None:
        """Write down what happened and fetch what is next, in one transaction."""
        self.last_commit = time.monotonic()
        self.look_around()
        wishes = [] if self.stopping else [wish for partition in self.partitions for wish in partition.wishes()]
        if not (self.uncommitted or wishes):
            return
        starts, ends, done, released = self.starts, self.ends, self.done, self.released
        running = [(job_id, self.jobs[job_id].state, when) for job_id, when in starts.items() if job_id in self.jobs]
        session = self.session.id
        try:
            with self.store.transaction() as con:
                work.require_open(con, session)
                work.commit_starts(con, session, running)
                runnable = work.commit_ends(con, session, ends)
                runnable |= work.commit_done(con, session, done)
                work.release(con, session, released)
                taken = [
                    (line, want, work.check_out(con, session, self.allocation_id, line.shape_id, line.specs, want))
                    for line, want in wishes
                ]
        except (StoreBusy, OSError) as error:
            if str(error) != self.trouble:
                self.trouble = str(error)
                log.warning("the store could not be written, trying again: %s", error)
            time.sleep(GROUP_S)
            return
        self.trouble = ""
        if any(each.spec_id not in self.tags for _, _, works in taken for each in works):
            self.learn(self.store.con)  # submitted, or tagged, since this launcher looked around
        self.starts, self.ends, self.done, self.released = {}, [], [], []
        self.news |= runnable  # a child, or a job that is run again
        for job_id, _, _ in running:
            self.jobs[job_id].state = "RUNNING"
        for line, want, works in taken:
            line.more = line.flowing = len(works) == want
            for each in works:
                job = self.jobs[each.id] = Job(each, line)
                line.backlog.append(job)
        self.folded = False
        if running or ends or done or released:
            self.bell.ring(but=self.ear)
        if ends or done:
            ensure(self.site, self.store)

    def look_around(self) -> None:
        """News of the store that concern this launcher: kills, its revocation, new kinds of jobs."""
        if not self.news:
            return
        self.news = False
        con = self.store.con
        if records.allocation(con, self.allocation_id).state == "pending_deletion":
            self.stop("revoked")
        for job_id, wait in work.kills(con, self.session.id):
            if job_id in self.jobs:
                self.endings.kill(self.jobs[job_id], None if wait < 0 else wait)
        self.learn(con)
        self.handing.current.clear()
        ready = work.ready_shapes(con)
        for partition in self.partitions:
            partition.look(con, ready, self.deadline - time.monotonic())

    def learn(self, con: sqlite3.Connection) -> None:
        """Read the kinds of jobs that are new."""
        for shape_id, asked in work.shapes(con, self.shapes_seen):
            self.shapes_seen = shape_id
            for partition in self.partitions:
                partition.learn_shape(shape_id, asked)
        for spec_id, shape_id, tags in work.specs(con, max(self.tags, default=0)):
            self.tags[spec_id] = tags
            for partition in self.partitions:
                partition.learn_spec(spec_id, shape_id, tags)

    # -- beginning and end --------------------------------------------------------------------------------

    def recover(self) -> None:
        """Settle what dead launchers left; what their last tasks still run on is not used yet."""
        try:
            orphans = self.recovery.sweep(
                self.allocation_id, stopping=bool(self.stopping), grace_s=self.settings.grace_period_s
            )
        except StoreBusy as error:
            log.warning("%s", error)  # the next tick tries again
            return
        places = orphan_places(self.site, self.store, self.allocation_id) if orphans or self.lent else {}
        for journal in self.lent.keys() - places.keys():
            for partition in self.partitions:
                partition.nodes.release(self.lent[journal])
            del self.lent[journal]
        for journal in places.keys() - self.lent.keys():
            self.lent[journal] = places[journal]
            for partition in self.partitions:
                partition.nodes.take(places[journal])

    def new_slot(self, node: int, start: Start) -> Slot:
        number, split = len(self.slots), self.settings.split_stderr
        slot = Slot(number, node, self.session, self.environment, split, start)
        self.slots.append(slot)
        self.listen_to(slot, slot.spawner)
        return slot

    def stop(self, reason: str) -> None:
        """Take nothing more, end what runs (SIGTERM, after the grace period SIGKILL), give the rest back."""
        if self.stopping:
            return
        self.stopping = reason
        log.info("stopping: %s; %d tasks are held", reason, len(self.jobs))
        for partition in self.partitions:
            for job in partition.drop_backlog():
                self.let_go(job.work.id)
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
        for workers in self.workers.values():
            workers.close()
        self.ear.close()
