"""Handing jobs to slots: each with all its slot process needs to run it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from ..sessions import is_full
from ..store import records
from .lines import Job, Line
from .prepare import App, Preparer, launch_words
from .ranks import task_file
from .slot import Channel, Slot

if TYPE_CHECKING:
    from .pilot import Pilot

BROKEN_S = 10.0  # a Python that did not start is not tried again for so long
Batches = dict[int, tuple[Channel, list[tuple[Any, ...]]]]
"""Tasks for slot processes, by the descriptor of the process's pipe."""


class Handing:
    """Prepares jobs and sends them, as much to each slot as it can do in a moment."""

    def __init__(self, pilot: Pilot) -> None:
        self.pilot = pilot
        self.preparer = Preparer(pilot.environment)
        self.apps: dict[int, tuple[int, App]] = {}
        self.current: set[int] = set()  # apps looked at since the last news
        self.broken: dict[tuple[Any, ...], tuple[float, str]] = {}  # Pythons that do not start: until when, and why

    def fill(self, slot: Slot, line: Line) -> None:
        """Give the slot what it can do in a moment."""
        depth, have = line.depth, slot.handed
        if have > depth // 2 or slot.slow:
            return
        batches: Batches = {}
        while have < depth and line.backlog and self._hand_over(line.backlog[0], slot, batches):
            have += 1
        for channel, tasks in batches.values():
            channel.send(("run", tasks))

    def _hand_over(self, job: Job, slot: Slot, batches: Batches) -> bool:
        """Take the first job of the line for the slot; False if the slot cannot have it now."""
        try:
            job.app = app = self.app(job.work.app_id)
            channel = self._channel(app, job.line, slot)
            if channel is None:
                return False
            task = self._task(job, app, channel, slot)
        except Exception as error:
            if isinstance(error, OSError) and is_full(error):
                return False
            # Whatever else is wrong with this task or its app is the end of this task alone.
            job.line.backlog.popleft()
            self.pilot.endings.failed(job, f"This task could not be prepared: {error}")
            return True
        job.line.backlog.popleft()
        batches.setdefault(channel.outlet, (channel, []))[1].append(task)
        channel.jobs[job.work.id] = None
        job.slot, job.channel = slot, channel
        return True

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
        if python and channel.extracting:
            return None  # another slot may be free
        slot.bind(channel)
        return channel

    def _task(self, job: Job, app: App, channel: Channel, slot: Slot) -> tuple[Any, ...]:
        each = job.work
        directory = self.pilot.data + each.workdir
        number = slot.tell(channel, app)
        launch = self._launch(job.line)
        if app.record.kind == "shell":
            return self.preparer.command(app, number, each.id, each.attempt, directory, each.parameters, launch)
        info = {"tags": self.pilot.tags[each.spec_id], "data": json.loads(each.data) if each.data else {}}
        if launch:
            task = task_file(self.pilot.session.folder, each.id, each.attempt)
            return self.preparer.ranks(app, number, each, directory, info, launch, task)
        return self.preparer.call(app, number, each.id, each.attempt, directory, each.parameters, info)

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
