"""10,000 jobs to a real Balsam service, beside a bare loop of POSTs; and what a poll of as many jobs moves.

    python benchmarks/balsam.py [--rounds 5] [--tasks 10000] [--quick]

Each round submits a sweep as a new ensemble, and posts as many jobs in requests of 5,000 with `httpx`, to another site
of the same service (the one that the tests start). The jobs of the bare loop are copies of those that a sweep stored,
with the same tags and parameters, and are ready before the clock starts; its answers are read, as a loop that wants the
ids of its jobs has to. The service's processes share the machine with both.
"""

from __future__ import annotations

import os
import secrets
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _common import Timer, arguments, scratch

from tests.balsam_service.proxy import Proxy
from tests.balsam_service.run import ENVIRONMENT, Run
from tests.balsam_service.service import Service
from tests.balsam_service.site import ServiceSite

CHUNK = 5_000
CHANGED = 10
POLLS = 6
_SENT = (
    "app_id", "tags", "serialized_parameters", "num_nodes", "ranks_per_node", "threads_per_rank", "threads_per_core",
    "gpus_per_rank", "node_packing_count", "wall_time_min", "launch_params",
)  # fmt: skip


@contextmanager
def service() -> Iterator[Service]:
    run = Run()
    try:
        started = Service(run)
        started.start()
        yield started
    finally:
        run.stop()


class Bare:
    """A loop of POSTs of jobs like those of a site, to a site of its own."""

    def __init__(self, like: ServiceSite, most: int) -> None:
        self.site = ServiceSite(like.service, "bare")
        self.client = like.service.client()
        (app,) = self.client.get("/apps/", params={"site_id": like.id}).raise_for_status().json()["results"]
        app["site_id"] = self.site.id
        made = self.client.post("/apps/", json=app).raise_for_status().json()
        self.jobs = [{name: job[name] for name in _SENT} | {"app_id": made["id"]} for job in like.jobs()[:most]]

    def __call__(self, number: int) -> float:
        bodies = [
            {**job, "workdir": f"round-{number}/{at}", "tags": {**job["tags"], "bj_ensemble": f"round-{number}"}}
            for at, job in enumerate(self.jobs)
        ]
        chunks = [bodies[at : at + CHUNK] for at in range(0, len(bodies), CHUNK)]
        ids: list[int] = []
        with Timer() as timer:
            for chunk in chunks:
                ids += [job["id"] for job in self.client.post("/jobs/", json=chunk).raise_for_status().json()]
        assert len(set(ids)) == len(self.jobs)
        return timer.seconds


class Ours:
    """Sweeps at a site, through the executor."""

    def __init__(self, remote: ServiceSite, base: Path, tasks: int, url: str = "") -> None:
        from balsam_jupyter import ApplicationDefinition, BalsamExecutor, open_site

        class Program(ApplicationDefinition):
            command_template = "program {{ alpha }} {{ beta }} {{ name }}"

        file = remote.service.write_client_file(base / "balsam" / f"{remote.name}.yml", url)
        os.environ["BALSAM_CLIENT_PATH"] = str(file)
        self.tasks = tasks
        self.site = open_site(remote.name, engine="balsam")
        self.executor = BalsamExecutor(self.site)
        self.executor.register_app(Program)

    def __call__(self, number: int) -> float:
        from balsam_jupyter import Sweep

        sweep = Sweep.grid(alpha=[i * 0.001 for i in range(self.tasks // 100)], beta=range(10), name=list("abcdefghij"))
        with Timer() as timer:
            ensemble = self.executor.submit_sweep("Program", sweep, name=f"round-{number}")
        assert ensemble.new == self.tasks
        return timer.seconds

    def settle(self) -> None:
        """Let it read again what was just submitted, as it does once the overlap of its polls is over."""
        time.sleep(8.0)
        for _ in range(-(-self.tasks // CHUNK)):  # one poll reads so many
            self.site.engine.count(_everything())
            time.sleep(2.1)


def submission(service: Service, base: Path, rounds: int, tasks: int) -> None:
    remote = ServiceSite(service, "ours")
    ours = Ours(remote, base, tasks)
    ours(0)
    bare = Bare(remote, tasks)
    bare(0)
    assert [len(jobs.jobs()) for jobs in (remote, bare.site)] == [tasks, tasks]
    print(f"{tasks:,} jobs of 3 parameters to a Balsam service, s (in {base})")
    ratios, times = [], []
    for number in range(1, rounds + 1):
        ours.settle()
        runs = (ours, bare) if number % 2 else (bare, ours)  # nobody is always behind the other
        taken = {run: run(number) for run in runs}
        times.append((taken[ours], taken[bare]))
        ratios.append(taken[ours] / taken[bare])
        print(f"  round {number}: submit_sweep {taken[ours]:5.2f}   bare POSTs {taken[bare]:5.2f}", flush=True)
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"  median: submit_sweep {mine:.2f} s   bare POSTs {theirs:.2f} s")
    print(f"  {statistics.median(ratios):.2f} × a bare loop of {CHUNK:,}-job POSTs (asked for: at most 1.3)")
    ours.site.close()


def polls(service: Service, base: Path, tasks: int) -> None:
    """What goes through a proxy before the service while one follows a site where few jobs change."""
    remote, proxy = ServiceSite(service, f"polls-{secrets.token_hex(2)}"), Proxy(service.url)
    try:
        ours = Ours(remote, base, tasks, proxy.url)
        ours(0)
        ids = [job["id"] for job in remote.jobs()]
        ours.settle()
        seen = []
        for number in range(POLLS):
            remote.report(ids[number * CHANGED :][:CHANGED], "PREPROCESSED", "RUNNING", "RUN_DONE", "JOB_FINISHED")
            time.sleep(2.1)  # what the engine leaves between two polls
            requests, sent = len(proxy.requests), proxy.sent
            with Timer() as timer:
                counts = ours.site.engine.count(_everything())
            seen.append((len(proxy.requests) - requests, proxy.sent - sent, 1e3 * timer.seconds))
            assert counts["JOB_FINISHED"] == (number + 1) * CHANGED
        ours.site.close()
    finally:
        proxy.close()
    requests, sent, _ = (max(column) for column in zip(*seen, strict=True))
    print(f"{POLLS} polls of {tasks:,} jobs with {CHANGED} changes each, the dearest of them:")
    print(f"  {requests} requests (asked for: at most 3), {sent / 1e3:.1f} kB (asked for: under 50),", end="")
    print(f" {statistics.median(one[2] for one in seen):.0f} ms in the median")


def _everything() -> Any:
    from balsam_jupyter.models import Query

    return Query()


def main() -> None:
    given = arguments(__doc__ or "", rounds=5, tasks=10_000).parse_args()
    rounds, tasks = (1, 200) if given.quick else (given.rounds, given.tasks)
    tasks -= tasks % 100  # of a grid
    if not (ENVIRONMENT / "bin" / "uvicorn").exists():
        print("MISSING: no environment with a Balsam server: `make .venv-balsam-server/.stamp` makes it")
        return
    base = scratch("balsam")
    with service() as started:
        submission(started, base, rounds, tasks)
        polls(started, base, tasks)


if __name__ == "__main__":
    main()
