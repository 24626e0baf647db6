"""The magics that show: status, the live figure, results, logs, the ensembles."""

from __future__ import annotations

import time
from typing import Any

from ..failures import log_of
from ..models import TASK_STATES, Query
from ..status import explain, task_counts
from ..submission import newest
from . import cost
from .grammar import FLAG, WHOLE, argument, option
from .line import Asked
from .magic import magic
from .report import MOST_ROWS, Log, Report, Table
from .session import Session


@magic(argument("name", "an ensemble; left out: all of the site", default=None, completes="ensemble"))
def balsam_status(session: Session, asked: Asked) -> Any:
    """Count the tasks by state, list the allocations, and say why nothing runs when nothing runs.

    Example::

        %balsam_status scan-1
    """
    engine = session.site.engine
    if asked.name is not None:
        session.ensemble(asked.name)  # a misspelt name is an error
        return explain(engine, asked.name)
    table = _ensembles(session)
    return Report("", [explain(engine), *([table] if table.rows else [])])


@magic()
def balsam_ensembles(session: Session, asked: Asked) -> Any:
    """List the ensembles of the site, the one begun last first, with their tasks by state.

    Example::

        %balsam_ensembles
    """
    table = _ensembles(session)
    if not table.rows:
        return Report(f"Site {session.site.name!r} has no ensembles yet: %balsam_submit makes one.")
    return Report("", [table])


def _ensembles(session: Session) -> Table:
    engine = session.site.engine
    rows = []
    records = [*newest(engine.ensembles()).values()][::-1]
    for record in records[:MOST_ROWS]:
        counts = task_counts(engine.count(Query(ensemble=record.name)))
        begun = time.strftime("%F %H:%M", time.localtime(record.created))
        rows.append([record.name, record.app_name, sum(counts.values()), *counts.values(), begun])
    return Table(["ensemble", "app", "tasks", *TASK_STATES, "begun"], rows, len(records))


@magic(
    argument("name", "an ensemble; left out: all of the site", default=None, completes="ensemble"),
    option("--plotly", "only a figure of the tasks' states over time, to hover, zoom and export", kind=FLAG),
)
def balsam_watch(session: Session, asked: Asked) -> Any:
    """Follow an ensemble, or the site, in the background, in a live dashboard; other cells run meanwhile.

    Examples::

        %balsam_watch scan-1
        %balsam_watch
    """
    if asked.name is None:
        return session.executor.dashboard(plotly=asked.plotly)
    return session.ensemble(asked.name).watch(plotly=asked.plotly)


@magic(argument("name", "the ensemble", completes="ensemble"))
def balsam_results(session: Session, asked: Asked) -> Any:
    """One row a task: parameters, state, return code, runtime, and what it yields, in a pandas DataFrame.

    Example::

        df = %balsam_results scan-1
    """
    return session.ensemble(asked.name).to_dataframe()


@magic(argument("name", "the ensemble", completes="ensemble"))
def balsam_failures(session: Session, asked: Asked) -> Any:
    """Group the failed tasks of an ensemble by what their errors have in common, with one example's log each.

    Example::

        %balsam_failures scan-1
    """
    return session.ensemble(asked.name).failures()


@magic(argument("name", "an ensemble; left out: the site, and each of its ensembles", default=None,
                completes="ensemble"))  # fmt: skip
def balsam_cost(session: Session, asked: Asked) -> Any:
    """Show the node-hours used, and what the tasks that are left ask for and when they will have ended.

    Examples::

        %balsam_cost
        %balsam_cost scan-1
    """
    return cost.of_site(session) if asked.name is None else session.ensemble(asked.name).cost()


@magic(
    argument("what", "a task's id, name or work directory, or an ensemble: its first failed task", "TASK",
             completes="task"),
    option("-n --lines", "how many of the last lines (default 20)", kind=WHOLE, default=20),
)  # fmt: skip
def balsam_logs(session: Session, asked: Asked) -> Any:
    """Show the last lines of a task's log.

    Examples::

        %balsam_logs 17
        %balsam_logs scan-1
    """
    if asked.lines < 1:
        raise asked.wrong("lines", f"-n {asked.lines}: show at least 1 line.")
    engine = session.site.engine
    query, words_for_it = session.find(asked.what)
    if query.ensemble is not None:
        query = Query(ensemble=query.ensemble, states=("FAILED",), limit=1)
    found = engine.jobs(query)
    if not found:
        return Log(f"No task of {words_for_it} has failed. %balsam_logs ID shows the log of any task.")
    return Log(log_of(engine, found[0], asked.lines))
