"""Taking over from launchers that died or were stopped: nothing that ended is run again, nothing runs twice at a time.

A session whose lock can be had is dead; one that is stopped (SIGSTOP) and whose heart has not beaten for
`stopped_after_s` is treated alike. It is fenced first, so that nothing of it can be written any more. Its
slot processes take no more jobs when they see their pipe close, or are told so by SIGUSR1; each sees its
one task through and writes down the end, and until then the job stays RUNNING. What the journals say is
committed; a job whose slot process died without writing its end is ended and made RESTART_READY; the rest
was never begun. A slot process that starts in a fenced session finds the file ``fenced`` and takes no jobs.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ...codec import encode
from . import processes
from .doorbell import Bell
from .journal import Journal, is_locked, read
from .launcher.ending import READ_HERE, handed_on, log_tail, settle_stage
from .launcher.placement import Place, place_file
from .launcher.ranks import read_outcome, task_file
from .launcher.reading import read_outputs
from .processor import underway
from .sessions import (
    STOPPING,
    held_lock,
    is_full,
    last_beat,
    lived_s,
    process_mark,
    session_folder,
    session_mark,
    task_mark,
    try_lock,
)
from .store import Store, flow, records, work
from .store.schema import StoreBusy
from .store.work import End, Work

_PATIENCE_S = 2.0  # for a slot process to notice that its launcher is gone
_STEP_S = 2.0  # time between two looks counts up to here: the looker may have been stopped or asleep itself
_YOUNG_S = 60.0  # a launcher that dies before may have died of a task that was there before it


class Recovery:
    """Sweeps a site for dead and stopped sessions; any process that has the site open may do it at any time.

    `stopped_after_s` counts on `clock`, and only while this process looks, about once a second.
    """

    def __init__(
        self,
        site: Path,
        store: Store,
        bell: Bell,
        stopped_after_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.site, self.store, self.bell = site, store, bell
        self.stopped_after_s, self.clock = stopped_after_s, clock
        self._silent: dict[int, tuple[bytes, float, float]] = {}  # session: beat, when looked, seconds without another
        self._ending: set[tuple[str, int]] = set()  # orphans being ended: session, job

    def sweep(self, allocation_id: int | None = None, stopping: bool = False, grace_s: float = 0.5) -> int:
        """Settle sessions without a launcher; the number of this allocation's tasks that run on.

        With `stopping`, those are ended too (SIGTERM, after `grace_s` SIGKILL).

        Raises
        ------
        StoreBusy
            If nothing can be written now, neither to the store nor beside it.
        """
        try:
            return self._sweep(allocation_id, stopping, grace_s)
        except OSError as error:
            if not is_full(error):
                raise
            raise StoreBusy(f"The disk that holds {self.site} is full; make room.") from None

    def _sweep(self, allocation_id: int | None, stopping: bool, grace_s: float) -> int:
        orphans = 0
        for session, batch_job_id in work.unclosed_sessions(self.store.con):
            folder = session_folder(self.site, session)
            folder.mkdir(parents=True, exist_ok=True)
            with held_lock(folder / "lock") as dead:
                if not dead and not self._has_stopped(session, batch_job_id, folder):
                    continue
                with held_lock(folder / "heir") as mine:
                    if mine:  # no other process is at it
                        ours = batch_job_id == allocation_id
                        alive = self._settle(
                            session, batch_job_id, folder, grace_s if ours and stopping else None, dead
                        )
                        orphans += alive if ours else 0
        return orphans

    def _has_stopped(self, session: int, batch_job_id: int | None, folder: Path) -> bool:
        """Whether a living launcher has been stopped for long. A processor that has is ended: dead at the next look."""
        pid, state = work.session(self.store.con, session)
        if state != "open" and batch_job_id is not None:
            if self._is_over(batch_job_id) and processes.is_stopped(pid):
                processes.send([pid], signal.SIGKILL)  # it keeps nodes, and cannot be asked to go
            return True
        beat, now = last_beat(folder), self.clock()
        before, looked, silent = self._silent.get(session, (beat, now, 0.0))
        silent = silent + min(now - looked, _STEP_S) if beat == before else 0.0
        self._silent[session] = beat, now, silent
        if silent < self.stopped_after_s or not processes.is_stopped(pid):
            return False
        if batch_job_id is None:  # it holds the lock that keeps others from starting, and nothing of it is to live on
            processes.send([pid], signal.SIGKILL)
        return batch_job_id is not None

    def _is_over(self, batch_job_id: int) -> bool:
        """Whether an allocation was revoked, or has used its wall time."""
        allocation = records.allocation(self.store.con, batch_job_id)
        return allocation.state != "running" or allocation.remaining_s == 0.0

    def _settle(self, session: int, batch_job_id: int, folder: Path, grace_s: float | None, dead: bool) -> int:
        mark = session_mark(self.site, session)
        with self.store.transaction() as con:
            first = work.fence(con, session)
            kind = work.session_kind(con, session)
        if kind == "processor":
            self._settle_processor(session, mark, dead)
            return 0
        (folder / "fenced").touch()
        if grace_s is not None:
            (folder / STOPPING).touch()
        stopping = (folder / STOPPING).exists()
        journals = self._journals(mark, folder)
        held = work.held(self.store.con, session)
        for one in (each for each in journals if each.path.suffix == ".worker" and not each.alive):
            settle_stage(self.site, one, (job for job, _ in held))
        doomed = work.doomed(self.store.con, session)
        ends: list[End] = []
        begun: list[tuple[int, str, float]] = []
        unbegun: list[int] = []
        for job, kill_wait in held:
            key = job.id, job.attempt
            journal = next((j for j in journals if key in j.starts or key in j.ends), None)
            if job.id in doomed and journal is not None and journal.ends.get(key, (0,))[0] != 0:
                _, began, runtime, _ = journal.ends[key]
                ends.append(End(job.id, "died", job.state, began, runtime, None))
            elif job.state == "RUN_DONE" or (journal is not None and key in journal.ends):
                ends.append(self._ended(job, journal, kill_wait is not None, stopping))
            elif journal is None and job.state == "RUNNING":  # the machine died, and with it what was not on its disk
                processes.end([task_mark(mark, job.id)], 0)
                how = "died" if kill_wait is None else "killed"
                ends.append(End(job.id, how, job.state, time.time(), 0.0, None))
            elif journal is None:
                unbegun.append(job.id)
            elif journal.alive:
                if job.state != "RUNNING":
                    begun.append((job.id, job.state, journal.starts[key]))
                if job.id in doomed:
                    self._end_orphan(mark, job.id, journal, 0)
                elif kill_wait is not None or grace_s is not None:
                    wait = grace_s if kill_wait is None else None if kill_wait < 0 else kill_wait
                    self._end_orphan(mark, job.id, journal, wait)
            else:
                processes.end([task_mark(mark, job.id), process_mark(mark, journal.path)], 0)
                outcome = "killed" if kill_wait is not None else "timeout" if stopping else "died"
                began = journal.starts[key]
                ends.append(End(job.id, outcome, job.state, began, journal.ran_s(key), None))
        alive = sum(journal.alive for journal in journals)
        with self.store.transaction() as con:
            work.commit_starts(con, session, begun)
            work.commit_ends(con, session, ends)
            work.release(con, session, unbegun)
            if first and dead:
                work.count_death(con, batch_job_id, lived_s(folder) < _YOUNG_S)
            if dead and not alive:
                work.set_session(con, session, "closed")
        if begun or ends or unbegun:
            self.bell.ring()
        return alive

    def _settle_processor(self, session: int, mark: str, dead: bool) -> None:
        """End the hooks of a dead or stopped processor; its jobs go back to the states they are stored in."""
        if not dead:  # it keeps another from being started, and has nothing to see through
            processes.send([work.session(self.store.con, session)[0]], signal.SIGKILL)
        processes.end([{"BALSAM_SESSION": mark}], 0)
        with self.store.transaction() as con:
            if dead and work.session(con, session)[1] != "closed":
                folder = session_folder(self.site, session)
                running = [run.job_id for run in reversed(underway.read(folder))]
                flow.blame(con, session, running, lived_s(folder) < _YOUNG_S)
            flow.give_back(con, session)
            work.set_session(con, session, "closed")
        self.bell.ring()

    def _journals(self, session: str, folder: Path) -> list[Journal]:
        """The session's journals, once every living slot process has seen that its launcher is gone."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            journals = [read(path) for path in sorted(folder.iterdir()) if path.suffix in (".spawner", ".worker")]
            deaf = [journal for journal in journals if journal.alive and not journal.orphaned]
            if not deaf:
                return journals
            processes.send([journal.pid for journal in deaf if journal.pid], signal.SIGUSR1)
            if time.monotonic() > deadline:  # stopped, or hanging in C code: it must not begin another task
                processes.end([process_mark(session, journal.path) for journal in deaf], 0)
            time.sleep(0.005)

    def _ended(self, job: Work, journal: Journal | None, killed: bool, stopped: bool) -> End:
        if journal is None:
            code, began, runtime, outcome = 0, time.time(), 0.0, None
        else:
            code, began, runtime, outcome = journal.ends[job.id, job.attempt]
        record = records.apps(self.store.con, job.app_id)[0]
        if outcome is None and journal is not None and record.kind == "python":  # of several ranks
            outcome = read_outcome(task_file(journal.path.parent, job.id, job.attempt))
        value, error, exception, note = outcome or (None, "", None, "")
        end = End(job.id, "finished", job.state, began, runtime, code, value, error or note, exception)
        if code != 0:
            folder = self.site / "data" / job.workdir
            how = "killed" if killed else "timeout" if stopped else "error"
            tail = log_tail(folder / "job.err") or log_tail(folder / "job.out")
            error = error or tail or f"exit code {code}, and nothing in its log"
            return end._replace(outcome=handed_on(record, how, job.scratch), error=error if how == "error" else "")
        if job.state != "RUN_DONE":
            end = end._replace(outcome=handed_on(record, "finished", job.scratch))
        elif job.scratch:
            end = end._replace(outcome="staged")
        if end.outcome in READ_HERE and record.kind == "shell" and record.outputs:
            value, note = read_outputs(record, self.site / "data" / job.workdir)
            end = end._replace(value=value if value is not None else encode({}), error=note)
        return end

    def _end_orphan(self, session: str, job: int, journal: Journal, wait_time: float | None) -> None:
        """End a task whose slot process lives on; that process writes down the end, a later sweep reads it."""
        if (session, job) in self._ending:
            return
        self._ending.add((session, job))
        marks = [task_mark(session, job)]
        under: list[processes.Under] = []
        if journal.path.suffix == ".worker":  # a Python task is its warm process
            marks.append(process_mark(session, journal.path))
        elif since := processes.began(marks):
            under = [processes.Under(journal.pid, since)]
        threading.Thread(target=processes.end, args=(marks, wait_time, (), under), daemon=True).start()


def orphan_places(site: Path, store: Store, allocation_id: int) -> dict[Path, Place]:
    """What the slots of an allocation's dead sessions still run on, by the journals of their living processes."""
    places = {}
    for session, batch_job_id in work.unclosed_sessions(store.con):
        folder = session_folder(site, session)
        lock = try_lock(folder / "lock") if batch_job_id == allocation_id else None
        if lock is None:
            continue
        os.close(lock)
        for journal in folder.glob("*.*.*"):
            file = place_file(folder, int(journal.name.partition(".")[0]))
            if is_locked(journal) and file.exists():
                places[journal] = Place.from_json(file.read_text())
    return places
