"""Tables of what an ensemble's tasks were given and what they yield."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import codec
from .api import Site
from .errors import BadInput, ExecutorException, listing
from .models import TASK_STATE, EnsembleRecord, JobRow, Query
from .outputs import extract as read_outputs
from .outputs import problem

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

OWN_COLUMNS = ("row", "task", "state", "return_code", "runtime_s")


def to_dataframe(rows: list[JobRow]) -> pd.DataFrame:
    """One row a task, in the order of the sweep.

    Returns
    -------
    pandas.DataFrame
        The parameters, then ``state`` (of the task), ``return_code``, ``runtime_s`` (seconds), what the app
        yields (a mapping's keys, else ``value``) and ``task`` (the job's id); the index ``row`` numbers the
        rows of the sweep. A row that waits or runs has no return code and no run time, whatever an attempt
        before had. A parameter that has the name of another column (of an output too) gets the prefix
        ``param_``, and an output that has the name of one of the fixed columns gets ``value_``. Finished rows
        that lack a declared output have NaN there, and are told of in one warning of the log.

    Raises
    ------
    ExecutorException
        If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise ExecutorException(
            "to_dataframe() needs pandas, which is not installed: pip install 'balsam-jupyter[notebook]'."
        ) from None
    parameters = _columns(_decoded([row.parameters for row in rows]), "")
    yielded = _decoded([row.value for row in rows])
    _warn_of_missing(rows, yielded)
    values = _columns(yielded, "value")
    values = {f"value_{name}" if name in OWN_COLUMNS else name: column for name, column in values.items()}
    taken = {*OWN_COLUMNS, *values}
    table: dict[str, Any] = {f"param_{name}" if name in taken else name: col for name, col in parameters.items()}
    states = [TASK_STATE[row.state] for row in rows]
    ended = [row if state not in ("WAITING", "RUNNING") else None for row, state in zip(rows, states, strict=True)]
    table["state"] = states
    table["return_code"] = pd.array([row.return_code if row else None for row in ended], dtype="Int64")
    table["runtime_s"] = pd.array([row.runtime_s if row else None for row in ended], dtype="float64")
    table.update(values)
    table["task"] = [row.id for row in rows]
    index = pd.Index([at if row.row is None else row.row for at, row in enumerate(rows)], name="row")
    return pd.DataFrame(table, index=index)


def _warn_of_missing(rows: list[JobRow], values: list[Any]) -> None:
    """Say why there is NaN in a table, in one line of the log."""
    finished = [(at, row) for at, row in enumerate(rows) if row.state == "JOB_FINISHED"]
    notes = {at: note for at, row in finished if row.error and (note := _still_missing(row.error, values[at]))}
    if notes:
        at, note = next(iter(notes.items()))
        number = at if rows[at].row is None else rows[at].row
        log.warning(
            "%soutputs missing in %d of %d finished rows, e.g. row %s: %s; "
            "ensemble.extract(outputs=…) reads them again with other outputs.",
            f"{rows[at].ensemble}: " if rows[at].ensemble else "", len(notes), len(finished), number, note,
        )  # fmt: skip


def _still_missing(note: str, value: Any) -> str:
    """The first line of a row's note whose output is NaN; a later extract() may have found the others."""
    lines = note.splitlines()
    if not value or not isinstance(value, Mapping):  # nothing could be read
        return lines[0]
    lacking = tuple(f"{name}: " for name, one in value.items() if isinstance(one, float) and one != one)
    return next((line for line in lines if line.startswith(lacking)), "") if lacking else ""


def _decoded(encoded: list[str | bytes | None]) -> list[Any]:
    """All decoded; JSON texts in one go, which is what makes 10,000 rows quick."""
    texts = [one for one in encoded if isinstance(one, str)]
    plain = iter(json.loads(f"[{','.join(texts)}]"))
    decoded: list[Any] = []
    bad: list[Exception] = []
    for one in encoded:
        try:
            decoded.append(next(plain) if isinstance(one, str) else None if one is None else codec.decode(one))
        except Exception as error:  # a value of a class this kernel does not have must not hide the other rows
            bad.append(error)
            decoded.append(None)
    if bad:
        log.warning("%d values cannot be read in this kernel and are left out: %r", len(bad), bad[0])
    return decoded


def _columns(values: list[Any], single: str) -> dict[str, list[Any]]:
    """Mappings as columns by key; what is no mapping goes to the column `single`."""
    columns: dict[str, list[Any]] = {}
    for at, value in enumerate(values):
        if value is None:
            continue
        items = value.items() if isinstance(value, Mapping) else ((single, value),)
        for name, one in items:
            column = columns.get(str(name))
            if column is None:
                column = columns[str(name)] = [None] * len(values)
            column[at] = one
    return columns


def app_outputs(site: Site, app_name: str) -> dict[str, str | Callable[[Path], Any]]:
    """The outputs an app declares, callables included."""
    record = site.app(app_name)
    functions = pickle.loads(record.payload).get("outputs", {}) if record.payload else {}
    return {name: spec if spec is not None else functions[name] for name, spec in record.outputs.items()}


def extract(site: Site, rows: Iterable[JobRow], outputs: Mapping[str, str | Callable[[Path], Any]]) -> dict[int, str]:
    """Compute outputs of finished jobs from their work directories and store them beside the values they have.

    Returns
    -------
    dict of int to str
        A note for each row (by its number) where an output could not be had and is NaN.
    """
    if not isinstance(outputs, Mapping) or not outputs:
        raise BadInput("outputs must be a mapping such as {'pressure': r'Press = (\\S+)'} with at least one entry.")
    for name, output in outputs.items():
        why = problem(output)
        if not isinstance(name, str) or why:
            raise BadInput(f"Output {name!r} {why or 'must have a name that is text'}.")
    notes: dict[int, str] = {}
    data = site.data_path

    def values() -> Iterator[tuple[int, str | bytes]]:
        for row in rows:
            if row.scratch:  # there is nothing left to read, and what was read is stored
                notes[row.row if row.row is not None else row.id] = "its directory is gone (scratch=True)"
                continue
            found, note = read_outputs(data / row.workdir, outputs)
            if note:
                notes[row.row if row.row is not None else row.id] = note
            before = codec.decode(row.value) if row.value is not None else {}
            kept = before if isinstance(before, Mapping) else {"value": before}
            yield row.id, codec.encode({**kept, **found})

    site.engine.set_values(list(values()))
    if notes:
        first = next(iter(notes))
        many = "1 row lacks" if len(notes) == 1 else f"{len(notes)} rows lack"
        log.warning("%s an output (row %s: %s)", many, first, notes[first].replace("\n", "; "))
    return notes


def ensemble_rows(site: Site, record: EnsembleRecord, states: tuple[str, ...] | None = None) -> list[JobRow]:
    """The jobs of an ensemble in the order of its rows."""
    return site.engine.jobs(Query(ensemble=record.name, generation=record.generation, states=states, order="row"))


def words(counts: Mapping[str, int]) -> str:
    """``96 finished, 4 failed``: the numbers that are not zero."""
    return listing(f"{number} {state.lower().replace('_', ' ')}" for state, number in counts.items() if number)
