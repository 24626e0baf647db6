"""A launcher's session: a row in the store, a folder for journals, and a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from .doorbell import site_mark
from .store import Store, work


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


class Session:
    """The life of one launcher (or processor, of no allocation). Locked before it can be seen in the store."""

    def __init__(self, site: Path, store: Store, batch_job_id: int | None, kind: str = "launcher") -> None:
        with store.transaction() as con:
            self.id = work.open_session(con, batch_job_id, os.getpid(), kind)
            self.folder = session_folder(site, self.id)
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = try_lock(self.folder / "lock")
        assert lock is not None, "a new session's lock belongs to nobody"
        self.lock = lock
        self.mark = session_mark(site, self.id)

    def close(self, store: Store) -> None:
        with store.transaction() as con:
            work.set_session(con, self.id, "closed")
        os.close(self.lock)
