"""Submitting jobs: in chunks, each of which is there once, whatever became of the service's answer."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import secrets
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ...accounts import Agree
from ...errors import BadInput, BalsamJupyterError, NoAnswer, NotFound, ServiceError, many
from ...models import TERMINAL, EnsembleRecord, JobSpec, Query, Submitted
from ..embedded.store import ensembles
from ..embedded.store.directories import row_workdir
from . import acts, truth, wire
from .news import Apply
from .rest import PAGE, LostAnswer

if TYPE_CHECKING:
    from .engine import BalsamEngine

log = logging.getLogger(__name__)

PATIENCE_S = 90.0
"""How long a submission waits for a service that went away in the midst of it."""
_SETTLE_S = 4.0  # a request whose answer was lost may still be carried out for so long
_MOST_REFUSALS = 3
_NOT_BEGUN = ("CREATED", "AWAITING_PARENTS", "READY", "STAGED_IN")
DEFAULT_PACKING = 64
"""Of a job that does not say how many of its kind run on a node: as many as its cores allow (the launcher looks)."""


@dataclass
class _Chunk:
    """Jobs of one request, and the tag by which they are found again."""

    token: str
    specs: list[JobSpec] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)


def packing(spec: JobSpec) -> int:
    return DEFAULT_PACKING if spec.common.resources.num_nodes == 1 else 1


def submit(engine: BalsamEngine, specs: Iterable[JobSpec], record: EnsembleRecord | None, agree: Agree) -> Submitted:
    """See `engines.base.Engine.submit`. More than 5,000 jobs are several steps; see there for what that means."""
    with _one_at_a_time(engine):
        if engine.under_way is not None:  # one that was interrupted: first it shows what became of its rows
            wait([engine.under_way])
            engine.under_way = None
            engine.changes.catch_up()
        engine.refresh()
        plan = _Plan(engine, record)
        for spec in specs:
            plan.add(spec)
        if agree is not None:
            agree(plan.new)
        plan.begin()
        other = ThreadPoolExecutor(1, "balsam-submission")  # it stores a chunk while this notes the one before
        stop = threading.Event()
        try:
            _in_chunks(engine, plan, lambda chunk: other.submit(_store, engine, chunk, stop))
            plan.move_apart()
        finally:
            stop.set()
            other.shutdown(wait=False)  # who interrupts does not wait for a service that is slow
    engine.changes.seen()
    return Submitted(plan.ids, plan.new, plan.renamed)


def _in_chunks(engine: BalsamEngine, plan: _Plan, begin: Callable[[_Chunk], Future[list[dict[str, Any]]]]) -> None:
    stored = 0
    for at, chunk in enumerate(plan.chunks):
        if at == 0:
            engine.under_way = begin(chunk)
        assert engine.under_way is not None
        try:
            rows = engine.under_way.result()
        except BalsamJupyterError as error:
            engine.under_way = None
            if not stored:
                plan.undo()
                raise
            raise type(error)(
                f"{error} {stored:,} of {many(plan.new, 'new row')} are stored: submit the same again, and only the "
                "rest will be."
            ) from None
        engine.under_way = begin(plan.chunks[at + 1]) if at + 1 < len(plan.chunks) else None
        plan.take(chunk, rows)
        if not stored:
            plan.end_before()
        stored += len(rows)


@contextlib.contextmanager
def _one_at_a_time(engine: BalsamEngine) -> Iterator[None]:
    """Two kernels of this machine that submit the same rows at once must not both find them missing."""
    engine.store.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with engine.submitting, open(engine.store.path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Plan:
    """Which jobs are new, and what they are to be; nothing is stored before all were looked at."""

    def __init__(self, engine: BalsamEngine, record: EnsembleRecord | None) -> None:
        self.engine, self.record = engine, record
        self.con = engine.store.con
        self.ids: array[int] = array("q")
        self.new = 0
        self.renamed: dict[int, str] = {}
        self.chunks: list[_Chunk] = []
        self._asked: dict[int, str] = {}  # position of a job whose directory was taken → the name given instead
        self._checked: set[int] = set()
        self._next: dict[tuple[str, int], int] = {}
        self._folders: dict[tuple[str, int], str] = {}
        self._kept: dict[tuple[str, int], dict[bytes, int]] = {}
        self._used: dict[tuple[str, int], set[int]] = {}
        self._names: set[str] = set()
        self._tags: dict[int, dict[str, str]] = {}
        self._asked_for: dict[int, dict[str, Any]] = {}
        self._begun = False

    def add(self, spec: JobSpec) -> None:
        common = spec.common
        if id(common) not in self._checked:
            truth.job(self.engine, spec)
            self.engine.changes.read_app(common.app_id)
            self._checked.add(id(common))
        else:
            truth.place(spec)
        position = len(self.ids)
        if common.ensemble is None:
            self._new(spec, position, self._lone(spec, position), {})
            return
        place = (common.ensemble, common.generation)
        if place not in self._next:
            self._find(place)
        if spec.key is not None and (kept := self._kept[place].get(spec.key)) is not None:
            self.ids.append(kept)
            return
        row = self._next[place]
        if spec.row is not None and spec.row not in self._used[place]:
            row = spec.row
            self._used[place].add(row)
        self._next[place] = max(self._next[place], row + 1)
        tags = {wire.ENSEMBLE: place[0], wire.GENERATION: str(place[1]), wire.ROW: str(row)}
        if spec.key is not None:
            tags[wire.KEY] = spec.key.hex()
        self._new(spec, position, row_workdir(self._folders[place], row), tags)

    def _find(self, place: tuple[str, int]) -> None:
        """What there is of an ensemble."""
        self.engine.changes.check(*place)
        query = "SELECT id, rows, folder FROM ensemble WHERE name = ? AND generation = ?"
        found = self.con.execute(query, place).fetchone()
        if found is not None:
            self._next[place], self._folders[place] = found[1], found[2]
            rows = self.con.execute("SELECT key, id FROM job WHERE ensemble_id = ? AND key IS NOT NULL", (found[0],))
            self._kept[place] = dict(rows.fetchall())
            numbers = self.con.execute("SELECT row FROM job WHERE ensemble_id = ?", (found[0],))
            self._used[place] = {number for (number,) in numbers}
        elif self.record is not None and (self.record.name, self.record.generation) == place:
            self._next[place], self._folders[place], self._kept[place] = 0, self._free_folder(place[0]), {}
            self._used[place] = set()
        else:
            raise NotFound(f"There is no ensemble {place[0]!r}, generation {place[1]}; create it first.")

    def _free_folder(self, name: str) -> str:
        """A folder for a new ensemble. Directories of one that was deleted stay at the site."""
        used = self.engine.store.note("folders") or []
        folder, number = name, 1
        query = "SELECT 1 FROM ensemble WHERE folder = ?"
        while folder in used or self.con.execute(query, (folder,)).fetchone():
            number += 1
            folder = f"{name}~{number}"
        return folder

    def _lone(self, spec: JobSpec, position: int) -> str:
        """The directory of a job in no ensemble: the name wanted, or the next free ``.2`` where an ended job has it."""
        wanted = spec.workdir.replace("{id}", f"{secrets.token_hex(3)}-{self.new}")
        name, number = wanted, 1
        while True:
            holder = self.con.execute("SELECT id, state FROM job WHERE workdir = ?", (name,)).fetchone()
            if holder is None and name not in self._names:
                break
            if holder is not None and holder[1] not in TERMINAL:
                raise BadInput(
                    f"Job {holder[0]} ({holder[1]}) still works in {name!r}; choose another workdir, or leave it out."
                )
            if holder is None:
                raise BadInput(f"Two of these jobs would work in {name!r}; give each its own workdir.")
            number += 1
            name = f"{wanted}.{number}"
        self._names.add(name)
        if name != wanted:
            self._asked[position] = name
        return name

    def _new(self, spec: JobSpec, position: int, workdir: str, ours: dict[str, str]) -> None:
        if not self.chunks or len(self.chunks[-1].bodies) == PAGE:
            self.chunks.append(_Chunk(secrets.token_hex(8)))
        chunk = self.chunks[-1]
        common = spec.common
        if id(common) not in self._tags:
            tags = {**common.tags, wire.VERSION: common.app_version}
            if common.max_retries:
                tags[wire.RETRIES] = str(common.max_retries)
            if common.on_parent_failure != "fail":
                tags[wire.FAMILY] = common.on_parent_failure
            self._tags[id(common)] = tags
        tags = {**self._tags[id(common)], **ours, wire.BATCH: chunk.token}
        if spec.transfers:
            label = ours.get(wire.ROW) or workdir.rpartition("/")[2]
            spec = spec._replace(transfers={key: path.replace("{id}", label) for key, path in spec.transfers.items()})
        chunk.specs.append(spec)
        place = workdir if ours else str(PurePosixPath(workdir))  # as the service will write it
        if id(common) not in self._asked_for:
            self._asked_for[id(common)] = wire.asked(common.resources, packing(spec))
        chunk.bodies.append(wire.new_job(spec, place, tags, self._asked_for[id(common)]))
        chunk.positions.append(position)
        self.ids.append(0)
        self.new += 1

    def begin(self) -> None:
        """Store the ensemble's record."""
        record = self.record
        if record is None:
            return
        with self.engine.store.transaction() as con:
            self._begun = ensembles.put(con, record)
            folder = self._folders.get((record.name, record.generation))
            if self._begun and folder is not None:
                con.execute(
                    "UPDATE ensemble SET folder = ? WHERE name = ? AND generation = ?",
                    (folder, record.name, record.generation),
                )

    def end_before(self) -> None:
        """End what waits of the generation before, now that there is another one."""
        record = self.record
        if record is not None and self._begun and record.generation > 1:
            self.engine.kill(Query(ensemble=record.name, generation=record.generation - 1), running="leave")

    def undo(self) -> None:
        """Nothing could be stored: there is no such ensemble."""
        if self.record is not None and self._begun:
            with self.engine.store.transaction() as con:
                con.execute(
                    """DELETE FROM ensemble WHERE name = ? AND generation = ?
                       AND NOT EXISTS(SELECT 1 FROM job WHERE ensemble_id = ensemble.id)""",
                    (self.record.name, self.record.generation),
                )

    def take(self, chunk: _Chunk, rows: list[dict[str, Any]]) -> None:
        """Take stored jobs into the mirror."""
        with self.engine.store.transaction() as con:
            apply = Apply(con, time.time())
            apply.jobs(rows)
            apply.done()
            transfers = [
                (wire.transfers_text(spec.transfers), row["id"])
                for spec, row in zip(chunk.specs, rows, strict=True)
                if spec.transfers
            ]
            con.executemany("UPDATE job SET transfers = ? WHERE id = ?", transfers)
            twins = {number for (number,) in con.execute("SELECT job_id FROM twin")}
        for position, spec, row in zip(chunk.positions, chunk.specs, rows, strict=True):
            self.ids[position] = self._first(spec) if row["id"] in twins else row["id"]
            if position in self._asked:
                self.renamed[row["id"]] = self._asked[position]

    def move_apart(self) -> None:
        """Give new rows other numbers and directories, where another machine gave theirs to its own meanwhile."""
        new = {self.ids[position] for chunk in self.chunks for position in chunk.positions}
        for place in self._next if new else ():
            if not self.engine.changes.check(*place):
                continue
            query = """SELECT max(job.id) FROM job JOIN ensemble ON ensemble.id = ensemble_id
                WHERE name = ? AND generation = ? GROUP BY row HAVING count(*) > 1"""
            mine = tuple(number for (number,) in self.con.execute(query, place) if number in new)
            free, folder = self.con.execute(
                "SELECT rows, folder FROM ensemble WHERE name = ? AND generation = ?", place
            ).fetchone()
            waiting = [job for job in acts.found(self.engine, Query(ids=mine)) if job.state in _NOT_BEGUN]
            acts.patch(
                self.engine,
                (
                    {"id": job.id, "tags": {**job.tags, wire.ROW: str(row)}, "workdir": row_workdir(folder, row)}
                    for row, job in enumerate(waiting, free)
                ),
            )

    def _first(self, spec: JobSpec) -> int:
        """The job of a row that another machine was quicker to submit."""
        assert spec.common.ensemble is not None and spec.key is not None
        ids = ensembles.row_ids(self.con, spec.common.ensemble, spec.common.generation, [spec.key])
        return ids[spec.key]


def _store(engine: BalsamEngine, chunk: _Chunk, stop: threading.Event) -> list[dict[str, Any]]:
    """The jobs of a chunk as the service stored them, in their order: posted until they are there, and never twice."""
    deadline = time.monotonic() + PATIENCE_S
    refusals, pause, told = 0, 0.2, False
    while True:
        began = time.monotonic()
        try:
            rows = engine.rest.create("/jobs/", chunk.bodies)
            if isinstance(rows, list) and len(rows) == len(chunk.bodies):
                return _in_order(chunk, rows)
            raise LostAnswer(f"{engine.rest.address} answered a submission with something else than its jobs.")
        except LostAnswer as error:
            refusals += 1
            until = time.monotonic() + max(_SETTLE_S, time.monotonic() - began)
            found = _find(engine, chunk, until, deadline)
            if found is not None:
                return found
            if refusals >= _MOST_REFUSALS and "HTTP 500" in str(error):
                raise ServiceError(f"{error} It cannot take these jobs; its log says why.") from None
            last: NoAnswer = error
        except NoAnswer as error:  # it was not sent
            last = error
        if not told:
            told = True
            log.warning("%s Nothing is lost: it is tried again for %g s at most; Ctrl-C ends that.", last, PATIENCE_S)
        if time.monotonic() > deadline or stop.wait(pause):
            raise last
        pause = min(2 * pause, 3.0)


def _find(engine: BalsamEngine, chunk: _Chunk, until: float, deadline: float) -> list[dict[str, Any]] | None:
    """The jobs of a chunk, if the service has them; asked until it can be taken that it will not get them any more."""
    while True:
        try:
            params = [("tags", f"{wire.BATCH}:{chunk.token}"), ("limit", PAGE)]
            _, rows = engine.rest.page("/jobs/", params, patience=1.0)
            if len(rows) == len(chunk.bodies):
                return _in_order(chunk, rows)
            if time.monotonic() > until:
                return None
        except NoAnswer:
            until = max(until, time.monotonic() + 0.5)  # it went away: nothing of before is carried out afterwards
            if time.monotonic() > deadline:
                raise
        time.sleep(0.25)


def _in_order(chunk: _Chunk, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_place = {row["workdir"]: row for row in rows}
    found = []
    for spec, body in zip(chunk.specs, chunk.bodies, strict=True):
        row = by_place[body["workdir"]]
        row["parameters"] = spec.parameters
        found.append(row)
    return found
