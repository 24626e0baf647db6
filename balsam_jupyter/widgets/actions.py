"""What the buttons of a dashboard do; the page has asked for a confirmation by then. Each answers with a sentence."""

from __future__ import annotations

from dataclasses import replace

from ..api import Site
from ..errors import BadInput, many
from ..models import Query
from ..status import describe
from ..verbs import kill
from .live import Answer

REVOKE_S = 3.0
"""How long the end of an allocation is waited for."""


def actions(site: Site, query: Query, words: str) -> dict[str, Answer]:
    """What a page may ask to be done with the tasks of `query` and the site's allocations.

    Parameters
    ----------
    site : Site
        Where they are.
    query : Query
        The tasks that the dashboard shows.
    words : str
        What these are, at the beginning of a sentence.
    """
    engine = site.engine

    def kill_all() -> str:
        return kill(engine, query, words)

    def retry_all(killed: bool) -> str:
        states = ("FAILED", "USER_KILLED") if killed else ("FAILED",)
        number = engine.update(replace(query, states=states), "RESTART_READY")
        return f"{words}: {many(number, 'task')} will run again." if number else f"{words}: nothing to retry by now."

    def revoke(id: int) -> str:
        ended = engine.revoke(id, REVOKE_S)
        return f"Allocation {id} has ended." if ended else f"Allocation {id} ends: its tasks get a moment to stop."

    def extend() -> str:
        known = engine.allocations()
        if not known:
            raise BadInput("There is no allocation yet to ask for another like it: %balsam_allocate -n 1 -t 10")
        made = engine.allocate(replace(known[-1].request, by_service=False, max_node_hours=None))
        return f"{describe(made)}."

    return {"kill": kill_all, "retry": retry_all, "revoke": revoke, "extend": extend}
