"""Whose token goes to which service: the file that `balsam login` and `balsam-jupyter login` write.

A token is as good as a password. It is in that file, which nobody else can read, and in the header of requests; it is
in no address, log, message, `repr` or pickle.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx
import yaml

from ...errors import BadInput, NoAnswer, NotSignedIn, ServiceError

_TOKEN = re.compile(r"[!-~]+")  # what a header can hold
_CLIENT = "balsam.client.requests_password.BasicAuthRequestsClient"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TIMEOUT = httpx.Timeout(30.0, connect=6.0)


@dataclass(frozen=True)
class Credentials:
    """Address of a service and a token for it, which is never shown or pickled; `expires` is in Unix seconds."""

    api_root: str
    token: str = field(repr=False)
    expires: float | None = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("A token is not pickled: whoever gets the file would have it. Read it again: signin.read().")

    def refused(self) -> str:
        """What to say when the service does not take the token."""
        if self.expires is not None and self.expires <= time.time():
            when = datetime.fromtimestamp(max(self.expires, 0.0)).strftime("%d %B %H:%M").lstrip("0")
            what = f"Your token for {self.api_root} expired on {when}."
        else:
            what = f"{self.api_root} does not take your token any more."
        return f"{what} Sign in again on a terminal: balsam-jupyter login {self.api_root}"


def client_file() -> Path:
    """Where the token is: what `BALSAM_CLIENT_PATH` names, else `~/.balsam/client.yml`.

    Raises
    ------
    NotSignedIn
        If that is in the home directory of nobody.
    """
    path = Path(os.environ.get("BALSAM_CLIENT_PATH") or "~/.balsam/client.yml")
    try:
        return path.expanduser()
    except RuntimeError:
        raise NotSignedIn(f"{path}, where your token is to be, is in no home directory (BALSAM_CLIENT_PATH).") from None


def read() -> Credentials:
    """The service and the token of whoever is signed in. Cheap: the file is parsed again only when it has changed.

    Raises
    ------
    NotSignedIn
        If there is no token, or one that has expired; says what to run.
    """
    file = client_file()
    try:
        stat = file.stat()
        found = _parsed(file, stat.st_mtime_ns, stat.st_size, stat.st_ino)
    except FileNotFoundError:
        raise NotSignedIn(
            f"You are not signed in to a Balsam service (there is no {file}). On a terminal: balsam-jupyter login URL"
        ) from None
    except OSError as error:
        raise NotSignedIn(f"{file} cannot be read: {error.strerror}.") from None
    if found.expires is not None and found.expires <= time.time():
        raise NotSignedIn(found.refused())
    return found


@lru_cache(maxsize=4)
def _parsed(file: Path, *_version: int) -> Credentials:
    try:
        given = _mapping(file)
        root = address(str(given["api_root"]))
        token, expires = given["token"], _seconds(given.get("token_expiry"))
        if isinstance(token, str) and _TOKEN.fullmatch(token):
            return Credentials(root, token, expires)
    except (KeyError, ValueError, BadInput):  # what the file holds is nobody's business
        pass
    raise NotSignedIn(f"{file} has no address and token of a Balsam service. On a terminal: balsam-jupyter login URL")


def _mapping(file: Path) -> dict[str, Any]:
    """What the file says, without the errors of YAML, which quote it."""
    try:
        given = yaml.safe_load(file.read_text())
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise ValueError(f"{file} is no YAML mapping")
    return given


def _seconds(when: object) -> float | None:
    """Unix seconds of a time, which is UTC where it does not say."""
    if when is None:
        return None
    if not isinstance(when, datetime):
        text = when.isoformat() if isinstance(when, date) else str(when)
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


# -- signing in with a password ----------------------------------------------------------------------------


def address(url: str) -> str:
    """The address of a service as it is kept, from what somebody typed.

    Raises
    ------
    BadInput
        If it can be none.
    """
    found = url.strip().rstrip("/")
    try:
        parts = urlsplit(found)
        name = (parts.hostname or "").encode("idna")
        fits = parts.scheme in ("http", "https") and bool(name and httpx.URL(found).host) and parts.port != 0
    except (ValueError, httpx.InvalidURL):  # a port that is no number, a name that cannot be one
        fits = False
    if not fits:
        raise BadInput(f"{url!r} is no address of a service; it looks like https://balsam.example.org")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise BadInput("Write the address alone; user name and password are asked for.")
    return found


def is_open(root: str) -> bool:
    """Whether a password would go there unencrypted, past this machine."""
    parts = urlsplit(root)
    return parts.scheme == "http" and parts.hostname not in _LOOPBACK


def known_address() -> str | None:
    """The service of whoever was signed in last, expired or not."""
    with suppress(OSError, ValueError, KeyError, BadInput, NotSignedIn):
        return address(str(_mapping(client_file())["api_root"]))
    return None


def takes_passwords(root: str) -> None:
    """Ask the service how one signs in there.

    Raises
    ------
    ServiceError
        If not with a password, or if it is no Balsam service.
    NoAnswer
        If it does not answer.
    """
    ways = _asked("GET", root, "/auth/how")
    if not isinstance(ways, list) or not all(isinstance(way, str) for way in ways):
        raise ServiceError(f"{root} is no Balsam service.")
    if "password" not in {way.rpartition(".")[2] for way in ways}:
        raise ServiceError(
            f"{root} does not take passwords: sign in with Balsam's own `balsam login`; its token is used here."
        )


def sign_in(root: str, user: str, password: str) -> Credentials:
    """Get a token for user and password, and keep it in the client file (mode 0600).

    Raises
    ------
    NotSignedIn
        If the service does not know the user or the password, or the token cannot be kept.
    NoAnswer
        If it does not answer.
    """
    given = _asked("POST", root, "/auth/password/login", data={"username": user, "password": password})
    try:
        found = Credentials(root, str(given["access_token"]), _seconds(given["expiration"]))
    except (KeyError, TypeError, ValueError):
        raise ServiceError(f"{root} gave no token; is it a Balsam service?") from None
    _write(found)
    return found


def _asked(method: str, root: str, path: str, **content: Any) -> Any:
    try:
        answer = httpx.request(method, root + path, timeout=_TIMEOUT, **content)
    except httpx.HTTPError as error:
        raise NoAnswer(f"{root} does not answer ({str(error) or type(error).__name__}).") from None
    if answer.is_redirect:
        there = elsewhere(answer)
        raise ServiceError(f"{root} is elsewhere now{there}: balsam-jupyter login with its new address.")
    if answer.status_code in (400, 401, 403, 422) and method == "POST":
        raise NotSignedIn(f"{root} does not know this user and password.")
    if answer.status_code in (404, 405):
        raise ServiceError(f"{root} is no Balsam service.")
    if not answer.is_success:
        raise NoAnswer(f"{root} is in trouble (HTTP {answer.status_code}).")
    try:
        return answer.json()
    except ValueError:
        raise ServiceError(f"{root} is no Balsam service.") from None


def elsewhere(answer: httpx.Response) -> str:
    """Where an answer sends one, in brackets; never followed, since a token or password would go along."""
    parts = urlsplit(answer.headers.get("location", ""))
    return f" ({parts.scheme}://{parts.netloc.rpartition('@')[2]})" if parts.netloc else ""


def _write(found: Credentials) -> None:
    """Write the file as Balsam does, at once and for this user alone; what else it says is kept."""
    file = client_file()
    try:
        _replace(file, found)
    except OSError as error:
        raise NotSignedIn(f"{file} cannot be written ({error.strerror}), so the token is not kept.") from None


def _replace(file: Path, found: Credentials) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept: dict[str, Any] = {"connect_timeout": 6.2, "read_timeout": 120.0, "retry_count": 10}
    with suppress(OSError, ValueError):
        kept |= _mapping(file)
    expiry = None if found.expires is None else datetime.fromtimestamp(found.expires, timezone.utc).replace(tzinfo=None)
    now = {"api_root": found.api_root, "client_class": _CLIENT, "token": found.token, "token_expiry": expiry}
    target = file.resolve()  # it may be a link
    mine = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            yaml.safe_dump(now | {key: value for key, value in kept.items() if key not in now}, out, sort_keys=False)
        mine.replace(target)
    finally:
        mine.unlink(missing_ok=True)
