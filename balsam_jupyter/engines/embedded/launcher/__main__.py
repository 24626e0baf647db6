"""The pilot process of one allocation: ``python -m balsam_jupyter.engines.embedded.launcher``."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
from pathlib import Path

from ..scheduler import LOCK_VARIABLE, PACKAGE_PARENT, start_waiting
from ..sessions import Session
from ..site import Settings
from ..store import Store, records
from ..store.schema import StoreBusy
from ..store.work import Fenced
from .pilot import Pilot, log

START_AGAIN = 128 + signal.SIGSTOP  # an exit code after which the allocation's script starts a new launcher


def main() -> int:
    parser = argparse.ArgumentParser(prog="launcher", description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--allocation", type=int, required=True)
    given = parser.parse_args()
    forget_python_path()
    inherited = os.environ.pop(LOCK_VARIABLE, "")
    if inherited:
        os.set_inheritable(int(inherited), False)  # held by this process, not by its tasks
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s", stream=sys.stderr)
    # The loop makes thousands of objects and no cycles: looking for some after every 700 costs several percent.
    gc.freeze()
    gc.set_threshold(50_000)
    try:
        store = Store(given.site / "balsam.db")
        return launch(given.site, given.allocation, store)
    except StoreBusy as error:
        log.error("%s", error)
        return START_AGAIN


def launch(site: Path, allocation_id: int, store: Store) -> int:
    """Run the jobs of one allocation; returns the exit code.

    Raises
    ------
    StoreBusy
        If the store could not be written at the beginning or the end; another launcher is to try again.
    """
    settings = Settings.read(site / "settings.yml")
    if records.allocation(store.con, allocation_id).state == "pending_deletion":
        end(site, store, settings, allocation_id, "revoked")
        return 0
    session = Session(site, store, allocation_id)
    pilot = Pilot(site, store, settings, session, records.allocation(store.con, allocation_id))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: pilot.later(lambda: pilot.stop(f"it received {signal.Signals(n).name}")))
    log.info("launcher of allocation %d: session %d", allocation_id, session.id)
    try:
        reason = pilot.run()
    except Fenced:
        log.error("another process has taken over from this session; leaving")
        return START_AGAIN
    except Exception as error:
        # The spawners see their one task through; whoever looks next takes over from this session.
        log.exception("the launcher failed")
        where = site / "log" / f"qlaunch{allocation_id}.log"
        end(site, store, settings, allocation_id, f"its launcher failed ({error!r}); see {where}")
        return 1
    pilot.close()
    session.close(store)
    end(site, store, settings, allocation_id, reason)
    pilot.bell.ring()
    pilot.bell.close()
    store.checkpoint()
    return 0


def forget_python_path() -> None:
    """Take out what the script put in front for this process: a task's Python may be another one."""
    ours, _, users = os.environ.get("PYTHONPATH", "").partition(os.pathsep)
    if ours == str(PACKAGE_PARENT):
        os.environ["PYTHONPATH"] = users
        if not users:
            del os.environ["PYTHONPATH"]


def end(site: Path, store: Store, settings: Settings, allocation_id: int, reason: str) -> None:
    """Give the nodes back, and start who waits for them."""
    with store.transaction() as con:
        records.end_allocation(con, allocation_id, "finished", reason)
    log.info("allocation %d has ended: %s", allocation_id, reason)
    start_waiting(site, store, settings)


if __name__ == "__main__":
    sys.exit(main())
