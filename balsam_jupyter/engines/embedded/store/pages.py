"""Pages of many jobs: which there are between two ids that match a search, and what a table shows of some."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ....codec import decode, to_json
from ....errors import BadInput
from ....models import JOB_STATES, Query
from ...search import Cells, Search, Term, matcher, number
from . import jobs
from .directories import FOLDER_SIZE
from .schema import ENSEMBLE

COLUMNS = {
    "id": "job.id",
    "row": "job.row",
    "attempts": "job.attempts",
    "submit_time": "job.submit_time",
    "start_time": "job.start_time",
    "end_time": "job.end_time",
    "runtime_s": "job.runtime_s",
    "return_code": "job.return_code",
    "batch_job_id": "job.batch_job_id",
}
"""The plain numbers of a job, by which it is found and ordered."""

_STATE = "CASE job.state " + " ".join(f"WHEN '{state}' THEN {at}" for at, state in enumerate(JOB_STATES)) + " END"
# What `directories.row_workdir` says, as far as it is not the ensemble's folder.
_FIRST = f"(job.row - job.row % {FOLDER_SIZE})"
_ROW_WORKDIR = f"""(SELECT folder FROM ensemble WHERE ensemble.id = job.ensemble_id) || '/' || CASE
    WHEN job.row < {FOLDER_SIZE} THEN '' ELSE {_FIRST} || '-' || ({_FIRST} + {FOLDER_SIZE - 1}) || '/' END || job.row"""
_WORKDIR = f"coalesce(job.workdir, {_ROW_WORKDIR})"

_LONGEST = 20_000  # bytes of parameters or of a value for a cell
_ERROR = 4_000


def span(con: sqlite3.Connection, query: Query) -> range:
    """All ids from the first to the last of an ensemble's (or all) jobs; reads an index entry or two of each state."""
    if query.ensemble is None:
        low, high = con.execute("SELECT (SELECT min(id) FROM job), (SELECT max(id) FROM job)").fetchone()
    else:
        found = con.execute(ENSEMBLE, (query.ensemble, query.generation)).fetchone()
        of = "FROM job WHERE ensemble_id = ?1 AND state = one.value"
        low, high = con.execute(
            f"SELECT min((SELECT min(id) {of})), max((SELECT max(id) {of})) FROM json_each(?2) AS one",
            (found[0] if found else 0, json.dumps(JOB_STATES)),
        ).fetchone()
    return range(low or 1, (high or 0) + 1)


def scan(con: sqlite3.Connection, search: Search, ids: range | Sequence[int]) -> list[tuple[int, Any]]:
    """The jobs with these ids that match, in the order of their ids, with what orders them."""
    condition, arguments = _condition(search)
    if isinstance(ids, range):
        condition, arguments = f"job.id BETWEEN ? AND ? AND {condition}", [ids.start, ids.stop - 1, *arguments]
    else:
        given = json.dumps(list(ids))
        condition, arguments = f"job.id IN (SELECT value FROM json_each(?)) AND {condition}", [given, *arguments]
    # Few are in a state, and an index has these in the order of their ids; else the jobs are read as they lie.
    by_state = isinstance(ids, range) and search.query.states and search.query.ensemble is not None
    table = "job INDEXED BY job_state" if by_state else "job"
    passed = search.order.partition("parameter.")[2]
    key = "NULL" if passed or search.order == "id" else _order(search.order)
    decoded = bool(passed or search.parameters)
    rows = con.execute(
        f"SELECT job.id, {key}{', job.parameters' if decoded else ''} FROM {table} WHERE {condition} ORDER BY job.id",
        arguments,
    )
    found = rows.fetchall()
    return _matching(found, search.parameters, passed) if decoded else found


def _order(name: str) -> str:
    if name != "state" and name not in COLUMNS:
        raise BadInput(f"Tasks cannot be ordered by {name!r}.")
    return _STATE if name == "state" else COLUMNS[name]


def _condition(search: Search) -> tuple[str, list[Any]]:
    query = search.query
    condition, arguments = jobs.where(replace(query, ensemble=None, generation=None))
    if query.ensemble is not None:
        # without states the index has them in no useful order
        condition += f" AND {'' if query.states else '+'}job.ensemble_id = ({ENSEMBLE})"
        arguments += [query.ensemble, query.generation]
    for name, sign, word in search.columns:
        value = number(word)
        if name not in COLUMNS or value is None:
            raise BadInput(f"{name} is a number; {word!r} is none.")
        condition += f" AND {COLUMNS[name]} {'IS NOT' if sign == '!=' else sign} ?"
        arguments.append(value)
    for text in search.texts:
        # Parameters lie there as JSON; of those that JSON cannot hold, nothing is found.
        condition += f""" AND (typeof(job.parameters) = 'text' AND job.parameters LIKE ? ESCAPE '\\'
            OR job.error LIKE ? ESCAPE '\\' OR {_WORKDIR} LIKE ? ESCAPE '\\')"""
        arguments += [_like(to_json(text)[1:-1]), _like(text), _like(text)]
    return condition, arguments


def _like(text: str) -> str:
    for special in "\\%_":
        text = text.replace(special, f"\\{special}")
    return f"%{text}%"


def _matching(rows: list[tuple[int, Any, Any]], terms: Sequence[Term], passed: str) -> list[tuple[int, Any]]:
    """Those whose parameters meet the terms, with one of the parameters if that orders them."""
    # A job that was not passed such a parameter is only found by "!=".
    tests = [(term.name, matcher(term.sign, term.word), term.sign == "!=") for term in terms]
    found = []
    for (job_id, key, _), parameters in zip(rows, _mappings([row[2] for row in rows]), strict=True):
        for name, test, absent in tests:
            if not (test(parameters[name]) if name in parameters else absent):
                break
        else:
            found.append((job_id, parameters.get(passed) if passed else key))
    return found


def _mappings(stored: list[str | bytes]) -> list[dict[str, Any]]:
    """All decoded, in one go where they are JSON; what this process cannot read is empty."""
    if all(isinstance(one, str) for one in stored):
        found: list[dict[str, Any]] = json.loads(f"[{','.join(stored)}]")  # type: ignore[arg-type]
        return found
    return [_mapping(one) for one in stored]


def _mapping(stored: str | bytes) -> dict[str, Any]:
    try:
        found = decode(stored)
    except Exception:  # of a class that is not here
        return {}
    return found if isinstance(found, dict) else {}


def cells(con: sqlite3.Connection, ids: Sequence[int]) -> list[Cells]:
    """What a table shows of these jobs, in the order of their ids; those that are gone are left out."""
    rows = con.execute(
        f"""SELECT job.id, job.row, app.name, ensemble.name, state,
                CASE WHEN length(parameters) <= {_LONGEST} THEN parameters END, start_time, end_time, runtime_s,
                return_code, attempts, CASE WHEN length(value) <= {_LONGEST} THEN value END,
                coalesce(substr(error, -{_ERROR}), '')
            FROM job JOIN spec ON spec.id = spec_id JOIN app ON app.id = spec.app_id
                LEFT JOIN ensemble ON ensemble.id = ensemble_id
            WHERE job.id IN (SELECT value FROM json_each(?)) ORDER BY job.id""",
        (json.dumps(list(ids)),),
    )
    return [Cells(*row) for row in rows]
