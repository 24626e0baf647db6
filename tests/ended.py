"""Ends of tasks without running them: through the calls with which a launcher checks out and commits."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.engines.embedded.store import work
from balsam_jupyter.models import EnsembleRecord, JobRow, JobSpec, Query

from .engine_site import shell_app


class Pilot:
    """A session that runs nothing, and says that its tasks run or have ended."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        self.engine = engine
        with engine.store.transaction() as con:
            self.session = work.open_session(con, None, os.getpid(), "launcher")

    def take(self, most: int) -> list[work.Work]:
        """Check out what can run, the first submitted first."""
        with self.engine.store.transaction() as con:
            shapes = work.ready_shapes(con)
            return [one for shape in shapes for one in work.check_out(con, self.session, 0, shape, None, most)][:most]

    def start(self, jobs: list[work.Work]) -> None:
        with self.engine.store.transaction() as con:
            work.commit_starts(con, self.session, [(job.id, job.state, time.time()) for job in jobs])
        self.engine.bell.ring()

    def end(
        self,
        job_id: int,
        outcome: str = "finished",
        runtime_s: float = 1.0,
        error: str = "",
        value: str | None = None,
        code: int | None = 0,
    ) -> None:
        state = job_of(self.engine, job_id).state
        end = work.End(job_id, outcome, state, 1_700_000_000.0 + job_id, runtime_s, code, value, error)
        with self.engine.store.transaction() as con:
            work.commit_ends(con, self.session, [end])
        self.engine.bell.ring()

    def close(self) -> None:
        """Give back what it holds."""
        with self.engine.store.transaction() as con:
            work.release(con, self.session, [one.id for one, _ in work.held(con, self.session)])
            work.set_session(con, self.session, "closed")


_KEYS = itertools.count()


def add_rows(engine: EmbeddedEngine, study: str, rows: list[dict[str, Any]], ensemble: str | None = "e") -> list[int]:
    """Submit rows of an ensemble, or lone jobs; equal rows are new ones."""
    common = shell_app(engine, "true", "T", "name", "flag", app="App")
    common = replace(common, ensemble=ensemble, tags={"study": study})
    record = EnsembleRecord(ensemble, "App") if ensemble else None
    specs = [
        JobSpec(common, encode(row), "" if ensemble else "lone/{id}", key=b"%016d" % next(_KEYS) if ensemble else None)
        for row in rows
    ]
    return list(engine.submit(specs, record).ids)


def job_of(engine: EmbeddedEngine, job_id: int) -> JobRow:
    return engine.jobs(Query(ids=(job_id,)))[0]


def log_into(engine: EmbeddedEngine, job_id: int, text: bytes, files: Mapping[str, bytes] | None = None) -> None:
    """Write a task's log, as the task would."""
    folder = engine.path / "data" / job_of(engine, job_id).workdir
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.out").write_bytes(text)
    for name, data in (files or {}).items():
        (folder / name).write_bytes(data)
