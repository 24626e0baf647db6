"""A user's Python app inside a worker: the class put together again, what its tasks see, what they raise.

Loaded by path into the app's own Python, like `worker.py`.
"""

from __future__ import annotations

import linecache
import os
import pickle
import sys
from pathlib import Path
from typing import Any

from balsam_jupyter.codec import decode, encode

_HERE = os.path.dirname(__file__)


class Job:
    """What a task sees as ``self.job``."""

    def __init__(self, number: int, parameters: Any, tags: str, data: str | None, directory: str) -> None:
        self.id = number
        self.parameters = parameters
        self.tags: dict[str, str] = {} if tags == "{}" else decode(tags)
        self.data: dict[str, Any] = {} if data is None else decode(data)
        self._directory = directory

    @property
    def workdir(self) -> Path:
        """Its work directory, made by the first look at it."""
        os.getcwd()
        return Path(self._directory)


class App:
    """The functions and attributes of a user's class, put together again as a plain class."""

    def __init__(self, name: str, payload: bytes | None, sys_path: list[str], outputs: dict[str, str | None]) -> None:
        sys.path.extend(entry for entry in sys_path if entry not in sys.path)
        parts: dict[str, dict[str, Any]] = pickle.loads(payload) if payload else {}
        for file, text in parts.get("sources", {}).items():  # cells of a notebook, for tracebacks to show
            linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
        self.cls = type(name, (), {**parts.get("attributes", {}), **parts.get("functions", {})})
        self.outputs = {key: parts["outputs"][key] if spec is None else spec for key, spec in outputs.items()}

    def call(self, job: Job, parameters: dict[str, Any]) -> Any:
        instance = self.cls()
        instance.job = job
        return instance.run(**parameters)


def encoded(values: dict[str, Any], note: str) -> tuple[str | bytes, str]:
    """Values as the store has them; NaN and a line in the note for one that cannot be pickled."""
    try:
        return encode(values), note
    except Exception:
        kept = {}
        for name, value in values.items():
            try:
                encode(value)
                kept[name] = value
            except Exception:
                kept[name] = float("nan")
                note = f"{note}\n{name}: a {type(value).__name__} cannot be pickled".strip()
        return encode(kept), note


def user_frames(trace: Any) -> Any:
    """The traceback without the worker's frames on top."""
    inner = trace
    while inner is not None and os.path.dirname(inner.tb_frame.f_code.co_filename) == _HERE:
        inner = inner.tb_next
    return inner or trace


def pickled(error: BaseException) -> bytes | None:
    try:
        import cloudpickle

        error = error.with_traceback(None)
        return bytes(cloudpickle.dumps(error))
    except Exception:
        return None  # the text of the traceback says it too
