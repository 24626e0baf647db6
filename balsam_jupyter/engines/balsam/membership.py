"""Which row of which ensemble a job is. Its tags say it, and anybody can write tags: nothing is taken for granted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...models import EnsembleRecord
from ..embedded.store import ensembles
from ..embedded.store.directories import row_workdir
from . import wire
from .rest import parts

_AT_ONCE = 500  # rows of a query with as many marks


class Place(NamedTuple):
    """Ensemble, row and key (of a job in none: None), and the directory where it does not follow from these."""

    ensemble: int | None
    row: int | None
    key: bytes | None
    workdir: str | None


class Holder(NamedTuple):
    """The job that is a row: its id, the tag of the chunk it came in, and its directory."""

    id: int
    batch: str
    workdir: str

    def copied(self, row: Mapping[str, Any], ours: Mapping[str, str]) -> bool:
        """Whether another client made this job with the tags of that one: it is the user's, and no twin."""
        return ours.get(wire.BATCH, "") == self.batch and str(row["workdir"]) != self.workdir


class Membership:
    """Finds the places of jobs, within one transaction of the mirror."""

    def __init__(self, con: sqlite3.Connection, now: float, apps: Mapping[int, str]) -> None:
        self.con, self.now, self._apps = con, now, apps
        self._ensembles: dict[tuple[str, int], tuple[int, str]] = {}
        self._rows: dict[int, int] = {}
        self._left: set[int] = set()

    def place(self, row: Mapping[str, Any], ours: Mapping[str, str]) -> Place:
        """Where a job is, as the service has it."""
        name, workdir = ours.get(wire.ENSEMBLE), str(row["workdir"])
        number, generation = wire.number(ours, wire.ROW), wire.number(ours, wire.GENERATION, 1)
        if not name or number is None or generation is None:
            return Place(None, None, None, workdir)
        # The tag `workflow` follows when an ensemble is renamed elsewhere.
        place = (name, generation)
        if place not in self._ensembles:
            self._ensembles[place] = self._ensemble(name, generation, row, ours, workdir)
        ensemble, folder = self._ensembles[place]
        self._rows[ensemble] = max(self._rows.get(ensemble, 0), number + 1)
        return Place(ensemble, number, wire.key(ours), None if row_workdir(folder, number) == workdir else workdir)

    def move(self, row: Mapping[str, Any], ours: Mapping[str, str]) -> None:
        """Follow a job that is another row now, or one of another ensemble: it was renamed or edited elsewhere."""
        job_id = row["id"]
        before = self.con.execute("SELECT ensemble_id, row, key FROM job WHERE id = ?", (job_id,)).fetchone()
        now = self.place(row, ours)
        if now[:3] == before:
            return
        other = (now.ensemble, now.key) != (before[0], before[2])
        if other and now.ensemble and now.key and self.held([(now.ensemble, now.key)]):
            return  # of two that claim to be one row, each stays what it was
        self.con.execute("UPDATE job SET ensemble_id = ?, row = ?, key = ?, workdir = ? WHERE id = ?", (*now, job_id))
        if before[0] is not None and before[0] != now.ensemble:
            self._left.add(before[0])

    def held(self, wanted: Iterable[tuple[int, bytes]]) -> dict[tuple[int, bytes], Holder]:
        """Which rows of ensembles are there already, by which jobs."""
        keys: dict[int, list[bytes]] = {}
        for ensemble, key in wanted:
            keys.setdefault(ensemble, []).append(key)
        found: dict[tuple[int, bytes], Holder] = {}
        for ensemble, ours in keys.items():
            for some in parts(ours, _AT_ONCE):
                query = f"""SELECT key, job.id, tags, workdir, folder, row FROM job JOIN remote ON job_id = job.id
                    JOIN ensemble ON ensemble.id = ensemble_id
                    WHERE ensemble_id = ? AND key IN ({",".join("?" * len(some))})"""
                for key, job_id, tags, workdir, folder, row in self.con.execute(query, (ensemble, *some)):
                    place = workdir or row_workdir(folder, row)
                    found[ensemble, key] = Holder(job_id, json.loads(tags).get(wire.BATCH, ""), place)
        return found

    def done(self) -> None:
        """Write what neighbours share; an ensemble whose rows all left for another is no more."""
        for ensemble, rows in self._rows.items():
            self.con.execute("UPDATE ensemble SET rows = max(rows, ?) WHERE id = ?", (rows, ensemble))
        for ensemble in self._left:
            self.con.execute(
                "DELETE FROM ensemble WHERE id = ?1 AND NOT EXISTS(SELECT 1 FROM job WHERE ensemble_id = ?1)",
                (ensemble,),
            )
        self._rows, self._left, self._ensembles = {}, set(), {}

    def _ensemble(
        self, name: str, generation: int, row: Mapping[str, Any], ours: Mapping[str, str], workdir: str
    ) -> tuple[int, str]:
        """Id and folder of an ensemble; one that was submitted elsewhere is made again from what its jobs say."""
        query = "SELECT id, folder FROM ensemble WHERE name = ? AND generation = ?"
        found = self.con.execute(query, (name, generation)).fetchone()
        if found is None:
            app = self._apps.get(row["app_id"], "")
            born = wire.seconds(row["last_update"]) or self.now
            said = {"note": "made again from the tags of its jobs: it was submitted on another machine"}
            ensembles.put(
                self.con, EnsembleRecord(name, app, generation, ours.get(wire.VERSION, ""), born, provenance=said)
            )
            folder = workdir.partition("/")[0]
            found = self.con.execute(query, (name, generation)).fetchone()
            taken = self.con.execute("SELECT 1 FROM ensemble WHERE folder = ?", (folder,)).fetchone()
            if not taken:
                self.con.execute("UPDATE ensemble SET folder = ? WHERE id = ?", (folder, found[0]))
                return int(found[0]), folder
        return int(found[0]), str(found[1])
