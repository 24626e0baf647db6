"""Ends what a run of the tests has left. Run by path it is the keeper of a folder: it waits for its owner's end.

All processes of a run carry the run's folder in their environment, children of their children too. The keeper holds
a pipe to pytest: whatever pytest dies of, the pipe breaks, and the keeper ends them and removes the folder. Both hold
the folder's lock; where it is free and the folder is there, somebody has killed both, and the next run cleans up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "BALSAM_JUPYTER_TEST_RUN"


def marked(folder: Path) -> list[int]:
    """Process ids of what carries the folder's mark, or works in it (children of Postgres write over theirs)."""
    mark = f"\0{MARK}={folder}\0".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):  # gone, or not ours
                environment = Path(f"/proc/{name}/environ").read_bytes()
                place = Path(os.readlink(f"/proc/{name}/cwd"))
                if mark in b"\0" + environment + b"\0" or place == folder / "pg":
                    found.append(int(name))
    return found


def end_marked(folder: Path, timeout: float = 10.0) -> None:
    """SIGKILL them until there are none."""
    deadline = time.monotonic() + timeout
    while left := marked(folder):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of {folder} do not end: {left}")
        time.sleep(0.02)


def remove(folder: Path) -> None:
    end_marked(folder)
    shutil.rmtree(folder, ignore_errors=True)
    lock_of(folder).unlink(missing_ok=True)


def lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def sweep(base: Path) -> list[str]:
    """Remove the runs below `base` that nobody owns any more; their names."""
    removed = []
    for lock in base.glob("*.lock"):
        with contextlib.suppress(OSError), lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(lock.with_suffix(""))
            removed.append(lock.stem)
    return removed


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a terminal's Ctrl-C is for pytest
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    remove(Path(sys.argv[1]))
