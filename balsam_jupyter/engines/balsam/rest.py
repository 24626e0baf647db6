"""Requests to a Balsam service: pooled connections, time-outs, what may be asked again, and errors in our words."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, TypeVar

import httpx

from ...errors import BadInput, NoAnswer, NotFound, NotSignedIn, ServiceError
from .signin import Credentials, elsewhere

log = logging.getLogger(__name__)

CONNECT_S, READ_S = 6.0, 120.0
PATIENCE_S = 4.0
"""How long a request that may be repeated is repeated while the service does not answer."""
PAGE = 5_000
"""Rows of one answer, and jobs of one submission (the service's limit)."""
IDS = 400
"""Ids in the address of a request, which has 8 kB at most behind many a proxy."""
_KEPT_S = 4.0  # uvicorn, as it is shipped, drops a connection that was idle for 5 s
_AGAIN = frozenset({429, 500, 502, 503, 504})

Params = Sequence[tuple[str, Any]]
T = TypeVar("T")


def parts(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """What goes into one request each: so many items at most."""
    stream = iter(items)
    while part := list(islice(stream, most)):
        yield part


class LostAnswer(NoAnswer):
    """A request that may have been carried out: it was sent, and no answer that can be read came back."""


class Rest:
    """One service. Safe to use from several threads.

    Parameters
    ----------
    credentials : callable
        Gives the address and the token as they are now; asked at every request, so that signing in again helps at once.
    """

    def __init__(self, credentials: Callable[[], Credentials]) -> None:
        self._credentials = credentials
        self.address = credentials().api_root
        self.requests = self.received = 0
        """Requests made, and bytes of the bodies of their answers."""
        self.clock: float | None = None
        """What the service's clock said in its last answer (seconds since the epoch)."""
        self._client: httpx.Client | None = None
        self._retired: list[httpx.Client] = []
        self._asking = 0  # requests that are under way
        self._lock = threading.Lock()

    @contextmanager
    def _connections(self) -> Iterator[httpx.Client]:
        """Connections for a request. A socket is never closed while another thread waits at it: it would wait on."""
        with self._lock:
            if self._client is None:
                self._client = httpx.Client(
                    base_url=self.address,
                    timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
                    limits=httpx.Limits(max_connections=8, keepalive_expiry=_KEPT_S),
                    headers={"user-agent": "balsam-jupyter"},
                    follow_redirects=False,
                )
            client = self._client
            self._asking += 1
        try:
            yield client
        finally:
            with self._lock:
                self._asking -= 1
            self._close_retired()

    def _close_retired(self) -> None:
        with self._lock:
            idle, self._retired = ([], self._retired) if self._asking else (self._retired, [])
        for client in idle:
            client.close()

    def after_fork(self) -> None:
        """In a forked child: the parent's connections carry its answers, and its threads stayed there."""
        self._client, self._retired, self._asking, self._lock = None, [], 0, threading.Lock()

    def __repr__(self) -> str:
        return f"Rest({self.address!r})"

    def get(self, path: str, params: Params = (), patience: float = PATIENCE_S) -> Any:
        """Read; repeated while the service does not answer, for `patience` seconds at most."""
        return self._repeated("GET", path, params, None, patience)

    def page(self, path: str, params: Params = (), patience: float = PATIENCE_S) -> tuple[int, list[dict[str, Any]]]:
        """One page of a list: how many there are in all, and those of the page."""
        answer = self.get(path, params, patience)
        try:
            return int(answer["count"]), list(answer["results"])
        except (KeyError, TypeError, ValueError):
            raise NoAnswer(
                f"{self.address} gave no list for {path}: is this the address of a Balsam service?"
            ) from None

    def all(self, path: str, params: Params = ()) -> Iterator[list[dict[str, Any]]]:
        """A list, page by page, in the order of its ids (of what has no other)."""
        offset = 0
        while True:
            count, rows = self.page(path, [*params, ("limit", PAGE), ("offset", offset)])
            yield rows
            offset += len(rows)
            if not rows or offset >= count:
                return

    def set(self, method: str, path: str, body: Any, patience: float = PATIENCE_S) -> Any:
        """PUT or PATCH what is the same when it is done twice; repeated like a reading."""
        return self._repeated(method, path, (), body, patience)

    def create(self, path: str, body: Any) -> Any:
        """POST, once. Raises `LostAnswer` where it may have been carried out all the same."""
        return self._once("POST", path, (), body)

    def delete(self, path: str, params: Params = (), patience: float = PATIENCE_S) -> None:
        """DELETE; what is gone already is no error."""
        try:
            self._repeated("DELETE", path, params, None, patience)
        except NotFound:
            return

    def close(self) -> None:
        """Let go of the connections, once nobody waits for an answer; whoever asks again gets new ones."""
        with self._lock:
            if self._client is not None:
                self._retired.append(self._client)
                self._client = None
        self._close_retired()

    def _repeated(self, method: str, path: str, params: Params, body: Any, patience: float) -> Any:
        until, pause = time.monotonic() + patience, 0.1
        while True:
            try:
                return self._once(method, path, params, body)
            except NoAnswer:
                if time.monotonic() + pause > until:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 5.0)

    def _once(self, method: str, path: str, params: Params, body: Any) -> Any:
        signed = self._credentials()
        if signed.api_root != self.address:  # a token is for its own service alone
            raise NotSignedIn(
                f"This site is at {self.address}, and you have signed in to {signed.api_root} since. Sign in again: "
                f"balsam-jupyter login {self.address}"
            )
        headers = {"authorization": f"Bearer {signed.token}"}
        content = None
        if body is not None:
            content = json.dumps(body, separators=(",", ":")).encode()
            headers["content-type"] = "application/json"
        if method == "DELETE":
            headers["connection"] = "close"  # some servers send a body with a 204, which spoils the connection
        self.requests += 1
        try:
            with self._connections() as http:
                response = http.request(method, path, params=list(params), content=content, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NoAnswer(f"{self.address} does not answer ({_reason(error)}).") from None
        except httpx.HTTPError as error:
            raise LostAnswer(f"{self.address} broke off while it answered ({_reason(error)}).") from None
        self.received += len(response.content)
        self.clock = _clock(response)
        return self._read(response, signed)

    def _read(self, response: httpx.Response, signed: Credentials) -> Any:
        code = response.status_code
        if code == 204:
            return None
        if code in (401, 403):
            raise NotSignedIn(signed.refused())
        if code in _AGAIN:
            raise LostAnswer(f"{self.address} is in trouble (HTTP {code}{_detail(response)}).")
        if code == 404:
            raise NotFound(f"{self.address} has no such thing{_detail(response)}.")
        if code in (400, 422):
            raise BadInput(f"{self.address} refuses this{_detail(response)}.")
        if response.is_redirect:
            raise ServiceError(f"{self.address} is elsewhere now{elsewhere(response)}: sign in again there.")
        if not 200 <= code < 300:
            raise ServiceError(f"{self.address} answered HTTP {code}{_detail(response)}.")
        try:
            return response.json()
        except ValueError:
            raise LostAnswer(f"{self.address} gave an answer that cannot be read (broken off?).") from None


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__


def _detail(response: httpx.Response) -> str:
    """What the service says about an error, in a line."""
    try:
        said = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    if isinstance(said, list):  # of a value that does not fit
        said = "; ".join(
            f"{'.'.join(str(one) for one in item.get('loc', ())[1:])}: {item.get('msg', '')}"
            for item in said[:3]
            if isinstance(item, dict)
        )
    return f": {str(said).partition(chr(10))[0][:300].rstrip('.')}"


def _clock(response: httpx.Response) -> float | None:
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return None
