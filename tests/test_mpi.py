"""Command lines of MPI launchers, and the ranks that a real one starts."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from balsam_jupyter.engines.embedded import processes
from balsam_jupyter.engines.embedded.launcher.mpi import flavour, launch_line
from balsam_jupyter.errors import BadInput, SiteError

MPIEXEC = str(Path(sys.executable).parent / "mpiexec")

# Counts its ranks itself; given a word, it stays.
COUNT = """
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int words, char **word) {
    int rank, size, one = 1, sum = 0;
    MPI_Init(&words, &word);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    printf("rank %d of %d, %d counted, job %s\\n", rank, size, sum, getenv("BALSAM_JOB_ID"));
    fflush(stdout);
    if (words > 1) pause();
    MPI_Finalize();
    return 0;
}
"""


@pytest.fixture(scope="module")
def count(mpi_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program COUNT, compiled."""
    if not shutil.which("gcc"):
        pytest.skip("no C compiler; `make test` installs it where it can")
    folder = tmp_path_factory.mktemp("mpi")
    (folder / "count.c").write_text(COUNT)
    subprocess.run([mpi_bin / "mpicc", "count.c", "-o", "count"], cwd=folder, check=True)
    return str(folder / "count")


@pytest.fixture
def launch(mpi_bin: Path) -> Callable[..., list[str]]:
    """Launch lines of the MPI at hand."""
    path = str(mpi_bin / "mpiexec")
    return functools.partial(launch_line, flavour(path), path)


def line(kind: str, nodes: int, ranks: int, **given: object) -> str:
    words = launch_line(kind, kind, nodes=nodes, ranks_per_node=ranks, **{"root": False, **given})  # type: ignore[arg-type]
    return " ".join(words)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("mpich", "mpich -n 6 -ppn 2 -launcher fork -rmk user -bind-to none"),
        ("intelmpi", "intelmpi -n 6 -ppn 2 -bootstrap fork -rmk user -genv I_MPI_PIN 0"),
        ("openmpi", "openmpi -n 6 --host localhost:6 --map-by slot:OVERSUBSCRIBE --bind-to none"),
        (
            "srun",
            "srun -n 6 --nodes 3 --ntasks-per-node 2 --cpus-per-task 1 --cpu-bind none --kill-on-bad-exit --overlap",
        ),
        ("other", "other -n 6"),
    ],
)
def test_words_of_each_flavour(kind: str, words: str) -> None:
    assert line(kind, 3, 2) == words


def test_only_open_mpi_has_to_be_told_that_we_are_root() -> None:
    assert line("openmpi", 1, 2, root=True).endswith(" --allow-run-as-root")
    assert line("mpich", 1, 2, root=True) == line("mpich", 1, 2)


@pytest.mark.parametrize("per_rank, per_core, cores", [(1, 1, 1), (8, 1, 8), (8, 2, 4), (1, 2, 1)])
def test_srun_is_told_the_cores_of_a_rank(per_rank: int, per_core: int, cores: int) -> None:
    given = line("srun", 1, 2, threads_per_rank=per_rank, threads_per_core=per_core)
    assert f" --cpus-per-task {cores} " in given


@pytest.mark.parametrize(
    "params, words",
    [
        ({"constraint": "gpu"}, "--constraint gpu"),
        ({"C": "gpu"}, "-C gpu"),
        ({"-prepend-rank": ""}, "-prepend-rank"),
        ({"--exclusive=user": ""}, "--exclusive=user"),
        ({"genv": "NAME 'two words'"}, "--genv NAME two words"),
    ],
)
def test_launch_params_are_passed_on(params: dict[str, str], words: str) -> None:
    assert line("mpich", 1, 2, launch_params=params) == f"{line('mpich', 1, 2)} {words}"


def test_a_launch_param_takes_the_place_of_ours() -> None:
    assert line("mpich", 1, 2, launch_params={"bind-to": "core", "np": "3"}) == (
        "mpich -ppn 2 -launcher fork -rmk user --bind-to core --np 3"
    )
    assert "--cpu-bind none" not in line("srun", 1, 1, launch_params={"cpu-bind=cores": ""})
    assert "-genv I_MPI_PIN 0" in line("intelmpi", 1, 1, launch_params={"-genv": "A 1"})


def test_a_launch_param_with_an_open_quote_is_refused() -> None:
    with pytest.raises(BadInput, match="No closing quotation; quote values as for a shell"):
        line("mpich", 1, 2, launch_params={"x": "'"})


def test_flavours(tmp_path: Path) -> None:
    assert flavour(MPIEXEC) == "mpich"
    assert flavour("srun") == flavour("/opt/slurm/bin/srun") == "srun"
    for number, (says, kind) in enumerate(
        [
            ("mpiexec (OpenRTE) 4.1.4", "openmpi"),
            ("mpirun (Open MPI) 5.0.11", "openmpi"),
            ("Intel(R) MPI Library for Linux* OS, Version 2021.18.1", "intelmpi"),
            ("mpiexec version 1.4.0 (PALS)", "other"),
        ]
    ):
        program = tmp_path / str(number)
        program.write_text(f"#!/bin/sh\necho '{says}'\n")
        program.chmod(0o755)
        assert flavour(str(program)) == kind


def test_no_launcher_and_one_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"looked for mpiexec, mpirun, srun .* mpi_launcher in settings\.yml"):
        flavour("")
    with pytest.raises(SiteError, match=r"nothing-here does not run \(.*\): correct mpi_launcher in settings\.yml"):
        flavour(str(tmp_path / "nothing-here"))


def test_the_program_counts_its_ranks(launch, count):
    env = {**os.environ, "BALSAM_JOB_ID": "7"}
    run = [*launch(nodes=2, ranks_per_node=1), count]
    out = subprocess.run(run, env=env, capture_output=True, text=True, check=True, timeout=60).stdout
    assert sorted(out.splitlines()) == [f"rank {rank} of 2, 2 counted, job 7" for rank in (0, 1)]


def test_more_ranks_than_cores(launch, count):
    run = [*launch(nodes=2, ranks_per_node=4), count]
    out = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60).stdout
    assert sorted(text.split(",")[0] for text in out.splitlines()) == [f"rank {n} of 8" for n in range(8)]


def test_a_launch_param_that_the_launcher_takes_once(launch, count):
    run = [*launch(nodes=1, ranks_per_node=2, launch_params={"bind-to": "none"}), count]
    assert subprocess.run(run, capture_output=True, text=True, timeout=60).stdout.count(" of 2, 2 counted") == 2


def test_ranks_stay_on_the_cores_of_their_slot(launch):
    core = min(os.sched_getaffinity(0))
    taskset = shutil.which("taskset")
    assert taskset, "util-linux has it"
    show = [sys.executable, "-ISc", "import os; print(os.sched_getaffinity(0))"]
    run = [taskset, "-c", str(core), *launch(nodes=2, ranks_per_node=1), *show]
    assert subprocess.run(run, capture_output=True, text=True, timeout=60).stdout.splitlines() == [f"{{{core}}}"] * 2


def test_ranks_carry_the_mark_and_end_with_it(launch, count):
    mark: dict[str, object] = {"BALSAM_JOB_ID": 7, "BALSAM_SESSION": f"test-{os.getpid()}"}
    env = {**os.environ, **{name: str(value) for name, value in mark.items()}}
    run = [*launch(nodes=2, ranks_per_node=1), count, "stay"]
    with subprocess.Popen(run, env=env, stdout=subprocess.PIPE, text=True) as mpiexec:
        assert mpiexec.stdout is not None
        said = [mpiexec.stdout.readline(), mpiexec.stdout.readline()]
        assert sorted(text.split(",")[0] for text in said) == ["rank 0 of 2", "rank 1 of 2"]
        assert len(processes.find([mark])) >= 3  # mpiexec, perhaps a proxy, the ranks
        mpiexec.kill()
        processes.end([mark], 0)  # the ranks of Open MPI outlive it
    assert not processes.find([mark])
