"""Starting a site's processor when there is work for it and none is there."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from ..launcher.prepare import clean_environment
from ..scheduler import PACKAGE_PARENT
from ..sessions import try_lock
from ..store import Store, flow

log = logging.getLogger(__name__)

LOCK_VARIABLE = "BALSAM_PROCESSOR_LOCK"
_PAUSE_S = 2.0  # one that has just been started and is gone again is broken; it is not tried in a tight loop


def ensure(site: Path, store: Store) -> None:
    """Start the site's processor, detached, if a job waits for one and none is there. Cheap when none does.

    Where it cannot be started (a full disk), whoever looks next tries again.
    """
    if flow.any_due(store.con):
        try:
            _start(site)
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("The hooks and transfers of %s cannot be run now: %s", site, error)


def _start(site: Path) -> None:
    path = site / "run" / "processor.lock"
    lock = try_lock(path)
    if lock is None:
        return
    try:
        status = os.fstat(lock)
        if status.st_size and 0 <= time.time() - status.st_mtime < _PAUSE_S:
            return
        os.pwrite(lock, b"started\n", 0)
        _launch(site, lock)
    finally:
        os.close(lock)


def _launch(site: Path, lock: int) -> None:
    """The process inherits the lock, so that there is never a second one."""
    env = clean_environment() | {LOCK_VARIABLE: str(lock)}
    env["PYTHONPATH"] = os.pathsep.join([str(PACKAGE_PARENT), *([env["PYTHONPATH"]] if "PYTHONPATH" in env else [])])
    # The shell in between leaves at once: the processor is nobody's child and nobody's zombie.
    detach = 'exec </dev/null; log="$1"; shift; "$@" >>"$log" 2>&1 &'
    command = [sys.executable, "-m", "balsam_jupyter.engines.embedded.processor", "--site", str(site)]
    subprocess.run(
        ["/bin/sh", "-c", detach, "sh", str(site / "log" / "processor.log"), *command],
        check=True, cwd=site, env=env, pass_fds=[lock], start_new_session=True,
    )  # fmt: skip
