"""What a check of the store looks at, and what a vacuum does."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from typing import NamedTuple

from ....errors import SiteError
from .directories import row_workdir

_GONE = "session_id NOT IN (SELECT id FROM session WHERE state <> 'closed')"
_LOST = f"((session_id IS NOT NULL AND {_GONE}) OR (session_id IS NULL AND state = 'RUNNING'))"
_REFERENCES = (
    ("spec", "FROM job WHERE spec_id NOT IN (SELECT id FROM spec)"),
    ("app", "FROM job JOIN spec ON spec.id = spec_id WHERE spec.app_id NOT IN (SELECT id FROM app)"),
    ("ensemble", "FROM job WHERE ensemble_id IS NOT NULL AND ensemble_id NOT IN (SELECT id FROM ensemble)"),
)


class StoredSession(NamedTuple):
    """A session as stored."""

    id: int
    batch_job_id: int | None
    pid: int
    state: str
    kind: str


def integrity(con: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with the file; nothing where all is well."""
    try:
        found = [row[0] for row in con.execute("PRAGMA integrity_check(5)").fetchall()]
    except sqlite3.DatabaseError as error:
        return [str(error)]
    return [] if found == ["ok"] else found


def broken(con: sqlite3.Connection) -> list[tuple[str, int, list[int]]]:
    """What jobs refer to that is not there: its kind, how many jobs, and the first of them."""
    found = []
    for kind, rest in _REFERENCES:
        number = con.execute(f"SELECT count(*) {rest}").fetchone()[0]
        if number:
            found.append((kind, number, [row[0] for row in con.execute(f"SELECT job.id {rest} LIMIT 5")]))
    return found


def lost(con: sqlite3.Connection) -> list[int]:
    """Jobs that are held by, or run in, a session that is no more."""
    return [row[0] for row in con.execute(f"SELECT id FROM job WHERE {_LOST}").fetchall()]


def give_back(con: sqlite3.Connection) -> int:
    """Make those runnable again (one that was to be killed ends); how many."""
    now = time.time()
    after = "CASE WHEN kill_wait IS NULL THEN 'RESTART_READY' ELSE 'USER_KILLED' END"
    con.execute(
        f"""INSERT INTO event(first_id, last_id, path, time, end_time)
            SELECT id, id, state || '>' || {after}, ?1, ?1 FROM job WHERE {_LOST}""",
        (now,),
    )
    return con.execute(f"UPDATE job SET state = {after}, session_id = NULL, kill_wait = NULL WHERE {_LOST}").rowcount


def sessions(con: sqlite3.Connection) -> list[StoredSession]:
    rows = con.execute("SELECT id, batch_job_id, pid, state, kind FROM session WHERE state <> 'closed'").fetchall()
    return [StoredSession(*row) for row in rows]


def owner(con: sqlite3.Connection, directory: str) -> str:
    """``"job"`` if a lone job has that directory, ``"above"`` if some job has one below it, else ``""``."""
    if con.execute("SELECT 1 FROM job WHERE workdir = ?", (directory,)).fetchone():
        return "job"
    # '0' is the character after '/'
    below = "SELECT 1 FROM job WHERE workdir IS NOT NULL AND workdir > ? AND workdir < ? LIMIT 1"
    return "above" if con.execute(below, (directory + "/", directory + "0")).fetchone() else ""


def ensembles(con: sqlite3.Connection) -> dict[str, int]:
    """The id of each ensemble, by the folder its directories are in."""
    return dict(con.execute("SELECT folder, id FROM ensemble").fetchall())


def rows(con: sqlite3.Connection, ensemble: int) -> bytearray:
    """For each row number of an ensemble 1 if there is a job, else 0."""
    most = con.execute("SELECT max(row) FROM job WHERE ensemble_id = ?", (ensemble,)).fetchone()[0]
    there = bytearray(0 if most is None else most + 1)
    for (row,) in con.execute("SELECT row FROM job WHERE ensemble_id = ? AND row IS NOT NULL", (ensemble,)):
        there[row] = 1
    return there


def transferred(con: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Id and directory of the ended jobs that had files to transfer."""
    found = con.execute(
        """SELECT job.id, workdir, folder, row FROM job
           LEFT JOIN ensemble ON ensemble.id = ensemble_id
           WHERE transfers IS NOT NULL AND state IN ('JOB_FINISHED', 'FAILED', 'USER_KILLED')"""
    ).fetchall()
    return ((id_, workdir or row_workdir(folder, row)) for id_, workdir, folder, row in found)


def vacuum(con: sqlite3.Connection) -> None:
    """Rewrite the file without its holes.

    Raises
    ------
    SiteError
        If somebody else uses the store all the time, or the disk has no room for the copy.
    """
    try:
        con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        con.execute("VACUUM")
        con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise SiteError("The disk has no room for a copy of the store, which a vacuum needs; make room.") from None
        raise SiteError(f"The store could not be rewritten now ({error}); try again.") from None
