"""Job mode serial at a site of two nodes: every task exactly once, whatever of its node workers is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from balsam_jupyter.engines.embedded import EmbeddedEngine

from .engine_site import allocate, wait_until
from .processes import children_of, launchers
from .test_faults import check_witness, ends, witness_sweep

TWO_NODES = "nodes: 2\ncores_per_node: 1\ngrace_period_s: 1\n"


def named(parents: list[int], word: bytes) -> list[int]:
    """Children of the processes whose command line holds the word."""
    found = []
    for pid in [child for parent in parents for child in children_of(parent)]:
        try:
            if word in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def parts(engine: EmbeddedEngine, allocation: int) -> dict[str, list[int]]:
    """The processes between a launcher and its slots."""
    launcher = launchers(allocation, engine.path)
    mpiexec = named(launcher, b"mpiexec")
    proxy = named(mpiexec, b"proxy")
    return {"mpiexec": mpiexec, "proxy": proxy, "worker": named(proxy or launcher, b"node.py")}


@pytest.mark.parametrize(
    "settings, victims",
    [
        (TWO_NODES, ["worker"] * 3),
        (TWO_NODES + "serial_via_mpi: true\n", ["mpiexec", "worker", "mpiexec", "proxy"]),
    ],
    ids=["spawned", "mpi"],
)
def test_node_workers_are_killed(engine, tmp_path, victims):
    tasks, step = 300, 300 // (len(victims) + 1)
    witness_sweep(engine, tmp_path / "witness", tasks, 0.01)
    allocation = allocate(engine, num_nodes=2).id
    killed: set[int] = set()
    for number, victim in enumerate(victims, 1):
        wait_until(engine, lambda number=number: ends(engine) >= number * step)
        wait_until(engine, lambda: len(parts(engine, allocation)["worker"]) == 2)
        pid = parts(engine, allocation)[victim][0]
        assert pid not in killed
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
    wait_until(engine, lambda: ends(engine) == tasks)
    assert set(check_witness(tmp_path / "witness", tasks).values()) == {1}
    assert len(launchers(allocation, engine.path)) == 1
