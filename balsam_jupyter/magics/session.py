"""What the magics of one notebook share: the executor of the current site, errors without traceback, look-ups."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.error import UsageError

from ..api import Site
from ..api_site import existing_site
from ..errors import BalsamJupyterError, NotFound
from ..models import Query
from ..submission import newest
from ..verbs import find, known

if TYPE_CHECKING:
    from ..ensemble import Ensemble
    from ..executor import BalsamExecutor

F = TypeVar("F", bound=Callable[..., Any])


def one_line_errors(magic: F) -> F:
    """Show a user's mistake as IPython's short ``UsageError: …``; "run all" stops at it all the same."""

    @functools.wraps(magic)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return magic(*args, **kwargs)
        except BalsamJupyterError as error:
            raise UsageError(str(error)) from None

    return guarded  # type: ignore[return-value]


class Session:
    """The executor of the site last opened in this process, by a magic or by the user's own code."""

    def __init__(self) -> None:
        self._executor: BalsamExecutor | None = None
        self._site: Site | None = None

    @property
    def site(self) -> Site:
        """The current site; the site ``default`` is opened if none is."""
        return existing_site()

    @property
    def executor(self) -> BalsamExecutor:
        """The one executor of the current site."""
        from ..executor import BalsamExecutor

        site = self.site
        if self._executor is None or self._site is not site:
            self._executor, self._site = BalsamExecutor(site), site
        return self._executor

    def ensemble(self, name: str) -> Ensemble:
        """The ensemble of that name at the current site.

        Raises
        ------
        NotFound
            If there is none; lists what there is, with the nearest name.
        """
        names = self._names()
        if name not in names:
            raise NotFound(f"Site {self.site.name!r} has no ensemble {name!r}. {known(name, names)}")
        return self.executor.ensemble(name)

    def find(self, text: str) -> tuple[Query, str]:
        """What TASK or NAME means at the current site, with words for it."""
        return find(self.site.engine, text)

    def _names(self) -> list[str]:
        return list(newest(self.site.engine.ensembles()))
