"""BalsamTask: libEnsemble's handle on a job. One reading of a site's events serves all its tasks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakValueDictionary

from .api import Job, Site
from .api_check import kill_force, kill_wait
from .api_job import outcome
from .api_jobs import EVENTS_WAIT_S, changed_ids
from .errors import BadInput, NotFound, TimeoutExpired
from .models import TASK_STATE, TERMINAL, AppRecord, JobRow, JobSpec, Query
from .shelltext import as_read
from .tables import Tables

log = logging.getLogger(__name__)

FRESH_S = 0.02
"""For so long after a poll, a task that had ended then is taken to be so still."""
KILL_MARGIN_S = 2.0
"""How long beyond its `wait_time` a kill waits for the launcher's word that the task is gone."""


class Follower:
    """Keeps the tasks of one site up to date, all from one reading of its events."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.tables = Tables(site)
        self._lock = threading.Lock()
        self._cursor = site.engine.events("now").cursor
        self._polled = float("-inf")
        self._tasks: WeakValueDictionary[int, BalsamTask] = WeakValueDictionary()

    def tasks(self, rows: Iterable[JobRow]) -> list[BalsamTask]:
        """The tasks of rows just read; one job has one task, however often it is asked for."""
        with self._lock:
            found = []
            for row in rows:
                task = self._tasks.get(row.id)
                if task is None:
                    task = self._tasks[row.id] = BalsamTask(row, self.site, self)
                else:
                    task._update(row)
                found.append(task)
            return found

    def poll(self) -> str:
        """Update all tasks; returns the cursor up to which they are."""
        engine = self.site.engine
        with self._lock:
            changed: set[int] = set()
            tasks: dict[int, BalsamTask] = {}
            while True:
                page = engine.events(self._cursor)
                self._cursor = page.cursor
                self._polled = time.monotonic()
                if page.rows or page.reset:
                    tasks = tasks or dict(self._tasks)
                    changed |= set(tasks) if page.reset else changed_ids(page.rows, tasks)
                if not page.rows:
                    break
            if changed:
                for row in engine.jobs(Query(ids=tuple(changed))):
                    tasks[row.id]._update(row)
                    changed.discard(row.id)
                for number in changed:
                    tasks[number]._deleted = True
            return self._cursor

    def wait(self, until: Callable[[], bool], timeout: float | None) -> bool:
        """Block until `until()` holds (True) or `timeout` seconds have passed (False); woken by changes."""
        if time.monotonic() - self._polled < FRESH_S and until():
            return True  # thousands of tasks are asked one after the other
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            cursor = self.poll()
            if until():
                return True
            left = EVENTS_WAIT_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            # Outside the lock, so that another thread's poll need not wait for this one's change.
            self.site.engine.events(cursor, min(left, EVENTS_WAIT_S), limit=1)


class BalsamTask:
    """A handle on one job, by libEnsemble's names. Made by `BalsamExecutor.submit`.

    Attributes are as of the last poll of any task of this executor; `done`, `running` and `cancelled` poll.
    `process` is the job (`balsam_jupyter.Job`).
    """

    def __init__(
        self,
        row: JobRow,
        site: Site,
        follower: Follower | None,
        runline: str | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self._row, self._site, self._follower = row, site, follower
        self._job: Job | None = None
        self._deleted = False
        self.dry_run = follower is None
        self.runline = runline
        self.env = env or {}

    def _update(self, row: JobRow) -> None:
        self._row = row
        if self._job is not None:
            self._job._row = row

    @property
    def id(self) -> int:
        """The job's id."""
        return self._row.id

    @property
    def name(self) -> str:
        """The app's name and the job's id."""
        return f"{self._row.app_name}_{self._row.id}"

    @property
    def process(self) -> Job | None:
        """The job; None for a dry run."""
        if self._job is None and not self.dry_run:
            self._job = Job._of(self._row, self._site)
        return self._job

    @property
    def state(self) -> str:
        """WAITING, RUNNING, FINISHED, FAILED or USER_KILLED."""
        return TASK_STATE[self._row.state]

    @property
    def finished(self) -> bool:
        """Whether it ended, whatever way."""
        return self._row.state in TERMINAL

    @property
    def success(self) -> bool:
        """Whether it ended well."""
        return self._row.state == "JOB_FINISHED"

    @property
    def errcode(self) -> int | None:
        """The return code; None before the task has ended (or if it was killed before it started)."""
        return self._row.return_code

    @property
    def submit_time(self) -> float:
        """When it was submitted, in seconds since the epoch."""
        return self._row.submit_time

    @property
    def runtime(self) -> float:
        """Seconds it has run so far, or ran."""
        if self._row.runtime_s is not None and self.state != "RUNNING":
            return self._row.runtime_s
        if self.state == "RUNNING" and self._row.start_time is not None:
            return max(0.0, time.time() - self._row.start_time)
        return 0.0

    @property
    def total_time(self) -> float | None:
        """Seconds from submission to the end; None before the end."""
        if not self.finished or self._row.end_time is None:
            return None
        return max(0.0, self._row.end_time - self._row.submit_time)

    @property
    def workdir(self) -> str:
        """The absolute path of the work directory; a scratch task's is gone once it has finished well."""
        return str(self._site.data_path / self._row.workdir)

    @property
    def stdout(self) -> str:
        """The name of the log in the work directory."""
        return "job.out"

    @property
    def stderr(self) -> str:
        """The name of the error log: the same file, unless the site's settings split them."""
        return "job.err" if self.file_exists_in_workdir("job.err") else "job.out"

    def poll(self) -> None:
        """Bring this task, and with it all tasks of its executor, up to date."""
        if self._follower is not None:
            self._follower.poll()
            self._there()

    def _there(self) -> None:
        if self._deleted:
            raise NotFound(f"Job {self.id} was deleted, so task {self.name} is no more.")

    def wait(self, timeout: float | None = None) -> None:
        """Block until the task has ended; it is not killed if it does not.

        Parameters
        ----------
        timeout : float, optional
            Seconds after which to give up.

        Raises
        ------
        TimeoutExpired
            If it has not ended by then.
        """
        if not self._wait(lambda: self.finished, timeout):
            raise TimeoutExpired(self.name, timeout or 0.0)

    def _wait(self, until: Callable[[], bool], timeout: float | None) -> bool:
        if self._follower is None:
            return True
        held = self._follower.wait(lambda: self._deleted or until(), timeout)
        self._there()
        return held

    def result(self, timeout: float | None = None) -> str:
        """Wait, then the task's state (as in libEnsemble)."""
        self.wait(timeout)
        return self.state

    def exception(self, timeout: float | None = None) -> int | None:
        """Wait, then the task's error code (as in libEnsemble)."""
        self.wait(timeout)
        return self.errcode

    def value(self, timeout: float | None = None) -> Any:
        """Wait, then what the app yields: what `run` returned, or a mapping of the command's outputs.

        Returns
        -------
        object
            None if the app yields nothing.

        Raises
        ------
        TimeoutExpired
            If it has not ended after `timeout` seconds.
        TaskFailed
            If it failed (with the return code and the log's last lines) or was killed.
        Exception
            What `run` raised, with the remote traceback as its cause.
        """
        self.wait(timeout)
        return None if self.dry_run else outcome(self._row, self._site)

    def running(self) -> bool:
        """Whether it runs now."""
        self.poll()
        return self.state == "RUNNING"

    def done(self) -> bool:
        """Whether it has ended, as of now."""
        self.poll()
        return self.finished

    def cancelled(self) -> bool:
        """Whether it was killed, as of now."""
        self.poll()
        return self.state == "USER_KILLED"

    def kill(self, wait_time: float | None = 0.5, *, force: str | None = None) -> None:
        """End the task and all its processes; returns when they are gone.

        Parameters
        ----------
        wait_time : float or None
            Seconds from SIGTERM to SIGKILL. None never sends SIGKILL, and returns after 2 s in any case.
        force : {"revoke"}, optional
            At a Balsam site, which cannot end one task that runs: revoke the allocation in which it runs.

        Raises
        ------
        TimeoutExpired
            If the launcher did not confirm the end 2 s after `wait_time`.
        Unsupported
            If it runs where a task that runs cannot be ended.
        """
        if self._kill(kill_wait(wait_time), kill_force(force)) and not self._wait(
            lambda: self.finished, (wait_time or 0.0) + KILL_MARGIN_S
        ):
            if wait_time is None:
                log.warning("Task %s was sent SIGTERM but still runs.", self.name)
            else:
                raise TimeoutExpired(self.name, wait_time + KILL_MARGIN_S)

    def cancel(self) -> None:
        """`kill` without waiting for the end."""
        self._kill(0.5)

    def _kill(self, wait_time: float | None, force: str = "") -> bool:
        """Ask for the end; False if there is nothing to end."""
        self.poll()
        if self.finished:
            log.info("Task %s has ended already (%s): nothing to kill.", self.name, self.state)
            return False
        self._site.engine.update(Query(ids=(self.id,)), "USER_KILLED", wait_time, force)
        return True

    def file_exists_in_workdir(self, filename: str) -> bool:
        """Whether a file is in the work directory."""
        return not self.dry_run and self._site.engine.file_exists(self.id, filename)

    def read_file_in_workdir(self, filename: str) -> str:
        """The text of a file in the work directory (`BadInput` if it is not there)."""
        if not self.file_exists_in_workdir(filename):
            why = "a dry run has no files" if self.dry_run else f"not in {self._row.workdir}"
            if self._row.scratch and self.success and not self.dry_run:
                why = "scratch=True: its directory was removed when it had finished well"
            raise BadInput(f"Task {self.name} has no file {filename!r} ({why}).")
        return self._site.engine.read_file(self.id, filename).decode("utf-8", "replace")

    def stdout_exists(self) -> bool:
        """Whether there is a log."""
        return self.file_exists_in_workdir(self.stdout)

    def stderr_exists(self) -> bool:
        """Whether there is an error log."""
        return self.file_exists_in_workdir(self.stderr)

    def read_stdout(self) -> str:
        """The log."""
        return self.read_file_in_workdir(self.stdout)

    def read_stderr(self) -> str:
        """The error log (the log, unless the site's settings split them)."""
        return self.read_file_in_workdir(self.stderr)

    def __repr__(self) -> str:
        if self.dry_run:
            return f"<BalsamTask of {self._row.app_name}: dry run: {self.runline}>"
        ran = f", {self.runtime:.1f} s" if self.runtime else ""
        code = f", return code {self.errcode}" if self.errcode else ""
        return f"<BalsamTask {self.name}: {self.state}{ran}{code}>"


def unstored_task(site: Site, app: AppRecord, folder: str, spec: JobSpec) -> BalsamTask:
    """A task that is stored nowhere and never runs, with the command line and environment it would have."""
    now = time.time()
    row = JobRow(
        id=0, app_id=app.id, app_name=app.name, state="JOB_FINISHED", parameters=spec.parameters, workdir=folder,
        resources=spec.common.resources, tags=dict(spec.common.tags), ensemble=None, generation=1, row=None,
        app_version=app.version, submit_time=now, start_time=None, end_time=None, runtime_s=None, return_code=0,
        batch_job_id=None, attempts=0, data={}, value=None, error="", exception=None, parent_ids=spec.parents,
        transfers=dict(spec.transfers or {}), on_parent_failure=spec.common.on_parent_failure,
        scratch=spec.common.scratch,
    )  # fmt: skip
    argv, env = site.engine.command(row)
    task = BalsamTask(row, site, None, as_read(argv), env)
    log.info("Dry run of %s in %s: %s %s", app.name, folder, task.runline, env)
    return task
