"""Starting, stopping and asking the service of a site, from any process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...errors import BadInput, SiteError
from ...models import ServiceSettings, ServiceStatus
from .doorbell import Listener
from .journal import is_locked
from .launcher.prepare import clean_environment
from .scheduler import PACKAGE_PARENT
from .sessions import try_lock
from .store import records

if TYPE_CHECKING:
    from .engine import EmbeddedEngine

LOCK_VARIABLE = "BALSAM_SERVICE_LOCK"
_PATIENCE_S = 15.0
_SHOWN = 5


class ServiceControl:
    """The service behind the seam. See `engines.base.Service` for what the calls do.

    The process holds ``run/service.lock``, which it inherits locked: there is one for a site, whoever starts it and
    how often. ``service.json`` has its settings, and its process id from its start to its end.
    """

    def __init__(self, engine: EmbeddedEngine) -> None:
        self.engine = engine
        self.file = engine.path / "service.json"
        self.lock = engine.path / "run" / "service.lock"
        self.log = engine.path / "log" / "service.log"

    def start(self, settings: ServiceSettings, replace: bool = False) -> ServiceStatus:
        lock = self._lock_or_none(settings, replace)
        if lock is None:
            return self.status()
        began = self.log.stat().st_size if self.log.exists() else 0
        try:
            self.write(settings)
            self._spawn(lock)
        finally:
            os.close(lock)
        deadline = time.monotonic() + _PATIENCE_S
        with contextlib.closing(Listener(self.engine.folder)) as ear:
            while (status := self.status()).pid is None:
                if not status.running or time.monotonic() > deadline:
                    with open(self.log, "rb") as log:
                        log.seek(began)
                        said = log.read().decode(errors="replace").strip().splitlines()
                    raise SiteError(f"The service did not start; {self.log} ends with: {(said or ['(nothing)'])[-1]}")
                ear.wait(0.02)
        return status

    def _lock_or_none(self, settings: ServiceSettings, replace: bool) -> int | None:
        """The lock, or None if the service runs with these settings already."""
        deadline = time.monotonic() + _PATIENCE_S
        while (lock := try_lock(self.lock)) is None:
            now = self.status()
            if now.pid is None:  # it is just being started, or somebody was only looking
                if time.monotonic() > deadline:
                    raise SiteError(f"The service is being started, and does not come up; {self.log} may say more.")
                time.sleep(0.02)
                continue
            if now.settings == settings:
                return None
            if not replace:
                raise BadInput(
                    f"The service of site {self.engine.site.name!r} runs with other settings "
                    f"({differences(now.settings, settings)}). Stop it first, or start with replace (--replace)."
                )
            self.stop()
        return lock

    def _spawn(self, lock: int) -> None:
        env = clean_environment() | {LOCK_VARIABLE: str(lock)}
        users = env.get("PYTHONPATH", "")
        env["PYTHONPATH"] = str(PACKAGE_PARENT) + (os.pathsep + users if users else "")
        module = "balsam_jupyter.engines.embedded.service"
        argv = [sys.executable, "-m", module, "--site", str(self.engine.path)]
        # The shell in between leaves at once: the service is nobody's child and nobody's zombie.
        detach = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 &'
        subprocess.run(
            ["/bin/sh", "-c", detach, "sh", str(self.log), *argv],
            check=True, cwd=self.engine.path, env=env, pass_fds=[lock], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self, revoke: bool = False) -> bool:
        status = self.status()
        if status.running:
            self._end()
            if settings := self.status().settings:
                self.write(settings)
        if revoke:
            for number in self.status().allocations:
                self.engine.revoke(number)
                with open(self.log, "a") as log:
                    log.write(f"{time.strftime('%F %T')} allocation {number} was ended with the service\n")
        return status.running

    def _end(self) -> None:
        """SIGTERM, after some seconds SIGKILL: nothing of it can be lost. Only its lock says that it has gone."""
        deadline = time.monotonic() + _PATIENCE_S
        number = signal.SIGTERM
        asked: set[tuple[int, int]] = set()
        with contextlib.closing(Listener(self.engine.folder)) as ear:
            while (status := self.status()).running:
                if time.monotonic() > deadline:
                    number = signal.SIGKILL
                if status.pid is not None and (status.pid, number) not in asked:
                    asked.add((status.pid, number))
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(status.pid, number)
                ear.wait(0.02)

    def status(self) -> ServiceStatus:
        running = is_locked(self.lock)
        given = self._read()
        live = records.allocations(self.engine.store.con, unended=True)
        return ServiceStatus(
            running,
            ServiceSettings(**given["settings"]) if given else None,
            given.get("pid") if running else None,
            given.get("since") if running else None,
            died=not running and given.get("pid") is not None,
            allocations=tuple(one.id for one in live if one.request.by_service),
            log=tuple(self._tail()),
        )

    def run(self, settings: ServiceSettings, show: Callable[[str], None]) -> None:
        from .service import Service

        lock = self._lock_or_none(settings, replace=False)
        if lock is None:
            raise BadInput(f"The service of site {self.engine.site.name!r} runs already; stop it first.")
        try:
            self.write(settings, os.getpid())
            Service(self.engine, settings, show).run(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        finally:
            self.write(settings)
            os.close(lock)

    def write(self, settings: ServiceSettings, pid: int | None = None) -> None:
        """Note the settings and the process that has them; only who holds the lock may."""
        fresh = self.file.with_suffix(".new")
        text = json.dumps({"settings": asdict(settings), "pid": pid, "since": time.time() if pid else None}, indent=1)
        fresh.write_text(text + "\n")
        fresh.replace(self.file)

    def settings(self) -> ServiceSettings:
        """What is noted for a service about to start."""
        return ServiceSettings(**self._read()["settings"])

    def _read(self) -> dict[str, Any]:
        try:
            given: dict[str, Any] = json.loads(self.file.read_text())
            ServiceSettings(**given["settings"])
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise SiteError(f"{self.file} is damaged; delete it, then start the service again.") from None
        return given

    def _tail(self) -> list[str]:
        if not self.log.exists():
            return []
        with open(self.log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4000))
            return file.read().decode(errors="replace").splitlines()[-_SHOWN:]


def differences(now: ServiceSettings | None, asked: ServiceSettings) -> str:
    """The settings in which two services differ, with what they are now."""
    before, after = asdict(now or ServiceSettings()), asdict(asked)
    return ", ".join(f"{key}={before[key]!r}, not {after[key]!r}" for key in before if before[key] != after[key])
