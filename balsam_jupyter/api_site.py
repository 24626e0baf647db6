"""Sites that are open in this process, and the one last opened."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .api_query import Field, Manager, Model
from .engines.base import Engine, open_engine, registered_site
from .errors import BadInput, NotFound, listing, nearest
from .models import AppRecord, SiteRecord

if TYPE_CHECKING:
    from .service import SiteService

log = logging.getLogger(__name__)

APPS_AGE_S = 1.0
"""How long the list of apps is believed; another kernel may register one again."""

HOOK_SITE = "BALSAM_JUPYTER_SITE"
"""Variable of a hook's environment: the path of its site."""

before_closing: list[Callable[[Engine], None]] = []
"""Called before an engine is closed, so that no thread is still using it then."""

_lock = threading.RLock()
_open: list[Site] = []
_current: Site | None = None


class Site(Model):
    """A directory with a name where jobs run. Made by `open_site`."""

    name: Field[str] = Field()
    path: Field[str] = Field()
    nodes: Field[int] = Field()
    cores_per_node: Field[int] = Field()
    gpus_per_node: Field[int] = Field()
    objects: ClassVar[Manager[Site]]

    def __init__(self, record: SiteRecord, kind: str, engine: Engine | None = None) -> None:
        super().__init__()
        self._record, self._kind, self._engine = record, kind, engine
        self._apps: dict[int | str, AppRecord] = {}
        self._apps_time = float("-inf")
        self._by_class: dict[type, AppRecord] = {}

    @property
    def engine(self) -> Engine:
        """What stores and runs the jobs of this site."""
        if self._engine is None:
            self._engine = opened(self._kind, self._record.name, self._record.path or None).engine
        return self._engine

    @property
    def kind(self) -> str:
        """The engine it is opened with: ``embedded`` or ``balsam``."""
        return self._kind

    @property
    def service(self) -> SiteService:
        """What asks for allocations by itself while work waits: ``site.service.start(max_nodes=4)``."""
        from .service import SiteService

        return SiteService(self.engine)

    @property
    def data_path(self) -> Path:
        """The folder that holds the work directories."""
        if not self.path:
            raise NotFound(f"The files of site {self.name!r} are not on this machine; read them through the task.")
        return Path(self.path) / "data"

    def app(self, ref: int | str | type) -> AppRecord:
        """The app of an id, a name or a class; a class that was not registered yet is registered.

        Raises
        ------
        NotFound
            If the site has no such app; names the nearest.
        """
        if isinstance(ref, type):
            if HOOK_SITE in os.environ and any(one.name == ref.__name__ for one in self.engine.apps()):
                return self.app(ref.__name__)  # in a hook a class has only what its functions need
            return self._by_class[ref] if ref in self._by_class else self.register(ref)
        if ref not in self._apps or time.monotonic() - self._apps_time > APPS_AGE_S:
            self._apps_time = time.monotonic()
            records = self.engine.apps()
            self._apps = {key: record for record in records for key in (record.id, record.name)}
        found = self._apps.get(ref)
        if found is None:
            names = sorted(name for name in self._apps if isinstance(name, str))
            raise NotFound(
                f"Site {self.name!r} has no app {ref!r}; it has {listing(names) if names else 'none yet'}."
                f"{nearest(str(ref), names)} "
                "Register one with %%balsam_app or register_app()."
            )
        return found

    def register(self, app: type | AppRecord) -> AppRecord:
        """Create or update an app at this site; returns its record, with its id."""
        if isinstance(app, AppRecord):
            record = app
        else:
            from .apps import app_record

            record = app_record(app)
        record.id = self.engine.register(record)
        if isinstance(app, type):
            self._by_class[app] = record
        self._apps_time = float("-inf")
        return record

    def close(self) -> None:
        """Let go of the site's files; its jobs and launchers go on."""
        global _current
        with _lock:
            if self in _open:
                _open.remove(self)
            if _current is self:
                _current = None
        if self._engine is not None:
            for leave in before_closing:
                leave(self._engine)
            self._engine.close()

    def _read(self, name: str) -> Any:
        return getattr(self._record, name)

    def __repr__(self) -> str:
        unknown = () if self.cores_per_node else ("cores_per_node", "gpus_per_node")
        shown = {"id": self.id, "name": self.name, "engine": self._kind}  # a name may be known to both engines
        shown |= {name: getattr(self, name) for name in self._fields if name not in (*shown, *unknown)}
        return f"Site({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Site) and (self._kind, self.id, self.path) == (other._kind, other.id, other.path)

    def __hash__(self) -> int:
        return hash((self._kind, self.id, self.path))


def open_site(name: str | None = None, path: str | Path | None = None, engine: str = "embedded") -> Site:
    """Open a site, creating it where the engine can; it becomes the current one.

    Parameters
    ----------
    name : str, optional
        Its name. Without name and path: the site ``default`` in the user's data directory.
    path : str or Path, optional
        Its directory; without it, where the site of that name is, or a new one in the user's data directory.
    engine : {"embedded", "balsam"}
        This machine, or a site of the Balsam service that you are signed in to (by ``balsam-jupyter login`` or
        ``balsam login``), by its name.

    Returns
    -------
    Site
        With `id`, `name`, `path` and `engine`. Opening an open site gives the same object.
    """
    global _current
    for what, value in (("name", name), ("path", path)):
        if value is not None and not str(value).strip():
            raise BadInput(f"The {what} of a site cannot be empty; leave it out for the site 'default'.")
    if name is None and path is None:
        name = "default"
    site = opened(engine, name, None if path is None else str(path))
    with _lock:
        _current = site
    return site


def opened(kind: str, name: str | None, path: str | None, lenient: bool = False) -> Site:
    """A site, which does not become the current one. `lenient`: settings that are wrong are `Engine.trouble`."""
    with _lock:
        engine = open_engine(kind, name, path, lenient)
        site = Site(engine.site, kind, engine)
        for known in _open:
            if known == site:  # one engine a site is enough: it is safe to use from several threads
                engine.close()
                return known
        _open.append(site)
        return site


def _open_inherited() -> None:
    """In an app's hook, its site is the current one from the beginning."""
    with _lock:
        unopened = _current is None
    if unopened and HOOK_SITE in os.environ:
        open_site(path=os.environ[HOOK_SITE])


def current_site() -> Site:
    """The site last opened in this process.

    Raises
    ------
    NotFound
        If none is open.
    """
    _open_inherited()
    with _lock:
        if _current is None:
            raise NotFound(
                "No site is open in this kernel: open_site() opens the site 'default', open_site(NAME) another."
            )
        return _current


def find_site(ref: int | str | Site | Any, near: Site) -> Site:
    """The site of an id or a name among those the engine of `near` can reach.

    Raises
    ------
    NotFound
        Lists the sites.
    """
    if isinstance(ref, Site):
        return ref
    records = near.engine.sites()
    for record in records:
        if ref in (record.id, record.name) and not isinstance(ref, bool):
            if record.id == near.id and record.path == near.path:
                return near
            with _lock:
                known = [site for site in _open if site._kind == near._kind and site.path == record.path]
            return known[0] if known else Site(record, near._kind)
    if ref == "default" and not near.engine.has_default:
        return near
    known_sites = listing(f"{record.name} (id {record.id})" for record in records)
    hint = nearest(ref, [record.name for record in records]) if isinstance(ref, str) else ""
    raise NotFound(f"There is no site {ref!r}; there is {known_sites}.{hint} open_site(NAME) makes one.")


def existing_site(ref: int | str | Site | None = None) -> Site:
    """The site of an id or a name, whether or not a site is open; None means the current one.

    Where none is open it is opened, but never created (`NotFound` lists the sites), save for the site ``default``.
    """
    if isinstance(ref, Site):
        return ref
    _open_inherited()
    with _lock:
        near = _current
    if near is not None:
        return near if ref is None else find_site(ref, near)
    return open_site() if ref in (None, "default") else open_site(registered_site("embedded", ref))


def _all() -> list[Site]:
    near = existing_site()
    return [find_site(record.id, near) for record in near.engine.sites()]


Site.objects = Manager(lambda: Site, _all)
