"""Jobs of several ranks in `mpi` mode, run by the machine's own MPI launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from balsam_jupyter.codec import decode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.errors import BadInput
from balsam_jupyter.models import AllocationRequest, JobCommon, Query, Resources
from tests.engine_site import finished, job, python_app, shell_app, submit, wait_until
from tests.processes import is_running, launchers

COUNT = """#include <mpi.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (argc > 1) sleep(600);
    int one = 1, sum = 0;
    MPI_Reduce(&one, &sum, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0) printf("ranks %d of %d\\n", sum, size);
    return MPI_Finalize();
}
"""
TWO_NODES = Resources(num_nodes=2)
pytestmark = pytest.mark.parametrize("settings", ["nodes: 2\ncores_per_node: 2\ngrace_period_s: 1\n"])


@pytest.fixture(scope="module")
def count(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that counts its ranks, and sleeps first if it is given a word."""
    folder = tmp_path_factory.mktemp("count")
    (folder / "count.c").write_text(COUNT)
    mpicc = Path(sys.executable).with_name("mpicc")
    subprocess.run([mpicc, "count.c", "-o", "count"], cwd=folder, check=True)
    return folder / "count"


def allocate(engine: EmbeddedEngine, job_mode: str = "mpi", nodes: int = 2) -> None:
    engine.allocate(AllocationRequest(nodes, 10, job_mode))


def several(common: JobCommon, asked: Resources = TWO_NODES) -> JobCommon:
    return JobCommon(common.app_id, resources=asked)


def test_a_program_counts_its_two_ranks_on_two_nodes(engine: EmbeddedEngine, count: Path) -> None:
    common = several(shell_app(engine, str(count), outputs={"ranks": r"ranks (\d+) of 2"}))
    (pair,) = submit(engine, common)
    (four,) = submit(engine, several(common, Resources(num_nodes=2, ranks_per_node=2)))
    allocate(engine)
    assert finished(engine, pair).state == "JOB_FINISHED", engine.output(pair)
    assert decode(job(engine, pair).value or "") == {"ranks": 2}
    finished(engine, four)
    assert engine.output(four).strip() == "ranks 4 of 4"


def test_lammps_runs_on_two_ranks(engine: EmbeddedEngine) -> None:
    lammps = Path(sys.executable).with_name("lmp")
    script = "units lj\nlattice fcc 0.8\nregion b block 0 4 0 4 0 4\ncreate_box 1 b\ncreate_atoms 1 box\nmass 1 1\n"
    script += "velocity all create {{ T }} 1\npair_style lj/cut 2.5\npair_coeff 1 1 1 1\nfix 1 all nve\nrun 50\n"
    common = shell_app(engine, f"{lammps} -in in.lj", "T", inputs={"in.lj": {"template": script}})
    (one,) = submit(engine, several(common), [{"T": 1.5}])
    allocate(engine)
    assert finished(engine, one).state == "JOB_FINISHED", engine.output(one)
    assert "2 by 1 by 1 MPI processor grid" in engine.output(one) or "1 by 1 by 2 MPI processor" in engine.output(one)


def test_a_kill_ends_all_ranks_and_the_next_job_starts(engine: EmbeddedEngine, count: Path) -> None:
    long = several(shell_app(engine, f"{count} sleep"))
    first, second = submit(engine, long, [{}, {}])
    allocate(engine)

    def ranks() -> list[psutil.Process]:
        return [one for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [""])[0] == str(count)]

    wait_until(engine, lambda: job(engine, first).state == "RUNNING" and len(ranks()) == 2)
    before = ranks()
    assert engine.update(Query(ids=(first,)), "USER_KILLED") == 1
    wait_until(engine, lambda: job(engine, first).state == "USER_KILLED")
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in before)
    wait_until(engine, lambda: job(engine, second).state == "RUNNING" and len(ranks()) == 2)
    assert engine.revoke(1)
    assert not ranks() and job(engine, second).state == "RESTART_READY"


def test_a_rank_that_fails_fails_the_job(engine: EmbeddedEngine) -> None:
    script = "echo rank $PMI_RANK; exit $PMI_RANK"
    (one,) = submit(engine, several(shell_app(engine, "sh rank.sh", inputs={"rank.sh": {"text": script}})))
    allocate(engine)
    ended = finished(engine, one)
    assert ended.state == "FAILED" and ended.return_code == 1 and "rank 1" in engine.output(one)


def test_a_python_app_runs_on_every_rank_and_rank_0_gives_the_value(engine: EmbeddedEngine) -> None:
    def run(self, x):
        import os

        print(f"rank {os.environ['PMI_RANK']}")
        if x < 0 and os.environ["PMI_RANK"] == "1":
            raise ValueError(f"{x} is negative")
        return {"rank": int(os.environ["PMI_RANK"]), "size": int(os.environ["PMI_SIZE"]), "x": x}

    good, bad = submit(engine, several(python_app(engine, run)), [{"x": 5}, {"x": -1}])
    allocate(engine)
    ended = finished(engine, good)
    assert decode(ended.value or "") == {"rank": 0, "size": 2, "x": 5}
    said = engine.output(good)  # a line of one rank may stand inside another's
    assert said.count("rank ") == 2 and "0" in said and "1" in said
    failed = finished(engine, bad)
    assert failed.state == "FAILED" and "ValueError: -1 is negative" in failed.error
    assert isinstance(decode(failed.exception or b""), ValueError)


def test_a_pipeline_has_ranks_in_its_first_program_as_in_balsam(engine: EmbeddedEngine, count: Path) -> None:
    (one,) = submit(engine, several(shell_app(engine, f"{count} | tr a-z A-Z", preamble=["export LC_ALL=C"])))
    allocate(engine)
    finished(engine, one)
    assert engine.output(one).strip() == "RANKS 2 OF 2"


def test_serial_mode_never_takes_jobs_of_several_ranks(engine: EmbeddedEngine, count: Path) -> None:
    common = shell_app(engine, str(count))
    (wide,) = submit(engine, several(common, Resources(ranks_per_node=2)))
    allocate(engine, "serial")
    (narrow,) = submit(engine, common)
    finished(engine, narrow)
    assert job(engine, wide).state == "PREPROCESSED"
    engine.revoke(1)
    allocate(engine)
    finished(engine, wide)
    assert engine.output(wide).strip() == "ranks 2 of 2"


def test_launch_params_that_cannot_be_split_are_refused(engine: EmbeddedEngine) -> None:
    asked = Resources(num_nodes=2, launch_params={"env": "a 'b"})
    with pytest.raises(BadInput, match="quote"):
        submit(engine, several(shell_app(engine, "true"), asked))
    assert engine.count(Query()) == {}


def test_a_python_app_of_several_ranks_survives_its_launcher(engine: EmbeddedEngine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def run(self, gate):
        import os
        import time

        while not os.path.exists(gate):
            time.sleep(0.02)
        return int(os.environ["PMI_SIZE"])

    (one,) = submit(engine, several(python_app(engine, run)), [{"gate": str(gate)}])
    allocate(engine)
    wait_until(engine, lambda: job(engine, one).state == "RUNNING")
    for pid in launchers(1, engine.path):
        os.kill(pid, signal.SIGKILL)
    gate.touch()
    ended = finished(engine, one)
    assert (ended.state, ended.attempts, decode(ended.value or "")) == ("JOB_FINISHED", 1, 2)


def test_ranks_that_outlive_their_mpi_launcher_are_ended(engine: EmbeddedEngine, tmp_path: Path) -> None:
    # As Open MPI does: the launcher of the ranks dies by a signal, and leaves them behind.
    launcher = tmp_path / "mpiexec"
    launcher.write_text("#!/bin/sh\n[ $1 = --version ] && exit\nsleep 600 & echo $! > rank; kill -9 $$\n")
    launcher.chmod(0o755)
    settings = Path(engine.path, "settings.yml")
    settings.write_text(settings.read_text() + f"mpi_launcher: {launcher}\n")
    (one,) = submit(engine, several(shell_app(engine, "true")))
    allocate(engine)
    assert finished(engine, one).return_code == -signal.SIGKILL
    assert not is_running(int(engine.read_file(one, "rank")))
