"""Storing a sweep as the rows of an ensemble: all checked before any is stored, and none twice."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sized
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple

from .api import Site
from .api_check import positive_int
from .apps import check_parameters
from .codec import canonical, decode
from .cost import agreement
from .errors import BadInput
from .identity import check_choice, ended_note, settle
from .models import AppRecord, EnsembleRecord, JobCommon, JobSpec, Query
from .provenance import noted
from .rows import encoded
from .sweep import Sweep

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LONE_TASKS = "libe_workflow"
"""The folder of tasks that are in no ensemble; no ensemble may have that name."""


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


def row_count(sweep: Any) -> int:
    """How many rows a sweep has; a number of rows is itself."""
    if isinstance(sweep, int) and not isinstance(sweep, bool):
        return positive_int("The number of rows", sweep)
    rows = rows_of(sweep)
    return len(rows) if isinstance(rows, Sized) else sum(1 for _ in rows)


class Stored(NamedTuple):
    """What a submission came to: the ensemble, how many rows were new, and what else there is to say ("": nothing)."""

    record: EnsembleRecord
    new: int
    first_new: int
    """The lowest id of a new row; 0 if there is none."""
    note: str


def check_name(name: object) -> None:
    """Refuse what cannot be the name of an ensemble."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == LONE_TASKS:
        reserved = f"{LONE_TASKS!r} is taken" if name == LONE_TASKS else f"{name!r} is not one"
        raise BadInput(
            f"The name of an ensemble is at most 100 letters, digits, '.', '_' and '-', beginning with a letter "
            f"or digit; {reserved}."
        )


def check_app(given: object, name: object, calc_type: object) -> None:
    """Refuse what cannot be registered as an app of this name, or as the default of its kind."""
    if calc_type is not None and calc_type not in ("sim", "gen"):
        raise BadInput(f"calc_type is 'sim' or 'gen', not {calc_type!r}.")
    named = isinstance(name, str) and name.strip() and name.isprintable() and len(name) <= 200
    if name is not None and not named:
        raise BadInput(f"app_name must be a name of at most 200 printable characters, not {name!r}.")
    if not isinstance(given, type):
        raise BadInput(f"register_app() takes a class (an ApplicationDefinition), not {given!r}.")


def store_sweep(
    site: Site,
    app: AppRecord,
    sweep: Any,
    name: str | None,
    common: JobCommon,
    parents: tuple[int, ...],
    transfers: Mapping[str, str] | None,
    if_changed: str | None = None,
    max_node_hours: float | None = None,
) -> Stored:
    """Store the rows that are not there yet, all or none."""
    if name is not None:
        check_name(name)
    check_choice(if_changed)
    parameters, keys = encoded(app, rows_of(sweep))
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
    agree = agreement(site, app, common.resources, max_node_hours)
    before = newest(engine.ensembles(name)).get(name)
    if before is None:
        record = EnsembleRecord(name, app.name, 1, app.version, time.time())
    elif before.app_name != app.name:
        raise BadInput(f"Ensemble {name!r} is of app {before.app_name}, not of {app.name}; choose another name.")
    else:
        record = settle(engine, before, app, if_changed)
    begun = before is None or record.generation > before.generation
    if begun:
        record = noted(record, app, common, len(parameters), 0)
    tags = {"workflow": name, **common.tags}
    common = replace(common, tags=tags, ensemble=name, generation=record.generation)
    specs = (
        JobSpec(common, text, "", key, None, parents, transfers) for text, key in zip(parameters, keys, strict=True)
    )
    note = ended_note(engine, before) if before is not None and begun else ""
    submitted = engine.submit(specs, record if record != before else None, agree)
    if not begun:
        record = noted(record, app, common, submitted.new, len(parameters) - submitted.new)
        engine.update_ensemble(record)
    if not record.folder:  # the engine has chosen one
        (record,) = (one for one in engine.ensembles(name) if one.generation == record.generation)
    first_new = sorted(submitted.ids)[-submitted.new] if submitted.new else 0
    return Stored(record, submitted.new, first_new, note)


def extend(site: Site, record: EnsembleRecord, rows: Any) -> Stored:
    """Store more rows of an ensemble, with the resources, tags and options of the row that came last."""
    engine = site.engine
    latest = newest(engine.ensembles(record.name)).get(record.name)
    if latest is not None and latest.generation != record.generation:
        raise BadInput(
            f"Generation {record.generation} of {record.name!r} takes no more rows: generation {latest.generation} is "
            f"the newest; add to ensemble({record.name!r})."
        )
    found = engine.jobs(record.rows(order="-row", limit=1))
    if not found:
        raise BadInput(f"Ensemble {record.name!r} has no rows any more; submit the sweep again.")
    (last,) = found
    app = site.app(record.app_name)
    common = JobCommon(
        app.id, app.version, last.resources, last.tags, max_retries=last.max_retries,
        on_parent_failure=last.on_parent_failure, scratch=last.scratch,
    )  # fmt: skip
    # A parent that was deleted holds nobody.
    parents = tuple(row.id for row in engine.jobs(Query(ids=last.parent_ids))) if last.parent_ids else ()
    return store_sweep(site, app, rows, record.name, common, parents, last.transfers or None)


def distinct(site: Site, app_name: str, rows: Any) -> list[Mapping[str, Any]]:
    """The rows without those that equal one before; a row that cannot be is left for `store_sweep` to name."""
    app = site.app(app_name)
    found: dict[object, Mapping[str, Any]] = {}
    for at, row in enumerate(rows_of(rows)):
        form: object = at
        with suppress(BadInput):
            form = canonical(check_parameters(app, row))
        found.setdefault(form, row)
    return list(found.values())


def unsubmitted(site: Site, record: EnsembleRecord, sweep: Any) -> list[dict[str, Any]]:
    """The parameters of the sweep's rows that the ensemble does not have."""
    parameters, keys = encoded(site.app(record.app_name), rows_of(sweep))
    there = site.engine.row_ids(record.name, record.generation, keys)
    return [decode(text) for text, key in zip(parameters, keys, strict=True) if key not in there]


def newest(records: Iterable[EnsembleRecord]) -> dict[str, EnsembleRecord]:
    """The newest generation of each ensemble by its name, the ensemble begun first first."""
    return {record.name: record for record in records}


def slug(name: str) -> str:
    """A name as part of a path: letters, digits, '.', '_' and '-'."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-") or "app"
