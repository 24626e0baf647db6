"""A launcher that runs nothing: tasks are checked out of a site's store and their ends committed, as a test wants."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.engines.embedded.sessions import Session
from balsam_jupyter.engines.embedded.store import work
from balsam_jupyter.models import AppRecord, EnsembleRecord, JobCommon, JobSpec, Parameter, Resources

ALONE = Resources()
"""At the site of the tests, with two cores, a task takes half a node."""
WHOLE = Resources(node_packing_count=1)
TWO = Resources(num_nodes=2)


class Player:
    """Plays the launcher of a site; its clock is its own, so that hours pass at once."""

    def __init__(self, engine: EmbeddedEngine, seed: int = 0) -> None:
        self.engine = engine
        self.store = engine.store
        self.clock = time.time()
        self.random = random.Random(seed)
        self.app = engine.register(AppRecord("App", "shell", "1", {"x": Parameter()}, command_template="echo {{ x }}"))
        self.session = Session(engine.path, self.store, None)
        self.waiting: list[work.Work] = []
        self.running: list[work.Work] = []
        self.begun: dict[int, float] = {}
        self._number = 0

    def submit(self, name: str, wants: Iterable[Resources], generation: int = 1) -> list[int]:
        """New rows of an ensemble (name "": lone tasks), one for each."""
        of: dict[str, Any] = {"tags": {"workflow": name}, "ensemble": name or None, "generation": generation}
        commons = {id(asked): JobCommon(self.app, resources=asked, **of) for asked in (ALONE, WHOLE, TWO)}
        specs = []
        for asked in wants:
            self._number += 1
            key = blake2b(b"%d" % self._number, digest_size=16).digest() if name else None
            specs.append(JobSpec(commons[id(asked)], encode({"x": self._number}), "" if name else "lone/{id}", key))
        head = EnsembleRecord(name, "App", generation) if name else None
        return list(self.engine.submit(specs, head).ids)

    def check_out(self, number: int) -> None:
        with self.store.transaction() as con:
            for shape in work.ready_shapes(con):
                self.waiting += work.check_out(con, self.session.id, 0, shape, None, number)
        self.waiting.sort()

    def start(self, number: int, step: float = 0.1) -> None:
        """Have some of those checked out run."""
        starting = [self.waiting.pop(0) for _ in range(min(number, len(self.waiting)))]
        for one in starting:
            self.clock += step
            self.begun[one.id] = self.clock
        with self.store.transaction() as con:
            starts = [(one.id, one.state, self.begun[one.id]) for one in starting]
            work.commit_starts(con, self.session.id, starts)
        self.running += [one._replace(state="RUNNING") for one in starting]
        self._ring()

    def end(self, number: int, outcome: str, runtime: float = 1.0, started: bool = True) -> None:
        """End some that run; or, if not `started`, some checked out whose start was not written down, too."""
        held = self.running if started else self.waiting
        ending = [held.pop(self.random.randrange(len(held))) for _ in range(min(number, len(held)))]
        with self.store.transaction() as con:
            ends = [self._end(one, outcome, runtime) for one in ending]
            work.commit_ends(con, self.session.id, ends)
            if outcome == "done":  # its outputs have been read a moment later
                ends = [end._replace(outcome="finished", from_state="RUN_DONE") for end in ends]
                work.commit_ends(con, self.session.id, ends)
        self._ring()

    def finish(self, number: int, runtime: float = 1.0, started: bool = False) -> None:
        """End some well, as Python tasks do: neighbours share an event."""
        held = self.running if started else self.waiting
        ending = [held.pop(0) for _ in range(min(number, len(held)))]
        done = []
        for one in ending:
            start = self.begun.get(one.id, self.clock) if started else self.clock
            done.append(work.Done(one.id, one.state, start, runtime * self.random.uniform(0.1, 2), "1", None))
            self.clock += runtime / 7
        with self.store.transaction() as con:
            work.commit_done(con, self.session.id, done)
        self._ring()

    def give_back(self) -> None:
        with self.store.transaction() as con:
            work.release(con, self.session.id, [one.id for one in self.waiting])
        self.waiting = []
        self._ring()

    def close(self) -> None:
        """End all that is held, and the session."""
        self.give_back()
        self.end(len(self.running), "finished")
        self.session.close(self.store)

    def _end(self, one: work.Work, outcome: str, runtime: float) -> work.End:
        started = one.state == "RUNNING"
        start = self.begun[one.id] if started else self.clock
        self.clock = max(self.clock, start + runtime)
        error = "it broke" if outcome in ("error", "timeout") else ""
        return work.End(one.id, outcome, one.state, start, runtime * self.random.uniform(0.1, 2), 0, error=error)

    def _ring(self) -> None:
        self.engine.bell.ring()
