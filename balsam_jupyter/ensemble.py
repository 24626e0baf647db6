"""Ensemble: the named, durable set of tasks that came from a sweep."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from . import crate, results
from .api import Site
from .api_check import kill_force, kill_wait
from .callbacks import Callbacks
from .completion import AsCompleted, Waiting
from .cost import Price, ensemble_cost
from .errors import BadInput, nearest
from .failures import Failures
from .identity import summary
from .models import TASK_STATE, EnsembleRecord, Query
from .places import EnsemblePlaces
from .provenance import Provenance
from .selection import end, tag_changes, to_retry, undone
from .status import task_counts
from .submission import check_name, distinct, extend, unsubmitted
from .task import BalsamTask, Follower

F = TypeVar("F", bound=Callable[[BalsamTask], Any] | None)


class Ensemble(EnsemblePlaces):
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
        return [one.generation for one in self._site.engine.ensembles(self.name)]

    def _query(self) -> Query:
        return self._there.rows()

    def __len__(self) -> int:
        return sum(self._site.engine.count(self._query()).values())

    def counts(self) -> dict[str, int]:
        """Numbers of tasks by task state, now.

        Raises
        ------
        NotFound
            If it was renamed or deleted meanwhile.
        """
        return task_counts(self._site.engine.count(self._query()))

    def wait(self, timeout: float | None = None) -> Ensemble:
        """Block until all tasks have ended, however they ended, and no callback is left to run; warns if nothing can.

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
        Exception
            The first that a callback raised (see `on_finished`).
        """
        for _ in self._waiting(timeout).block():
            pass
        return self

    def __await__(self) -> Generator[Any, None, Ensemble]:
        """``await ens``: as `wait`, while other coroutines go on; callbacks run on the event loop."""

        async def until_all_have_ended() -> Ensemble:
            async for _ in self._waiting(None).unblocked():
                pass
            return self

        return until_all_have_ended().__await__()

    def as_completed(self, timeout: float | None = None) -> AsCompleted:
        """The tasks as they end, however they end; those that had ended before first, in the order of their end.

        It ends when all tasks have, those added meanwhile included. Each task comes once for each of its ends: one
        that is retried after it came will come again. Callbacks run while it waits, as in `wait`.

        Parameters
        ----------
        timeout : float, optional
            Seconds from now after which to give up; the tasks go on.

        Returns
        -------
        iterator of BalsamTask
            For ``for``, and on an event loop for ``async for``.

        Raises
        ------
        TimeoutExpired
            From the iterator, when the next task has not ended by then.
        Exception
            From the iterator at its end: the first that a callback raised.
        """
        return AsCompleted(self._waiting(timeout, each=True))

    def on_finished(self, callback: F) -> F:
        """Call a function for each row that has finished well, or will: once for each, in the order of their end.

        Rows that had finished before, in another kernel too, are among them: so the same cells, run again after a
        restart, add the same rows, and those that exist are kept. A row that fails or is killed calls nothing
        (`as_completed` gives these, too). The function runs in the thread that waits for the ensemble (`wait`,
        `as_completed`, ``await``, ``%balsam_wait``), else on the notebook's event loop while no cell runs; in a
        script, only in one that waits. Never two run at once. It may add rows; it cannot wait for its own ensemble.

        An exception does not keep it from being called for other rows. Each is logged, and the next wait raises the
        first when it ends. One that is interrupted is called again for its row.

        Parameters
        ----------
        callback : callable or None
            A function of a `BalsamTask`. It replaces one of the same name (module and qualified name), so that a
            cell that is run again does not call twice; the new one is called for all rows from the first on. None
            removes all callbacks of the ensemble.

        Returns
        -------
        callable
            `callback`, so that ``@ens.on_finished`` reads well.
        """
        if callback is None:
            self.callbacks.clear()
        else:
            self.callbacks.register(callback, self._follower, self._there)
        return callback

    @property
    def callbacks(self) -> Callbacks:
        """The callbacks of this ensemble in this process, whichever handle they were registered with."""
        return Callbacks.of(self._site, self._record)

    def _waiting(self, timeout: float | None, each: bool = False) -> Waiting:
        return Waiting(self._site, self._follower, self._there, timeout, each)

    def tasks(self, state: str | None = None) -> list[BalsamTask]:
        """Its tasks in the order of the sweep; of one task state if `state` is given."""
        states = None
        if state is not None:
            states = tuple(job for job, task in TASK_STATE.items() if task == state)
            if not states:
                known = sorted(set(TASK_STATE.values()))
                raise BadInput(f"{state!r} is not a task state ({', '.join(known)}).{nearest(state, known)}")
        self._follower.poll()  # so that changes up to now are not read a second time at the next poll
        return self._follower.tasks(results.ensemble_rows(self._site, self._there, states))

    def failed(self) -> list[BalsamTask]:
        """The tasks that FAILED."""
        return self.tasks("FAILED")

    def to_dataframe(self, kind: str = "pandas") -> Any:
        """A table: one row a task, with its parameters, state, return code, runtime, error and what it yielded.

        While tasks run it has what there is so far; called again, it reads only the rows that have changed.

        Parameters
        ----------
        kind : {"pandas", "polars", "arrow"}
            Of which package.

        See Also
        --------
        balsam_jupyter.results.to_dataframe : the columns
        """
        return results.to_dataframe(self._follower.tables, self._there, kind)

    def failures(self) -> Failures:
        """The tasks that FAILED, in groups of errors that differ in numbers, paths and times only, the largest first.

        Each group has an example, the end of its log, and the command that runs it again by hand.
        """
        return Failures.of(self._site, self._there)

    def extract(self, outputs: Mapping[str, str | Callable[[Path], Any]] | None = None) -> dict[int, str]:
        """Compute outputs from the files of the finished tasks again, or others than the app's, and store them.

        Returns
        -------
        dict of int to str
            For each row where something is missing, why. It is NaN then, unless a value is stored from before.
        """
        return results.extract(self._site, self._there, outputs)

    # -- verbs --------------------------------------------------------------------------------------------

    def kill(
        self, rows: Any = None, wait_time: float | None = 0.5, *, force: str | None = None, purge: bool = False
    ) -> int:
        """End tasks that have not ended; returns how many (without waiting for their end).

        Parameters
        ----------
        rows : int or iterable of int, optional
            Numbers of rows; by default all.
        wait_time : float or None
            Seconds from SIGTERM to SIGKILL for what runs. None never sends SIGKILL.
        force : {"revoke"}, optional
            At a Balsam site, which cannot end one task that runs: revoke the allocations in which these run.
        purge : bool
            Delete these rows then; those that had ended before stay.

        Raises
        ------
        BadInput
            If there is no such row, which it names.
        Unsupported
            If some run where a task that runs cannot be ended; the others are killed.
        """
        return end(self._site, self._there, rows, kill_wait(wait_time), kill_force(force), purge)

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
        chosen = to_retry(self._site, self._follower, self._there, rows, where, failed)
        return self._site.engine.update(chosen, "RESTART_READY")

    def missing(self, sweep: Any = None) -> list[dict[str, Any]]:
        """Parameters of the rows that ended without having finished, and of those of `sweep` that were not submitted.

        Parameters
        ----------
        sweep : Sweep, mapping of lists, list of mappings or DataFrame, optional
            What the ensemble is to have.
        """
        unsubmitted_rows = [] if sweep is None else unsubmitted(self._site, self._there, sweep)
        return undone(self._site, self._there) + unsubmitted_rows

    def fill(self, sweep: Any = None) -> int:
        """Run what is `missing`: retry what failed or was killed, submit what was not. Returns how many tasks."""
        return (0 if sweep is None else self._extend(sweep)) + self.retry()

    def add(self, rows: Any) -> int:
        """Submit more rows, with the resources, tags and options of the row that came last; returns how many are new.

        Parameters
        ----------
        rows : Sweep, mapping of lists, list of mappings or DataFrame
            As for `submit_sweep`: rows that are there already are kept as they are. Equal rows among them are one.

        Raises
        ------
        BadInput
            If a row cannot be, or the app has changed since rows ended; nothing is stored then.
        """
        return self._extend(distinct(self._site, self.app_name, rows))

    def _extend(self, rows: Any) -> int:
        return extend(self._site, self._there, rows).new

    def tag(self, **tags: str | None) -> int:
        """Set tags of all its tasks, also of those that run or have ended; None removes one. Returns how many tasks."""
        return self._site.engine.tag(self._query(), tag_changes(tags))

    def rename(self, new: str) -> Ensemble:
        """Give it, with all its generations, another name, which the tag ``workflow`` follows; directories stay.

        Its callbacks are gone: a cell that is run again registers them with the ensemble of the new name.

        Raises
        ------
        BadInput
            If the name cannot be one, or is taken.
        """
        check_name(new)
        self._site.engine.rename_ensemble(self.name, new)
        self.on_finished(None)
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
        self.on_finished(None)

    # -- how it shows itself ------------------------------------------------------------------------------

    def cost(self) -> Price:
        """What its tasks have used, in node-hours and core-hours by state, and what the rest is expected to take."""
        return ensemble_cost(self._site, self._there)

    def provenance(self) -> Provenance:
        """Who submitted what of it, when, from where, with which code and packages."""
        return Provenance(self._there)

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
        return crate.export(self._site, self._there, path)

    def _summary(self) -> str:
        rows = replace(self._record.rows(), after_id=self._first_new - 1)
        new = task_counts(self._site.engine.count(rows)) if self.new else {}
        return summary(self._shown(), new.get("WAITING", 0))

    def _shown(self) -> dict[str, int]:
        """As `counts`, but all 0 if it is gone: what shows itself raises nothing."""
        return task_counts(self._site.engine.count(self._record.rows()))

    def _title(self) -> str:
        return f" (generation {self.generation})" if self.generation > 1 else ""

    def __repr__(self) -> str:
        return f"<Ensemble {self.name!r}{self._title()} of {self.app_name}: {self._summary()}>"

    def _repr_html_(self) -> str:
        counts = self._shown()
        head = "".join(f"<th>{state}</th>" for state in counts)
        body = "".join(f"<td>{number:,}</td>" for number in counts.values())
        title = f"Ensemble <b>{escape(self.name)}</b>{self._title()} of {escape(f'{self.app_name}: {self._summary()}')}"
        return f"<div><div>{title}</div><table><tr>{head}</tr><tr>{body}</tr></table></div>"
