"""Starting the processes that work for a site in the background: one of each kind, detached from who starts it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .launcher.prepare import clean_environment
from .scheduler import PACKAGE_PARENT
from .sessions import try_lock

log = logging.getLogger(__name__)

LOCK_VARIABLE = "BALSAM_BACKGROUND_LOCK"
_PAUSE_S = 2.0  # one that has just been started and is gone again is broken; it is not tried in a tight loop


def lock_path(site: Path, kind: str) -> Path:
    return site / "run" / f"{kind}.lock"


def start(site: Path, kind: str, before: Sequence[str] = ()) -> None:
    """Start the site's process of this kind (a module of this package) if none is there.

    `before` are the words in front of its command line. Where it cannot be started (a full disk), whoever looks next
    tries again.
    """
    try:
        _start(site, kind, before)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("The %s of %s cannot be started now: %s", kind, site, error)


def _start(site: Path, kind: str, before: Sequence[str]) -> None:
    lock = try_lock(lock_path(site, kind))
    if lock is None:
        return
    try:
        status = os.fstat(lock)
        if status.st_size and 0 <= time.time() - status.st_mtime < _PAUSE_S:
            return
        os.pwrite(lock, b"started\n", 0)
        _launch(site, kind, before, lock)
    finally:
        os.close(lock)


def _launch(site: Path, kind: str, before: Sequence[str], lock: int) -> None:
    """The process inherits the lock, so that there is never a second one."""
    env = clean_environment() | {LOCK_VARIABLE: str(lock)}
    env["PYTHONPATH"] = os.pathsep.join([str(PACKAGE_PARENT), *([env["PYTHONPATH"]] if "PYTHONPATH" in env else [])])
    # The shell in between leaves at once: the process is nobody's child and nobody's zombie.
    detach = 'exec </dev/null; log="$1"; shift; "$@" >>"$log" 2>&1 &'
    module = f"balsam_jupyter.engines.embedded.{kind}"
    command = [*before, sys.executable, "-m", module, "--site", str(site)]
    subprocess.run(
        ["/bin/sh", "-c", detach, "sh", str(site / "log" / f"{kind}.log"), *command],
        check=True, cwd=site, env=env, pass_fds=[lock], start_new_session=True,
    )  # fmt: skip


def inherited_lock() -> int:
    """In such a process: the lock it was given, from here on held by this process and not by its children."""
    given = os.environ.pop(LOCK_VARIABLE, "")
    if not given:
        raise SystemExit("This is started by whoever has the site open, when there is work for it.")
    lock = int(given)
    os.set_inheritable(lock, False)
    return lock
