"""Storing a sweep as the rows of an ensemble: all checked before any is stored, and none twice."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from .accounts import Agree
from .api import Site
from .api_check import positive_int
from .errors import BadInput
from .models import AppRecord, EnsembleRecord, JobCommon, JobSpec
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


def store_sweep(
    site: Site,
    app: AppRecord,
    sweep: Any,
    name: str | None,
    common: JobCommon,
    parents: tuple[int, ...],
    transfers: Mapping[str, str] | None,
    agree: Agree = None,
) -> tuple[EnsembleRecord, int]:
    """Store the rows that are not there yet, all or none: the ensemble, and how many were new."""
    if name is not None and (not isinstance(name, str) or not _NAME.fullmatch(name) or name == LONE_TASKS):
        reserved = f"{LONE_TASKS!r} is taken" if name == LONE_TASKS else f"{name!r} is not one"
        raise BadInput(
            f"The name of an ensemble is at most 100 letters, digits, '.', '_' and '-', beginning with a letter "
            f"or digit; {reserved}."
        )
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
    record = newest(engine.ensembles()).get(name)
    if record is not None and record.app_name != app.name:
        raise BadInput(f"Ensemble {name!r} is of app {record.app_name}, not of {app.name}; choose another name.")
    made = record is None
    if record is None:
        record = noted(EnsembleRecord(name, app.name, 1, app.version, time.time()), app, common, len(parameters), 0)
    tags = {"workflow": name, **common.tags}
    common = replace(common, tags=tags, ensemble=name, generation=record.generation)
    specs = (
        JobSpec(common, text, "", key, None, parents, transfers) for text, key in zip(parameters, keys, strict=True)
    )
    submitted = engine.submit(specs, record if made else None, agree)
    if not made:
        record = noted(record, app, common, submitted.new, len(parameters) - submitted.new)
        engine.put_ensemble(record)
    return record, submitted.new


def newest(records: Iterable[EnsembleRecord]) -> dict[str, EnsembleRecord]:
    """The newest generation of each ensemble by its name, the ensemble begun first first."""
    return {record.name: record for record in records}


def slug(name: str) -> str:
    """A name as part of a path: letters, digits, '.', '_' and '-'."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-") or "app"
