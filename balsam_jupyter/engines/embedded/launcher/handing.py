"""Handing jobs to slots: each with all its slot process needs to run it."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ....codec import decode
from ..sessions import is_full
from ..store import records
from ..store.work import Work
from .lines import Job, Line
from .prepare import App, Preparer, launch_words
from .ranks import task_file
from .slot import Channel, Slot

if TYPE_CHECKING:
    from .pilot import Pilot

BROKEN_S = 10.0  # a Python that did not start is not tried again for so long
MOST_KILLED = 3  # a Python that is killed so often before it is ready (by a lack of memory?) does not start


class Way(NamedTuple):
    """How jobs of one spec get to a slot process: what is found out once for many of them."""

    spec_id: int
    app: App
    channel: Channel
    number: int
    """What the process knows the app (and the spec) by."""
    to_worker: bool
    launch: list[str]
    """The words that start the ranks."""


class Handing:
    """Prepares jobs and sends them, as much to each slot as it can do in a moment."""

    def __init__(self, pilot: Pilot) -> None:
        self.pilot = pilot
        self.preparer = Preparer(pilot.environment)
        self.apps: dict[int, tuple[int, App]] = {}
        self.current: set[int] = set()  # apps looked at since the last news
        self.deaths: dict[tuple[Any, ...], int] = {}  # how often one in a row ended before it was ready
        self.broken: dict[tuple[Any, ...], tuple[float, str]] = {}  # Pythons that do not start: until when, and why

    def did_not_start(self, python: tuple[Any, ...], code: int | None) -> None:
        """A worker ended before it was ready. One that was killed is started again, but not for ever."""
        self.deaths[python] = self.deaths.get(python, 0) + 1
        if code != -signal.SIGKILL or self.deaths[python] >= MOST_KILLED:
            why = f"its Python does not start (exit code {code}; log/qlaunch{self.pilot.allocation_id}.log says more)"
            self.broken[python] = time.monotonic() + BROKEN_S, why
            del self.deaths[python]

    def fill(self, slot: Slot, line: Line) -> None:
        """Give the slot what it can do in a moment."""
        depth, have = line.share, slot.handed
        if have > depth // 2 or slot.slow:
            return
        way: Way | None = None
        data = self.pilot.data
        tasks: list[tuple[Any, ...]] = []
        while have < depth and line.backlog:
            job = line.backlog[0]
            try:
                if way is None or way.spec_id != job.work.spec_id:
                    found = self._way(job, slot)
                    if found is None or (way is not None and found.channel is not way.channel):
                        break
                    way = found
                job.app = app = way.app
                work = job.work
                if way.to_worker:
                    files = self.preparer.files(app, decode(work.parameters)) if app.texts else app.fixed
                    directory = data + work.workdir
                    told = work.id, work.attempt, directory, way.number, work.parameters, work.data, files, work.lone
                    tasks.append(told)
                else:
                    tasks.append(self._command(work, way))
            except Exception as error:
                if isinstance(error, OSError) and is_full(error):
                    break
                # Whatever else is wrong with this task or its app is the end of this task alone.
                self.pilot.endings.failed(job, f"This task could not be prepared: {error}")
            else:
                way.channel.jobs[work.id] = None
                job.slot, job.channel = slot, way.channel
            line.backlog.popleft()
            have += 1
        if way is not None and tasks:
            way.channel.send(("run", tasks))

    def _way(self, job: Job, slot: Slot) -> Way | None:
        """How jobs of this job's spec get to the slot; None if it cannot have them now."""
        job.app = app = self.app(job.work.app_id)
        channel = self._channel(app, job.line, slot)
        if channel is None:
            return None
        if channel.kind == "worker":
            number = slot.tell_call(channel, app, job.work.spec_id, self.pilot.tags[job.work.spec_id])
        else:
            number = slot.tell(channel, app)
        return Way(job.work.spec_id, app, channel, number, channel.kind == "worker", self._launch(job.line))

    def _channel(self, app: App, line: Line, slot: Slot) -> Channel | None:
        """The slot process for jobs of this app; None if it cannot take one now."""
        python = app.record.kind == "python" and line.need.nodes * line.need.ranks == 1
        if python:
            until, why = self.broken.get(app.worker_key, (0.0, ""))
            if until > time.monotonic():
                raise RuntimeError(why)
        channel = slot.worker_for(app) if python else slot.spawner
        if channel is not None and channel.outlet not in self.pilot.channels:
            self.pilot.listen_to(slot, channel)
        if channel is None or not channel.ready or slot.handed > len(channel.jobs):
            return None
        if python:
            self.deaths.pop(app.worker_key, None)
            if channel.extracting:
                return None  # another slot may be free
        slot.bind(channel)
        return channel

    def _command(self, each: Work, way: Way) -> tuple[Any, ...]:
        """A spawner's task."""
        directory = self.pilot.data + each.workdir
        if way.app.record.kind == "shell":
            preamble = json.loads(each.preamble) if each.preamble else ()
            return self.preparer.command(
                way.app, way.number, each.id, each.attempt, directory, each.parameters, way.launch, preamble
            )
        info = {"tags": self.pilot.tags[each.spec_id], "data": json.loads(each.data) if each.data else {}}
        task = task_file(self.pilot.session.folder, each.id, each.attempt)
        return self.preparer.ranks(way.app, way.number, each, directory, info, way.launch, task)

    def _launch(self, line: Line) -> list[str]:
        """The words that start the ranks of a line's jobs."""
        if line.launch is None:
            line.launch = launch_words(self.pilot.settings.mpi_launcher, line.asked)
        return line.launch

    def app(self, app_id: int) -> App:
        """The app as it is now: a job started after an app was registered anew runs the new one."""
        if app_id not in self.current:
            con = self.pilot.store.con
            changes = records.app_changes(con, app_id)
            if app_id not in self.apps or self.apps[app_id][0] != changes:
                self.apps[app_id] = changes, self.preparer.app(records.apps(con, app_id)[0])
            self.current.add(app_id)
        return self.apps[app_id][1]
