"""``%load_ext balsam_jupyter``: the ``%balsam_…`` magics. They parse and show; the executor does the work."""

from __future__ import annotations

from typing import Any


def load_ipython_extension(ipython: Any) -> None:
    """Register the magics in this IPython."""
    from .core import BalsamMagics

    ipython.register_magics(BalsamMagics)


def unload_ipython_extension(ipython: Any) -> None:
    """Take the magics out again."""
    from .core import BalsamMagics

    registry = ipython.magics_manager.registry
    registry.pop(BalsamMagics.__name__, None)
    for magics in ipython.magics_manager.magics.values():
        for name in [name for name in magics if name.startswith("balsam_")]:
            del magics[name]
