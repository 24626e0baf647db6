"""Whose token goes to which service: what `balsam login` wrote."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import yaml

from ...errors import NotSignedIn


@dataclass(frozen=True)
class Credentials:
    """Address of a service and a token for it, which is never shown."""

    api_root: str
    token: str = field(repr=False)
    expires: float | None = None

    def refused(self) -> str:
        """What to say when the service does not take the token."""
        return f"{self.api_root} does not take your token any more. Sign in again: balsam-jupyter login {self.api_root}"


def client_file() -> Path:
    return Path(os.environ.get("BALSAM_CLIENT_PATH") or "~/.balsam/client.yml").expanduser()


def read() -> Credentials:
    """What `balsam login` wrote."""
    file = client_file()
    try:
        given = yaml.safe_load(file.read_text())
        root, token, until = given["api_root"], given["token"], given.get("token_expiry")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise NotSignedIn(f"{file} has no token. Sign in: balsam-jupyter login URL (or balsam login).") from None
    expires = None
    if until:
        when = until if isinstance(until, datetime) else datetime.fromisoformat(str(until))
        expires = (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
    signed = Credentials(str(root).rstrip("/"), str(token), expires)
    if expires is not None and expires < time.time():
        raise NotSignedIn(
            f"Your token for {signed.api_root} has expired. Sign in: balsam-jupyter login {signed.api_root}"
        )
    return signed
