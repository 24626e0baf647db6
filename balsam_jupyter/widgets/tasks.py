"""What the task table and a task's detail ask the kernel. All that comes from tasks is sent as plain text."""

from __future__ import annotations

import codecs
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..api import Site
from ..browse import Browser, shown_parameters
from ..codec import decode
from ..engines.search import Cells
from ..errors import BalsamJupyterError, NotFound, many
from ..failures import printable, telling_line
from ..models import TASK_STATE, TERMINAL, JobRow, Query, Resources
from ..shelltext import as_read
from .live import Answer

CELL = 80
"""Characters of a value in a cell of the table."""
LOG_PIECE = 64_000
"""Bytes of a log in one answer."""
_ERROR, _VALUE, _LONG = 240, 120, 4_000
_FEW = 20  # parameters that have a column each
_AT_ONCE = 10_000  # tasks of one change


def answers(site: Site, ensemble: str = "", generation: int | None = None) -> dict[str, Answer]:
    """What a page with a task table may ask, by name.

    Parameters
    ----------
    site : Site
        Where the tasks are.
    ensemble : str
        Whose tasks; "" for all of the site.
    generation : int or None
        Of that name; None: the newest.
    """
    tasks = Tasks(site, ensemble, generation)
    return {
        "tasks.page": tasks.page,
        "tasks.task": tasks.task,
        "tasks.log": tasks.log,
        "tasks.kill": tasks.kill,
        "tasks.retry": tasks.retry,
    }


class Tasks:
    """The answers; see `answers`."""

    def __init__(self, site: Site, ensemble: str, generation: int | None) -> None:
        self.site, self.ensemble = site, ensemble
        self._browser = Browser(site.engine, ensemble, generation)

    # -- the table ----------------------------------------------------------------------------------------

    def page(
        self,
        line: str = "",
        states: Sequence[str] = (),
        order: str = "id",
        descending: bool = False,
        start: int = 0,
        number: int = 50,
    ) -> dict[str, Any]:
        """The tasks at some positions of what a line asks for, and how far the search has come."""
        search = self._browser.search(line, states, order, descending)
        page = self._browser.page(search, start, number)
        names = self._browser.names()
        few = names[:_FEW] if self.ensemble else []
        return {
            **page._asdict(),
            "rows": [None if cells is None else _row(cells, few) for cells in page.rows],
            "names": names,
            "columns": few,
            "now": time.time(),
        }

    # -- a task -------------------------------------------------------------------------------------------

    def task(self, id: int) -> dict[str, Any]:
        """All there is to say of a task, but for its log."""
        row = self._job(id)
        command, environment = self._command(row)
        path = self.site.path and str(self.site.data_path / row.workdir)
        return {
            "id": row.id,
            "row": row.row,
            "there": "" if self.site.engine.site.here else text(self.site.name),
            "app": text(row.app_name),
            "ensemble": text(row.ensemble or ""),
            "state": TASK_STATE[row.state],
            "job": row.state,
            "over": row.state in TERMINAL,
            "attempts": row.attempts,
            "max_retries": row.max_retries,
            "code": row.return_code,
            "runtime": row.runtime_s,
            "started": row.start_time,
            "submitted": row.submit_time,
            "ended": row.end_time,
            "allocation": row.batch_job_id,
            "parameters": _texts(shown_parameters(row.parameters)),
            "unreadable": isinstance(row.parameters, bytes) and not shown_parameters(row.parameters),
            "value": _value(row.value, _LONG),
            "tags": _texts(row.tags),
            "resources": _resources(row.resources),
            "command": text(command),
            "environment": _texts(environment),
            "path": text(path or ""),
            "scratch": row.scratch and row.state == "JOB_FINISHED",
            "error": text(printable(row.error)),
            "parents": list(row.parent_ids[:50]),
            "timeline": self._timeline(row),
            "now": time.time(),
        }

    def _job(self, job_id: int) -> JobRow:
        found = self.site.engine.jobs(Query(ids=(job_id,)))
        if not found:
            raise NotFound(f"Task {job_id} is no more: it was deleted.")
        return found[0]

    def _command(self, row: JobRow) -> tuple[str, dict[str, str]]:
        try:
            argv, environment = self.site.engine.command(row)
        except BalsamJupyterError as error:  # the app has gone or changed
            return f"(not known: {error})", {}
        except Exception as error:  # a template, or what it calls, may raise anything
            return f"(not known: {type(error).__name__}: {error})", {}
        return as_read(argv), environment

    def _timeline(self, row: JobRow) -> list[dict[str, Any]]:
        """The states it was in, one after the other: since when, for how long, and what was said of it."""
        steps = [step for event in self.site.engine.history([row.id]) for step in event.steps(row.id)]
        steps = [step for step in steps if step[1]][-60:]
        ends: list[float | None] = [step[2] for step in steps[1:]]
        ends.append(None if row.state in TERMINAL else time.time())
        return [
            {
                "job": state,
                "state": TASK_STATE.get(state, "WAITING"),
                "at": at,
                "seconds": None if end is None else max(0.0, end - at),
                "note": text(telling_line(str(said["error"])))[:_ERROR] if said.get("error") else "",
            }
            for (_, state, at, said), end in zip(steps, ends, strict=True)
        ]

    # -- its log ------------------------------------------------------------------------------------------

    def log(self, id: int, start: int = -1, attempts: int = -1) -> dict[str, Any]:
        """What the log has from the byte `start` on (-1: its end), a piece at most.

        It says `anew` where it begins at another place than was asked for: the task runs again, or its log was
        replaced. `next` is where to go on, and `left` how many bytes there are beyond.
        """
        row = self._job(id)
        size = self.site.engine.output_size(id)
        anew = start < 0 or size < start or (attempts >= 0 and attempts != row.attempts)
        first = max(0, size - LOG_PIECE) if anew else start
        piece = self.site.engine.read_output(id, first, LOG_PIECE)
        if anew and first > 0:  # begin with a whole line, if there is one
            at = piece.find(b"\n") + 1
            first, piece = first + at, piece[at:]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        shown = decoder.decode(piece)
        reached = first + len(piece) - len(decoder.getstate()[0])  # half a character waits for its other half
        return {
            "text": shown,
            "first": first,
            "next": reached,
            "left": max(0, size - reached) if len(piece) == LOG_PIECE else 0,
            "anew": anew,
            "state": TASK_STATE[row.state],
            "job": row.state,
            "attempts": row.attempts,
        }

    # -- what can be done ---------------------------------------------------------------------------------

    def kill(self, id: int | None = None, line: str = "", states: Sequence[str] = ()) -> str:
        """End a task, or all that a line asks for; says how many that were."""
        return f"{many(self._update('USER_KILLED', id, line, states), 'task')} asked to end."

    def retry(self, id: int | None = None, line: str = "", states: Sequence[str] = ()) -> str:
        """Run a task again that failed or was killed, or all such that a line asks for; says how many."""
        return f"{many(self._update('RESTART_READY', id, line, states), 'task')} will run again."

    def _update(self, state: str, job_id: int | None, line: str, states: Sequence[str]) -> int:
        engine = self.site.engine
        if job_id is not None:
            return engine.update(Query(ids=(job_id,)), state)
        found = self._browser.ids(self._browser.search(line, states))
        if found is None:
            raise BalsamJupyterError("Not all tasks have been looked through yet; wait until the count stands still.")
        parts = (tuple(found[at : at + _AT_ONCE]) for at in range(0, len(found), _AT_ONCE))
        return sum(engine.update(Query(ids=part), state) for part in parts)


# -- text ------------------------------------------------------------------------------------------------------------


def text(value: object) -> str:
    """A value as text that a message can hold."""
    return str(value).encode("utf-8", "replace").decode()


def short(value: object, most: int = CELL) -> str:
    """The beginning of how a value reads."""
    if isinstance(value, float):
        shown = repr(value) if not math.isfinite(value) else f"{value:.10g}"
    else:
        try:
            shown = text(value)
        except Exception as error:  # the value is a user's object
            shown = f"<{type(value).__name__}: {type(error).__name__}>"
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _texts(mapping: Any) -> dict[str, str]:
    return {text(name): short(value, _LONG) for name, value in mapping.items()}


def _row(cells: Cells, names: Sequence[str]) -> dict[str, Any]:
    """What the table shows of a task."""
    if cells.parameters is None:
        passed: dict[str, Any] = {}
        left_out = "(too long to show here)"
    else:
        passed = shown_parameters(cells.parameters)
        left_out = "" if passed or cells.parameters == "{}" else "(not readable in this kernel)"
    over = cells.state in TERMINAL
    row = {
        "id": cells.id,
        "row": cells.row,
        "state": TASK_STATE[cells.state],
        "passed": [short(passed[name]) if name in passed else "" for name in names],
        "started": cells.start_time and round(cells.start_time, 3),
        "runtime": round(cells.runtime_s, 6) if over and cells.runtime_s is not None else None,
        "code": cells.return_code if over else None,
        "value": _value(cells.value, _VALUE) if over else "",
        "error": short(telling_line(cells.error), _ERROR) if over and cells.error else "",
    }
    if not names:
        shown = left_out or short(_pairs(passed), 2 * CELL)
        row |= {"app": text(cells.app_name), "ensemble": text(cells.ensemble or ""), "passed": shown}
    return row


def _pairs(mapping: dict[str, Any]) -> str:
    return "  ".join(f"{name}={short(value)}" for name, value in mapping.items())


def _value(stored: str | bytes | None, most: int) -> str:
    try:
        value = decode(stored)
    except Exception as error:  # of a class that this process does not have
        return f"(not readable in this kernel: {type(error).__name__})"
    if value is None:
        return ""
    return short(_pairs(value) if isinstance(value, dict) and value else value, most)


def _resources(resources: Resources) -> str:
    """What differs from one process on one node."""
    plain = asdict(Resources())
    asked = {name: value for name, value in asdict(resources).items() if value != plain[name]}
    return text(", ".join(f"{name}={value}" for name, value in asked.items()))
