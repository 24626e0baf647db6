"""Finding and ending the processes of tasks, wherever they went.

Every task carries BALSAM_SESSION, BALSAM_SLOT and BALSAM_JOB_ID in its environment and leads its own
process group. A child that changed its group or session still has the mark; one that also cleared its
environment is found as a descendant; one that left its parents as well was adopted by the slot process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from typing import NamedTuple

Mark = dict[str, object]


class Under(NamedTuple):
    """A slot process, and since when what it adopts belongs to the task (clock ticks since boot)."""

    pid: int
    since: int


class _Process(NamedTuple):
    parent: int
    start: int
    variables: set[bytes]


def _processes() -> dict[int, _Process]:
    """All living processes that can be looked into."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                words = file.read().rpartition(b") ")[2].split()
            if words[0] in b"ZX":
                continue
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = set(file.read().split(b"\0"))
        except OSError:
            continue
        found[int(name)] = _Process(int(words[1]), int(words[19]), variables)
    return found


def _marked(there: dict[int, _Process], marks: Iterable[Mark]) -> set[int]:
    wanted = [{f"{key}={value}".encode() for key, value in mark.items()} for mark in marks]
    return {pid for pid, process in there.items() if any(mark <= process.variables for mark in wanted)}


def _is_marked(process: _Process) -> bool:
    """Whether it belongs to some task or, between fork and exec, looks like the slot process."""
    return any(variable.startswith((b"BALSAM_JOB_ID=", b"BALSAM_SPAWNER=")) for variable in process.variables)


def find(marks: Iterable[Mark], but: Iterable[int] = (), under: Iterable[Under] = ()) -> set[int]:
    """Living processes whose environment has all the variables of one of the marks, and their descendants.

    With `under` also the children of those slot processes which began since then and have no mark at all: they let go
    of their parents, and cleared their environment.
    """
    there = _processes()
    found = _marked(there, marks)
    adopted = dict(under)
    found |= {
        pid
        for pid, each in there.items()
        if each.parent in adopted and each.start >= adopted[each.parent] and not _is_marked(each)
    }
    spared = {os.getpid(), *but}
    found -= spared
    while more := {
        pid for pid, each in there.items() if each.parent in found and pid not in found and pid not in spared
    }:
        found |= more
    return found


def began(marks: Iterable[Mark]) -> int | None:
    """When the oldest living process with one of these marks began (clock ticks since boot); None if there is none."""
    there = _processes()
    return min((there[pid].start for pid in _marked(there, marks)), default=None)


def is_stopped(pid: int) -> bool:
    """Whether this is a launcher or processor, and stopped by a signal or a debugger."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b") ")[2][:1]
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read()
            return state in b"Tt" and (b"embedded.launcher" in command or b"embedded.processor" in command)
    except OSError:
        return False


def send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end(marks: list[Mark], wait_time: float | None, but: Iterable[int] = (), under: Iterable[Under] = ()) -> None:
    """End all processes that `find` finds: SIGTERM, after `wait_time` s SIGKILL (0: at once, None: never).

    Returns when none is left, or with None after SIGTERM was sent.
    """
    number = signal.SIGKILL if wait_time == 0 else signal.SIGTERM
    deadline = time.monotonic() + (wait_time or 0.0)
    asked: set[int] = set()
    while alive := find(marks, but, under):
        if number == signal.SIGTERM and wait_time is not None and time.monotonic() >= deadline:
            number = signal.SIGKILL
        send(alive if number == signal.SIGKILL else alive - asked, number)
        asked |= alive
        if wait_time is None:
            return
        time.sleep(0.01)
