"""What became of tasks: the end of a log, which rows failed, and what a kill has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..models import TERMINAL, JobRow, Query
from .report import Log

if TYPE_CHECKING:
    from ..engines.base import Engine
    from ..ensemble import Ensemble

KILL_S = 3.0
"""How long a kill waits for the end of what it killed."""


def log_of(engine: Engine, job: JobRow, lines: int) -> Log:
    """A head, and the last `lines` lines of a task's log and of what its error adds to the log."""
    error = [line for line in job.error.splitlines() if line.strip()]
    # An error is often the end of the log, and longer than what is asked for.
    end = engine.output(job.id, lines + len(error)).rstrip("\n")
    added = [line for line in error if line.strip() not in end]
    shown = [*(end.splitlines() or ["(its log is empty)"]), *added][-lines:]
    code = "" if job.return_code is None else f", return code {job.return_code}"
    return Log("\n".join([f"task {job.id} ({job.app_name}, {job.state}{code}) in {job.workdir}:", *shown]))


def point_to_failed(ensemble: Ensemble) -> None:
    """Print how to see why rows failed, if any did; printed, so that it is seen in the middle of a cell, too."""
    if failed := ensemble.counts()["FAILED"]:
        print(f"{failed} failed: %balsam_logs {ensemble.name} shows why")


def kill(engine: Engine, query: Query, words: str) -> str:
    """Kill tasks and wait a little for their end; what was really killed, in a sentence."""
    cursor = engine.events("now").cursor
    before = engine.count(query)
    asked = engine.update(query, "USER_KILLED")
    if not asked:
        number = sum(before.values())
        return f"{words}: nothing to kill: " + ("it had ended." if number == 1 else f"all {number} tasks had ended.")
    deadline = time.monotonic() + KILL_S
    while True:
        now = engine.count(query)
        going = sum(number for state, number in now.items() if state not in TERMINAL)
        left = deadline - time.monotonic()
        if not going or left <= 0:
            break
        cursor = engine.events(cursor, left).cursor
    killed = now.get("USER_KILLED", 0) - before.get("USER_KILLED", 0)
    first = asked - killed - going
    said = [f"{_tasks(killed)} killed"] if killed or not going else []
    said += [f"{first} ended first"] if first > 0 else []
    said += [f"{_tasks(going)} still ending"] if going else []
    return f"{words}: {'; '.join(said)}."


def _tasks(number: int) -> str:
    return "1 task" if number == 1 else f"{number} tasks"
