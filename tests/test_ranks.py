"""Python apps with several ranks, under a real mpiexec."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from balsam_jupyter.codec import decode, encode
from balsam_jupyter.engines.embedded.launcher import ranks
from balsam_jupyter.engines.embedded.launcher.mpi import flavour, launch_line

Ran = tuple[subprocess.CompletedProcess[str], "ranks.Outcome | None"]


@pytest.fixture
def run(mpi_bin: Path, tmp_path: Path) -> Callable[..., Ran]:
    """Run a function as an app with so many ranks; what mpiexec printed and what was left for the launcher."""

    def start(
        function: Callable[..., Any], number: int = 2, outputs: dict[str, Any] | None = None, **given: Any
    ) -> Ran:
        parts = {"functions": {"run": function}, "attributes": {}, "outputs": outputs or {}}
        task = tmp_path / "1.1.task"
        record: ranks.Record = ("Py", cloudpickle.dumps(parts), [], dict.fromkeys(outputs or {}))
        ranks.write_task(task, record, 7, encode(given), encode({"tags": {"a": "b"}, "data": {}}))
        folder = tmp_path / "job"
        folder.mkdir()
        mpiexec = str(mpi_bin / "mpiexec")
        command = launch_line(flavour(mpiexec), mpiexec, nodes=number, ranks_per_node=1)
        done = subprocess.run(
            [*command, sys.executable, ranks.__file__, str(task)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        outcome = ranks.read_outcome(task)
        assert list(tmp_path.glob("*.new")) == []
        ranks.remove_task(task)
        assert list(tmp_path.iterdir()) == [folder]
        return done, outcome

    return start


def test_the_value_is_that_of_rank_0(run):
    def each(self, x):
        import os

        names = os.environ
        rank = int(names.get("OMPI_COMM_WORLD_RANK") or names["PMI_RANK"])
        size = int(names.get("OMPI_COMM_WORLD_SIZE") or names["PMI_SIZE"])
        print(f"rank {rank} of {size} of job {self.job.id} {self.job.tags} in {self.job.workdir.name}")
        return [x, rank, size]

    done, outcome = run(each, x=5)
    assert done.returncode == 0, done.stderr
    assert all(f"rank {n} of 2 of job 7 {{'a': 'b'}} in job" in done.stdout for n in (0, 1))
    assert outcome is not None
    value, *rest = outcome
    assert decode(value) == [5, 0, 2] and rest == ["", None, ""]


@pytest.mark.parametrize("bad", [0, 1])
def test_a_rank_that_raises_fails_the_job_with_its_traceback(run, bad):
    def fails(self, bad):
        import os
        import time

        if int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"]) == bad:
            raise ValueError(f"bad luck of rank {bad}")
        while True:  # as if it waited for the other in a collective call
            time.sleep(60)

    done, outcome = run(fails, bad=bad)
    assert done.returncode == 1
    assert outcome is not None
    value, error, exception, _ = outcome
    assert value is None
    assert error.startswith("Traceback (most recent call last):\n")
    assert f"ValueError: bad luck of rank {bad}\n" in error
    assert "ranks.py" not in error.replace(__file__, "") and "worker.py" not in error
    assert error.endswith("(rank 1)\n") == (bad == 1)
    assert f"ValueError: bad luck of rank {bad}" in done.stderr
    raised = pickle.loads(exception)
    assert isinstance(raised, ValueError) and str(raised) == f"bad luck of rank {bad}"


def test_an_error_counts_more_than_a_value(run):
    def late(self):
        import os
        import time
        from pathlib import Path

        if os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")) == "1":
            while not list(Path("..").glob("*.value")):
                time.sleep(0.01)
            raise RuntimeError("after rank 0 was done")
        return 1

    done, outcome = run(late)
    assert done.returncode == 1
    assert outcome is not None and "RuntimeError: after rank 0 was done" in outcome[1]


def test_sys_exit_and_ranks_that_are_killed(run, tmp_path):
    def leaves(self):
        raise SystemExit(3)

    done, outcome = run(leaves)
    assert done.returncode == 3 and outcome == (None, "SystemExit: 3", None, "")
    (tmp_path / "job").rmdir()

    def killed(self):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    done, outcome = run(killed)
    assert done.returncode != 0 and outcome is None


def test_outputs_are_read_once_by_rank_0(run, tmp_path):
    def outputs(self):
        import os

        rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"]
        with open(f"{rank}.txt", "w") as file:
            file.write(rank)
        return {"of": int(rank)}

    def found(path):
        import os

        with open(path / "read", "a") as file:
            file.write("once ")
        return sorted(os.listdir(path))

    done, outcome = run(outputs, outputs={"names": found})
    assert done.returncode == 0, done.stderr
    assert outcome is not None
    value = decode(outcome[0])
    assert value["of"] == 0 and {"0.txt", "read"} <= set(value["names"])
    assert (tmp_path / "job" / "read").read_text() == "once "


def test_the_modules_of_the_launcher_are_not_in_the_way(run):
    def imports(self):
        import importlib.util

        return [name for name in ("slot", "pilot", "ranks", "node", "mpi") if importlib.util.find_spec(name)]

    done, outcome = run(imports)
    assert outcome is not None and decode(outcome[0]) == [], done.stderr


def test_rank_outside_of_mpi():
    names = {name: os.environ[name] for name in ranks.RANK_VARIABLES if name in os.environ}
    assert ranks.rank() == int(next(iter(names.values()), "0"))
