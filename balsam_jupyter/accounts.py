"""What was spent and what may still be: the values every engine speaks, their units, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from .errors import OverLimit
from .models import Resources

Agree: TypeAlias = "Callable[[int], None] | None"
"""Is told how many jobs of a submission are new, and may refuse them by raising."""

_TINY = 1e-9  # hours: sums of seconds are not exact


@dataclass(frozen=True)
class Usage:
    """Node-hours of a site's allocations.

    `node_hours` were used; `committed` is what those that wait or run may still use; `limit` is the site's
    `max_node_hours`, None where it has none.
    """

    node_hours: float
    committed: float = 0.0
    limit: float | None = None

    def __str__(self) -> str:
        live = f", {node_hours(self.committed)} more by live allocations" if self.committed else ""
        most = "" if self.limit is None else f", of {self.limit:g} at most"
        return f"{node_hours(self.node_hours)} used{live}{most}"


class Load(NamedTuple):
    """Jobs that share app, state, resources and tags.

    `runtime_s` is how long they have run, in seconds, all together: in their last run if they have ended, until now
    if they run.
    """

    app_name: str
    state: str
    resources: Resources
    tags: Mapping[str, str]
    number: int
    runtime_s: float = 0.0


class Run(NamedTuple):
    """A job that finished: how long its last run took, in seconds, of which version of its app, on what."""

    runtime_s: float
    app_version: str
    resources: Resources


def node_hours(hours: float) -> str:
    """``≈ 3.2 node-hours``, from node-hours."""
    shown = number(hours)
    return f"≈ {shown} node-hour{'' if shown == '1' else 's'}"


def number(value: float) -> str:
    """Two digits of a number, or all before its point: ``0.0031``, ``3.2``, ``1,240``."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``4 min``, ``3.5 h``, from seconds."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{number(seconds / 3600)} h"


def check_allocation(usage: Usage, nodes: int, minutes: float, limit: float | None, site: str) -> None:
    """Refuse an allocation that could take the site over a limit.

    Parameters
    ----------
    usage : Usage
        Of the site, now.
    nodes : int
        Nodes asked for.
    minutes : float
        For so many minutes.
    limit : float, optional
        Node-hours, given with the request; the site's own counts, too.
    site : str
        Its name.

    Raises
    ------
    OverLimit
        With what is used, committed and asked, the limit, and what to do.
    """
    asked = nodes * minutes / 60
    taken = usage.node_hours + usage.committed
    for most, whose, raised in _limits(usage, limit, site):
        if taken + asked <= most + _TINY:
            continue
        left = most - taken
        fits = f"ask for {_exact(left)} at most ({60 * left / nodes:.3g} min), " if left > 0.01 else ""
        raise OverLimit(
            f"{_exact(usage.node_hours)} are used, live allocations may take {_exact(usage.committed)}, and this one "
            f"asks for {_exact(asked)}: more than {whose} of {_exact(most)}. "
            f"{f'{fits}revoke an allocation'.capitalize()}, or {raised}."
        )


def check_submission(usage: Usage, expected: float, tasks: int, limit: float | None, site: str) -> None:
    """Refuse a submission whose tasks, by what is known of them, would take the site over a limit.

    Parameters
    ----------
    usage : Usage
        Of the site, now.
    expected : float
        Node-hours.
    tasks : int
        New ones.
    limit : float, optional
        Node-hours, given with the submission; the site's own counts, too.
    site : str
        Its name.

    Raises
    ------
    OverLimit
        With what is used, expected, the limit, and what to do.
    """
    for most, whose, raised in _limits(usage, limit, site):
        if expected and usage.node_hours + expected > most + _TINY:
            fits = max(0, int(tasks * (most - usage.node_hours) / expected))
            raise OverLimit(
                f"{_exact(usage.node_hours)} are used, and {tasks:,} new row{'s' * (tasks > 1)} would take about "
                f"{_exact(expected)}: more than {whose} of {_exact(most)}; nothing was submitted. "
                f"{f'Submit {fits:,} at most' if fits else 'Submit none'}, or {raised}."
            )


def _limits(usage: Usage, limit: float | None, site: str) -> list[tuple[float, str, str]]:
    """The limits that count, whose they are, and how each is raised."""
    found = []
    if limit is not None:
        found.append((limit, "the limit given (max_node_hours)", "give a higher max_node_hours"))
    if usage.limit is not None:
        raised = "raise max_node_hours in its settings.yml"
        found.append((usage.limit, f"the limit of site {site!r}", raised))
    return found


def _exact(hours: float) -> str:
    shown = f"{hours:.3g}"
    return f"{shown} node-hour{'' if shown == '1' else 's'}"
