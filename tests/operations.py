"""A process that works on a site as it is told: one line of JSON for each operation, one for its result.

Run as ``python -m tests.operations SITE``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.models import AllocationRequest, JobCommon, JobSpec, Query


def submit(engine: EmbeddedEngine, tasks: list[tuple[int, dict[str, Any]]]) -> int:
    commons = {app: JobCommon(app) for app, _ in tasks}
    return len(engine.submit(JobSpec(commons[app], encode(given), "w/{id}") for app, given in tasks).ids)


def update(engine: EmbeddedEngine, ids: list[int], state: str, wait: float | None) -> int:
    return engine.update(Query(ids=tuple(ids)), state, wait)


def delete(engine: EmbeddedEngine, ids: list[int]) -> int:
    return engine.delete(Query(ids=tuple(ids)))


def allocate(engine: EmbeddedEngine) -> int:
    return engine.allocate(AllocationRequest(1, 10, "serial")).id


def revoke(engine: EmbeddedEngine, allocation: int) -> bool:
    return engine.revoke(allocation, timeout=20)


def look(engine: EmbeddedEngine, timeout: float) -> int:
    engine.allocations()
    return len(engine.events("now", timeout).rows) + len(engine.jobs(Query(limit=20)))


def main(site: str) -> None:
    engine = EmbeddedEngine.open(site)
    calls: dict[str, Any] = {each.__name__: each for each in (submit, update, delete, allocate, revoke, look)}
    for line in sys.stdin:
        name, *given = json.loads(line)
        if name == "reopen":
            engine.close()
            engine = EmbeddedEngine.open(site)
            print("true", flush=True)
        else:
            print(json.dumps(calls[name](engine, *given)), flush=True)
    engine.close()


if __name__ == "__main__":
    main(sys.argv[1])
