"""The magic that opens a form."""

from __future__ import annotations

from typing import Any

from ..errors import BadInput, listing
from .grammar import FLAG, argument, option
from .line import Asked
from .magic import magic
from .session import Session


@magic(
    argument("app", "the app", default=None, completes="app"),
    option("--sweep", "a sweep of the app, parameter by parameter, instead of one task", kind=FLAG),
    option("--allocation", "an allocation, instead of an app", kind=FLAG),
)
def balsam_form(session: Session, asked: Asked) -> Any:
    """Open a form: for a task of an app, a sweep, or an allocation. It shows the line of code that does the same.

    Examples::

        %balsam_form melt
        %balsam_form melt --sweep
        %balsam_form --allocation
    """
    if asked.allocation:
        if asked.app is not None:
            raise asked.wrong("app", "--allocation is a form of its own: leave the app out.")
        if asked.sweep:
            raise asked.wrong("sweep", "--allocation is a form of its own: leave --sweep out.")
        return session.executor.allocation_form()
    if asked.app is None:
        apps = listing(app.name for app in session.site.engine.apps())
        raise BadInput(f"Give an app ({apps}), or --allocation: %balsam_form APP [--sweep]")
    return session.executor.sweep_form(asked.app) if asked.sweep else session.executor.app_form(asked.app)
