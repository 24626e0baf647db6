"""Taking over from launchers that died: nothing that ended is run again, nothing runs twice at a time.

A session whose lock can be had is dead. It is fenced first, so that nothing of it can be written any
more. Its slot processes take no more jobs when they see their pipe close; each sees its one task through
and writes down the end, and until then the job stays RUNNING. What the journals say is committed; a job
whose slot process died without writing its end is ended and made RESTART_READY; the rest was never begun.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from ...codec import encode
from . import processes
from .doorbell import Bell
from .journal import Journal, is_locked, read
from .launcher.ending import handed_on, log_tail, settle_stage
from .launcher.placement import Place, place_file
from .launcher.reading import read_outputs
from .sessions import process_mark, session_folder, session_mark, task_mark, try_lock
from .store import Store, flow, records, work
from .store.work import End, Work

_PATIENCE_S = 2.0  # for a slot process to notice that its launcher is gone


class Recovery:
    """Sweeps a site for dead sessions; any process that has the site open may do it at any time."""

    def __init__(self, site: Path, store: Store, bell: Bell) -> None:
        self.site, self.store, self.bell = site, store, bell
        self._ending: set[tuple[str, int]] = set()  # orphans being ended: session, job

    def sweep(self, allocation_id: int | None = None, stopping: bool = False, grace_s: float = 0.5) -> int:
        """Settle dead sessions; the number of this allocation's tasks that run on without a launcher.

        With `stopping`, those are ended too (SIGTERM, after `grace_s` SIGKILL).
        """
        orphans = 0
        for session, batch_job_id in work.unclosed_sessions(self.store.con):
            folder = session_folder(self.site, session)
            folder.mkdir(parents=True, exist_ok=True)
            lock = try_lock(folder / "lock")
            if lock is None:
                continue
            try:
                ours = batch_job_id == allocation_id
                alive = self._settle(session, folder, grace_s if ours and stopping else None)
                orphans += alive if ours else 0
            finally:
                os.close(lock)
        return orphans

    def _settle(self, session: int, folder: Path, grace_s: float | None) -> int:
        mark = session_mark(self.site, session)
        with self.store.transaction() as con:
            work.set_session(con, session, "fenced")
            kind = work.session_kind(con, session)
        if kind == "processor":
            self._settle_processor(session, mark)
            return 0
        journals = self._journals(mark, folder)
        held = work.held(self.store.con, session)
        for one in (each for each in journals if each.path.suffix == ".worker" and not each.alive):
            settle_stage(self.site, one, (job for job, _ in held))
        ends: list[End] = []
        begun: list[tuple[int, str, float]] = []
        unbegun: list[int] = []
        for job, kill_wait in held:
            key = job.id, job.attempt
            journal = next((j for j in journals if key in j.starts or key in j.ends), None)
            if job.state == "RUN_DONE" or (journal is not None and key in journal.ends):
                ends.append(self._ended(job, journal, kill_wait is not None, grace_s is not None))
            elif journal is None:
                unbegun.append(job.id)
            elif journal.alive:
                if job.state != "RUNNING":
                    begun.append((job.id, job.state, journal.starts[key]))
                if kill_wait is not None or grace_s is not None:
                    wait = grace_s if kill_wait is None else None if kill_wait < 0 else kill_wait
                    self._end_orphan(mark, job.id, journal, wait)
            else:
                processes.end([task_mark(mark, job.id), process_mark(mark, journal.path)], 0)
                outcome = "killed" if kill_wait is not None else "timeout" if grace_s is not None else "died"
                began = journal.starts[key]
                ends.append(End(job.id, outcome, job.state, began, max(0.0, time.time() - began), None))
        alive = sum(journal.alive for journal in journals)
        with self.store.transaction() as con:
            work.commit_starts(con, session, begun)
            work.commit_ends(con, session, ends)
            work.release(con, session, unbegun)
            if not alive:
                work.set_session(con, session, "closed")
        if begun or ends or unbegun:
            self.bell.ring()
        return alive

    def _settle_processor(self, session: int, mark: str) -> None:
        """End the hooks of a dead processor; its jobs go back to the states they are stored in."""
        processes.end([{"BALSAM_SESSION": mark}], 0)
        with self.store.transaction() as con:
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
            if time.monotonic() > deadline:  # stopped, or hanging in C code: it must not begin another task
                processes.end([process_mark(session, journal.path) for journal in deaf], 0)
            time.sleep(0.005)

    def _ended(self, job: Work, journal: Journal | None, killed: bool, stopped: bool) -> End:
        if journal is None:
            code, began, runtime, outcome = 0, time.time(), 0.0, None
        else:
            code, began, runtime, outcome = journal.ends[job.id, job.attempt]
        value, error, exception, note = outcome or (None, "", None, "")
        end = End(job.id, "finished", job.state, began, runtime, code, value, error or note, exception)
        record = records.apps(self.store.con, job.app_id)[0]
        if code != 0:
            folder = self.site / "data" / job.workdir
            how = "killed" if killed else "timeout" if stopped else "error"
            return end._replace(
                outcome=handed_on(record, how),
                error=(error or log_tail(folder / "job.out") or "no log") if how == "error" else "",
            )
        if job.state != "RUN_DONE":
            end = end._replace(outcome=handed_on(record, "finished"))
        if end.outcome == "finished" and record.kind == "shell" and record.outputs:
            value, note = read_outputs(record, self.site / "data" / job.workdir)
            end = end._replace(value=value if value is not None else encode({}), error=note)
        return end

    def _end_orphan(self, session: str, job: int, journal: Journal, wait_time: float | None) -> None:
        """End a task whose slot process lives on; that process writes down the end, a later sweep reads it."""
        if (session, job) in self._ending:
            return
        self._ending.add((session, job))
        marks = [task_mark(session, job)]
        if journal.path.suffix == ".worker":  # a Python task is its warm process
            marks.append(process_mark(session, journal.path))
        threading.Thread(target=processes.end, args=(marks, wait_time), daemon=True).start()


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
