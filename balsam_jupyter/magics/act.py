"""The magics that act on what was submitted: wait, kill, retry."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..errors import BadInput, many
from ..verbs import kill
from .grammar import EXPRESSION, FLAG, NUMBER, ROWS, argument, option
from .line import Asked
from .magic import magic
from .progress import point_to_failed, wait
from .report import Report
from .session import Session


@magic(
    argument("name", "the ensemble", completes="ensemble"),
    option("--timeout", "give up after so many seconds", kind=NUMBER, metavar="S"),
)
def balsam_wait(session: Session, asked: Asked) -> Any:
    """Wait until all tasks of an ensemble are done. Interrupting the cell leaves the tasks running.

    Example::

        %balsam_wait scan-1 --timeout 600
    """
    if asked.timeout is not None and asked.timeout < 0:
        raise asked.wrong("timeout", f"--timeout is a number of seconds from 0 on, not {asked.timeout:g}.")
    ensemble = session.ensemble(asked.name)
    wait(session.site.engine, ensemble.name, asked.timeout, session.shell, ensemble.callbacks)
    point_to_failed(ensemble)
    return ensemble


@magic(
    argument("what", "a task's id, name or work directory, or an ensemble: all its tasks", "TASK", many=True,
             completes="task"),
    option("--rows", "only these rows of an ensemble, as in 3 7-9", kind=ROWS, many=True, greedy=True),
    option("--now", "SIGKILL at once, instead of SIGTERM and half a second", kind=FLAG),
    option("--revoke", "at a Balsam site: revoke the allocations in which they run", kind=FLAG),
)  # fmt: skip
def balsam_kill(session: Session, asked: Asked) -> Any:
    """End tasks, or all tasks of ensembles, that are not done.

    Examples::

        %balsam_kill scan-1
        %balsam_kill 17 18 --now
        %balsam_kill scan-1 --rows 0 7-9
    """
    found = [session.find(what) for what in asked.what]  # a mistake in one kills none
    wait_time, force = 0.0 if asked.now else 0.5, "revoke" if asked.revoke else ""
    if asked.rows:
        if len(asked.what) > 1 or found[0][0].ensemble is None:
            raise asked.wrong("rows", "--rows is for the rows of one ensemble: give its name alone.")
        ensemble = session.ensemble(asked.what[0])
        number = _of_rows(asked, lambda rows: ensemble.kill(rows, wait_time, force=force))
        said = f"{many(number, 'task')} killed." if number else "nothing to kill: these rows had ended."
        return Report(f"ensemble {ensemble.name!r}: {said}")
    names = [what for what, (query, _) in zip(asked.what, found, strict=True) if query.ensemble is not None]
    numbers = [what for what in asked.what if what.isdecimal()]
    if names and numbers:
        rows = " ".join(numbers)
        clear = f"%balsam_kill {names[0]} --rows {rows} ends rows, %balsam_kill {rows} ends tasks by their ids"
        message = f"Rows of {names[0]!r}, or tasks? {clear}."
        raise asked.wrong("what", message, asked.what.index(numbers[0]))
    return Report("\n".join(kill(session.site.engine, *each, wait_time, force) for each in found))


@magic(
    argument("name", "the ensemble", completes="ensemble"),
    argument("rows", "only these rows, as in 3 7-9", "ROW", kind=ROWS, many=True, default=None),
    option("--failed", "only those that failed, not those that were killed", kind=FLAG),
    option("--where", "only those for which this is true; names in it are the row's parameters, and `task`",
           kind=EXPRESSION),
)  # fmt: skip
def balsam_retry(session: Session, asked: Asked) -> Any:
    """Run the failed and the killed tasks of an ensemble again, with the app as it is now.

    Examples::

        %balsam_retry scan-1 --failed
        %balsam_retry scan-1 3 7-9
        %balsam_retry scan-1 --where T > 500 and task.errcode == 9
    """
    ensemble = session.ensemble(asked.name)
    where = asked.where.predicate(asked.namespace) if asked.where else None
    number = _of_rows(asked, lambda rows: ensemble.retry(rows, where, asked.failed))
    if number:
        return Report(f"ensemble {ensemble.name!r}: {many(number, 'task')} will run again.")
    counts = ensemble.counts()
    found = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    which = "such task" if asked.rows or asked.where or asked.failed else "task"
    return Report(f"ensemble {ensemble.name!r}: nothing to retry: no {which} has failed or was killed ({found}).")


def _of_rows(asked: Asked, act: Callable[[list[int] | None], int]) -> int:
    """Act on the rows asked for, None for all; a mistake about a row is one of the word that has it."""
    try:
        return act([number for some in asked.rows for number in some] or None)
    except BadInput as error:
        row = re.search(r"\brows? (\d+)", str(error), re.IGNORECASE)
        at = next((at for at, some in enumerate(asked.rows) if row and int(row[1]) in some), None)
        raise error if at is None else asked.wrong("rows", str(error), at) from error.__cause__
