"""Tables, indexes, migrations, connections."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ....errors import SiteError
from ..processes import is_stopped

SCHEMA_VERSION = 3
BUSY_S = 5.0
_ROOM = 1 << 18  # bytes: with less room than this, a database error is the disk's

# The states a launcher may check out, and those in which a job waits for its app's hooks or transfers. The partial
# indexes below must name the same conditions to be used. Comparisons, not a long IN: SQLite would build a table for
# the list whenever it looks whether a row belongs to the index, which costs a fifth of a task's life in the store.
READY = "session_id IS NULL AND state IN ('PREPROCESSED', 'RESTART_READY')"
_DUE_STATES = ("READY", "STAGED_IN", "RUN_DONE", "POSTPROCESSED", "STAGED_OUT", "RUN_ERROR", "RUN_TIMEOUT")
DUE = f"session_id IS NULL AND ({' OR '.join(f'state = {state!r}' for state in _DUE_STATES)})"

# The id of an ensemble from its name and generation (NULL: the newest).
ENSEMBLE = """SELECT id FROM ensemble WHERE name = ? AND generation = coalesce(?, generation)
    ORDER BY generation DESC LIMIT 1"""

_V1 = f"""
CREATE TABLE app(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, version TEXT NOT NULL,
    record TEXT NOT NULL, payload BLOB, changes INTEGER NOT NULL DEFAULT 1);
-- What many jobs share: app, resources and tags, stored once for equal ones.
CREATE TABLE spec(
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, app_id INTEGER NOT NULL REFERENCES app(id),
    resources TEXT NOT NULL, tags TEXT NOT NULL);
CREATE TABLE ensemble(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, generation INTEGER NOT NULL, app_name TEXT NOT NULL,
    app_version TEXT NOT NULL, created REAL NOT NULL, provenance TEXT NOT NULL, rows INTEGER NOT NULL DEFAULT 0,
    UNIQUE(name, generation));
CREATE TABLE job(
    id INTEGER PRIMARY KEY AUTOINCREMENT, spec_id INTEGER NOT NULL, ensemble_id INTEGER, row INTEGER, key BLOB,
    parameters NOT NULL, workdir TEXT, state TEXT NOT NULL,
    session_id INTEGER, batch_job_id INTEGER, attempts INTEGER NOT NULL DEFAULT 0, deaths INTEGER NOT NULL DEFAULT 0,
    kill_wait REAL,      -- a kill is asked for: seconds between SIGTERM and SIGKILL, -1 for no SIGKILL
    app_version TEXT NOT NULL, submit_time REAL NOT NULL, start_time REAL, end_time REAL, runtime_s REAL,
    return_code INTEGER, data TEXT, value, error TEXT, exception BLOB);
CREATE UNIQUE INDEX job_row ON job(ensemble_id, key) WHERE key IS NOT NULL;
CREATE UNIQUE INDEX job_workdir ON job(workdir) WHERE workdir IS NOT NULL;
CREATE INDEX job_state ON job(ensemble_id, state);
CREATE INDEX job_ready ON job(id) WHERE {READY};
CREATE INDEX job_session ON job(session_id) WHERE session_id IS NOT NULL;
-- One row for what a commit did to a job, or to a range of new jobs; path is 'FROM>VIA>TO'.
CREATE TABLE event(
    seq INTEGER PRIMARY KEY AUTOINCREMENT, first_id INTEGER NOT NULL, last_id INTEGER NOT NULL,
    path TEXT NOT NULL, time REAL NOT NULL, end_time REAL NOT NULL, data TEXT);
CREATE INDEX event_job ON event(first_id);
CREATE INDEX event_range ON event(last_id) WHERE last_id > first_id;
CREATE TABLE batch_job(
    id INTEGER PRIMARY KEY AUTOINCREMENT, request TEXT NOT NULL, num_nodes INTEGER NOT NULL, state TEXT NOT NULL,
    scheduler_id INTEGER, submit_time REAL NOT NULL, start_time REAL, end_time REAL,
    started REAL,        -- CLOCK_MONOTONIC at the start, valid during the boot named beside it
    boot_id TEXT, elapsed_s REAL, status_info TEXT NOT NULL DEFAULT '{{}}');
-- A launcher's life. open: its lock file tells whether it lives; fenced: it is dead, some of its tasks may run on.
CREATE TABLE session(
    id INTEGER PRIMARY KEY AUTOINCREMENT, batch_job_id INTEGER, pid INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'open' CHECK(state IN ('open', 'fenced', 'closed')));
CREATE INDEX session_open ON session(id) WHERE state <> 'closed';
"""

_V2 = f"""
-- Equal resources, stored once: a launcher checks jobs out shape by shape, in its order.
CREATE TABLE shape(id INTEGER PRIMARY KEY, resources TEXT NOT NULL UNIQUE);
INSERT INTO shape(resources) SELECT DISTINCT resources FROM spec;
ALTER TABLE spec ADD COLUMN shape_id INTEGER;
UPDATE spec SET shape_id = (SELECT id FROM shape WHERE shape.resources = spec.resources);
-- JSON: max_retries, on_parent_failure, scratch.
ALTER TABLE spec ADD COLUMN options TEXT NOT NULL DEFAULT '{{}}';
ALTER TABLE job ADD COLUMN shape_id INTEGER;
UPDATE job SET shape_id = (SELECT shape_id FROM spec WHERE spec.id = job.spec_id);
-- JSON: what a job stages in and out.
ALTER TABLE job ADD COLUMN transfers TEXT;
-- JSON: the lines of a shell_preamble that looks at its job.
ALTER TABLE job ADD COLUMN preamble TEXT;
-- Automatic retries used up (max_retries).
ALTER TABLE job ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;
DROP INDEX job_ready;
CREATE INDEX job_ready ON job(shape_id, id) WHERE {READY};
CREATE INDEX job_ready_spec ON job(spec_id, id) WHERE {READY};
CREATE INDEX job_due ON job(id) WHERE {DUE};
CREATE TABLE dependency(
    child_id INTEGER NOT NULL, parent_id INTEGER NOT NULL, PRIMARY KEY(child_id, parent_id)) WITHOUT ROWID;
CREATE INDEX dependency_parent ON dependency(parent_id);
-- Of an event that many jobs share: when each began and ended, as doubles of this machine, in the order of their ids.
ALTER TABLE event ADD COLUMN times BLOB;
-- The virtual nodes an allocation has, as a JSON list of their numbers.
ALTER TABLE batch_job ADD COLUMN nodes TEXT NOT NULL DEFAULT '[]';
-- launcher: runs jobs. processor: runs their hooks and transfers.
ALTER TABLE session ADD COLUMN kind TEXT NOT NULL DEFAULT 'launcher'
"""

_V3 = """
-- Where an ensemble's rows have their directories, below data/: they stay when it gets another name.
ALTER TABLE ensemble ADD COLUMN folder TEXT NOT NULL DEFAULT '';
UPDATE ensemble SET folder = CASE generation WHEN 1 THEN name ELSE name || '~' || generation END;
CREATE UNIQUE INDEX ensemble_folder ON ensemble(folder)
"""

_MIGRATIONS = {1: _V1, 2: _V2, 3: _V3}
"""What brings the schema to each version from the one before it."""

_NETWORK = {"nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "smbfs", "fuse.sshfs", "beegfs", "9p", "afs", "ceph"}


def on_network_file_system(path: Path) -> str:
    """The type of the network file system `path` is on, "" for a local one (from /proc/mounts)."""
    best, kind = "", ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, fs, *_ = line.split()
            mount = mount.encode().decode("unicode_escape")
            inside = str(path) == mount or str(path).startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):
                best, kind = mount, fs
    return kind if kind in _NETWORK else ""


class Store:
    """Connections to one site's database, one for each thread that asks."""

    cure = "Restore it, or use another site."
    """What to do about a file that cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._all: list[_Held] = []
        self._inode = 0
        try:
            self._migrate()
        except sqlite3.DatabaseError as error:
            raise SiteError(f"{path} cannot be used as a site's database: {error}. {self.cure}") from None

    @property
    def con(self) -> sqlite3.Connection:
        """This thread's connection."""
        con: sqlite3.Connection | None = getattr(self._local, "con", None)
        if con is None or self._local.pid != os.getpid():
            con = self._local.con = self._connect()
            self._local.pid = os.getpid()
        return con

    def _connect(self) -> sqlite3.Connection:
        con = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        remote = on_network_file_system(self.path.parent.resolve())
        if remote:
            # WAL needs shared memory, which no network file system has; a rollback journal needs working locks.
            try:
                con.execute("PRAGMA journal_mode=DELETE")
                con.execute("BEGIN EXCLUSIVE").execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise SiteError(
                    f"{self.path.parent} is on {remote}, whose locks do not work ({error}); use a local path."
                ) from None
        else:
            con.execute("PRAGMA journal_mode=WAL")
            con.execute("PRAGMA wal_autocheckpoint=4000")  # pages: launchers fold the log into the file when idle
        con.execute("PRAGMA synchronous=FULL")
        self._inode = self._inode or os.stat(self.path).st_ino
        self._close()
        self._all.append(_Held(con, threading.current_thread(), os.getpid()))
        return con

    def _migrate(self) -> None:
        version = self._version()
        if version > SCHEMA_VERSION:
            raise SiteError(
                f"{self.path} was written by a newer balsam-jupyter (schema {version}, known {SCHEMA_VERSION}); "
                "upgrade with: pip install -U balsam-jupyter"
            )
        if version == SCHEMA_VERSION:
            return
        with self.transaction() as con:
            for target in range(self._version() + 1, SCHEMA_VERSION + 1):
                for statement in _MIGRATIONS[target].split(";\n"):
                    con.execute(statement)
                con.execute(f"PRAGMA user_version={target}")

    def _version(self) -> int:
        return int(self.con.execute("PRAGMA user_version").fetchone()[0])

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of the block, or nothing of it.

        Raises
        ------
        StoreBusy
            If another process holds the store for longer than it should, or the disk is full.
        SiteError
            If the database is damaged, gone or not writable.
        """
        try:
            con = self.con
            self._begin(con)
            try:
                yield con
                con.execute("COMMIT")
            except BaseException:
                if con.in_transaction:
                    con.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise StoreBusy(
                    f"{self.path} has been locked by another process for {BUSY_S:g} s; try again."
                ) from None
            if "full" in text or self._no_room():
                raise StoreBusy(
                    f"The disk that holds {self.path} is full; make room and try again. Nothing was stored."
                ) from None
            if "readonly" in text:
                raise SiteError(f"{self.path} is not writable; check its permissions.") from None
            raise
        except sqlite3.DatabaseError as error:
            if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError)):
                raise  # a mistake of ours, not of the file's
            raise SiteError(f"{self.path} is damaged ({error}). {self.cure}") from None

    def _no_room(self) -> bool:
        """Whether the disk is full: SQLite says so by other names too ("disk I/O error", "unable to open")."""
        try:
            there = os.statvfs(self.path.parent)
        except OSError:
            return False
        return bool(there.f_blocks) and there.f_bavail * there.f_frsize < _ROOM

    def require_there(self) -> None:
        """Raise if what is open is no longer the file of that name: it can be read on, and nothing happens in it."""
        try:
            there = os.stat(self.path).st_ino
        except OSError:
            there = 0
        if there != self._inode:
            raise SiteError(f"{self.path} was deleted or replaced while open; open the site again.")

    def _begin(self, con: sqlite3.Connection) -> None:
        self.require_there()
        try:
            con.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or not self._end_stopped_launcher(con):
                raise
            con.execute("BEGIN IMMEDIATE")

    def _end_stopped_launcher(self, con: sqlite3.Connection) -> bool:
        """End a launcher that was stopped (SIGSTOP) inside a transaction: it would keep everyone out for ever."""
        ended = False
        for (pid,) in con.execute("SELECT pid FROM session WHERE state = 'open'").fetchall():
            if is_stopped(pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    ended = True
        return ended

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the file, as far as readers allow; waits for nobody."""
        with contextlib.suppress(sqlite3.OperationalError):
            self.con.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Let go of the file; what another thread may be using is closed when that thread has ended."""
        self._close(mine=True)
        self._local = threading.local()

    def _close(self, mine: bool = False) -> None:
        """Close the connections of threads that ended, and those of this one; closed while in use, they would crash."""
        for held in list(self._all):
            ours = held.pid == os.getpid()  # else the parent's, not to be touched in a fork
            if ours and held.thread.is_alive() and not (mine and held.thread is threading.current_thread()):
                continue
            with contextlib.suppress(ValueError):  # another thread was faster
                self._all.remove(held)
                if ours:
                    held.con.close()


class _Held(NamedTuple):
    con: sqlite3.Connection
    thread: threading.Thread
    pid: int


class StoreBusy(SiteError):
    """Nothing could be written now, and nothing was: the store is locked, or its disk is full. Later it may work."""
