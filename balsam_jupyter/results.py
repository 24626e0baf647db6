"""Tables of what an ensemble's tasks were given and what they yield."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import codec, frames
from .api import Site
from .errors import BadInput, Unsupported, listing
from .models import EnsembleRecord, JobRow
from .outputs import extract as read_outputs
from .outputs import problem
from .tables import Tables

log = logging.getLogger(__name__)


def to_dataframe(tables: Tables, record: EnsembleRecord, kind: str = "pandas") -> Any:
    """One row a task, in the order of the sweep; the caller's own copy.

    Parameters
    ----------
    tables : Tables
        What was read before.
    record : EnsembleRecord
        The ensemble.
    kind : {"pandas", "polars", "arrow"}
        A `pandas.DataFrame` whose index ``row`` numbers the rows of the sweep, a `polars.DataFrame` or a
        `pyarrow.Table` with a column ``row``.

    Returns
    -------
    pandas.DataFrame, polars.DataFrame or pyarrow.Table
        The parameters, then ``state`` (of the task), ``return_code``, ``runtime_s`` (seconds), what the app yields (a
        mapping's keys, else ``value``), ``error`` (the last lines of the error; of a finished task, why an output
        is missing), ``workdir`` (its absolute path) and ``task`` (the job's id). A row that waits or runs has no
        return code, run time and error, whatever an attempt before had. A parameter that has the name of another
        column (of an output too) gets the prefix ``param_``, and an output that has the name of one of the
        fixed columns gets ``value_``. Ints, floats, bools and texts have columns of their type, also where some
        are missing; what is mixed is there as objects (in Arrow, which has none, as text). Finished rows that
        lack a declared output have NaN there, and are told of in one warning of the log.

    Raises
    ------
    BadInput
        If there is no such kind.
    ExecutorException
        If what it needs is not installed.
    """
    known = frames.checked(kind)
    return _in_order(tables.use(record, lambda table: frames.frame(table, known)), known)


def _in_order(frame: Any, kind: str) -> Any:
    """In the order of the rows, which is that of the tasks' ids but where an ensemble was moved."""
    rows = frame.index if kind == "pandas" else frame["row"].to_numpy()
    if len(rows) < 2 or bool((rows[1:] >= rows[:-1]).all()):
        return frame
    return frame.sort_index() if kind == "pandas" else frame.sort("row") if kind == "polars" else frame.sort_by("row")


def app_outputs(site: Site, app_name: str) -> dict[str, str | Callable[[Path], Any]]:
    """The outputs an app declares, callables included."""
    record = site.app(app_name)
    functions = pickle.loads(record.payload).get("outputs", {}) if record.payload else {}
    return {name: spec if spec is not None else functions[name] for name, spec in record.outputs.items()}


def extract(
    site: Site, record: EnsembleRecord, outputs: Mapping[str, str | Callable[[Path], Any]] | None
) -> dict[int, str]:
    """Compute outputs of finished rows from their work directories and store them beside the values they have.

    What cannot be had is NaN, unless a value is stored already: the file it came from may have been cleaned away.

    Returns
    -------
    dict of int to str
        A note for each row (by its number) where an output could not be had.
    """
    if outputs is None:
        outputs = app_outputs(site, record.app_name)
        if not outputs:
            raise BadInput(f"App {record.app_name} declares no outputs; give them: extract({{'name': r'regex (.*)'}}).")
    if not isinstance(outputs, Mapping) or not outputs:
        raise BadInput("outputs must be a mapping such as {'pressure': r'Press = (\\S+)'} with at least one entry.")
    for name, output in outputs.items():
        why = problem(output)
        if not isinstance(name, str) or why:
            raise BadInput(f"Output {name!r} {why or 'must have a name that is text'}.")
    if not site.engine.site.here:
        raise Unsupported(
            f"The files of site {site.name!r} are not on this machine: declare the outputs in the app, and they are "
            "computed where the tasks run."
        )
    notes: dict[int, str] = {}
    data = site.data_path
    wanted = outputs

    def values() -> Iterator[tuple[int, str | bytes]]:
        for row in ensemble_rows(site, record, ("JOB_FINISHED",)):
            if row.scratch:  # there is nothing left to read, and what was read is stored
                notes[row.row if row.row is not None else row.id] = "its directory is gone (scratch=True)"
                continue
            found, note = read_outputs(data / row.workdir, wanted)
            if note:
                notes[row.row if row.row is not None else row.id] = note
            before = codec.decode(row.value) if row.value is not None else {}
            kept = before if isinstance(before, Mapping) else {"value": before}
            lost = {name for name, one in found.items() if isinstance(one, float) and one != one}
            news = {name: one for name, one in found.items() if name not in lost or name not in kept}
            yield row.id, codec.encode({**kept, **news})

    site.engine.set_values(list(values()))
    if notes:
        first = next(iter(notes))
        many = "1 row lacks" if len(notes) == 1 else f"{len(notes)} rows lack"
        log.warning("%s an output (row %s: %s)", many, first, notes[first].replace("\n", "; "))
    return notes


def ensemble_rows(site: Site, record: EnsembleRecord, states: tuple[str, ...] | None = None) -> list[JobRow]:
    """The jobs of an ensemble in the order of its rows."""
    return site.engine.jobs(record.rows(states, order="row"))


def words(counts: Mapping[str, int]) -> str:
    """``96 finished, 4 failed``: the numbers that are not zero."""
    return listing(f"{number} {state.lower().replace('_', ' ')}" for state, number in counts.items() if number)
