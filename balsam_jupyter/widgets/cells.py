"""The cells around a view: whether one runs, and which shows what."""

from __future__ import annotations

import logging
import sys
import weakref
from typing import Any, NamedTuple, Protocol

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())


class Cell(NamedTuple):
    """A cell that has run: its id in the notebook, where the front end tells it, and the request that ran it."""

    id: str
    request: str


class Shown(Protocol):
    """A view that cells show."""

    def follow(self) -> None:
        """A cell has run: look whether anything has changed."""

    def forget(self) -> None:
        """What was shown is gone from the page."""


_views: weakref.WeakKeyDictionary[Shown, set[Cell]] = weakref.WeakKeyDictionary()
_hooked: weakref.WeakSet[Any] = weakref.WeakSet()
_running = False


def _shell() -> Any:
    """The IPython that runs here; None in a plain Python, which need not have it."""
    if "IPython" not in sys.modules:
        return None
    from IPython.core.getipython import get_ipython

    return get_ipython()


def in_kernel() -> bool:
    """Whether this is a kernel, whose front end may show widgets."""
    return getattr(_shell(), "kernel", None) is not None


def running() -> bool:
    """Whether a cell runs, so that the kernel hears no page."""
    return _running


def cell() -> Cell:
    """The cell that runs now."""
    kernel = getattr(_shell(), "kernel", None)
    parent = kernel.get_parent() if kernel is not None else {}
    return Cell(str(parent.get("metadata", {}).get("cellId", "")), str(parent.get("header", {}).get("msg_id", "")))


def shown(view: Shown, where: Cell) -> None:
    """Note that a cell shows a view; views that it showed when it ran before are told that they are gone."""
    _hook()
    if where.id:
        for other, places in list(_views.items()):
            if any(place.id == where.id and place.request != where.request for place in places):
                places -= {place for place in places if place.id == where.id and place.request != where.request}
                if not places and other is not view:
                    other.forget()
    _views.setdefault(view, set()).add(where)


def _hook() -> None:
    global _running
    shell = _shell()
    if shell is None or shell in _hooked:
        return
    _hooked.add(shell)
    _running = True  # by the cell that shows the first view
    shell.events.register("pre_run_cell", _begun)
    shell.events.register("post_run_cell", _ended)


def _begun(*_: Any) -> None:
    global _running
    _running = True


def _ended(*_: Any) -> None:
    global _running
    _running = False
    for view in list(_views):
        try:
            view.follow()
        except Exception as error:  # the site cannot be read: a cell that has nothing to do with it need not say so
            log.warning("a view looked in vain whether anything has changed: %s", error)
