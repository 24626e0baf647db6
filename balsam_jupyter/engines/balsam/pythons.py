"""The Python of a site, as far as it tells: functions go there as code, which only the same minor version can run."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...models import AppRecord
from . import mirror, wire

if TYPE_CHECKING:
    from .engine import BalsamEngine

log = logging.getLogger(__name__)

HERE = "{}.{}".format(*sys.version_info[:2])
_LAUNCHER = re.compile(r"(/\S+/python[\d.]*) \S*launcher\.py")


def at_site(engine: BalsamEngine) -> str:
    """The minor version (as in ``3.11``) at the site; "" if it does not tell."""
    seen = _seen(Path(engine.site.path)) if engine.site.here else ""
    return seen or str(engine.store.note(wire.PYTHON) or "")


def _seen(path: Path) -> str:
    """By the directory of a site that is on this machine's file systems: that of its agent, else of a launcher."""
    try:
        host, number = (path / "balsam-service.pid").read_text().split()[:2]
        if host == socket.gethostname() and (found := _version(Path(f"/proc/{int(number)}/exe"))):
            return found
    except (OSError, ValueError):
        pass
    try:
        newest = max((path / "qsubmit").glob("*.sh"), key=os.path.getmtime)
        launcher = _LAUNCHER.search(newest.read_text())
    except (OSError, ValueError):
        return ""
    return _version(Path(launcher[1])) if launcher else ""


def _version(python: Path) -> str:
    """The minor version of an interpreter, by its name or the environment it is in; it is not run."""
    found = re.fullmatch(r"python(\d+\.\d+)", Path(os.path.realpath(python)).name)
    if found is None:
        try:
            found = re.search(r"version\w* = (\d+\.\d+)", (python.parent.parent / "pyvenv.cfg").read_text())
        except OSError:
            return ""
    return found[1] if found else ""


def registered(engine: BalsamEngine, app: AppRecord) -> None:
    """Remember that an app's functions are code of this Python."""
    name = f"{wire.PYTHON}-{app.name}"
    code = HERE if app.payload is not None and app.python_exe in ("", sys.executable) else ""
    if code != (engine.store.note(name) or ""):
        with engine.store.transaction() as con:
            mirror.keep(con, name, code)


def warn(engine: BalsamEngine, app: str) -> None:
    """Say before jobs of an app are submitted that the site cannot run its functions, where that is known."""
    code = engine.store.note(f"{wire.PYTHON}-{app}")
    there = at_site(engine) if code else ""
    if there and there != code:
        log.warning(
            "App %s has functions that were registered from Python %s, and site %s has Python %s: its tasks will fail "
            "there. Register it from a kernel of Python %s.",
            app, code, engine.site.name, there, there,
        )  # fmt: skip
