"""Node workers of job mode serial: real processes, really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from balsam_jupyter.engines.embedded.doorbell import readable
from balsam_jupyter.engines.embedded.launcher import node
from balsam_jupyter.engines.embedded.launcher.mpi import flavour, launch_line
from balsam_jupyter.engines.embedded.launcher.nodes import HOPELESS, NodeWorkers, RemoteProcess
from balsam_jupyter.status import explain

from .engine_site import allocate, job, shell_app, submit, wait_until
from .processes import children_of, is_running

ROOT = Path(__file__).parents[1]
ENV = {"PATH": os.environ["PATH"]}

# What a task may do: leave its group and session, clear its environment, and let its parent end.
LEAVES = """
import subprocess, sys
subprocess.run(["sh", "-c", "env -i setsid sleep 300 & echo $!"])
print("its parent has ended", flush=True)
sys.stdin.read()
"""


def until(workers: NodeWorkers, holds: Callable[[], object], timeout: float = 30.0) -> None:
    """Serve until something holds."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        if readable(min(0.02, workers.patience()), workers.fileno()) or not workers.patience():
            workers.serve()


def echoes(process: RemoteProcess, text: bytes) -> bool:
    """Whether a cat at the other end of the pipes lives."""
    process.stdin.write(text)
    assert readable(30, process.stdout.fileno()), "nothing comes back"
    return process.stdout.read(len(text)) == text


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Iterator[Callable[..., NodeWorkers]]:
    """Make node workers that end with the test, and what they have started with them."""
    made: list[NodeWorkers] = []

    def make(*args: object, **given: object) -> NodeWorkers:
        made.append(NodeWorkers(*args, **given))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for workers in made:
        workers.close()
        assert workers.pids() == [] or not any(map(is_running, workers.pids()))


@pytest.fixture
def mpi(mpi_bin: Path) -> list[str]:
    """The launch line of two node workers, with the MPI at hand."""
    mpiexec = str(mpi_bin / "mpiexec")
    return launch_line(flavour(mpiexec), mpiexec, nodes=2, ranks_per_node=1)


def cats(workers: NodeWorkers) -> list[RemoteProcess]:
    """A cat on each of two nodes."""
    started = [workers.start(number, ["cat"], ENV) for number in (0, 1)]
    until(workers, lambda: all(each.pid for each in started))
    assert all(echoes(each, b"hello") for each in started)
    return started


def end(process: RemoteProcess) -> int | None:
    process.stdin.close()
    assert process.stdout.read() == b""
    code = process.wait()
    process.stdout.close()
    return code


def test_slot_processes_are_children_of_their_node_worker(keep):
    workers = keep(2, ENV)
    started = cats(workers)
    assert [children_of(pid) for pid in workers.pids()] == [[each.pid] for each in started]
    assert [os.getsid(each.pid) for each in started] == [each.pid for each in started]
    assert [end(each) for each in started] == [0, 0]


def test_a_node_worker_is_killed(keep):
    workers = keep(2, ENV)
    started = cats(workers)
    first, second = workers.pids()
    os.kill(first, signal.SIGKILL)
    until(workers, lambda: started[0].lost)
    later = workers.start(0, ["cat"], ENV)
    until(workers, lambda: later.pid)
    assert started[0].lost and not started[1].lost
    assert all(echoes(each, b"still here") for each in [*started, later])
    assert workers.pids()[0] != first and workers.pids()[1] == second
    assert children_of(workers.pids()[0]) == [later.pid]
    assert [end(each) for each in [*started, later]] == [None, 0, 0]


def under_mpi(workers: NodeWorkers) -> tuple[int, int, list[int]]:
    """Process ids of mpiexec, its proxy (with Open MPI it has none and is it itself) and the node workers."""
    (mpiexec,) = workers.pids()
    below = children_of(mpiexec)
    proxy = next((pid for pid in below if b"proxy" in Path(f"/proc/{pid}/cmdline").read_bytes()), mpiexec)
    return mpiexec, proxy, children_of(proxy)


def test_a_node_worker_is_killed_before_it_has_said_a_word(keep):
    workers = keep(1, ENV, "true {{ worker }}; exec sleep 1")
    (first,) = workers.pids()
    os.kill(first, signal.SIGKILL)
    until(workers, lambda: workers.pids() not in ([first], []))


@pytest.mark.parametrize("victim", ["mpiexec", "worker"])
def test_mpi_launch_is_killed(keep, mpi, victim):
    workers = keep(2, os.environ, mpi=mpi)
    started = cats(workers)
    mpiexec, proxy, ranks = under_mpi(workers)
    assert sorted(children_of(ranks[0]) + children_of(ranks[1])) == sorted(each.pid for each in started)
    os.kill(mpiexec if victim == "mpiexec" else ranks[1], signal.SIGKILL)
    until(workers, lambda: all(each.lost for each in started))
    later = [workers.start(number, ["cat"], ENV) for number in (0, 1)]
    until(workers, lambda: all(each.pid for each in later))
    assert all(echoes(each, b"still here") for each in started + later)
    until(workers, lambda: not any(map(is_running, [mpiexec, proxy, *ranks])))
    assert len(under_mpi(workers)[2]) == 2
    assert [end(each) for each in started + later] == [None, None, 0, 0]


def test_the_proxy_of_mpiexec_is_killed(keep):
    """Its ranks keep the proxy's connection open: mpiexec sees nothing, and the node workers go on."""
    mpi = launch_line("mpich", str(Path(sys.executable).parent / "mpiexec"), nodes=2, ranks_per_node=1)
    workers = keep(2, os.environ, mpi=mpi)
    started = cats(workers)
    mpiexec, proxy, ranks = under_mpi(workers)
    os.kill(proxy, signal.SIGKILL)
    until(workers, lambda: not is_running(proxy))
    later = [workers.start(number, ["cat"], ENV) for number in (0, 1)]
    until(workers, lambda: all(each.pid for each in later))
    assert all(echoes(each, b"still here") for each in started + later)
    os.kill(ranks[0], signal.SIGKILL)
    until(workers, lambda: later[0].lost and later[1].lost)
    again = workers.start(0, ["cat"], ENV)
    until(workers, lambda: again.pid)
    until(workers, lambda: not any(map(is_running, [mpiexec, *ranks])))
    assert len(under_mpi(workers)[2]) == 2
    assert all(echoes(each, b"still here") for each in [*started, *later, again])
    assert [end(each) for each in [*started, *later, again]] == [None] * 4 + [0]


def test_a_node_worker_dies_with_a_request_on_its_way(keep):
    """Whether the process began or not shows at its pipes, and nobody starts it a second time."""
    workers = keep(1, ENV)
    until(workers, lambda: any(link.launch for link in workers.links.values()))
    os.kill(workers.pids()[0], signal.SIGSTOP)
    process = workers.start(0, ["cat"], ENV)
    os.kill(workers.pids()[0], signal.SIGKILL)
    assert process.stdout.read() == b""
    until(workers, lambda: process.lost)
    assert process.pid is None and process.wait() is None


def test_a_killed_slot_process_and_one_whose_node_worker_was_killed(keep):
    workers = keep(2, ENV)
    started = cats(workers)
    os.kill(workers.pids()[0], signal.SIGKILL)
    until(workers, lambda: started[0].lost)
    for each in started:
        each.kill()
    assert [end(each) for each in started] == [None, -signal.SIGKILL]
    for each in started:
        each.kill()  # again: nothing happens


def test_a_stopped_node_worker_blocks_nobody(keep):
    workers = keep(2, ENV)
    started = cats(workers)
    stopped = workers.pids()[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        many = []
        while not workers.waiting[0]:  # its socket is full
            many.append(workers.start(0, ["true"], ENV))
        other = workers.start(1, ["cat"], ENV)
        until(workers, lambda: other.pid)
        assert echoes(other, b"here")
        started[0].stdin.close()
        assert started[0].stdout.read() == b"" and started[0].wait(0.01) is None
    finally:
        os.kill(stopped, signal.SIGCONT)
    until(workers, lambda: all(each.returncode == 0 for each in many))
    assert len(many) > 10 and end(other) == 0
    for each in many:
        each.stdin.close()
        each.stdout.close()


def test_a_request_nobody_has_taken_is_forgotten(keep):
    workers = keep(1, ENV, "exit 1 # {{ worker }}")
    process = workers.start(0, ["cat"], ENV)
    assert process.wait() is None and process.lost
    assert process.stdout.read() == b""
    until(workers, lambda: not workers.pids())
    assert 0.0 < workers.patience() <= 2.0


def test_a_program_that_is_not_there(keep, capfd):
    workers = keep(1, ENV)
    process = workers.start(0, ["/no/such/program"], ENV)
    until(workers, lambda: process.returncode is not None)
    assert process.returncode == 127 and process.pid is None
    assert "/no/such/program could not be started" in capfd.readouterr().err


def test_a_large_environment(keep):
    workers = keep(1, ENV)
    env = {**ENV, **{f"LARGE_{number}": "x" * 10_000 for number in range(50)}, "ODD": "\udce4"}
    process = workers.start(0, ["sh", "-c", 'env | wc -c; echo "$ODD"'], env)
    until(workers, lambda: process.returncode is not None)
    size, odd = process.stdout.read().split()
    assert int(size) > 500_000 and odd == b"\xe4"


def test_worker_launch(keep):
    workers = keep(2, ENV, "NUMBER={{ node }} exec {{ worker }}")
    cats(workers)
    environments = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in workers.pids()]
    assert [b"NUMBER=%d" % number in each for number, each in enumerate(environments)] == [True, True]


@pytest.mark.parametrize("command", ["exit 3 # {{ worker }}", "{{ worker }} &", "no-such-command {{ worker }}"])
def test_a_command_that_brings_up_no_worker_is_given_up(keep, command):
    workers = keep(1, ENV, command)
    until(workers, lambda: workers.hopeless)


def test_workers_that_are_killed_are_not_given_up(keep):
    workers = keep(1, ENV)
    for _ in range(HOPELESS + 1):
        cat = workers.start(0, ["cat"], ENV)
        until(workers, lambda cat=cat: cat.pid)
        os.kill(workers.pids()[0], signal.SIGKILL)
        until(workers, lambda cat=cat: cat.lost)
        end(cat)
    assert not workers.hopeless


@pytest.mark.parametrize("settings", ["cores_per_node: 1\nworker_launch: 'exit 3 # {{ worker }}'\n"])
def test_an_allocation_whose_workers_do_not_start_ends_and_says_so(engine):
    (number,) = submit(engine, shell_app(engine, "true"))
    allocate(engine)
    wait_until(engine, lambda: engine.allocations()[0].state == "finished")
    (reason,) = engine.allocations()[0].status_info.values()
    assert reason.startswith("its node workers do not start: see log/qlaunch1.log; correct worker_launch")
    assert job(engine, number).state == "PREPROCESSED"
    assert reason in explain(engine).why and explain(engine).stuck


def test_what_a_task_leaves_behind_belongs_to_its_slot_process(keep):
    workers = keep(1, ENV)
    remote = workers.start(0, [sys.executable, "-ISc", LEAVES], ENV)
    until(workers, lambda: remote.pid)
    local = node.start([sys.executable, "-ISc", LEAVES], ENV, subprocess.PIPE, subprocess.PIPE)
    for each in (remote, local):
        left = int(each.stdout.readline())
        try:
            assert each.stdout.readline() == b"its parent has ended\n"
            assert children_of(each.pid) == [left]
        finally:
            os.kill(left, signal.SIGKILL)
            each.stdin.close()
            each.wait()
            each.stdout.close()


def test_a_launcher_that_is_killed():
    """Its node workers end, slot processes see the end of their stdin."""
    script = """
import select, sys
from balsam_jupyter.engines.embedded.launcher.nodes import HOPELESS, NodeWorkers
workers = NodeWorkers(2, {})
process = workers.start(1, ["/bin/cat"], {})
while not (process.pid and all(link.launch for link in workers.links.values()) and len(workers.links) == 2):
    select.select([workers], [], [], workers.patience())
    workers.serve()
print(process.pid, *workers.pids(), flush=True)
input()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    master = subprocess.Popen(
        [sys.executable, "-c", script], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with master:
        assert master.stdout is not None
        pids = [int(word) for word in master.stdout.readline().split()]
        assert len(pids) == 3 and all(map(is_running, pids))
        waits = [os.pidfd_open(pid) for pid in pids]
        master.kill()
    for wait in waits:
        assert readable(30, wait)
        os.close(wait)
