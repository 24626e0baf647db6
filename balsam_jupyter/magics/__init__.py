"""``%load_ext balsam_jupyter``: the ``%balsam_…`` magics. They parse and show; the executor does the work."""

from __future__ import annotations

from typing import Any


def load_ipython_extension(ipython: Any) -> None:
    """Register the magics in this IPython, and their tab completion."""
    from .complete import Completer
    from .every import MAGICS
    from .session import Session

    unload_ipython_extension(ipython)
    session = Session(ipython)
    for name, magic in MAGICS.items():
        ipython.magics_manager.register_function(magic.bound(session), magic.kind, name)
    Completer(session).attach(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Take the magics out again."""
    from .complete import detach

    for magics in ipython.magics_manager.magics.values():
        for name in [name for name in magics if name.startswith("balsam_")]:
            del magics[name]
    detach(ipython)
