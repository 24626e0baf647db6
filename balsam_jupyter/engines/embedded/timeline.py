"""What the jobs of a site did over time, and what they take of its nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ...models import Resources
from ...past import Nodes, Past, Step
from .launcher.placement import footprint
from .site import Settings
from .store import Store, records, timeline


class _Engine(Protocol):
    """What has its jobs in a store of this kind."""

    @property
    def store(self) -> Store: ...

    @property
    def settings(self) -> Settings: ...


class SiteTimeline:
    """See `engines.base.Timeline` for what the calls do."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._shapes: tuple[int, dict[int, float]] = 0, {}

    def past(self, ensemble: str, generation: int | None, bins: int, width: float, since: float | None = None) -> Past:
        con = self._engine.store.con
        con.execute("BEGIN")  # all of it as of one moment; nobody is kept from writing
        try:
            seq = records.last_event(con)
            cursor = str(seq)
            if ensemble:
                found = timeline.find_ensemble(con, ensemble, generation)
                if found is None:
                    return Past(cursor, seq, None, width, [], [], {}, Nodes(), generation)
                number, generation = found
                scope = timeline.of_ensemble(con, number)
            else:
                scope = timeline.whole_site(con)
            of_shape = self._of_shape()
            each, mixed = _each(of_shape), _mixed(of_shape)
            where = timeline.find_bins(con, scope, bins, width, since)
            steps: list[Step] = []
            start = None
            if where is not None:
                start, width = where
                steps = timeline.count_steps(con, scope, where, each, of_shape if mixed else {})
            running = timeline.shapes_of_running(con) if mixed else {}
            nodes = Nodes(each, {job: of_shape[shape] for job, shape in running.items()})
            return Past(cursor, seq, start, width, steps, scope.ids, scope.counts, nodes, generation)
        finally:
            con.execute("COMMIT")

    def members(self, ensemble: str, generation: int | None, first: int, last: int) -> list[range]:
        con = self._engine.store.con
        found = timeline.find_ensemble(con, ensemble, generation)
        return [] if found is None else timeline.members(con, found[0], first, last)

    def nodes(self, ids: Iterable[int]) -> Nodes:
        if not _mixed(self._of_shape()):
            return Nodes(_each(self._of_shape()))
        found = timeline.shapes_of(self._engine.store.con, ids)
        of_shape = self._of_shape()  # jobs of a new shape may have come meanwhile
        return Nodes(_each(of_shape), {job: of_shape[shape] for job, shape in found.items()})

    def _of_shape(self) -> dict[int, float]:
        """What a job of each shape takes of the site's nodes; read anew when there is a new shape."""
        con = self._engine.store.con
        newest, known = self._shapes
        if newest != timeline.newest_shape(con):
            found = timeline.shapes(con)
            known = {shape: footprint(Resources(**asked), self._engine.settings) for shape, asked in found.items()}
            self._shapes = max(found), known
        return known


def _each(of_shape: dict[int, float]) -> float:
    return next(iter(of_shape.values()), 1.0)


def _mixed(of_shape: dict[int, float]) -> bool:
    return len({*of_shape.values()}) > 1
