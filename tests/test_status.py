"""`explain`: why nothing runs, and what to ask for."""

from __future__ import annotations

import pytest

from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.models import Allocation, AllocationRequest, EnsembleRecord, JobCommon, JobSpec, Query, Resources
from balsam_jupyter.status import describe, explain

from .engine_site import allocate, ended, job, shell_app, submit, wait_until

TWO_NODES = "nodes: 3\ncores_per_node: 1\n"
PARTS = (
    {"job_mode": "mpi", "num_nodes": 1, "filter_tags": {"role": "leader"}},
    {"job_mode": "serial", "num_nodes": 2, "filter_tags": {}},
)


def parted(engine: EmbeddedEngine, *parts: dict[str, object], **fields: object) -> Allocation:
    """A running allocation of partitions."""
    request = AllocationRequest(3, 10, "serial", partitions=parts, **fields)  # type: ignore[arg-type]
    given = engine.allocate(request)
    wait_until(engine, lambda: engine.allocations()[-1].state == "running")
    return given


@pytest.mark.parametrize("settings", [TWO_NODES])
@pytest.mark.parametrize(
    ("asked", "tags", "why"),
    [
        (
            Resources(num_nodes=2),
            {"role": "leader"},
            "job 1 needs 2 nodes at once, more than partition mpi:1:role=leader of allocation 1 has, "
            "and job 1 has 2 ranks, and partition serial:2 of allocation 1 is in job mode serial; use mpi. "
            "Ask for one: %balsam_allocate -n 2 -t 10 --job-mode mpi, ",
        ),
        (
            Resources(num_nodes=3),
            {},
            "partition mpi:1:role=leader of allocation 1 takes only tasks tagged role=leader, unlike job 1, "
            "and job 1 needs 3 nodes at once, more than partition serial:2 of allocation 1 has.",
        ),
        (Resources(wall_time_min=20), {}, "job 1 is expected to take 20 min, and allocation 1 has 10 min left."),
    ],
)
def test_partitions_that_take_none(engine: EmbeddedEngine, asked: Resources, tags: dict[str, str], why: str) -> None:
    common = shell_app(engine, "true")
    submit(engine, JobCommon(common.app_id, resources=asked, tags=tags))
    parted(engine, *PARTS)
    status = explain(engine)
    assert status.stuck and status.why.startswith(why)
    assert "3 nodes, 10 min, mpi:1:role=leader and serial:2, " in repr(status)


def test_tags_and_workflows_nobody_has(engine: EmbeddedEngine) -> None:
    common = shell_app(engine, "true")
    submit(engine, JobCommon(common.app_id, tags={"workflow": "other"}))
    given = allocate(engine, wf_filter="scan", filter_tags={"k": "v"})
    status = explain(engine)
    wanted = "tasks tagged k=v and with 'scan' in their tag workflow"
    assert status.stuck and status.why.startswith(f"allocation 1 takes only {wanted}; none waits.")
    assert f"serial, only {wanted}" in describe(given)


@pytest.mark.parametrize("settings", [TWO_NODES])
def test_every_kind_of_waiting_job_counts(engine: EmbeddedEngine) -> None:
    common = shell_app(engine, "sleep 60")
    wide = JobCommon(common.app_id, resources=Resources(num_nodes=2))
    submit(engine, wide)
    submit(engine, wide, [{}] * 3)
    record = EnsembleRecord("few", "App")
    narrow = JobCommon(common.app_id, ensemble="few")
    engine.submit([JobSpec(narrow, encode({}), key=b"1" * 16)], record)
    assert [row.id for row in engine.kinds()] == [1, 5] and [row.id for row in engine.kinds("few")] == [5]
    why = explain(engine).why
    assert (
        "%balsam_allocate -n 2 -t 10 --job-mode mpi, " in why
        and 'num_nodes=2, wall_time_min=10, job_mode="mpi")' in why
    )
    assert "%balsam_allocate -n 1 -t 10, " in explain(engine, "few").why
    allocate(engine)
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING") == 1)
    assert job(engine, 5).state == "RUNNING" and explain(engine).why == ""


def test_children_of_a_parent_that_failed(engine: EmbeddedEngine) -> None:
    fails = shell_app(engine, "exit 3", app="Fails")
    (parent,) = submit(engine, fails)
    common = JobCommon(shell_app(engine, "true").app_id, on_parent_failure="wait")
    engine.submit([JobSpec(common, encode({}), "lone/child", parents=(parent,))])
    assert "there is no allocation" in explain(engine).why
    allocate(engine)
    wait_until(engine, lambda: ended(engine) == 1)
    status = explain(engine)
    told = "its tasks wait for their parents, and job 1 (Fails) is FAILED. Retry: balsam-jupyter job retry 1"
    assert status.stuck and status.why == told
