"""Ensembles: their heads, the generations of a name, and what their rows ran with."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import replace

from ....errors import BadInput, NotFound
from ....models import EnsembleRecord, Query
from . import flow, jobs
from .schema import ENSEMBLE

_SOME = 500


def put(con: sqlite3.Connection, record: EnsembleRecord) -> bool:
    """Create it, or update its version and provenance; whether it is new."""
    if update(con, record):
        return False
    provenance = json.dumps(record.provenance, default=str)
    con.execute(
        """INSERT INTO ensemble(name, generation, app_name, app_version, created, provenance, folder)
           VALUES(?, ?, ?, ?, ?, ?, ?)""",
        (record.name, record.generation, record.app_name, record.app_version, record.created or time.time(),
         provenance, _free_folder(con, record.name)),
    )  # fmt: skip
    return True


def update(con: sqlite3.Connection, record: EnsembleRecord) -> bool:
    """Update its version and provenance; whether it is there."""
    found = con.execute(
        "UPDATE ensemble SET app_version = ?, provenance = ? WHERE name = ? AND generation = ?",
        (record.app_version, json.dumps(record.provenance, default=str), record.name, record.generation),
    )
    return found.rowcount > 0


def _free_folder(con: sqlite3.Connection, name: str) -> str:
    """A folder below ``data/`` for a new ensemble; no ensemble can have a name with "~"."""
    folder, number = name, 1
    while con.execute("SELECT 1 FROM ensemble WHERE folder = ?", (folder,)).fetchone():
        number += 1
        folder = f"{name}~{number}"
    return folder


def records(con: sqlite3.Connection, name: str | None = None) -> list[EnsembleRecord]:
    """All of them, or the generations of one name, oldest first."""
    rows = con.execute(
        f"""SELECT name, app_name, generation, app_version, created, provenance, folder FROM ensemble
            {"" if name is None else "WHERE name = ?"} ORDER BY id""",
        () if name is None else (name,),
    ).fetchall()
    return [
        EnsembleRecord(name, app_name, generation, version, created, json.loads(provenance), folder)
        for name, app_name, generation, version, created, provenance, folder in rows
    ]


def versions(con: sqlite3.Connection, query: Query) -> dict[str, list[range]]:
    """Version of the app → the ended rows that ran with it, as ranges: rows in a row are one."""
    condition, arguments = jobs.where(query)
    ran = f"{condition} AND row IS NOT NULL AND attempts > 0 AND state IN {flow.ENDED}"
    found = con.execute(
        f"""SELECT app_version, min(row), max(row) FROM (
                SELECT app_version, row, row - row_number() OVER (PARTITION BY app_version ORDER BY row) AS island
                FROM job WHERE {ran})
            GROUP BY app_version, island ORDER BY app_version, min(row)""",
        arguments,
    )
    ranges: dict[str, list[range]] = {}
    for version, first, last in found:
        ranges.setdefault(version, []).append(range(first, last + 1))
    return ranges


def row_ids(con: sqlite3.Connection, name: str, generation: int, keys: Iterable[bytes]) -> dict[bytes, int]:
    """Ids of the rows that have these keys."""
    wanted = list(keys)
    ids: dict[bytes, int] = {}
    for some in (wanted[at : at + _SOME] for at in range(0, len(wanted), _SOME)):
        marks = ",".join("?" * len(some))
        ids.update(
            con.execute(
                f"SELECT key, id FROM job WHERE ensemble_id = ({ENSEMBLE}) AND key IN ({marks})",
                (name, generation, *some),
            )
        )
    return ids


def rename(con: sqlite3.Connection, name: str, new: str) -> None:
    """Give all generations another name, and their jobs the tag `workflow` that goes with it."""
    if con.execute("SELECT 1 FROM ensemble WHERE name = ?", (new,)).fetchone():
        raise BadInput(f"There is an ensemble {new!r} already; choose another name, or delete that one first.")
    generations = con.execute("SELECT generation FROM ensemble WHERE name = ?", (name,)).fetchall()
    if not generations:
        raise NotFound(f"There is no ensemble {name!r} any more.")
    for (generation,) in generations:
        theirs = Query(ensemble=name, generation=generation)
        jobs.tag(con, replace(theirs, tags={"workflow": name}), {"workflow": new})
        jobs.touch(con, jobs.ids(con, theirs))
    con.execute("UPDATE ensemble SET name = ? WHERE name = ?", (new, name))


def refuse_unended(con: sqlite3.Connection, name: str, generation: int) -> tuple[int, str]:
    """Id and folder of a generation; an error while jobs of it have not ended."""
    found = con.execute("SELECT id, folder FROM ensemble WHERE name = ? AND generation = ?", (name, generation))
    ensemble = found.fetchone()
    if ensemble is None:
        raise NotFound(f"There is no ensemble {name!r}, generation {generation}, any more.")
    condition, arguments = jobs.where(Query(ensemble=name, generation=generation))
    unended = f"{condition} AND (session_id IS NOT NULL OR state NOT IN {flow.ENDED})"
    (left,) = con.execute(f"SELECT count(*) FROM job WHERE {unended}", arguments).fetchone()
    if left:
        tasks = "a task that runs or waits" if left == 1 else f"{left:,} tasks that run or wait"
        raise BadInput(f"Ensemble {name!r} has {tasks} to run; end that first with its kill() and wait().")
    return int(ensemble[0]), str(ensemble[1])


def delete(con: sqlite3.Connection, name: str, generation: int) -> str:
    """Remove one generation with its jobs, all of which have ended; the folder that its rows' directories are in."""
    id_, folder = refuse_unended(con, name, generation)
    lone = con.execute(
        "SELECT id, workdir FROM job WHERE workdir = ?1 OR workdir > ?1 || '/' AND workdir < ?1 || '0' LIMIT 1",
        (folder,),
    ).fetchone()
    if lone is not None:
        raise BadInput(f"Job {lone[0]} works in {lone[1]!r}, inside the directory of {name!r}; delete that job first.")
    jobs.delete(con, Query(ensemble=name, generation=generation))
    con.execute("DELETE FROM ensemble WHERE id = ?", (id_,))
    return folder
