"""How tasks end: by themselves, killed, at the end of the allocation, or with the process that ran them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ....models import AppRecord
from ....outputs import regular
from .. import processes
from ..journal import Journal, read
from ..sessions import STOPPING, process_mark, task_mark
from ..store.work import Done, End, Work
from . import stage
from .ranks import Outcome, read_outcome, remove_task, task_file
from .slot import Channel, Slot

if TYPE_CHECKING:
    from .lines import Job
    from .pilot import Pilot

_DEAF_S = 2.0  # a slot process that has not told of a task's end by then is itself stopped, or hangs
READ_HERE = ("finished", "staged")
"""Outcomes after which the launcher reads a command's outputs itself."""
_RETIRED = 83  # a worker's exit code; see there


def log_tail(path: Path, lines: int = 10, most: int = 8192) -> str:
    """The last lines of a log, "" if there is none."""
    try:
        with open(path, "rb", opener=regular) as file:
            file.seek(max(0, file.seek(0, 2) - most))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def handed_on(record: AppRecord, outcome: str, scratch: bool) -> str:
    """The outcome as the store is told it: where the app has a hook, transfers or clean-up, the processor goes on.

    It also removes the directory of a scratch job, once what the job yields is stored.
    """
    if outcome == "finished":
        out = any(slot["direction"] == "out" for slot in record.transfers.values())
        more = out or record.cleanup_files or "postprocess" in record.hooks
        return "ran" if more else "staged" if scratch else outcome
    if outcome == "error" and "handle_error" in record.hooks:
        return "erred"
    return "timed" if outcome == "timeout" and "handle_timeout" in record.hooks else outcome


def settle_stage(site: Path, journal: Journal, held: Iterable[Work]) -> None:
    """Give what a worker that died has left in its stage to the task it ran; else remove the stage."""
    ran = [work for work in held if (work.id, work.attempt) in journal.starts]
    ran.sort(key=lambda work: (work.id, work.attempt) in journal.ends)  # the one in flight first
    for work in ran:
        in_flight = (work.id, work.attempt) not in journal.ends
        stage.settle(str(journal.path), f"{site}/data/{work.workdir}", in_flight)


class Endings:
    """Decides what each end means and leaves it to the pilot to commit."""

    def __init__(self, pilot: Pilot) -> None:
        self.pilot = pilot
        self.all_over = threading.Event()
        self.partial: dict[int, End] = {}  # ended well, outputs still to be read

    # -- ends that slot processes report -----------------------------------------------------------------

    def ended(self, job: Job, code: int, began: float, runtime: float, outcome: Outcome | None) -> None:
        """A task's process has ended."""
        if outcome is None and job.app is not None and job.app.record.kind == "python":
            outcome = self._of_ranks(job)
        value, error, exception, note = outcome or (None, "", None, "")
        end = End(
            job.work.id,
            self._handed_on(job, "finished"),
            job.state,
            began,
            runtime,
            code,
            value,
            error or note,
            exception,
            self._version(job),
        )
        if code != 0 and job.killing:
            job.is_over()  # the thread that kills it makes sure of its children, then the end is told
            self.partial[end.job_id] = end._replace(outcome="killed")
        elif code != 0 and self.pilot.stopping:
            self.tell(end._replace(outcome=self._handed_on(job, "timeout")))
        elif code != 0:
            folder = self.pilot.site / "data" / job.work.workdir
            log = "job.err" if self.pilot.settings.split_stderr else "job.out"
            end = end._replace(
                outcome=self._handed_on(job, "error"),
                error=error or log_tail(folder / log) or f"exit code {code}, and nothing in its log",
            )
            if job.line.need.nodes * job.line.need.ranks > 1:
                self.partial[end.job_id] = end
                threading.Thread(target=self._end_ranks, args=(end.job_id,), daemon=True).start()
            else:
                self.tell(end)
        elif outcome is None and job.app is not None and job.app.record.outputs and end.outcome in READ_HERE:
            self.read_outputs(job, end)
        else:
            self.tell(end)

    def _end_ranks(self, job_id: int) -> None:
        """In a thread: an MPI launcher that dies may leave its ranks behind (Open MPI); then the end is told."""
        processes.end([task_mark(self.pilot.session.mark, job_id)], 0)
        self.pilot.later(lambda: self._killed(job_id))

    def _of_ranks(self, job: Job) -> Outcome | None:
        """What a Python app of several ranks came to."""
        task = task_file(self.pilot.session.folder, job.work.id, job.work.attempt)
        outcome = read_outcome(task)
        remove_task(task)
        return outcome

    def done(self, channel: Channel, done: list[tuple[int, float, float, str | bytes | None]]) -> None:
        """Many Python tasks have returned, and that is all there is to say: job, start time, runtime (s), value."""
        pilot, held = self.pilot, self.pilot.jobs
        line, total, number = None, 0.0, 0
        for job_id, began, runtime, value in done:
            channel.jobs.pop(job_id, None)
            job = held.get(job_id)
            if job is None:
                continue
            assert job.app is not None
            record = job.app.record
            if record.hooks or record.transfers or record.cleanup_files or self._leaves_scratch(job):
                job.line.ran(runtime)
                self.ended(job, 0, began, runtime, (value, "", None, ""))
                continue
            del held[job_id]
            pilot.done.append(Done(job_id, job.state, began, runtime, value, record.version))
            if job.over is not None:
                job.over.set()
            line, total, number = job.line, total + runtime, number + 1
        if line is not None:
            line.ran(total / number, number)
        if pilot.starts:
            for job_id, *_ in done:
                pilot.starts.pop(job_id, None)
        if not held:
            self.all_over.set()

    def tell(self, end: End) -> None:
        """Leave an end to the next commit."""
        self.pilot.starts.pop(end.job_id, None)
        self.pilot.ends.append(end)
        if end.outcome != "done":
            self.pilot.jobs.pop(end.job_id).is_over()
            if not self.pilot.jobs:
                self.all_over.set()

    def failed(self, job: Job, why: str) -> None:
        """A task that could not even be started."""
        outcome = self._handed_on(job, "error")
        self.tell(End(job.work.id, outcome, job.state, time.time(), 0.0, None, None, why, None, self._version(job)))

    def _handed_on(self, job: Job, outcome: str) -> str:
        return handed_on(job.app.record, outcome, job.work.scratch) if job.app is not None else outcome

    def _leaves_scratch(self, job: Job) -> bool:
        """Whether there is a directory to remove: a Python task that wrote nothing has none."""
        return job.work.scratch and os.path.lexists(f"{self.pilot.site}/data/{job.work.workdir}")

    def _version(self, job: Job) -> str | None:
        return job.app.record.version if job.app is not None else None

    # -- outputs ------------------------------------------------------------------------------------------

    def read_outputs(self, job: Job, end: End) -> None:
        """Have the slot's Python process read what the command left, beside the next task."""
        self.tell(end._replace(outcome="done"))
        job.state = "RUN_DONE"
        self.partial[end.job_id] = end._replace(from_state="RUN_DONE")
        self._ask(job)

    def _ask(self, job: Job) -> None:
        assert job.slot is not None and job.app is not None
        worker = job.slot.worker_for(job.app, any_python=True)
        assert worker is not None
        if worker.outlet not in self.pilot.channels:
            self.pilot.listen_to(job.slot, worker)
        job.slot.tell(worker, job.app)
        worker.extracting.add(job.work.id)
        worker.send(("extract", job.work.id, str(self.pilot.site / "data" / job.work.workdir), job.app.number))

    def extracted(self, job_id: int, value: str | bytes | None, note: str) -> None:
        end = self.partial.pop(job_id)
        self.tell(end._replace(value=value, error=note))

    # -- kills --------------------------------------------------------------------------------------------

    def kill(self, job: Job, wait_time: float | None) -> None:
        """End one task and its whole process tree; asked again, the later `wait_time` counts."""
        job_id = job.work.id
        if job.killing:
            job.kill_wait = wait_time
            return
        job.killing, job.kill_wait = True, wait_time
        if job.state == "RUN_DONE":
            self._stop_reading(job)  # it ended before the kill; only its outputs are missing
            return
        if job.channel is None:
            job.line.backlog.remove(job)
            self.pilot.let_go(job_id)
            return
        job.over = threading.Event()
        job.channel.send(("drop", job_id))
        threading.Thread(target=self._kill, args=(job, job.channel, job.over), daemon=True).start()

    def _kill(self, job: Job, channel: Channel, over: threading.Event) -> None:
        """In a thread: signal until the end has been reported, then make sure nothing of the task is left."""
        mine = task_mark(self.pilot.session.mark, job.work.id)
        marks = [mine]
        asked = time.monotonic()
        told = False
        under: list[processes.Under] = []  # what lets go of its parents is adopted by the spawner
        while not over.is_set():
            if not under and channel.kind == "spawner" and (since := processes.began([mine])):
                under = [processes.Under(read(channel.journal).pid, since)]
            if channel.kind == "worker" and len(marks) == 1 and (job.work.id, job.work.attempt) in _running(channel):
                channel.killed = True  # the warm process is the task's process
                marks.append(process_mark(self.pilot.session.mark, channel.journal))
            if job.kill_wait is not None:
                processes.end(marks, max(0.0, asked + job.kill_wait - time.monotonic()), under=under)
                if time.monotonic() > asked + job.kill_wait + _DEAF_S:
                    processes.send([read(channel.journal).pid], signal.SIGKILL)
            elif not told and processes.find(marks, under=under):
                processes.end(marks, None, under=under)
                told = True  # one SIGTERM is all it gets, unless a stricter kill follows
            over.wait(0.01)
        if job.kill_wait is not None:
            processes.end([mine], max(0.0, asked + job.kill_wait - time.monotonic()), under=under)
        self.pilot.later(lambda: self._killed(job.work.id))

    def _stop_reading(self, job: Job) -> None:
        """End the process that reads this job's outputs."""
        for channel in job.slot.channels if job.slot else []:
            if job.work.id in channel.extracting:
                channel.killed = True
                channel.process.kill()

    def _killed(self, job_id: int) -> None:
        if job_id in self.partial and job_id in self.pilot.jobs:
            self.tell(self.partial.pop(job_id))

    def end_all(self, grace_s: float) -> None:
        """End every task because the allocation ends."""
        with contextlib.suppress(OSError):  # a full disk keeps nothing from ending
            (self.pilot.session.folder / STOPPING).touch()
        self.all_over.clear()
        if not self.pilot.jobs:
            self.all_over.set()
        for job in self.pilot.jobs.values():
            if job.channel is not None:
                job.channel.send(("drop", job.work.id))
        channels = [channel for slot in self.pilot.slots for channel in slot.channels]
        idle = [each for each in channels if each.kind == "spawner" or not each.jobs]
        spared = [each.process.pid or read(each.journal).pid for each in idle]
        threading.Thread(target=self._end_all, args=(grace_s, spared), daemon=True).start()

    def _end_all(self, grace_s: float, spared: list[int]) -> None:
        deadline = time.monotonic() + grace_s
        mark: list[dict[str, object]] = [{"BALSAM_SESSION": self.pilot.session.mark}]
        under = [processes.Under(read(slot.spawner.journal).pid, 0) for slot in self.pilot.slots]
        while not self.all_over.is_set():
            left = deadline - time.monotonic()
            if left <= 0:  # an output function that hangs keeps nobody
                spared = [slot.pid for slot in under]
            if left <= -_DEAF_S:
                spared = []
            processes.end(mark, max(0.0, left), spared, under)
            self.all_over.wait(0.02)
        processes.end(mark, max(0.0, deadline - time.monotonic()), spared, under)
        self.pilot.later(lambda: None)

    # -- slot processes that died ------------------------------------------------------------------------

    def settle(self, slot: Slot, channel: Channel, code: int | None, journal: Journal) -> None:
        """What a slot process that is gone had been given: ended, in flight, or not begun."""
        if channel.kind == "worker":
            held = [self.pilot.jobs[job_id].work for job_id in channel.jobs if job_id in self.pilot.jobs]
            settle_stage(self.pilot.site, journal, held)
        for job_id in list(channel.jobs):
            job = self.pilot.jobs.get(job_id)
            channel.jobs.pop(job_id)
            if job is None:
                continue
            key = job_id, job.work.attempt
            if key in journal.ends:
                self.ended(job, *journal.ends[key])
            elif key not in journal.starts:
                self.pilot.take_back(job_id)
            elif channel.kind == "worker" and (job.killing or self.pilot.stopping or not channel.killed):
                self._process_died(job, code, journal.starts[key], journal.ran_s(key))
            else:
                self._runner_died(job, channel, journal.starts[key], journal.ran_s(key))
        for job_id in list(channel.extracting):
            if (channel.killed or code == _RETIRED) and not self.pilot.stopping and not self.pilot.jobs[job_id].killing:
                slot.worker = None
                self._ask(self.pilot.jobs[job_id])
            else:
                self.extracted(job_id, None, f"the process that read the outputs died (exit code {code})")

    def _process_died(self, job: Job, code: int | None, began: float, runtime: float) -> None:
        """A Python app took its process along: that is the end of this task alone."""
        if code == 0:  # os._exit(0): it neither returned nor raised
            self.tell(
                End(
                    job.work.id,
                    self._handed_on(job, "error"),
                    job.state,
                    began,
                    runtime,
                    0,
                    None,
                    "the app ended its process before it returned",
                )
            )
            return
        code = -signal.SIGKILL if code is None else code  # its node's worker died before it could say
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self.ended(job, code, began, runtime, (None, f"the app's process {how} before the app returned", None, ""))

    def _runner_died(self, job: Job, channel: Channel, began: float, runtime: float) -> None:
        """The task may still run, but nobody will know how it ends: end it, and let it run again."""
        session = self.pilot.session.mark
        processes.end([task_mark(session, job.work.id), process_mark(session, channel.journal)], 0)
        outcome = "killed" if job.killing else "died"
        self.tell(
            End(
                job.work.id,
                outcome,
                job.state,
                began,
                runtime,
                None,
                None,
                "",
                None,
                self._version(job),
            )
        )


def _running(channel: Channel) -> set[tuple[int, int]]:
    journal = read(channel.journal)
    return journal.starts.keys() - journal.ends.keys()
