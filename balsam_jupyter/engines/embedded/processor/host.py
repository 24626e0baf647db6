"""The warm Python process of a hand, in which hooks run; seen from the processor."""

from __future__ import annotations

import contextlib
import marshal
import select
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....models import AppRecord
from .. import processes

_HOST = Path(__file__).resolve().parents[3] / "hooks.py"
_LOOK_MS = 500  # how often a silent process is looked at: one that died may have left its pipe to a child
_END_S = 5.0  # how long one that is to end may take


class Host:
    """A Python process that runs hooks, one after another."""

    def __init__(self, python: str, env: Mapping[str, str], mark: dict[str, object]) -> None:
        self.mark = mark
        self.known: dict[int, AppRecord] = {}  # the apps it has been told of
        self.asked = 0
        words = {key: str(value) for key, value in mark.items()}
        self.process = subprocess.Popen(
            [python, "-u", str(_HOST)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**env, **words},
            start_new_session=True, bufsize=0,
        )  # fmt: skip

    def ask(self, *message: Any) -> tuple[bool, Any] | None:
        """Whether it is to be replaced, and the answer; None if the process ended instead."""
        assert self.process.stdin is not None
        self.asked += 1
        frame = marshal.dumps((self.asked, *message))
        rest = memoryview(len(frame).to_bytes(4, "little") + frame)
        try:
            while rest:
                rest = rest[self.process.stdin.write(rest) or 0 :]
        except BrokenPipeError:
            return None
        while True:
            size = int.from_bytes(self._read(4), "little")
            answer = self._read(size)
            if not size or len(answer) < size:
                return None
            number, retire, result = marshal.loads(answer)
            if number == self.asked:  # whatever else came was not meant for this job
                return retire, result

    def _read(self, size: int) -> bytes:
        """So many bytes; fewer if the process ended before."""
        assert self.process.stdout is not None
        poller = select.poll()
        poller.register(self.process.stdout, select.POLLIN)
        data = b""
        while len(data) < size:
            ended = self.process.poll() is not None
            if poller.poll(0 if ended else _LOOK_MS):
                piece = self.process.stdout.read(size - len(data))
                if not piece:
                    break
                data += piece
            elif ended:
                break
        return data

    def close(self) -> int:
        """Let it end, or end it if it takes long; its exit code."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            code = self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            processes.end([self.mark], 0)
            code = self.process.wait()
        self.process.stdout.close()
        return code
