"""Which jobs run when, and on what: real launchers, and tasks that write down where they are."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.models import AllocationRequest, JobCommon, JobSpec, Query, Resources
from balsam_jupyter.status import explain
from tests.engine_site import allocate, ended, finished, job, shell_app, submit, wait_until

# A task that tells what it has, and then runs until the test lets it go.
GATED = """echo "$BALSAM_JOB_ID $(date +%s.%N) + $CUDA_VISIBLE_DEVICES" >> {witness}
until [ -e {gate} ]; do sleep 0.02; done
echo "$BALSAM_JOB_ID $(date +%s.%N) -" >> {witness}
"""


class Gate:
    """Tasks that wait for each other's release, and what they wrote."""

    def __init__(self, engine: EmbeddedEngine, tmp_path: Path) -> None:
        self.engine, self.file, self.witness = engine, tmp_path / "go", tmp_path / "witness"
        script = tmp_path / "gated.sh"
        script.write_text(GATED.format(witness=self.witness, gate=self.file))
        self.common = shell_app(engine, f"sh {script}")

    def submit(self, number: int, tags: dict[str, str] | None = None, **resources: object) -> list[int]:
        common = JobCommon(self.common.app_id, resources=Resources(**resources), tags=tags or {})  # type: ignore[arg-type]
        return submit(self.engine, common, [{}] * number)

    def starts(self) -> list[list[str]]:
        lines = self.witness.read_text().splitlines() if self.witness.exists() else []
        return [line.split() for line in lines if " + " in line or line.endswith("+")]

    def runs(self, number: int) -> None:
        wait_until(
            self.engine, lambda: self.engine.count(Query()).get("RUNNING", 0) == number and len(self.starts()) == number
        )

    def open(self) -> None:
        self.file.touch()

    def most_at_once(self) -> int:
        now, most = 0, 0
        for line in sorted(self.witness.read_text().splitlines(), key=lambda line: float(line.split()[1])):
            now += 1 if line.split()[2] == "+" else -1
            most = max(most, now)
        return most

    def order(self) -> list[int]:
        return [int(words[0]) for words in self.starts()]


@pytest.fixture
def gate(engine: EmbeddedEngine, tmp_path: Path) -> Gate:
    return Gate(engine, tmp_path)


@pytest.mark.parametrize("settings", ["nodes: 2\ncores_per_node: 64\ngpus_per_node: 8\ngrace_period_s: 1\n"])
@pytest.mark.parametrize(("packing", "gpus", "at_once"), [(8, 1, 16), (4, 1, 8), (8, 8, 2)])
def test_balsams_job_placement_examples_run_so(
    engine: EmbeddedEngine, gate: Gate, packing: int, gpus: int, at_once: int
) -> None:
    gate.submit(16, node_packing_count=packing, gpus_per_rank=gpus)
    allocate(engine, num_nodes=2)
    gate.runs(at_once)
    given = [gpu for words in gate.starts() for gpu in words[3].split(",")]
    assert len(given) == len(set(given)) == at_once * gpus  # no two of them share a GPU
    gate.open()
    wait_until(engine, lambda: ended(engine) == 16)
    assert gate.most_at_once() == at_once


@pytest.mark.parametrize("settings", ["cores_per_node: 4\nexclusive_nodes: true\n"])
def test_an_exclusive_node_runs_one_job_at_a_time(engine: EmbeddedEngine, gate: Gate) -> None:
    gate.open()
    gate.submit(4, node_packing_count=4)
    allocate(engine)
    wait_until(engine, lambda: ended(engine) == 4)
    assert gate.most_at_once() == 1


def test_cores_and_threads_are_given_by_affinity_and_environment(
    engine: EmbeddedEngine, gate: Gate, tmp_path: Path
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.fail("this test needs two cores")
    show = tmp_path / "show.py"
    show.write_text(
        "import json, os\nprint(json.dumps([sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS']]))\n"
        f"import pathlib, time\nhere = pathlib.Path({str(tmp_path)!r})\n(here / f'in{{os.getpid()}}').touch()\n"
        "while len(list(here.glob('in*'))) < int(os.environ['TOGETHER']): time.sleep(0.01)\n"
    )
    pair = shell_app(engine, f"{sys.executable} {show}", app="Pair", environment_variables={"TOGETHER": "2"})
    wide = shell_app(engine, f"{sys.executable} {show}", app="Wide", environment_variables={"TOGETHER": "1"})
    first, second = submit(engine, pair, [{}, {}])
    allocate(engine)
    cores = []
    for job_id in (first, second):
        finished(engine, job_id)
        mine, threads = json.loads(engine.output(job_id))
        assert len(mine) == 1 and threads == "1"
        cores += mine
    assert len(set(cores)) == 2
    (third,) = submit(engine, JobCommon(wide.app_id, resources=Resources(threads_per_rank=2)))
    finished(engine, third)
    assert json.loads(engine.output(third)) == [sorted(cores), "2"]


ONE_BY_ONE = "nodes: 1\ncores_per_node: 1\nsort_by: {}\n"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ONE_BY_ONE.format("large_first"), [30, 30, 20, 10]),
        (ONE_BY_ONE.format("small_first"), [30, 30, 20, 10]),
        (ONE_BY_ONE.format("long_large_first"), [30, 30, 20, 10]),
    ],
    ids=["large", "small", "long"],
)
def test_longer_jobs_first_among_equals(engine: EmbeddedEngine, gate: Gate, expected: list[int]) -> None:
    minutes = {each: wall for wall in (10, 30, 20, 30) for each in gate.submit(1, wall_time_min=wall)}
    gate.open()
    allocate(engine, minutes=60)
    wait_until(engine, lambda: ended(engine) == 4)
    order = gate.order()
    assert [minutes[each] for each in order] == expected
    assert order[0] < order[1]  # within equals, first submitted first


@pytest.mark.parametrize("settings", ["cores_per_node: 1\nnode_packing_count: 1\nsort_by: small_first\n"])
def test_small_first_takes_more_to_a_node_first(engine: EmbeddedEngine, gate: Gate) -> None:
    (alone,), (pair,) = gate.submit(1), gate.submit(1, node_packing_count=2)
    four = gate.submit(2, node_packing_count=4)
    gate.open()
    allocate(engine)
    wait_until(engine, lambda: ended(engine) == 4)
    assert gate.order() == [*four, pair, alone]


def test_a_job_longer_than_what_is_left_is_not_started(engine: EmbeddedEngine, gate: Gate) -> None:
    gate.open()
    gate.submit(1, wall_time_min=20)
    allocate(engine, minutes=10)
    (short,) = gate.submit(1, wall_time_min=5)
    finished(engine, short)
    assert engine.count(Query()) == {"JOB_FINISHED": 1, "PREPROCESSED": 1}


def test_a_wide_job_that_comes_first_gets_its_cores_although_narrow_ones_wait(
    engine: EmbeddedEngine, gate: Gate
) -> None:
    gate.submit(2)
    allocate(engine)
    gate.runs(2)
    gate.submit(20)
    (wide,) = gate.submit(1, threads_per_rank=2, wall_time_min=5)  # longer, so it comes first
    wait_until(engine, lambda: job(engine, wide).attempts == 1)  # the launcher has it, and keeps cores free
    gate.open()
    wait_until(engine, lambda: ended(engine) == 23)
    assert gate.order().index(wide) == 2


@pytest.mark.parametrize("settings", ["nodes: 3\ncores_per_node: 1\n"])
def test_partitions_take_their_nodes_and_tags(engine: EmbeddedEngine, gate: Gate) -> None:
    # The partitioning example of Balsam's batchjob.md, scaled down.
    leader, worker = {"role": "leader"}, {"role": "worker"}
    gate.submit(2, leader), gate.submit(4, worker), gate.submit(1, {"role": "other"})
    parts = (
        {"job_mode": "mpi", "num_nodes": 1, "filter_tags": leader},
        {"job_mode": "serial", "num_nodes": 2, "filter_tags": worker},
    )
    engine.allocate(AllocationRequest(3, 10, partitions=parts))
    gate.runs(3)
    assert engine.count(Query(tags=leader)) == {"RUNNING": 1, "PREPROCESSED": 1}
    assert engine.count(Query(tags=worker)) == {"RUNNING": 2, "PREPROCESSED": 2}
    gate.open()
    wait_until(engine, lambda: ended(engine) == 6)
    assert engine.count(Query(tags={"role": "other"})) == {"PREPROCESSED": 1}


def test_all_tags_must_match_and_the_workflow_may_match_in_part(engine: EmbeddedEngine, gate: Gate) -> None:
    gate.open()
    both = gate.submit(2, {"system": "H2O", "scale": "4"})
    gate.submit(2, {"system": "H2O"}), gate.submit(2, {"scale": "4"})
    allocate(engine, filter_tags={"system": "H2O", "scale": "4"}, num_nodes=1)
    wait_until(engine, lambda: ended(engine) == 2)
    assert sorted(gate.order()) == both
    engine.revoke(1)
    named = gate.submit(1, {"workflow": "scan-12-b"})
    gate.submit(1, {"workflow": "other"})
    allocate(engine, wf_filter="can-12")
    wait_until(engine, lambda: ended(engine) == 3)
    assert gate.order()[2:] == named


@pytest.mark.parametrize("settings", ["nodes: 3\ncores_per_node: 1\n"])
def test_launchers_that_overlap_share_and_run_each_job_once(engine: EmbeddedEngine, gate: Gate) -> None:
    gate.open()
    specs = (JobSpec(JobCommon(gate.common.app_id, tags={"half": str(n % 2)}), "{}", f"lone/{n}") for n in range(120))
    engine.submit(specs)
    for tags in ({}, {"half": "0"}, {"half": "1"}):
        allocate(engine, filter_tags=tags)
    wait_until(engine, lambda: ended(engine) == 120)
    assert sorted(gate.order()) == list(range(1, 121))
    assert len({each.batch_job_id for each in engine.jobs(Query())}) == 3


@pytest.mark.parametrize("settings", ["cores_per_node: 1\n"])
def test_many_kinds_of_tags_are_taken_in_the_order_of_submission(engine: EmbeddedEngine, gate: Gate) -> None:
    gate.open()
    kinds = [{"site": "x", "n": str(n % 7)} for n in range(60)]
    jobs = [each for tags in kinds for each in gate.submit(1, tags)]
    gate.submit(1, {"site": "y"})
    allocate(engine, filter_tags={"site": "x"})
    wait_until(engine, lambda: ended(engine) == 60)
    assert gate.order() == jobs


@pytest.mark.parametrize("settings", ["nodes: 2\ncores_per_node: 2\n"])
@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Resources(num_nodes=2), "job 1 needs 2 nodes at once, more than allocation 1 has"),
        (Resources(ranks_per_node=2), "job 1 has 2 ranks, and allocation 1 is in job mode serial; use mpi"),
        (Resources(wall_time_min=30), "job 1 is expected to take 30 min, and allocation 1 has 10 min left"),
    ],
)
def test_what_an_allocation_cannot_run_is_said(engine: EmbeddedEngine, gate: Gate, asked: Resources, why: str) -> None:
    submit(engine, JobCommon(gate.common.app_id, resources=asked))
    allocate(engine)
    wait_until(engine, lambda: engine.allocations()[0].state == "running")
    status = explain(engine)
    assert status.stuck and status.why.startswith(why)
