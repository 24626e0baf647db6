"""What is known here of a remote site: a local store of the shape that the embedded engine has.

So questions (queries, counts, tables, what was over time) are answered here, quickly and also while the service is
silent, and cost the service nothing. `changes.py` keeps it up to date; several kernels may share it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..embedded.store import Store

_TABLES = (
    """CREATE TABLE IF NOT EXISTS remote(
        job_id INTEGER PRIMARY KEY, last_update TEXT NOT NULL, tags TEXT NOT NULL, data TEXT NOT NULL,
        seen INTEGER NOT NULL DEFAULT 0,      -- the last of its events that was read
        untold INTEGER NOT NULL DEFAULT 1)    -- 1 + how often they were asked for in vain, 0: they were read
    """,
    "CREATE INDEX IF NOT EXISTS remote_untold ON remote(untold, job_id) WHERE untold > 0",
    "CREATE TABLE IF NOT EXISTS note(name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS twin(job_id INTEGER PRIMARY KEY)",  # stored twice by a lost answer; to be deleted there
)


class Mirror(Store):
    """The store of one remote site. It is only a copy: where somebody deleted it, another one is begun."""

    cure = "It is only a copy of what the service has: delete it."

    def __init__(self, path: Path) -> None:
        self._beginning = threading.RLock()
        self._begun = False
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().__init__(path)
        self._add_tables()
        self._begun = True

    def _add_tables(self) -> None:
        with self.transaction() as con:
            for statement in _TABLES:
                con.execute(statement)
            # The service lets several jobs have one directory.
            if con.execute("SELECT sql LIKE '% UNIQUE %' FROM sqlite_master WHERE name = 'job_workdir'").fetchone()[0]:
                con.execute("DROP INDEX job_workdir")
                con.execute("CREATE INDEX job_workdir ON job(workdir) WHERE workdir IS NOT NULL")

    @property
    def con(self) -> sqlite3.Connection:
        """This thread's connection."""
        if self._begun and not self._is_there():
            with self._beginning:
                if not self._is_there():
                    self._begin_anew()
        return super().con

    def after_fork(self) -> None:
        """In a forked child: the thread that may have held the lock stayed in the parent."""
        self._beginning = threading.RLock()

    def _is_there(self) -> bool:
        try:
            return os.stat(self.path).st_ino == self._inode
        except OSError:
            return False

    def _begin_anew(self) -> None:
        self._begun = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self.path.exists():
                for rest in ("-wal", "-shm"):  # of the one that was deleted
                    self.path.with_name(self.path.name + rest).unlink(missing_ok=True)
            self._inode, self._local = 0, threading.local()
            self._migrate()
            self._add_tables()
        finally:
            self._begun = True

    def _connect(self) -> sqlite3.Connection:
        con = super()._connect()
        con.execute("PRAGMA synchronous=NORMAL")  # what a crash of the machine loses is asked for again
        return con

    def note(self, name: str) -> Any:
        """What was kept under this name; None if nothing was."""
        found = self.con.execute("SELECT value FROM note WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])


def keep(con: sqlite3.Connection, name: str, value: Any) -> None:
    """Keep a JSON-able value under a name."""
    con.execute("INSERT OR REPLACE INTO note VALUES(?, ?)", (name, json.dumps(value)))


class Known(NamedTuple):
    """A job as the mirror has it."""

    state: str
    last_update: str
    seen: int


def known(con: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Known]:
    rows = con.execute(
        """SELECT job.id, state, last_update, seen FROM job JOIN remote ON job_id = job.id
           WHERE job.id IN (SELECT value FROM json_each(?))""",
        (json.dumps([*ids]),),
    )
    return {job_id: Known(*rest) for job_id, *rest in rows}


def counts(con: sqlite3.Connection) -> dict[str, int]:
    """Numbers by the service's states."""
    found: dict[str, int] = {}
    for state, number in con.execute("SELECT state, count(*) FROM job GROUP BY ensemble_id, state"):
        state = "FAILED" if state == "USER_KILLED" else state
        found[state] = found.get(state, 0) + number
    for (number,) in con.execute("SELECT count(*) FROM twin"):
        found[""] = number
    return found


def rows(con: sqlite3.Connection, ensemble: str, generation: int) -> int:
    """How many jobs an ensemble has."""
    query = "SELECT count(*) FROM job JOIN ensemble ON ensemble.id = ensemble_id WHERE name = ? AND generation = ?"
    return int(con.execute(query, (ensemble, generation)).fetchone()[0])


def of_apps(con: sqlite3.Connection, apps: Iterable[int], ids: Iterable[int]) -> list[int]:
    """Those of these jobs that are of one of these apps."""
    rows = con.execute(
        """SELECT job.id FROM job JOIN spec ON spec.id = spec_id
           WHERE app_id IN (SELECT value FROM json_each(?)) AND job.id IN (SELECT value FROM json_each(?))""",
        (json.dumps([*apps]), json.dumps([*ids])),
    )
    return [job_id for (job_id,) in rows]


def untold(con: sqlite3.Connection, most: int, ids: Iterable[int] | None = None) -> list[int]:
    """Jobs whose events were not read since they changed, those asked for least often first."""
    some = "" if ids is None else "AND job_id IN (SELECT value FROM json_each(?))"
    arguments = () if ids is None else (json.dumps([*ids]),)
    rows = con.execute(
        f"SELECT job_id FROM remote WHERE untold > 0 {some} ORDER BY untold, job_id LIMIT {most}", arguments
    )
    return [job_id for (job_id,) in rows]
