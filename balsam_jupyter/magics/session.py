"""What the magics of one notebook share: its namespace, the executor of the current site, look-ups."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api import Site
from ..api_site import existing_site
from ..errors import NotFound, SiteError
from ..models import Query
from ..submission import newest
from ..verbs import find, known

if TYPE_CHECKING:
    from ..ensemble import Ensemble
    from ..executor import BalsamExecutor


class Session:
    """One IPython: its namespace, and the executor of the site last opened, by a magic or by the user's own code."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._executor: BalsamExecutor | None = None
        self._site: Site | None = None

    @property
    def namespace(self) -> dict[str, Any]:
        """The user's names."""
        found: dict[str, Any] = self.shell.user_ns
        return found

    @property
    def site(self) -> Site:
        """The current site; the site ``default`` is opened if none is.

        Raises
        ------
        SiteError
            If its directory was deleted or moved: the open file would still answer, of what nobody else sees.
        """
        site = existing_site()
        if site.engine.runs_here and not Path(site.path).exists():
            raise SiteError(
                f"The directory of site {site.name!r}, {site.path}, is gone: open the site where it is now, "
                "%balsam_site NAME --path DIR, or another one."
            )
        return site

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
