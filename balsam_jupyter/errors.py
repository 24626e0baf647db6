"""Every error a user can meet. Each says what is wrong and what to do, in a line or two."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BalsamJupyterError(Exception):
    """Base class of all errors of this package."""


class ExecutorException(BalsamJupyterError):
    """A call the executor refuses (libEnsemble's name for it)."""


class BadInput(ExecutorException, ValueError):
    """An argument that cannot be right; nothing was stored or started."""


class OverLimit(BadInput):
    """More node-hours than a limit allows; nothing was stored or started."""


class NotFound(ExecutorException, LookupError):
    """A name or id that does not exist."""


class Unsupported(ExecutorException):
    """Something this engine cannot do; the message names the way round."""


class SiteError(BalsamJupyterError):
    """A site directory that cannot be used as it is."""


class ServiceError(BalsamJupyterError):
    """A service that refused or could not do what it was asked for."""


class NoAnswer(ServiceError):
    """A service that does not answer, or not in a way that can be read; later it may."""


class NotSignedIn(ServiceError):
    """No token for a service, or one that it does not take any more; the message says what to run."""


class TaskFailed(BalsamJupyterError):
    """Raised by ``value()`` of a task that FAILED or was killed; carries the log's last lines."""


class TimeoutExpired(BalsamJupyterError, TimeoutError):
    """A wait that ran out of time (libEnsemble's name and arguments).

    Parameters
    ----------
    task : str
        Name of the task or ensemble waited for.
    timeout : float
        Seconds waited.
    """

    def __init__(self, task: str, timeout: float) -> None:
        super().__init__(task, timeout)
        self.task = task
        self.timeout = timeout

    def __str__(self) -> str:
        return f"{self.task} was not done after {self.timeout:g} s; it goes on running."


def nearest(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the known name closest to `word`, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def many(number: int, word: str) -> str:
    """``1 task``, ``1,240 tasks``, ``2 directories``."""
    plural = word[:-1] + "ies" if word.endswith("y") else word + "s"
    return f"{number:,} {word if number == 1 else plural}"


def listing(names: Iterable[object], most: int = 12) -> str:
    """Names joined by commas, capped; ``(none)`` where there are none."""
    shown = [str(name) for name in names]
    if not shown:
        return "(none)"
    more = f" … and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
