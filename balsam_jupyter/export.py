"""Jobs and events of a site as CSV or Parquet, page by page: a million jobs need no more memory than a thousand."""

from __future__ import annotations

import contextlib
import csv
import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import codec
from .errors import BadInput, SiteError, nearest
from .models import TASK_STATE, JobRow, Query, Resources

if TYPE_CHECKING:
    from .engines.base import Engine

FORMATS = ("csv", "parquet")
_PAGE = 5_000
_RESOURCES = [name for name in Resources.__dataclass_fields__ if name != "launch_params"]
# Column → type: int, float, str, or a time (UTC).
JOB_COLUMNS: dict[str, str] = {
    "id": "int", "app": "str", "state": "str", "task_state": "str", "ensemble": "str", "generation": "int",
    "row": "int", "workdir": "str", "tags": "str", "parameters": "str", "value": "str", "error": "str", "data": "str",
    "return_code": "int", "runtime_s": "float", "attempts": "int", "batch_job_id": "int", "app_version": "str",
    "submit_time": "time", "start_time": "time", "end_time": "time",
    **{name: "float" if name == "gpus_per_rank" else "int" for name in _RESOURCES}, "launch_params": "str",
    "parent_ids": "str", "on_parent_failure": "str", "transfers": "str", "max_retries": "int", "scratch": "int",
}  # fmt: skip
EVENT_COLUMNS: dict[str, str] = {
    "seq": "int", "job_id": "int", "from_state": "str", "to_state": "str", "time": "time", "data": "str",
}  # fmt: skip
Page = list[tuple[Any, ...]]


def export(engine: Engine, file: Path, kind: str = "") -> dict[Path, int]:
    """Write the jobs to `file` and the events beside it (``runs.csv`` and ``runs.events.csv``).

    Parameters
    ----------
    engine : Engine
        Of the site.
    file : Path
        Must not exist; both files appear whole or not at all.
    kind : {"csv", "parquet"}, optional
        By default what the name ends in.

    Returns
    -------
    dict of Path to int
        The files, and how many rows are in each.

    Raises
    ------
    BadInput
        If the format cannot be told, or a file exists.
    SiteError
        If a file cannot be written, or pyarrow is missing.
    """
    chosen = kind or file.suffix.lstrip(".").lower()
    if chosen not in FORMATS:
        what = f"{chosen!r} is no format" if chosen else f"{file.name!r} does not tell the format"
        raise BadInput(f"{what}: name the file .csv or .parquet, or give --format.{nearest(chosen, FORMATS)}")
    events = file.with_name(f"{file.stem}.events{file.suffix}")
    for each in (file, events):
        if each.exists():
            raise BadInput(f"{each} exists; choose another name, or remove it.")
    write = _write_csv if chosen == "csv" else _parquet_writer()
    fresh = {each: each.with_name(each.name + ".part") for each in (file, events)}
    try:
        numbers = [
            write(fresh[file], JOB_COLUMNS, _job_pages(engine)),
            write(fresh[events], EVENT_COLUMNS, _event_pages(engine)),
        ]
        for each, part in fresh.items():
            part.replace(each)
    except OSError as error:
        raise SiteError(f"{file} cannot be written ({error.strerror or error}).") from None
    finally:
        for part in fresh.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    return dict(zip(fresh, numbers, strict=True))


def _job_pages(engine: Engine) -> Iterator[Page]:
    last = 0
    while rows := engine.jobs(Query(after_id=last, limit=_PAGE)):
        last = rows[-1].id
        yield [_job(row) for row in rows]


def _job(row: JobRow) -> tuple[Any, ...]:
    wants = row.resources
    return (
        row.id, row.app_name, row.state, TASK_STATE[row.state], row.ensemble, row.generation, row.row, row.workdir,
        json.dumps(row.tags), as_json(row.parameters), as_json(row.value), row.error or None,
        json.dumps(row.data) if row.data else None, row.return_code, row.runtime_s, row.attempts, row.batch_job_id,
        row.app_version, row.submit_time, row.start_time, row.end_time,
        *(getattr(wants, name) for name in _RESOURCES),
        json.dumps(dict(wants.launch_params)) if wants.launch_params else None,
        json.dumps(row.parent_ids) if row.parent_ids else None, row.on_parent_failure,
        json.dumps(row.transfers) if row.transfers else None, row.max_retries, int(row.scratch),
    )  # fmt: skip


def as_json(stored: str | bytes | None) -> str | None:
    """A stored value as JSON text; what JSON cannot hold is there as its repr."""
    if not isinstance(stored, bytes):
        return stored
    try:
        return json.dumps(codec.decode(stored), default=repr)
    except Exception as error:  # what it was may not exist here
        return json.dumps(f"(cannot be read here: {type(error).__name__}: {error})")


def _event_pages(engine: Engine) -> Iterator[Page]:
    cursor = ""
    page: Page = []
    while rows := (events := engine.events(cursor)).rows:
        cursor = events.cursor
        for row in rows:
            for job_id in range(row.first_id, row.last_id + 1):
                for left, reached, time, data in row.steps(job_id):
                    page.append((row.seq, job_id, left, reached, time, json.dumps(data) if data else None))
                if len(page) >= _PAGE:
                    yield page
                    page = []
    yield page


Writer = Callable[[Path, dict[str, str], Iterator[Page]], int]


def _write_csv(file: Path, columns: dict[str, str], pages: Iterator[Page]) -> int:
    times = [at for at, kind in enumerate(columns.values()) if kind == "time"]
    number = 0
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(columns)
        for page in pages:
            number += len(page)
            for row in page:
                cells = list(row)
                for at in times:
                    cells[at] = iso(cells[at])
                writer.writerow(cells)
    return number


def iso(seconds: float | None) -> str | None:
    """A time for display as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="milliseconds")


def _parquet_writer() -> Writer:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise SiteError("Parquet needs pyarrow: pip install 'balsam-jupyter[parquet]', or write a .csv file.") from None
    types = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "time": pa.timestamp("ms", tz="UTC")}

    def write(file: Path, columns: dict[str, str], pages: Iterator[Page]) -> int:
        schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
        number = 0
        with pq.ParquetWriter(file, schema) as writer:
            for page in pages:
                number += len(page)
                by_column = zip(*page, strict=True) if page else ((),) * len(columns)
                arrays = [_array(pa, schema.field(at).type, list(cells)) for at, cells in enumerate(by_column)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        return number

    return write


def _array(pa: Any, kind: Any, cells: list[Any]) -> Any:
    if pa.types.is_timestamp(kind):
        cells = [None if cell is None else round(cell * 1000) for cell in cells]
    return pa.array(cells, type=kind)
