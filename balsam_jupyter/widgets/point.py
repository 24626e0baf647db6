"""What stands below a plot: the task of the point that was clicked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import traitlets

from .. import codec
from ..errors import BadInput, NotFound
from ..failures import no_log, printable
from ..models import TASK_STATE, EnsembleRecord, JobRow, Query
from ..tables import last_lines
from .columns import shown
from .live import Live, module, style
from .palette import COLOURS
from .static import duration

if TYPE_CHECKING:
    from ..api import Site

LOG_LINES = 20
_MOST = 40  # parameters or values that are listed


class Point(Live):
    """The page's part of a plot: its colours, what screen readers are told, and the task of a point.

    Parameters
    ----------
    site : Site
        Where the tasks are.
    record : EnsembleRecord
        The ensemble.
    """

    _esm = module("point.js")
    _css = style("point.css")
    told = traitlets.Unicode().tag(sync=True)  # type: ignore[no-untyped-call, unused-ignore]
    """What the plot shows, in words."""

    def __init__(self, site: Site, record: EnsembleRecord) -> None:
        self._site, self._record = site, record
        super().__init__({"task": self._task, "row": self._row})

    def _task(self, task: int) -> dict[str, Any]:
        found = self._site.engine.jobs(Query(ids=(int(task),)))
        if not found:
            raise NotFound(f"Task {task} is no more: it was deleted.")
        return detail(self._site, found[0])

    def _row(self, row: int) -> dict[str, Any]:
        found = self._site.engine.jobs(
            Query(ensemble=self._record.name, generation=self._record.generation, rows=(int(row),))
        )
        if not found:
            raise BadInput(f"{self._record.name!r} has no row {row}.")
        return detail(self._site, found[0])


def detail(site: Site, row: JobRow) -> dict[str, Any]:
    """A task as plain text in a mapping that JSON can hold."""
    state = TASK_STATE[row.state]
    facts = [
        ("app", row.app_name),
        (
            "ran for",
            ""
            if row.runtime_s is None
            else duration(row.runtime_s)
            if row.runtime_s >= 10
            else f"{row.runtime_s:.3g} s",
        ),
        ("return code", "" if row.return_code is None else str(row.return_code)),
        ("attempts", str(row.attempts) if row.attempts > 1 else ""),
        ("directory", str(site.data_path / row.workdir)),
    ]
    return {
        "task": row.id,
        "row": row.row,
        "title": f"Task {row.id}" if row.row is None else f"Row {row.row}",
        "state": state,
        "colour": COLOURS[state],
        "facts": [fact for fact in facts if fact[1]],
        "parameters": _listed(row.parameters),
        "values": _listed(row.value),
        "error": last_lines(row.error) or "",
        "log": _log(site, row),
    }


def _listed(stored: str | bytes | None) -> list[tuple[str, str]]:
    try:
        value = codec.decode(stored)
    except Exception as error:  # of a class that this process does not have
        return [("", f"cannot be read in this kernel: {shown(error, 200)}")]
    if value is None:
        return []
    items = list(value.items()) if isinstance(value, Mapping) else [("value", value)]
    rest = [("…", f"{len(items) - _MOST} more")] if len(items) > _MOST else []
    return [*((shown(name), shown(each, 200)) for name, each in items[:_MOST]), *rest]


def _log(site: Site, row: JobRow) -> str:
    log = printable(site.engine.output(row.id, LOG_LINES)).rstrip("\n")
    return log or f"({no_log(site.engine, row)})"
