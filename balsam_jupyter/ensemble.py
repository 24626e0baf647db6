"""Ensemble: the named, durable set of tasks that came from a sweep."""

from __future__ import annotations

import logging
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from hashlib import blake2b
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, codec, results
from .api import Site
from .api_jobs import EVENTS_WAIT_S
from .apps import check_parameters
from .errors import BadInput, NotFound, TimeoutExpired, nearest
from .models import TASK_STATE, TERMINAL, AppRecord, EnsembleRecord, JobCommon, JobSpec, Query
from .status import explain, task_counts
from .sweep import Sweep
from .task import BalsamTask, Follower

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PAGE = 500
LONE_TASKS = "libe_workflow"
"""The folder of tasks that are in no ensemble; no ensemble may have that name."""


class Ensemble:
    """The tasks of a sweep. Made by `BalsamExecutor.submit_sweep`, found again by `BalsamExecutor.ensemble`.

    Attributes
    ----------
    name, app_name : str
        Its name, and that of its app.
    new, kept : int
        Rows the submission that returned this object added, and those it found (0 and all if it was found again).
    """

    def __init__(self, site: Site, follower: Follower, record: EnsembleRecord, new: int = 0) -> None:
        self._site, self._follower, self._record = site, follower, record
        self.name, self.app_name = record.name, record.app_name
        self.new = new
        self.kept = len(self) - new

    @property
    def note(self) -> str:
        """Says so if the app has changed since and ended rows are still of another version of it; "" otherwise."""
        return _changed_app(self._site, self._record)

    def __len__(self) -> int:
        return sum(self._site.engine.count(Query(ensemble=self.name)).values())

    def counts(self) -> dict[str, int]:
        """Numbers of tasks by task state, now."""
        return task_counts(self._site.engine.count(Query(ensemble=self.name)))

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
            counts = engine.count(Query(ensemble=self.name))
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
        return self._follower.tasks(results.ensemble_rows(self._site, self.name, states))

    def failed(self) -> list[BalsamTask]:
        """The tasks that FAILED."""
        return self.tasks("FAILED")

    def to_dataframe(self) -> pd.DataFrame:
        """A table: one row a task, with its parameters, state, return code, runtime and what it yielded.

        See Also
        --------
        balsam_jupyter.results.to_dataframe : the columns
        """
        return results.to_dataframe(results.ensemble_rows(self._site, self.name))

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
        rows = results.ensemble_rows(self._site, self.name, ("JOB_FINISHED",))
        return results.extract(self._site, rows, outputs)

    def kill(self, wait_time: float | None = 0.5) -> int:
        """End all tasks that have not ended; returns how many (without waiting for their end)."""
        return self._site.engine.update(Query(ensemble=self.name), "USER_KILLED", wait_time)

    def retry(self) -> int:
        """Run the FAILED and the killed tasks again; returns how many. The old log stays as ``job.out.1``."""
        return self._site.engine.update(Query(ensemble=self.name, states=("FAILED", "USER_KILLED")), "RESTART_READY")

    def _summary(self) -> str:
        counts = self.counts()
        waiting = counts.pop("WAITING")
        # Rows are started in order, so as long as enough wait, the new ones are among them.
        new = self.new if 0 < self.new <= waiting else 0
        ended = {"FINISHED": 0, "FAILED": 0, **{state: counts[state] for state in counts}}
        parts = [results.words(ended), f"{new} new" if new else "", f"{waiting - new} waiting" if waiting > new else ""]
        total = sum(counts.values()) + waiting
        rows = "1 row" if total == 1 else f"{total} rows"
        return f"{rows}: " + ", ".join(part for part in parts if part and part != "(none)")

    def __repr__(self) -> str:
        note = self.note and f"; {self.note}"
        return f"<Ensemble {self.name!r} of {self.app_name}: {self._summary()}{note}>"

    def _repr_html_(self) -> str:
        counts = self.counts()
        head = "".join(f"<th>{state}</th>" for state in counts)
        body = "".join(f"<td>{number:,}</td>" for number in counts.values())
        note = self.note and f"<div>{escape(self.note)}</div>"
        title = f"Ensemble <b>{escape(self.name)}</b> of {escape(self.app_name)}: {escape(self._summary())}"
        return f"<div><div>{title}</div><table><tr>{head}</tr><tr>{body}</tr></table>{note}</div>"


def _changed_app(site: Site, record: EnsembleRecord) -> str:
    try:
        version = site.app(record.app_name).version
    except NotFound:
        return f"app {record.app_name} is not registered any more"
    if version == record.app_version:
        return ""
    said = []
    if _any_older(site, record.name, ("JOB_FINISHED",), version):
        said.append("its finished rows are kept as they are")
    if _any_older(site, record.name, ("FAILED", "USER_KILLED"), version):
        rerun = f"BalsamExecutor().ensemble({record.name!r}).retry()"
        said.append(f"{rerun} runs the failed and killed rows again, with the app as it is now")
    return "; ".join([f"{record.app_name} has changed since {record.name} was made", *said]) if said else ""


def _any_older(site: Site, name: str, states: tuple[str, ...], version: str) -> bool:
    """Whether a row in one of these states ran another version of the app; read by pages, most often one."""
    offset = 0
    while page := site.engine.jobs(Query(ensemble=name, states=states, limit=_PAGE, offset=offset)):
        if any(row.app_version != version for row in page):
            return True
        offset += _PAGE
    return False


def find_ensemble(site: Site, follower: Follower, name: str) -> Ensemble:
    """The ensemble of that name (`NotFound` names the nearest)."""
    records = {record.name: record for record in site.engine.ensembles()}
    if name not in records:
        raise NotFound(
            f"Site {site.name!r} has no ensemble {name!r}.{nearest(str(name), records)} "
            "exctr.ensembles() lists what there is."
        )
    return Ensemble(site, follower, records[name])


def rows_of(sweep: Any) -> Iterable[Mapping[str, Any]]:
    """The rows of a Sweep, a mapping of lists (a grid), a list of mappings, or a DataFrame."""
    if isinstance(sweep, Sweep):
        return sweep
    if isinstance(sweep, Mapping):
        return Sweep.grid(**sweep)
    if hasattr(sweep, "to_dict") and hasattr(sweep, "columns"):  # a DataFrame, without importing pandas
        return Sweep.rows(sweep)
    if isinstance(sweep, Iterable) and not isinstance(sweep, str | bytes):
        return sweep
    raise BadInput(f"A sweep is a Sweep, a mapping of lists, a list of mappings or a DataFrame, not {sweep!r}.")


def submit_sweep(
    site: Site,
    follower: Follower,
    app: AppRecord,
    sweep: Any,
    name: str | None,
    common: JobCommon,
    parents: tuple[int, ...],
    transfers: Mapping[str, str] | None,
) -> Ensemble:
    """Store the rows that are not there yet, all or none. See `BalsamExecutor.submit_sweep`."""
    if name is not None and (not isinstance(name, str) or not _NAME.fullmatch(name) or name == LONE_TASKS):
        reserved = f"{LONE_TASKS!r} is taken" if name == LONE_TASKS else f"{name!r} is not one"
        raise BadInput(
            f"The name of an ensemble is at most 100 letters, digits, '.', '_' and '-', beginning with a letter "
            f"or digit; {reserved}."
        )
    parameters, keys = _checked(app, rows_of(sweep))
    if not parameters:
        raise BadInput("The sweep is empty: it has no rows.")
    for slot, place in (transfers or {}).items():
        out = app.transfers.get(slot, {}).get("direction") == "out"
        if out and len(parameters) > 1 and "{id}" not in place:
            raise BadInput(
                f"transfers[{slot!r}]: all {len(parameters)} rows would write to {place}; put {{id}}, which stands for "
                "the task's id, into its path."
            )
    if name is None:
        # The order of the rows is not part of what a sweep is.
        digest = blake2b(b"".join(sorted(keys)), digest_size=4).hexdigest()
        name = f"{slug(app.name)[:80]}-{digest}"
    engine = site.engine
    record = next((one for one in engine.ensembles() if one.name == name), None)
    if record is not None and record.app_name != app.name:
        raise BadInput(f"Ensemble {name!r} is of app {record.app_name}, not of {app.name}; choose another name.")
    made = record is None
    if record is None:
        provenance = {
            "parameters": list(app.parameters),
            "balsam_jupyter": __version__,
            "python": platform.python_version(),
        }
        record = EnsembleRecord(name, app.name, 1, app.version, time.time(), provenance)
    tags = {"workflow": name, **common.tags}
    common = replace(common, tags=tags, ensemble=name, generation=record.generation)
    specs = (
        JobSpec(common, text, "", key, None, parents, transfers) for text, key in zip(parameters, keys, strict=True)
    )
    submitted = engine.submit(specs, record if made else None)
    ensemble = Ensemble(site, follower, record, submitted.new)
    if note := ensemble.note:
        log.warning("%s.", note)
    return ensemble


def _checked(app: AppRecord, rows: Iterable[Mapping[str, Any]]) -> tuple[list[str | bytes], list[bytes]]:
    """Encoded parameters and the key of each row, all checked before anything is stored."""
    parameters: list[str | bytes] = []
    keys: list[bytes] = []
    seen: dict[bytes, int] = {}
    for at, row in enumerate(rows):
        try:
            if not isinstance(row, Mapping):
                raise BadInput(f"a row is a mapping of parameters, not {row!r}.")
            full = check_parameters(app, row)
            canonical = codec.canonical(full)
            key = codec.row_key(app.name, canonical, 0)
            occurrence = seen.get(key, 0)
            seen[key] = occurrence + 1
            keys.append(codec.row_key(app.name, canonical, occurrence) if occurrence else key)
            parameters.append(codec.encode(full))
        except BadInput as error:
            raise BadInput(f"Row {at} of the sweep: {error}") from None
    return parameters, keys


def slug(name: str) -> str:
    """A name as part of a path: letters, digits, '.', '_' and '-'."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-") or "app"
