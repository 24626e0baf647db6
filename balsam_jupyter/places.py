"""Where an ensemble's rows and files are: moving to another site, sizes, cleaning up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from . import codec
from .api import Site
from .disk import Cleaned, DiskUse, checked_globs
from .errors import BadInput, ExecutorException, many
from .models import TERMINAL, UNENDED, EnsembleRecord, JobCommon, JobRow, JobSpec, Query
from .selection import record_of
from .task import Follower
from .views import EnsembleViews

if TYPE_CHECKING:
    from .engines.base import Engine

_ENDS_S = 30.0
_GIVEN_UP = ("FAILED", "USER_KILLED")


class EnsemblePlaces(EnsembleViews):
    """What an ensemble does about its directories and its site."""

    _record: EnsembleRecord

    @property
    def _there(self) -> EnsembleRecord:
        """Its record as it is now; an error if it is gone, so that no verb does nothing."""
        return record_of(self._site, self.name, self.generation)

    def disk(self) -> DiskUse:
        """What its work directories hold: bytes and files in all, by name, and the largest rows."""
        return self._site.engine.disk(self._there.rows())

    def clean(self, keep: Iterable[str]) -> Cleaned:
        """Have all files of the rows that have finished removed, in the background, but for logs and what is kept.

        Rows that failed, were killed or have not ended keep everything, and so does one that is run again meanwhile.
        Values that are stored stay; `extract` finds only what is in the files that are left.

        Parameters
        ----------
        keep : list of str
            Patterns of files that stay, such as ``"*.json"`` (a name, at any depth) or ``"results/*"`` (a path). The
            logs ``job.out``, ``job.err`` and ``balsam.log`` stay in any case; ``[]`` keeps nothing else.

        Returns
        -------
        Cleaned
            At once, with the number of `directories`; its `wait()` blocks until they have been cleaned.
        """
        globs = checked_globs(keep)
        order, directories = self._site.engine.clean(self._there.rows(), globs)
        return Cleaned(partial(self._site.engine.cleaned, order), directories, globs)

    def move_to(self, site: Site | Any) -> Any:
        """Go on at another site, of this engine or another: what has not finished is submitted there.

        Its rows here that have not ended are killed; moved back, they go on. There the ensemble has the same name, all
        its rows, and what those that finished yielded; their directories stay here, and so does what this handle is of.

        Parameters
        ----------
        site : Site
            From `open_site`, such as ``open_site("polaris", engine="balsam")``.

        Returns
        -------
        Ensemble
            The ensemble there.

        Raises
        ------
        BadInput
            If all rows have finished, the site is the one it is at, or it has another ensemble of that name.
        Unsupported
            If rows run at a Balsam site, which cannot end them; those that wait are killed by then.
        """
        if not isinstance(site, Site) or site == self._site:
            raise BadInput("move_to() takes another site: open_site(NAME, engine='balsam'), for instance.")
        moved = move(self._site, self._there, site)
        handle: Any = type(self)
        return handle(site, Follower(site), moved)


def move(here: Site, record: EnsembleRecord, there: Site) -> EnsembleRecord:
    """Submit the unfinished rows of an ensemble at another site, and store those that finished as they are."""
    known = {one.name: one for one in there.engine.ensembles(record.name)}
    if known and known[record.name].app_name != record.app_name:
        raise BadInput(f"Site {there.name!r} has an ensemble {record.name!r} of another app; rename one of them first.")
    app = here.app(record.app_name)
    rows = _ended(here.engine, record)
    unfinished = [row for row in rows if row.state != "JOB_FINISHED"]
    if not unfinished:
        raise BadInput(f"All {many(len(rows), 'row')} of {record.name!r} have finished: there is nothing to move.")
    family = {row.id for row in rows}
    if any(parent not in family for row in unfinished for parent in row.parent_ids):
        raise BadInput(f"Rows of {record.name!r} have parents, which are at {here.name!r}: they cannot be moved.")
    registered = there.register(replace(app, id=0))
    moved = replace(record, generation=1, provenance={**record.provenance, "moved_from": _origin(here)}, folder="")
    if known:
        moved = known[record.name]
    forms = (codec.canonical(codec.decode(row.parameters)) for row in rows)
    keys = dict(zip((row.id for row in rows), codec.row_keys(app.name, forms), strict=True))
    commons: dict[Any, JobCommon] = {}

    def spec(row: JobRow) -> JobSpec:
        wants = (repr(row.resources), tuple(row.tags.items()), row.max_retries, row.app_version)
        if wants not in commons:
            commons[wants] = JobCommon(
                registered.id, app.version if row.state != "JOB_FINISHED" else row.app_version, row.resources, row.tags,
                moved.name, moved.generation, row.max_retries, row.on_parent_failure,
            )  # fmt: skip
        return JobSpec(commons[wants], row.parameters, "", keys[row.id], row.data or None, row=row.row)

    submitted = there.engine.submit(map(spec, unfinished), None if known else moved)
    done = [row for row in rows if row.state == "JOB_FINISHED"]
    if known:
        _go_on(there.engine, moved, submitted.ids, [keys[row.id] for row in done])
    commons.clear()
    there.engine.adopt([(spec(row), row) for row in done], submitted.ids[0])
    return record_of(there, moved.name)


def _go_on(engine: Engine, record: EnsembleRecord, unfinished: Iterable[int], done: Sequence[bytes]) -> None:
    """Of rows that were given up at a site where they were before: these run again, those have finished elsewhere."""
    engine.update(Query(ids=tuple(unfinished), states=_GIVEN_UP), "RESTART_READY")
    if superseded := engine.row_ids(record.name, record.generation, done):
        engine.delete(Query(ids=tuple(superseded.values()), states=_GIVEN_UP))


def _origin(site: Site) -> dict[str, Any]:
    return {"site": site.name, "engine": site.engine.kind, "time": time.time()}


def _ended(engine: Engine, record: EnsembleRecord) -> list[JobRow]:
    """All rows, once those that had not ended are killed."""
    alive = tuple(engine.ids(record.rows(UNENDED)))
    if alive:
        engine.update(Query(ids=alive), "USER_KILLED")
    deadline, cursor = time.monotonic() + _ENDS_S, engine.events("now").cursor
    while any(state not in TERMINAL for state in engine.count(record.rows())):
        left = deadline - time.monotonic()
        if left <= 0:
            raise ExecutorException(f"Rows of {record.name!r} still run after {_ENDS_S:g} s; nothing was moved.")
        cursor = engine.events(cursor, min(left, 1.0)).cursor
    return engine.jobs(record.rows(order="row"))
