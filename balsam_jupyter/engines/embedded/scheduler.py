"""The `local` scheduler: allocations share the site's nodes, first come first served.

There is no daemon: whoever asks, frees or looks starts the next allocation that fits.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jinja2

from ...errors import SiteError
from ...models import AllocationRequest
from .launcher.prepare import clean_environment
from .sessions import try_lock
from .site import Settings
from .store import Store, records

LOCK_VARIABLE = "BALSAM_ALLOCATION_LOCK"
PACKAGE_PARENT = Path(__file__).resolve().parents[3]
_DEAD = "its script and launcher died (a kill, a crash, or the machine was switched off)"


def lock_path(site: Path, allocation_id: int) -> Path:
    return site / "run" / f"allocation-{allocation_id}.lock"


def script_path(site: Path, allocation_id: int) -> Path:
    return site / "qsubmit" / f"qlaunch{allocation_id}.sh"


def reconcile(site: Path, store: Store) -> bool:
    """End allocations of which nothing lives any more; whether there were any.

    The script and its launchers inherit one lock: while any of them lives, it is held.
    """
    ended = False
    for allocation in records.allocations(store.con, unended=True):
        if allocation.state == "queued":
            continue
        lock = try_lock(lock_path(site, allocation.id))
        if lock is not None:
            reason = "revoked" if allocation.state == "pending_deletion" else _DEAD + _last_line(site, allocation.id)
            with store.transaction() as con:
                records.end_allocation(con, allocation.id, "finished", reason)
            os.close(lock)
            ended = True
    return ended


def _last_line(site: Path, allocation_id: int) -> str:
    """What the script's log ends with: often the reason."""
    with contextlib.suppress(OSError, IndexError):
        lines = (site / "log" / f"qlaunch{allocation_id}.log").read_text(errors="replace").split("\n")
        return "; its log ends with: " + [line for line in lines if line.strip()][-1][-200:]
    return ""


def start_waiting(site: Path, store: Store, settings: Settings) -> list[int]:
    """Start the allocations that fit now, in the order they were asked for; returns their ids."""
    started: list[int] = []
    while True:
        waiting = [a.id for a in records.allocations(store.con, unended=True) if a.state == "queued"]
        if not waiting:
            return started
        # The lock comes before the state: one seen as running with its lock free is dead.
        lock = try_lock(lock_path(site, waiting[0]))
        if lock is None:
            return started  # another process is starting it
        try:
            with store.transaction() as con:
                if records.claim_next(con, settings.nodes) != waiting[0]:
                    return started
            try:
                pid = _launch(site, store, waiting[0], lock)
            except (OSError, UnicodeDecodeError, jinja2.TemplateError) as error:
                with store.transaction() as con:
                    records.end_allocation(
                        con, waiting[0], "submit_failed", f"{script_path(site, waiting[0])}: {error}"
                    )
                continue
            with store.transaction() as con:
                records.set_scheduler_id(con, waiting[0], pid)
            started.append(waiting[0])
        finally:
            os.close(lock)


def _launch(site: Path, store: Store, allocation_id: int, lock: int) -> int:
    """Render the script and run it detached; returns its process id."""
    script = script_path(site, allocation_id)
    script.write_text(render(site, store, allocation_id))
    script.chmod(0o755)
    env = clean_environment() | {LOCK_VARIABLE: str(lock)}
    log = site / "log" / f"qlaunch{allocation_id}.log"
    # The shell in between leaves at once: the script is nobody's child and nobody's zombie.
    detach = 'exec </dev/null; bash "$1" >>"$2" 2>&1 & echo $!'
    done = subprocess.run(
        ["/bin/sh", "-c", detach, "sh", str(script), str(log)],
        stdout=subprocess.PIPE, check=True, text=True, cwd=site, env=env, pass_fds=[lock], start_new_session=True,
    )  # fmt: skip
    return int(done.stdout)


def render(site: Path, store: Store, allocation_id: int) -> str:
    """The script of an allocation, from the site's ``job-template.sh``."""
    return _render(site, allocation_id, records.allocation(store.con, allocation_id).request)


def _render(site: Path, allocation_id: int, request: AllocationRequest) -> str:
    module = "balsam_jupyter.engines.embedded.launcher"
    launcher = [sys.executable, "-m", module, "--site", str(site), "--allocation", str(allocation_id)]
    ours = shlex.quote(str(PACKAGE_PARENT))
    text = (site / "job-template.sh").read_text()
    template = jinja2.Template(text, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return str(
        template.render(
            batch_job_id=allocation_id,
            project=request.project,
            queue=request.queue,
            num_nodes=request.num_nodes,
            wall_time_min=f"{request.wall_time_min:g}",
            job_mode=request.job_mode,
            optional_params=dict(request.optional_params),
            launcher=f"PYTHONPATH={ours}${{PYTHONPATH:+:$PYTHONPATH}} {shlex.join(launcher)}",
        )
    )


def check_template(site: Path) -> None:
    """Raise if the site's template cannot be used, before an allocation is stored."""
    try:
        _render(site, 0, AllocationRequest(1, 1.0))
    except (OSError, UnicodeDecodeError, jinja2.TemplateError) as error:
        raise SiteError(
            f"{site / 'job-template.sh'} cannot be used: {error}. Correct it, or delete it to get the default again."
        ) from None
