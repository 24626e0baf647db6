"""A run: a folder, processes that carry its mark, and the certainty that all of it goes."""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import sweep

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-balsam-server"
INSIDE = Path(__file__).parent / "inside"


class Run:
    """A folder of its own below the directory for temporary files, short enough for the paths of sockets."""

    def __init__(self) -> None:
        base = Path(tempfile.gettempdir()) / f"balsam-jupyter-tests-{os.getuid()}"
        base.mkdir(mode=0o755, exist_ok=True)
        assert base.stat().st_uid == os.getuid(), f"{base} is somebody else's"
        self.swept = sweep.sweep(base)
        self.folder = base / secrets.token_hex(4)
        fresh = self.folder.with_suffix(".new")
        with fresh.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fresh.rename(sweep.lock_of(self.folder))  # nobody ever sees it without an owner
            self.folder.mkdir(mode=0o755)
            (self.folder / "log").mkdir()
            self.keeper = subprocess.Popen(
                [sys.executable, "-S", sweep.__file__, str(self.folder)],
                stdin=subprocess.PIPE,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
            self._lock = os.dup(lock.fileno())
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the run gets: the mark, and nothing of the user's Balsam or of pytest's Python."""
        mine = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR")
        return {name: os.environ[name] for name in mine if name in os.environ} | {sweep.MARK: str(self.folder)}

    def start(self, name: str, command: Sequence[object], environment: dict[str, str], **options: Any) -> Any:
        """Start a process; what it writes goes to the file `name`.log in the run's folder `log`."""
        with (self.folder / "log" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **{"cwd": self.folder, **options},
            )
        self.processes.append(process)
        return process

    def log(self, name: str, lines: int = 30) -> str:
        """The last lines of what a process wrote."""
        text = (self.folder / "log" / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """End everything and remove the folder."""
        sweep.end_marked(self.folder)
        for process in self.processes:
            process.wait(10)
        os.close(self._lock)
        assert self.keeper.stdin
        self.keeper.stdin.close()
        assert self.keeper.wait(10) == 0


def wait_until(
    holds: Callable[[], object],
    what: str,
    process: Any = None,
    timeout: float = 30.0,
    instead: Callable[[], object] = lambda: "",
) -> None:
    """Look every 20 ms whether it holds; `process` is what must not end meanwhile, `instead` what to tell if not."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert process is None or process.poll() is None, f"{what}: the process ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s {instead()}"
        time.sleep(0.02)
