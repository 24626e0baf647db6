"""The magics that act on what was submitted: wait, kill."""

from __future__ import annotations

from typing import Any

from ..verbs import kill
from .grammar import FLAG, NUMBER, argument, option
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
    ensemble = session.ensemble(asked.name)
    wait(session.site.engine, ensemble.name, asked.timeout, session.shell, ensemble.callbacks)
    point_to_failed(ensemble)
    return ensemble


@magic(
    argument("what", "a task's id, name or work directory, or an ensemble: all its tasks", "TASK", many=True,
             completes="task"),
    option("--now", "SIGKILL at once, instead of SIGTERM and half a second", kind=FLAG),
)  # fmt: skip
def balsam_kill(session: Session, asked: Asked) -> Any:
    """End tasks, or all tasks of ensembles, that are not done.

    Examples::

        %balsam_kill scan-1
        %balsam_kill 17 18 --now
    """
    found = [session.find(what) for what in asked.what]  # a mistake in one kills none
    wait_time = 0.0 if asked.now else 0.5
    return Report("\n".join(kill(session.site.engine, *each, wait_time) for each in found))
