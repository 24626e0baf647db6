"""The options that the magics share with the terminal, and ``%balsam_service``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from balsam_jupyter import BalsamExecutor, Site
from balsam_jupyter.api_check import partition
from balsam_jupyter.errors import BadInput
from balsam_jupyter.models import Query

from . import test_magics
from .test_magics import Shell, refused, run

shell = test_magics.shell
Capture = pytest.CaptureFixture[str]
Until = Callable[[Callable[[], bool]], None]


def test_service(shell: Shell, site: Site, until: Until, capsys: Capture) -> None:
    assert repr(run(shell, "s = %balsam_service\ns")) == "The service of site 'here' does not run."
    line = "--max-nodes 1 -t 5 -j serial --tag k=v --wf-filter scan --period 0.05"
    started = run(shell, f"s = %balsam_service start {line}\ns")
    try:
        assert started.running and "wf_filter=scan, queue=local" in repr(started) and "tags k=v" in repr(started)
        run(shell, "%%balsam_app hello\necho {{ x }}")
        run(shell, "%balsam_submit hello x=range(3) --name scan-1 --tag k=v")
        until(lambda: site.engine.count(Query()) == {"JOB_FINISHED": 3})
        assert "asked for allocation 1: 1 node, 5 min, because" in repr(run(shell, "s = %balsam_service status\ns"))
        assert "Stop it first" in refused(shell, capsys, "%balsam_service start --max-nodes 1")
    finally:
        stopped = run(shell, "s = %balsam_service stop --revoke\ns")
    assert not stopped.running and stopped.status.allocations == ()
    assert "min_nodes=2 is more than max_nodes=1" in refused(shell, capsys, "%balsam_service start --min-nodes 2")


def test_allocate(shell: Shell, site: Site, capsys: Capture) -> None:
    line = "-n 1 -t 2.5 -q local -A proj -j mpi --tag k=v --wf-filter scan"
    given = run(shell, f"a = %balsam_allocate {line}\na")
    assert (given.project, given.wall_time_min, given.job_mode, given.wf_filter) == ("proj", 2.5, "mpi", "scan")
    assert given.filter_tags == {"k": "v"} and not given.by_service
    assert "write MODE:NODES" in refused(shell, capsys, "%balsam_allocate -p mpi")
    assert "The partitions must have 1 node" in refused(shell, capsys, "%balsam_allocate -n 1 -p mpi:1 -p serial:2")


def test_kill_several_at_once(shell: Shell, exctr: BalsamExecutor, capsys: Capture) -> None:
    run(shell, "%%balsam_app nap\nsleep {{ s }}")
    first, second = (exctr.submit(app_name="nap", app_args={"s": 60}) for _ in range(2))
    assert "no ensemble, task or work directory 'nothing'" in refused(shell, capsys, f"%balsam_kill {first.id} nothing")
    assert first.poll() or first.state == "WAITING"
    said = repr(run(shell, f"k = %balsam_kill {first.id} {second.id} --now\nk"))
    assert said == f"task {first.id}: 1 task killed.\ntask {second.id}: 1 task killed."


def test_submit_passes_resources_on(shell: Shell, site: Site, capsys: Capture) -> None:
    run(shell, "%%balsam_app hello\necho {{ x }}")
    run(shell, "%balsam_submit hello x=[1, 2] --name one --num-procs 1 --num-nodes 1 --procs-per-node 1")
    assert site.engine.jobs(Query(ensemble="one", limit=1))[0].resources.ranks_per_node == 1
    run(shell, "%balsam_submit hello x=[1] --name two --threads-per-rank 2 --wall-time-min 3 --max-retries 4")
    asked = site.engine.jobs(Query(ensemble="two"))[0].resources
    assert (asked.threads_per_rank, asked.wall_time_min) == (2, 3)
    assert "max_retries" in refused(shell, capsys, "%balsam_submit hello x=[1] --max-retries -1")
    line = "%balsam_submit hello x=[1, 2] --num-procs 3 --num-nodes 2 --name two"
    assert "num_procs must be num_nodes × procs_per_node" in refused(shell, capsys, line)
    assert "num_nodes must be a whole number" in refused(
        shell, capsys, "%balsam_submit hello x=1 --num-nodes 0 --name two"
    )


def test_partitions_are_read_as_balsam_writes_them() -> None:
    assert partition("mpi:2") == {"job_mode": "mpi", "num_nodes": 2, "filter_tags": {}}
    assert partition("serial:6:role=worker:a=b=c") == {
        "job_mode": "serial",
        "num_nodes": 6,
        "filter_tags": {"role": "worker", "a": "b=c"},
    }


@pytest.mark.parametrize("text", ["", "mpi", "mpi:", "mpi:0", "mpi:-1", "2:mpi", "mpi:2:", "mpi:2:k", "mpi:2:=v"])
def test_a_partition_that_cannot_be(text: str) -> None:
    with pytest.raises(BadInput):
        partition(text)


def test_a_partition_may_be_given_as_text(exctr: BalsamExecutor) -> None:
    with pytest.raises(BadInput, match="The partitions must have 1 node together"):
        exctr.submit_allocation("here", 1, 5, partitions=["mpi:2"])
