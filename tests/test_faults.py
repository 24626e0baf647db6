"""Real processes killed with SIGKILL while real tasks run: nothing lost, nothing twice at a time."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest

from balsam_jupyter.codec import decode, encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.models import AllocationRequest, AppRecord, JobCommon, JobSpec, Parameter, Query

from .engine_site import wait_until
from .processes import children_of, is_running, launchers, slot_processes
from .witness import check_witness, ends, is_free, probe, witness_sweep


@pytest.mark.parametrize("tasks, kills, seed", [(400, 7, 1)])
def test_launcher_killed_at_random_moments_reruns_nothing(engine, tmp_path, tasks, kills, seed):
    chance = random.Random(seed)
    witness = tmp_path / "witness"
    witness_sweep(engine, witness, tasks, 0.01)
    allocation = engine.allocate(AllocationRequest(1, 10, "serial"))
    for target in sorted(chance.sample(range(10, tasks - 30), kills)):
        wait_until(engine, lambda target=target: ends(engine) >= target and launchers(allocation.id, engine.path))
        for pid in launchers(allocation.id, engine.path):
            os.kill(pid, signal.SIGKILL)
    wait_until(engine, lambda: ends(engine) == tasks)
    assert engine.count(Query()) == {"JOB_FINISHED": tasks}
    starts = check_witness(witness, tasks)
    assert set(starts.values()) == {1}, "a task ran again although its spawner lived"
    assert all(job.attempts == 1 for job in engine.jobs(Query()))
    log = (Path(engine.path) / "log" / f"qlaunch{allocation.id}.log").read_text()
    assert log.count("the launcher died (exit code 137)") == kills


def test_spawner_killed_reruns_only_its_task(engine, tmp_path):
    witness = tmp_path / "witness"
    witness_sweep(engine, witness, 20, 0.2)
    engine.allocate(AllocationRequest(1, 10, "serial"))
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING", 0) == 2)
    spawner = slot_processes(engine.path, "spawner")[0]
    task = children_of(spawner)
    os.kill(spawner, signal.SIGKILL)
    wait_until(engine, lambda: ends(engine) == 20)
    assert engine.count(Query()) == {"JOB_FINISHED": 20}
    starts = check_witness(witness, 20)
    assert sorted(starts.values()) == [1] * 19 + [2]
    assert task and not any(is_running(pid) for pid in task)
    assert sorted(job.attempts for job in engine.jobs(Query())) == [1] * 19 + [2]


def test_everything_killed_at_once(engine, tmp_path):
    """Script, launcher and spawners die together: the next opener of the site says so, and a new allocation goes on."""
    witness = tmp_path / "witness"
    witness_sweep(engine, witness, 8, 0.3)
    allocation = engine.allocate(AllocationRequest(1, 10, "serial"))
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING", 0) == 2)
    victims = [
        engine.allocations()[0].scheduler_id,
        *launchers(allocation.id, engine.path),
        *slot_processes(engine.path, "spawner"),
    ]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    other = EmbeddedEngine.open("here")
    wait_until(other, lambda: other.allocations()[0].state == "finished")
    assert "died" in other.allocations()[0].status_info["reason"]
    wait_until(other, lambda: "RUNNING" not in other.count(Query()))
    assert other.count(Query())["RESTART_READY"] == 2
    other.allocate(AllocationRequest(1, 10, "serial"))
    wait_until(other, lambda: ends(other) == 8)
    check_witness(witness, 8)
    other.close()


def test_script_killed_but_launcher_lives(engine, tmp_path):
    witness_sweep(engine, tmp_path / "witness", 10, 0.1)
    engine.allocate(AllocationRequest(1, 10, "serial"))
    wait_until(engine, lambda: "RUNNING" in engine.count(Query()))
    os.kill(engine.allocations()[0].scheduler_id, signal.SIGKILL)
    wait_until(engine, lambda: ends(engine) == 10)
    assert engine.allocations()[0].state == "running"


def test_a_task_that_dies_with_its_spawner_three_times_fails(engine):
    """The task kills its own spawner each time; the rest of the sweep finishes."""
    app = AppRecord(
        "Bad", "shell", "1", {"n": Parameter()}, command_template="if [ {{ n }} = 3 ]; then kill -9 $PPID; sleep 60; fi"
    )
    common = JobCommon(engine.register(app))
    engine.submit(JobSpec(common, encode({"n": n}), f"bad/{n}") for n in range(6))
    engine.allocate(AllocationRequest(1, 10, "mpi"))
    wait_until(engine, lambda: ends(engine) == 6)
    assert engine.count(Query()) == {"JOB_FINISHED": 5, "FAILED": 1}
    failed = engine.jobs(Query(states=("FAILED",)))[0]
    assert decode(failed.parameters) == {"n": 3}
    assert failed.attempts == 3
    assert "launcher died 3 times" in failed.error


def test_a_launcher_stopped_inside_a_transaction_is_ended_and_others_go_on(engine, tmp_path):
    tasks = 200  # there is work, and so there are transactions, for as long as it is tried
    witness_sweep(engine, tmp_path / "witness", tasks, 0.02)
    allocation = engine.allocate(AllocationRequest(1, 10, "serial"))
    wait_until(engine, lambda: ends(engine) >= 4)
    # Stop it at a moment when it holds the store: try until a write of ours cannot begin.
    [pid] = launchers(allocation.id, engine.path)
    store = probe(engine)
    for _ in range(20_000):
        os.kill(pid, signal.SIGSTOP)
        if not is_free(store):
            break
        os.kill(pid, signal.SIGCONT)
    else:
        pytest.fail("the launcher was never caught inside a transaction")
    store.close()
    wait_until(engine, lambda: not is_running(pid) or engine.update(Query(ids=(0,)), "USER_KILLED") == 0)
    wait_until(engine, lambda: ends(engine) == tasks, 120)
    assert set(check_witness(tmp_path / "witness", tasks).values()) == {1}


def gone(engine: EmbeddedEngine, allocation: int) -> bool:
    """Whether an allocation whose script was killed is over; a launcher that had not begun when it died is killed."""
    for pid in launchers(allocation, engine.path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return engine.allocations()[allocation - 1].state == "finished"


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(6))
def test_soak_launchers_spawners_and_scripts_killed(engine, tmp_path, seed):
    """2,000 tasks; every few dozen something is killed. Only a spawner's death may run its task again."""
    chance = random.Random(seed)
    witness, tasks = tmp_path / "witness", 2000
    witness_sweep(engine, witness, tasks, 0.005)
    engine.allocate(AllocationRequest(1, 60, "serial"))
    spawners_killed = 0
    for target in sorted(chance.sample(range(20, tasks - 100), 25)):
        wait_until(engine, lambda target=target: ends(engine) >= target, 120)
        live = [a for a in engine.allocations() if a.state == "running"]
        if not live:
            live = [engine.allocate(AllocationRequest(1, 60, "serial"))]
        victim = chance.choice(["launcher", "launcher", "spawner", "script and launcher"])
        pids = launchers(live[0].id, engine.path) if victim != "spawner" else slot_processes(engine.path, "spawner")[:1]
        if victim == "script and launcher":
            pids = [live[0].scheduler_id, *pids]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                spawners_killed += victim == "spawner"
        if victim == "script and launcher":
            wait_until(engine, lambda live=live: gone(engine, live[0].id))
            engine.allocate(AllocationRequest(1, 60, "serial"))
    wait_until(engine, lambda: ends(engine) == tasks, 300)
    assert engine.count(Query()) == {"JOB_FINISHED": tasks}
    starts = check_witness(witness, tasks)
    again = sum(starts.values()) - tasks
    print(f"seed {seed}: {spawners_killed} spawners killed, {again} second starts")
    assert again <= spawners_killed
