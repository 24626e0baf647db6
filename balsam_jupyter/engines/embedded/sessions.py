"""A launcher's session: a row in the store, a folder for journals, and a lock that dies with its holder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from .doorbell import site_mark
from .store import Store, work

STOPPING = "stopping"  # in a session's folder: its tasks are ended because the allocation ends, so they run again
BEAT_S = 1.0


def session_folder(site: Path, session: int) -> Path:
    return site / "run" / f"session-{session}"


def session_mark(site: Path, session: int) -> str:
    """What BALSAM_SESSION holds in a task's environment: unique on this machine, however the site's path is spelt."""
    return f"{site_mark(site)}-{session}"


def task_mark(session: str, job: int) -> dict[str, object]:
    """What the environment of a task's processes holds."""
    return {"BALSAM_SESSION": session, "BALSAM_JOB_ID": job}


def process_mark(session: str, journal: Path) -> dict[str, object]:
    """What the environment of a slot process holds; a child of it may still have it before it becomes a task."""
    return {"BALSAM_SESSION": session, f"BALSAM_{journal.suffix[1:].upper()}": journal.name}


def try_lock(path: Path) -> int | None:
    """A file descriptor that holds the lock, or None while a living process does."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def is_full(error: OSError) -> bool:
    """Whether this is what a full disk says: what failed is to be tried again."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def held_lock(path: Path) -> Iterator[bool]:
    """Hold the lock during the block; False if a living process has it."""
    fd = try_lock(path)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)


def last_beat(folder: Path) -> bytes:
    """A session's latest sign of life, to be compared with an earlier one; empty before the first."""
    try:
        return (folder / "lock").read_bytes()
    except OSError:
        return b""


def lived_s(folder: Path) -> float:
    """For how long a session has given signs of life."""
    began, _, last = last_beat(folder).partition(b" ")
    return float(last) - float(began) if last else 0.0


class Session:
    """The life of one launcher (or processor, of no allocation). Locked before it can be seen in the store.

    Its heart beats into the lock file and not into the store: a commit a second would be a disk flush a second.
    """

    def __init__(self, site: Path, store: Store, batch_job_id: int | None, kind: str = "launcher") -> None:
        with store.transaction() as con:
            self.id = work.open_session(con, batch_job_id, os.getpid(), kind)
            self.folder = session_folder(site, self.id)
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = try_lock(self.folder / "lock")
        assert lock is not None, "a new session's lock belongs to nobody"
        self.lock = lock
        self.mark = session_mark(site, self.id)
        self.began = time.monotonic()
        self.beaten = 0.0

    def beat(self, store: Store) -> None:
        """Show that this process is not stopped; to be called often, does something once a second.

        Raises
        ------
        Fenced
            If it had been stopped for so long that another process took over.
        """
        now = time.monotonic()
        if now - self.beaten < BEAT_S:
            return
        work.require_open(store.con, self.id)
        self.beaten = now
        with contextlib.suppress(OSError):  # the disk is full
            os.pwrite(self.lock, b"%016.3f %016.3f" % (self.began, now), 0)

    def close(self, store: Store) -> None:
        with store.transaction() as con:
            work.set_session(con, self.id, "closed")
        os.close(self.lock)
