"""A proxy before the API server that spoils requests and answers as a real server cannot be made to.

What happens to a request is a coroutine function, a `Fault`: it gets the request, and `forward`, which asks the server.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit


class Reset(Exception):
    """The connection is reset, and the request goes unanswered."""


@dataclass(frozen=True)
class Request:
    """`number` counts from 1, over all requests of the proxy."""

    number: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.target).query)


@dataclass(frozen=True)
class Answer:
    """`cut`: so many bytes of the body are sent, and the connection ends."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None


Forward = Callable[[], Awaitable[Answer]]
Fault = Callable[[Request, Forward], Awaitable[Answer]]
Rule = Callable[[Request], "Fault | None"]


# -- faults ------------------------------------------------------------------------------------------------


async def reset(request: Request, forward: Forward) -> Answer:
    """The request never arrives."""
    raise Reset


async def lost(request: Request, forward: Forward) -> Answer:
    """The request is carried out, and its answer is lost."""
    await forward()
    raise Reset


async def truncated(request: Request, forward: Forward) -> Answer:
    """A whole answer by its length, with half of the JSON."""
    answer = await forward()
    return replace(answer, body=answer.body[: len(answer.body) // 2])


async def cut(request: Request, forward: Forward) -> Answer:
    """The connection ends in the middle of the answer."""
    answer = await forward()
    return replace(answer, cut=len(answer.body) // 2)


def answers(status: int, document: Any = None) -> Fault:
    """The request never arrives, and something on the way answers."""

    async def fault(request: Request, forward: Forward) -> Answer:
        return Answer(status, {"content-type": "application/json"}, json.dumps(document).encode())

    return fault


def after(status: int, document: Any = None) -> Fault:
    """The request is carried out, and something on the way answers something else."""

    async def fault(request: Request, forward: Forward) -> Answer:
        await forward()
        return Answer(status, {"content-type": "application/json"}, json.dumps(document).encode())

    return fault


def late(seconds: float) -> Fault:
    """The request arrives late."""

    async def fault(request: Request, forward: Forward) -> Answer:
        await asyncio.sleep(seconds)
        return await forward()

    return fault


def edited(change: Callable[[Any], Any]) -> Fault:
    """The JSON of the answer goes through `change`."""

    async def fault(request: Request, forward: Forward) -> Answer:
        answer = await forward()
        return replace(answer, body=json.dumps(change(json.loads(answer.body))).encode()) if answer.body else answer

    return fault


# -- when ----------------------------------------------------------------------------------------------------


def every(number: int, fault: Fault, method: str = "", path: str = "") -> Rule:
    """Each `number`-th of the requests with this method to a path that begins so."""
    seen = 0

    def rule(request: Request) -> Fault | None:
        nonlocal seen
        if not _is(request, method, path):
            return None
        seen += 1
        return fault if seen % number == 0 else None

    return rule


def first(number: int, fault: Fault, method: str = "", path: str = "") -> Rule:
    """The first `number` of such requests."""
    left = number

    def rule(request: Request) -> Fault | None:
        nonlocal left
        if left <= 0 or not _is(request, method, path):
            return None
        left -= 1
        return fault

    return rule


def _is(request: Request, method: str, path: str) -> bool:
    return request.method == (method or request.method) and request.path.startswith(path)


# -- the proxy -------------------------------------------------------------------------------------------------


class Proxy:
    """`url` is its address; `rule` says what happens to a request. It notes all `requests`, and the bytes it `sent`."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self.rule: Rule = lambda _: None
        self.requests: list[Request] = []
        self.sent = 0
        self.spoilt = 0
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    @contextmanager
    def spoil(self, rule: Rule) -> Iterator[None]:
        """Follow a rule for the time of a block."""
        before, self.rule = self.rule, rule
        try:
            yield
        finally:
            self.rule = before

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await _head(reader)) is not None:
                (method, target, _), headers = head
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(len(self.requests) + 1, method, target, headers, body)
                self.requests.append(request)
                await self._answer(request, writer)
        except (Reset, OSError, asyncio.IncompleteReadError):
            _reset(writer)
        except asyncio.CancelledError:  # the proxy is closed; asyncio would log it
            return
        finally:
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        fault = self.rule(request)
        self.spoilt += fault is not None
        answer = await (self._forward(request) if fault is None else fault(request, lambda: self._forward(request)))
        headers = {**answer.headers, "content-length": str(len(answer.body))}
        if answer.status == 204:
            del headers["content-length"]
        lines = [f"HTTP/1.1 {answer.status} .", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        writer.write(answer.body if answer.cut is None else answer.body[: answer.cut])
        self.sent += len(answer.body)
        await writer.drain()
        if answer.cut is not None:
            raise Reset

    async def _forward(self, request: Request) -> Answer:
        """Ask the server, over a connection for this request alone. If it is away, so is the proxy."""
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            headers = {**request.headers, "connection": "close"}
            lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items()), "", ""]
            writer.write("\r\n".join(lines).encode() + request.body)
            head = await _head(reader)
            if head is None:
                raise Reset
            (_, status, *_), headers = head
            length = headers.get("content-length")
            assert "transfer-encoding" not in headers
            body = await (reader.read() if length is None else reader.readexactly(int(length)))
            kept = {name: value for name, value in headers.items() if name in ("content-type", "date", "location")}
            return Answer(int(status), kept, body)
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> tuple[list[str], dict[str, str]] | None:
    """Words of the first line, and headers in small letters; None at the end."""
    line = await reader.readline()
    if not line:
        return None
    headers = {}
    while (header := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = header.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return line.decode("latin-1").rstrip().split(" ", 2), headers


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close the connection with RST instead of FIN."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
