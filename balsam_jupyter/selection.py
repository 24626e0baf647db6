"""Which rows of an ensemble a verb is for, and which rows are missing from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from operator import index
from typing import Any, SupportsIndex

from .api import Site
from .api_check import text_map
from .codec import decode
from .errors import BadInput, NotFound, listing, nearest
from .models import UNENDED, EnsembleRecord, JobRow, Query
from .submission import newest
from .task import BalsamTask, Follower

_UNDONE = ("FAILED", "USER_KILLED")


def record_of(site: Site, name: str, generation: int | None = None) -> EnsembleRecord:
    """The record of an ensemble; by default of its newest generation.

    Raises
    ------
    NotFound
        Names the nearest ensemble, or the generations there are.
    """
    if not isinstance(name, str):
        raise BadInput(f"The name of an ensemble is text, not {name!r}.")
    generations = {record.generation: record for record in site.engine.ensembles(name)}
    if not generations:
        known = newest(site.engine.ensembles())
        raise NotFound(
            f"Site {site.name!r} has no ensemble {name!r}.{nearest(name, known)} exctr.ensembles() lists what there is."
        )
    if generation is None:
        return generations[max(generations)]
    if generation not in generations:
        raise NotFound(f"Ensemble {name!r} has no generation {generation!r}; it has {listing(generations)}.")
    return generations[generation]


def numbers(rows: object) -> tuple[int, ...]:
    """Row numbers, given as an int, a range or any other iterable of ints (NumPy's, too)."""
    several = rows if isinstance(rows, Iterable) and not isinstance(rows, str | bytes | Mapping) else (rows,)
    found = []
    for row in several:
        if isinstance(row, bool) or not isinstance(row, SupportsIndex):
            raise BadInput(f"rows= are numbers of rows: an int, a range or a list of ints, not {row!r}.")
        found.append(index(row))
    return tuple(found)


def chosen(site: Site, record: EnsembleRecord, rows: object) -> list[JobRow]:
    """The rows with these numbers (`BadInput` names those there are not)."""
    asked = numbers(rows)
    found = site.engine.jobs(replace(record.rows(order="row"), rows=asked))
    there = {row.row for row in found}
    unknown = sorted({number for number in asked if number not in there})
    if unknown:
        (last,) = site.engine.jobs(record.rows(order="-row", limit=1)) or (None,)
        are = "it has none" if last is None else f"its rows are 0 to {last.row}"
        raise BadInput(f"Ensemble {record.name!r} has no row {listing(unknown)}; {are}.")
    return found


def of_rows(site: Site, record: EnsembleRecord, rows: object) -> Query:
    """The rows with these numbers, or all of them for None."""
    query = record.rows(order="row")
    return query if rows is None else replace(query, ids=tuple(row.id for row in chosen(site, record, rows)))


def end(site: Site, record: EnsembleRecord, rows: object, wait_time: float | None, force: str, purge: bool) -> int:
    """Kill rows that have not ended, and delete them if `purge`; how many."""
    query = of_rows(site, record, rows)
    if not purge:
        return site.engine.update(query, "USER_KILLED", wait_time, force)
    alive = tuple(site.engine.ids(replace(query, states=UNENDED)))
    killed = site.engine.update(replace(query, ids=alive), "USER_KILLED", wait_time, force) if alive else 0
    if killed:
        site.engine.delete(Query(ids=alive, states=("USER_KILLED",)))
    return killed


def to_retry(
    site: Site,
    follower: Follower,
    record: EnsembleRecord,
    rows: object,
    where: Callable[[BalsamTask], object] | None,
    failed: bool,
) -> Query:
    """The rows that are to run again: of those that failed or were killed, what is asked for."""
    query = record.rows(_UNDONE[:1] if failed else _UNDONE, order="row")
    if where is not None and not callable(where):
        raise BadInput(f"where= is a function of a task, such as lambda task: task.errcode == 9, not {where!r}.")
    if rows is not None:
        found = chosen(site, record, rows)
        if done := [row.row for row in found if row.state == "JOB_FINISHED"]:
            many = f"Row {done[0]}" if len(done) == 1 else f"Rows {listing(done)}"
            has = "has" if len(done) == 1 else "have"
            raise BadInput(
                f"{many} of {record.name!r} {has} finished, and retry() runs what failed or was killed. To run "
                "them again, submit the sweep by another name, or --fresh (if_changed='fresh') if the app has changed."
            )
        query = replace(query, ids=tuple(row.id for row in found))
    if where is not None:
        tasks = [(row.row, task) for row in site.engine.jobs(query) for task in follower.tasks([row])]
        query = replace(query, ids=tuple(task.id for row, task in tasks if _holds(where, task, row)))
    return query


def _holds(where: Callable[[BalsamTask], object], task: BalsamTask, row: int | None) -> bool:
    try:
        return bool(where(task))
    except Exception as error:
        raise BadInput(f"where= raised {type(error).__name__} for row {row}: {error}") from error


def undone(site: Site, record: EnsembleRecord) -> list[dict[str, Any]]:
    """The parameters of the rows that ended without having finished."""
    return [decode(row.parameters) for row in site.engine.jobs(record.rows(_UNDONE, order="row"))]


def tag_changes(tags: Mapping[str, object]) -> dict[str, str | None]:
    """Tags to set and (None) to remove, checked."""
    if not tags:
        raise BadInput("Which tags? tag(study='eos') sets one, tag(study=None) removes it.")
    if "workflow" in tags:
        raise BadInput("The tag 'workflow' is the ensemble's name; rename(…) changes both.")
    words = text_map("tags", {key: "" if word is None else word for key, word in tags.items()})
    return {key: None if tags[key] is None else word for key, word in words.items()}
