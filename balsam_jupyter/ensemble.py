"""Ensemble: the named, durable set of tasks that came from a sweep."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import crate, results
from .api import Site
from .api_check import kill_wait
from .api_jobs import EVENTS_WAIT_S
from .cost import Price, ensemble_cost
from .disk import Cleaned, DiskUse, checked_globs
from .errors import BadInput, TimeoutExpired, nearest
from .identity import summary
from .models import TASK_STATE, TERMINAL, EnsembleRecord, Query
from .provenance import Provenance
from .selection import of_rows, record_of, tag_changes, to_retry, undone
from .status import explain, task_counts
from .submission import check_name, extend, unsubmitted
from .task import BalsamTask, Follower

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


class Ensemble:
    """The tasks of a sweep. Made by `BalsamExecutor.submit_sweep`, found again by `BalsamExecutor.ensemble`.

    Attributes
    ----------
    name, app_name : str
        Its name, and that of its app.
    generation : int
        1, and one more each time it was begun afresh with a changed app.
    new, kept : int
        Rows the submission that returned this object added, and those it found (0 and all if it was found again).
    """

    def __init__(
        self, site: Site, follower: Follower, record: EnsembleRecord, new: int = 0, first_new: int = 0
    ) -> None:
        self._site, self._follower, self._record = site, follower, record
        self.name, self.app_name, self.generation = record.name, record.app_name, record.generation
        self.new, self._first_new = new, first_new
        self.kept = len(self) - new

    @property
    def generations(self) -> list[int]:
        """The generations of its name, oldest first; ``exctr.ensemble(name, generation=1)`` opens the first."""
        return [one.generation for one in self._site.engine.ensembles() if one.name == self.name]

    def _query(self) -> Query:
        return Query(ensemble=self.name, generation=self.generation)

    def __len__(self) -> int:
        return sum(self._count().values())

    def counts(self) -> dict[str, int]:
        """Numbers of tasks by task state, now.

        Raises
        ------
        NotFound
            If it was renamed or deleted meanwhile.
        """
        return task_counts(self._count())

    def _count(self) -> dict[str, int]:
        counts = self._site.engine.count(self._query())
        if not counts:
            record_of(self._site, self.name, self.generation)  # an error, unless only its rows are gone
        return counts

    def wait(self, timeout: float | None = None) -> Ensemble:
        """Block until all tasks have ended, however they ended; warns if nothing can run.

        Parameters
        ----------
        timeout : float, optional
            Seconds after which to give up; the tasks go on.

        Returns
        -------
        Ensemble
            Itself, so that ``ens.wait().to_dataframe()`` reads well.

        Raises
        ------
        TimeoutExpired
            If some have not ended by then.
        """
        engine = self._site.engine
        deadline = None if timeout is None else time.monotonic() + timeout
        cursor = engine.events("now").cursor
        warned = False
        while True:
            counts = self._count()
            if all(state in TERMINAL for state in counts):
                return self
            if not warned:
                warned = True
                status = explain(engine, self.name)
                if status.stuck:
                    log.warning("%s waits: %s", self.name, status.why)
            left = EVENTS_WAIT_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                done = sum(number for state, number in counts.items() if state in TERMINAL)
                raise TimeoutExpired(f"{self.name} ({done} of {sum(counts.values())} tasks done)", timeout or 0.0)
            cursor = engine.events(cursor, min(left, EVENTS_WAIT_S)).cursor

    def tasks(self, state: str | None = None) -> list[BalsamTask]:
        """Its tasks in the order of the sweep; of one task state if `state` is given."""
        states = None
        if state is not None:
            states = tuple(job for job, task in TASK_STATE.items() if task == state)
            if not states:
                known = sorted(set(TASK_STATE.values()))
                raise BadInput(f"{state!r} is not a task state ({', '.join(known)}).{nearest(state, known)}")
        self._follower.poll()  # so that changes up to now are not read a second time at the next poll
        return self._follower.tasks(results.ensemble_rows(self._site, self._record, states))

    def failed(self) -> list[BalsamTask]:
        """The tasks that FAILED."""
        return self.tasks("FAILED")

    def to_dataframe(self) -> pd.DataFrame:
        """A table: one row a task, with its parameters, state, return code, runtime and what it yielded.

        See Also
        --------
        balsam_jupyter.results.to_dataframe : the columns
        """
        return results.to_dataframe(results.ensemble_rows(self._site, self._record))

    def extract(self, outputs: Mapping[str, str | Callable[[Path], Any]] | None = None) -> dict[int, str]:
        """Compute outputs again, or other outputs, from the files of the finished tasks, and store them.

        Parameters
        ----------
        outputs : mapping, optional
            As in an app's `outputs`: a regular expression with one group (searched in ``job.out``),
            ``"file.json:key"``, or a function of the work directory. Without it, those the app declares.

        Returns
        -------
        dict of int to str
            For each row where something is missing (it is NaN then), why.
        """
        if outputs is None:
            outputs = results.app_outputs(self._site, self.app_name)
            if not outputs:
                raise BadInput(
                    f"App {self.app_name} declares no outputs; give them: extract({{'name': r'regex (.*)'}})."
                )
        rows = results.ensemble_rows(self._site, self._record, ("JOB_FINISHED",))
        return results.extract(self._site, rows, outputs)

    def disk(self) -> DiskUse:
        """What its work directories hold: bytes and files in all, by name, and the largest rows."""
        return self._site.engine.disk(self._query())

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
        order, directories = self._site.engine.clean(self._query(), globs)
        return Cleaned(partial(self._site.engine.cleaned, order), directories, globs)

    # -- verbs --------------------------------------------------------------------------------------------

    def kill(self, rows: Any = None, wait_time: float | None = 0.5) -> int:
        """End tasks that have not ended; returns how many (without waiting for their end).

        Parameters
        ----------
        rows : int or iterable of int, optional
            Numbers of rows; by default all.
        wait_time : float or None
            Seconds from SIGTERM to SIGKILL for what runs. None never sends SIGKILL.

        Raises
        ------
        BadInput
            If there is no such row, which it names.
        """
        wait_s = kill_wait(wait_time)
        return self._site.engine.update(of_rows(self._site, self._record, rows), "USER_KILLED", wait_s)

    def retry(self, rows: Any = None, where: Callable[[BalsamTask], object] | None = None, failed: bool = False) -> int:
        """Run tasks that FAILED or were killed again; returns how many. The old log stays as ``job.out.1``.

        Parameters
        ----------
        rows : int or iterable of int, optional
            Only these rows.
        where : callable, optional
            Only those for which this function of the task is true: ``lambda task: task.errcode == 9``.
        failed : bool
            Only those that FAILED.

        Raises
        ------
        BadInput
            If there is no such row, one of `rows` has finished, or `where` raises. Nothing is retried then.
        """
        chosen = to_retry(self._site, self._follower, self._record, rows, where, failed)
        return self._site.engine.update(chosen, "RESTART_READY")

    def missing(self, sweep: Any = None) -> list[dict[str, Any]]:
        """Parameters of the rows that ended without having finished, and of those of `sweep` that were not submitted.

        Parameters
        ----------
        sweep : Sweep, mapping of lists, list of mappings or DataFrame, optional
            What the ensemble is to have.
        """
        unsubmitted_rows = [] if sweep is None else unsubmitted(self._site, self._record, sweep)
        return undone(self._site, self._record) + unsubmitted_rows

    def fill(self, sweep: Any = None) -> int:
        """Run what is `missing`: retry what failed or was killed, submit what was not. Returns how many tasks."""
        added = 0 if sweep is None else self.add(sweep)
        return added + self.retry()

    def add(self, rows: Any) -> int:
        """Submit more rows, with the resources, tags and options of the row that came last; returns how many are new.

        Parameters
        ----------
        rows : Sweep, mapping of lists, list of mappings or DataFrame
            As for `submit_sweep`: rows that are there already are kept as they are.

        Raises
        ------
        BadInput
            If a row cannot be, or the app has changed since rows ended; nothing is stored then.
        """
        stored = extend(self._site, self._record, rows)
        self._record = stored.record
        return stored.new

    def tag(self, **tags: str | None) -> int:
        """Set tags of all its tasks, also of those that run or have ended; None removes one. Returns how many tasks."""
        return self._site.engine.tag(self._query(), tag_changes(tags))

    def rename(self, new: str) -> Ensemble:
        """Give it, with all its generations, another name, which the tag ``workflow`` follows; directories stay.

        Raises
        ------
        BadInput
            If the name cannot be one, or is taken.
        """
        check_name(new)
        self._site.engine.rename_ensemble(self.name, new)
        self.name, self._record = new, replace(self._record, name=new)
        return self

    def delete(self) -> None:
        """Delete this generation: its tasks, what they yielded and (in the background) their directories.

        Raises
        ------
        BadInput
            While tasks run or wait to run.
        """
        self._site.engine.delete_ensemble(self.name, self.generation)

    # -- how it shows itself ------------------------------------------------------------------------------

    def _title(self) -> str:
        return f" (generation {self.generation})" if self.generation > 1 else ""

    def cost(self) -> Price:
        """What its tasks have used, in node-hours and core-hours by state, and what the rest is expected to take."""
        return ensemble_cost(self._site, self._record)

    def provenance(self) -> Provenance:
        """Who submitted what of it, when, from where, with which code and packages."""
        return Provenance(self._stored())

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write a folder that another person can run again: rows, results, the app as ``app.py``, an RO-Crate.

        Parameters
        ----------
        path : path
            The folder; it must not exist, or be empty.

        See Also
        --------
        balsam_jupyter.crate.export : what is in it
        """
        return crate.export(self._site, self._stored(), path)

    def _stored(self) -> EnsembleRecord:
        """Its record as it is now."""
        key = (self.name, self.generation)
        records = self._site.engine.ensembles()
        return next((one for one in records if (one.name, one.generation) == key), self._record)

    def _summary(self) -> str:
        first = self._first_new - 1
        new = task_counts(self._site.engine.count(replace(self._query(), after_id=first))) if self.new else {}
        return summary(self.counts(), new.get("WAITING", 0))

    def __repr__(self) -> str:
        return f"<Ensemble {self.name!r}{self._title()} of {self.app_name}: {self._summary()}>"

    def _repr_html_(self) -> str:
        counts = self.counts()
        head = "".join(f"<th>{state}</th>" for state in counts)
        body = "".join(f"<td>{number:,}</td>" for number in counts.values())
        name = f"<b>{escape(self.name)}</b>{self._title()}"
        title = f"Ensemble {name} of {escape(self.app_name)}: {escape(self._summary())}"
        return f"<div><div>{title}</div><table><tr>{head}</tr><tr>{body}</tr></table></div>"
