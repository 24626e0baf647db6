"""An embedded site at the level of the engine, for tests of what is below the executor."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import cloudpickle

from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.models import (
    TERMINAL,
    Allocation,
    AllocationRequest,
    AppRecord,
    JobCommon,
    JobRow,
    JobSpec,
    Parameter,
    Query,
)


def shell_app(engine: EmbeddedEngine, template: str, *names: str, app: str = "App", **fields: Any) -> JobCommon:
    """Register a command; returns what its jobs share."""
    record = AppRecord(app, "shell", "1", {name: Parameter() for name in names}, command_template=template, **fields)
    return JobCommon(engine.register(record))


def submit(engine: EmbeddedEngine, common: JobCommon, rows: Iterable[dict[str, Any]] = ({},)) -> list[int]:
    return list(engine.submit(JobSpec(common, encode(row), "lone/{id}") for row in rows).ids)


def allocate(engine: EmbeddedEngine, minutes: float = 10, **fields: Any) -> Allocation:
    return engine.allocate(AllocationRequest(fields.pop("num_nodes", 1), minutes, "serial", **fields))


def wait_until(engine: EmbeddedEngine, condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Until the condition holds, looking again at every change of the store."""
    deadline = time.monotonic() + timeout
    cursor = engine.events("now").cursor
    while not condition():
        assert time.monotonic() < deadline, f"still {engine.count(Query())} after {timeout} s"
        cursor = engine.events(cursor, 1.0).cursor


def ended(engine: EmbeddedEngine) -> int:
    return sum(number for state, number in engine.count(Query()).items() if state in TERMINAL)


def job(engine: EmbeddedEngine, job_id: int) -> JobRow:
    return engine.jobs(Query(ids=(job_id,)))[0]


def finished(engine: EmbeddedEngine, job_id: int, timeout: float = 60.0) -> JobRow:
    """The job, once it has ended."""
    wait_until(engine, lambda: job(engine, job_id).state in TERMINAL, timeout)
    return job(engine, job_id)


def path_of(engine: EmbeddedEngine, job_id: int) -> list[str]:
    """The states the job went through, first to last."""
    states: list[str] = []
    for row in engine.events("").rows:
        if row.first_id <= job_id <= row.last_id:
            states += row.path[1:]
    return states


def python_app(engine: EmbeddedEngine, run: Callable[..., Any], app: str = "Py", **fields: Any) -> JobCommon:
    payload = cloudpickle.dumps({"functions": {"run": run}, "attributes": {}, "outputs": {}})
    names = run.__code__.co_varnames[1 : run.__code__.co_argcount]
    record = AppRecord(
        app, "python", "1", {n: Parameter() for n in names}, payload=payload, **{"python_exe": sys.executable, **fields}
    )
    return JobCommon(engine.register(record))
