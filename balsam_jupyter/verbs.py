"""What the magics and the terminal do alike: finding tasks by what a person calls them, killing, retrying."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from .errors import NotFound, listing, nearest
from .models import TERMINAL, Query
from .submission import newest

if TYPE_CHECKING:
    from .engines.base import Engine

KILL_S = 3.0
"""How long a kill waits for the end of what it killed."""


def find(engine: Engine, text: str) -> tuple[Query, str]:
    """What TASK or NAME means: an ensemble's name, a task's id, its name or its work directory. With words for it.

    Raises
    ------
    NotFound
        If it is none of these; names the nearest ensemble.
    """
    names = list(newest(engine.ensembles()))
    if text in names:
        return Query(ensemble=text), f"ensemble {text!r}"
    if text.isdecimal() and len(text) < 19 and engine.jobs(Query(ids=(int(text),), limit=1)):
        return Query(ids=(int(text),)), f"task {text}"
    task_name = re.fullmatch(r"(.+)_(\d{1,18})", text)
    if task_name and (found := engine.jobs(Query(ids=(int(task_name[2]),)))) and found[0].app_name == task_name[1]:
        return Query(ids=(found[0].id,)), f"task {found[0].id}"
    for workdir in (text, f"libe_workflow/{text}"):
        if found := engine.jobs(Query(workdir=workdir, limit=1)):
            return Query(ids=(found[0].id,)), f"task {found[0].id}"
    raise NotFound(f"Site {engine.site.name!r} has no ensemble, task or work directory {text!r}. {known(text, names)}")


def known(text: str, names: list[str]) -> str:
    """The ensembles there are, and the one meant perhaps."""
    if not names:
        return "It has no ensembles yet."
    return f"Its ensembles are {listing(reversed(names))}.{nearest(text, names)}"


def kill(engine: Engine, query: Query, words: str, wait_time: float | None = 0.5, force: str = "") -> str:
    """Kill tasks and wait a little for their end; what was really killed, in a sentence.

    `wait_time` are the seconds between SIGTERM and SIGKILL; 0 is SIGKILL at once. `force` is as for `Engine.update`.
    """
    cursor = engine.events("now").cursor
    before = engine.count(query)
    asked = engine.update(query, "USER_KILLED", wait_time, force)
    if not asked:
        number = sum(before.values())
        if not number:
            return f"{words}: nothing to kill: there are no such tasks."
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


def retry(engine: Engine, query: Query, words: str) -> tuple[int, str]:
    """Have ended tasks run again: how many will, and that in a sentence, with the reason where none will."""
    number = engine.update(query, "RESTART_READY")
    if number:
        return number, f"{words}: {'1 job' if number == 1 else f'{number:,} jobs'} will run again."
    counts = engine.count(query)
    found = ", ".join(f"{many:,} {state}" for state, many in counts.items())
    if not counts:
        why = "there are no such tasks"
    elif sum(counts.values()) == 1:
        (state,) = counts
        why = f"it has finished ({state})" if state == "JOB_FINISHED" else f"it has not ended (it is {state})"
    else:
        why = f"none has failed or was killed ({found})"
    return 0, f"{words}: nothing to retry: {why}."


def _tasks(number: int) -> str:
    return "1 task" if number == 1 else f"{number} tasks"
