"""The API server of Balsam on loopback, with a user, and the sites of that user."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from .postgres import Postgres
from .run import ENVIRONMENT, INSIDE, Run, wait_until

USER, PASSWORD = "tester", "the tester's password"


class Service:
    """A Balsam service of this run.

    `url` is its API root, `client_file` what `balsam login` would have written for the user (for `BALSAM_CLIENT_PATH`).
    """

    user, password = USER, PASSWORD

    def __init__(self, run: Run) -> None:
        self.run = run
        self.postgres = Postgres(run)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client_file = run.folder / "client.yml"
        self._secret = secrets.token_hex(32)
        self.process: Any = None

    def start(self) -> None:
        """Start Postgres and the server, and make the user."""
        self._spawn()  # it looks for Postgres only when it is asked something
        self.postgres.start()
        self._wait()
        account = {"username": self.user, "password": self.password}
        registered = httpx.post(f"{self.url}/auth/password/register", json=account).raise_for_status().json()
        self.user_id = registered["id"]
        self.write_client_file(self.client_file)

    def start_server(self) -> None:
        """Start the API server (again), at the same address."""
        self._spawn()
        self._wait()

    def kill_server(self) -> None:
        """SIGKILL the API server: answers under way are lost, connections refused from now on."""
        self.process.kill()
        self.process.wait(10)

    def _spawn(self) -> None:
        command = [ENVIRONMENT / "bin/uvicorn", "serve:app", "--app-dir", INSIDE, "--host", "127.0.0.1"]
        command += ["--port", self.port, "--log-level", "warning", "--timeout-keep-alive", 120]
        environment = {
            "BALSAM_DATABASE_URL": self.postgres.url,
            "BALSAM_AUTH_LOGIN_METHODS": '["password"]',
            "BALSAM_AUTH_SECRET_KEY": self._secret,
            "BALSAM_LOG_LEVEL": "WARNING",
        }
        self.process = self.run.start("server", command, environment)

    def _wait(self) -> None:
        def answers() -> bool:
            try:
                return httpx.get(f"{self.url}/auth/how").is_success
            except httpx.TransportError:
                return False

        wait_until(answers, "the API server starts", self.process)

    # -- the user --------------------------------------------------------------------------------------------

    def token(self, valid_s: float = 48 * 3600.0) -> str:
        """A token of the user as the server issues them; with a negative time one that has expired."""
        claims = {"sub": self.user_id, "exp": int(time.time() + valid_s), "username": self.user}
        parts = [_url64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "HS256"}, claims)]
        signature = hmac.new(self._secret.encode(), ".".join(parts).encode(), hashlib.sha256).digest()
        return ".".join([*parts, _url64(signature)])

    def write_client_file(self, path: Path, url: str = "", valid_s: float = 48 * 3600.0, told_s: float = 0.0) -> Path:
        """Write a client.yml as `balsam login` does; returns its path.

        `told_s` is what it says of the expiry, if not the truth.
        """
        now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
        content = {
            "api_root": url or self.url,
            "client_class": "balsam.client.requests_password.BasicAuthRequestsClient",
            "token": self.token(valid_s),
            "token_expiry": now + datetime.timedelta(seconds=told_s or valid_s),
            "connect_timeout": 6.2,
            "read_timeout": 120.0,
            "retry_count": 10,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(content, sort_keys=False, indent=4))
        return path

    def client(self, url: str = "") -> httpx.Client:
        """An HTTP client that is signed in, to look at the service without this package."""
        headers = {"Authorization": f"Bearer {self.token()}"}
        return httpx.Client(base_url=url or self.url, headers=headers, timeout=60)

    def count(self, **query: Any) -> int:
        """How many jobs the server has; `tags` as ``"name:value"``."""
        with self.client() as client:
            return int(client.get("/jobs/", params={**query, "limit": 0}).raise_for_status().json()["count"])


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
