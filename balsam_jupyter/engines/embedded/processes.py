"""Finding and ending the processes of tasks, wherever they went.

Every task carries BALSAM_SESSION, BALSAM_SLOT and BALSAM_JOB_ID in its environment and leads its own
process group. A child that changed its group or session still has the mark; one that also cleared its
environment is found as a descendant.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable


def find(marks: Iterable[dict[str, object]], but: Iterable[int] = ()) -> set[int]:
    """Living processes whose environment has all the variables of one of the marks, and their descendants."""
    wanted = [{f"{key}={value}".encode() for key, value in mark.items()} for mark in marks]
    spared = {os.getpid(), *but}
    parents: dict[int, int] = {}
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        pid = int(name)
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                state, parent = file.read().rpartition(b") ")[2].split()[:2]
            if state in b"ZX":
                continue
            parents[pid] = int(parent)
            with open(f"/proc/{pid}/environ", "rb") as file:
                variables = set(file.read().split(b"\0"))
        except OSError:
            continue
        if pid not in spared and any(mark <= variables for mark in wanted):
            found.add(pid)
    while more := {
        pid for pid, parent in parents.items() if parent in found and pid not in found and pid not in spared
    }:
        found |= more
    return found


def send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end(marks: list[dict[str, object]], wait_time: float | None, but: Iterable[int] = ()) -> None:
    """End all processes with these marks: SIGTERM, after `wait_time` s SIGKILL (0: at once, None: never).

    Returns when none is left, or with None after SIGTERM was sent.
    """
    number = signal.SIGKILL if wait_time == 0 else signal.SIGTERM
    deadline = time.monotonic() + (wait_time or 0.0)
    asked: set[int] = set()
    while alive := find(marks, but):
        if number == signal.SIGTERM and wait_time is not None and time.monotonic() >= deadline:
            number = signal.SIGKILL
        send(alive if number == signal.SIGKILL else alive - asked, number)
        asked |= alive
        if wait_time is None:
            return
        time.sleep(0.01)
