"""The service: a real process that asks for real allocations, and what it survives."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from balsam_jupyter import Site
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.engines.embedded.launcher.placement import footprint
from balsam_jupyter.engines.embedded.service import takes
from balsam_jupyter.engines.embedded.site import Settings
from balsam_jupyter.engines.embedded.store import demand
from balsam_jupyter.engines.embedded.store.demand import Demand
from balsam_jupyter.errors import BadInput, SiteError
from balsam_jupyter.models import AllocationRequest, JobCommon, Query, Resources, ServiceSettings

from .engine_site import allocate, ended, finished, job, shell_app, submit, wait_until
from .processes import is_running, marked

MODULE = "balsam_jupyter.engines.embedded.service"
TWO_NODES = "nodes: 2\ncores_per_node: 1\ngrace_period_s: 1\nidle_time_s: 1\n"
ONE_NODE = "cores_per_node: 2\ngrace_period_s: 1\nidle_time_s: 1\n"
SERIAL = ServiceSettings(1, 1, 5, "serial", period=0.05)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def settings() -> str:
    return ONE_NODE


@pytest.fixture
def served(engine: EmbeddedEngine) -> Iterator[EmbeddedEngine]:
    """An engine whose service is stopped after the test."""
    yield engine
    engine.service.stop()


def log_of(engine: EmbeddedEngine) -> list[str]:
    """What the service said, without the time."""
    return [line[20:] for line in (engine.path / "log" / "service.log").read_text().splitlines()]


def says(engine: EmbeddedEngine, text: str) -> None:
    wait_until(engine, lambda: any(text in line for line in log_of(engine)))


def service_processes(engine: EmbeddedEngine) -> list[int]:
    return [pid for pid in marked(MODULE) if str(engine.path) in psutil.Process(pid).cmdline() and is_running(pid)]


def test_work_gets_an_allocation_which_ends_when_it_is_idle(served: EmbeddedEngine) -> None:
    status = served.service.start(SERIAL)
    assert status.running and status.settings == SERIAL and status.pid in service_processes(served)
    assert served.allocations() == []
    one, two, three = submit(served, shell_app(served, "echo {{ x }}", "x"), [{"x": n} for n in range(3)])
    assert [finished(served, number).state for number in (one, two, three)] == ["JOB_FINISHED"] * 3
    wait_until(served, lambda: [one.state for one in served.allocations()] == ["finished"])
    says(served, "allocation 1 has ended: nothing to run for 1 s")
    assert "asked for allocation 1: 1 node, 5 min, because 3 jobs wait (2 nodes' worth)" in log_of(served)
    assert served.allocations()[0].request.by_service


def test_it_is_there_once_for_a_site_whoever_starts_it(served: EmbeddedEngine) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: served.service.start(SERIAL), range(4)))
    assert len({status.pid for status in found}) == 1
    assert service_processes(served) == [found[0].pid]
    again = served.service.start(SERIAL)
    assert again.pid == found[0].pid and again.since == found[0].since
    with pytest.raises(BadInput, match=r"runs with other settings \(wall_time_min=5, not 7\). Stop it first"):
        served.service.start(ServiceSettings(1, 1, 7, "serial", period=0.05))
    replaced = served.service.start(ServiceSettings(1, 1, 7, "serial", period=0.05), replace=True)
    assert replaced.pid != found[0].pid and service_processes(served) == [replaced.pid]


def test_killed_it_loses_nothing_and_asks_for_nothing_twice(served: EmbeddedEngine) -> None:
    first = served.service.start(SERIAL)
    common = shell_app(served, "sleep {{ s }}", "s")
    submit(served, common, [{"s": 60}, {"s": 60}, {"s": 60}])
    wait_until(served, lambda: served.count(Query()).get("RUNNING") == 2)
    assert first.pid is not None
    psutil.Process(first.pid).send_signal(signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first.pid)] if psutil.pid_exists(first.pid) else [])
    wait_until(served, lambda: not served.service.status().running)
    status = served.service.status()
    assert status.died and status.allocations == (1,)
    again = served.service.start(SERIAL)
    assert again.pid != first.pid
    wait_until(served, lambda: sum("runs: process" in line for line in log_of(served)) == 2)
    says(served, "asked for nothing more: 1 of max_nodes=1 nodes are asked for already")
    assert len(served.allocations()) == 1 and served.count(Query())["RUNNING"] == 2


def test_stop_leaves_the_allocations_and_revoke_ends_them(served: EmbeddedEngine) -> None:
    assert served.service.stop() is False
    served.service.start(SERIAL)
    submit(served, shell_app(served, "sleep 60"))
    wait_until(served, lambda: served.count(Query()).get("RUNNING") == 1)
    assert served.service.stop() is True
    status = served.service.status()
    assert (status.running, status.died, status.allocations) == (False, False, (1,))
    assert served.allocations()[0].state == "running" and not service_processes(served)
    assert any("the service ends: it received SIGTERM; its allocations go on: 1" in line for line in log_of(served))
    served.service.stop(revoke=True)
    assert served.service.status().allocations == () and served.count(Query()) == {"RESTART_READY": 1}


def test_a_service_that_hears_nothing_is_ended(served: EmbeddedEngine) -> None:
    """Stopped (SIGSTOP), it gets SIGTERM and is let go on for it: nothing is left of it."""
    pid = served.service.start(SERIAL).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(served.service.stop)
        os.kill(pid, signal.SIGCONT)
        assert stopped.result() is True
    assert not is_running(pid)


@pytest.mark.parametrize("settings", [TWO_NODES])
def test_nodes_in_total_stay_below_the_maximum(served: EmbeddedEngine) -> None:
    served.service.start(ServiceSettings(1, 2, 5, "serial", max_queued=5, period=0.05))
    common = shell_app(served, "sleep {{ s }}", "s")
    submit(served, common, [{"s": 30}])
    wait_until(served, lambda: served.count(Query()).get("RUNNING") == 1)
    submit(served, common, [{"s": 30} for _ in range(40)])
    wait_until(served, lambda: served.count(Query()).get("RUNNING") == 2)
    says(served, "asked for nothing more: 2 of max_nodes=2 nodes are asked for already")
    assert [one.request.num_nodes for one in served.allocations()] == [1, 1]
    asked = [line for line in log_of(served) if line.startswith("asked for allocation")]
    assert len(asked) == 2
    assert re.match(r"asked for allocation 2: 1 node, 5 min, because (\d+) jobs wait \(\1 nodes' worth\)", asked[1])
    served.service.stop(revoke=True)


@pytest.mark.parametrize("settings", [TWO_NODES])
def test_it_queues_behind_others_no_more_than_it_may(served: EmbeddedEngine) -> None:
    allocate(served, num_nodes=2, filter_tags={"for": "others"})
    common = shell_app(served, "sleep {{ s }}", "s")
    submit(served, JobCommon(common.app_id, tags={"for": "others"}), [{"s": 60}])
    served.service.start(ServiceSettings(1, 2, 5, "serial", max_queued=1, period=0.05))
    submit(served, common, [{"s": 0.01}])
    says(served, "asked for allocation 2: 1 node")
    submit(served, common, [{"s": 0.01} for _ in range(9)])
    says(served, "asked for nothing more: 1 of max_queued=1 allocations are queued, and 9 jobs wait")
    assert [one.state for one in served.allocations()] == ["running", "queued"]
    served.update(Query(tags={"for": "others"}), "USER_KILLED")
    served.revoke(1)
    wait_until(served, lambda: ended(served) == 11)


def test_work_that_is_not_for_it_is_left_to_others(served: EmbeddedEngine) -> None:
    common = shell_app(served, "echo {{ x }}", "x")
    tagged = JobCommon(common.app_id, tags={"role": "worker", "workflow": "scan-7"})
    other = JobCommon(common.app_id, tags={"role": "leader", "workflow": "scan-7"})
    long = JobCommon(common.app_id, tags={"role": "worker", "workflow": "scan-7"}, resources=Resources(wall_time_min=9))
    others = [number for each in (common, other, long) for number in submit(served, each, [{"x": 1}])]
    served.service.start(ServiceSettings(1, 1, 5, "serial", 1, {"role": "worker"}, "scan", period=0.05))
    says(served, "1 jobs are left to others: they want 9 min, and wall_time_min=5")
    assert served.allocations() == []
    (mine,) = submit(served, tagged, [{"x": 2}])
    assert finished(served, mine).state == "JOB_FINISHED"
    assert dict(served.allocations()[0].request.filter_tags) == {"role": "worker"}
    assert served.allocations()[0].request.wf_filter == "scan"
    assert [job(served, number).state for number in others[:2]] == ["PREPROCESSED"] * 2


def test_an_allocation_that_cannot_start_is_not_asked_for_again_at_once(served: EmbeddedEngine) -> None:
    served.service.start(SERIAL)
    (served.path / "job-template.sh").write_text("exit 1\n")
    submit(served, shell_app(served, "echo"))
    says(served, "allocation 1 was over before it had run anything; next try in 5 s")
    assert len(served.allocations()) == 1


def test_a_broken_template_is_told_and_tried_again(served: EmbeddedEngine) -> None:
    (served.path / "job-template.sh").write_text("{{ nothing_known }}\n")
    served.service.start(SERIAL)
    submit(served, shell_app(served, "echo"))
    says(served, "job-template.sh cannot be used")
    assert served.allocations() == [] and served.service.status().running


def test_it_outlives_the_login_it_was_started_from(served: EmbeddedEngine, home: Path) -> None:
    """All processes of the login's session get SIGHUP and then SIGKILL, as at a logout."""
    command = [sys.executable, "-m", "balsam_jupyter.cli", "service", "start", "--site", "here", "-j", "serial"]
    wait = "import subprocess, sys, time; subprocess.run(sys.argv[1:], check=True); print('up', flush=True)"
    wait += "; time.sleep(60)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    login = subprocess.Popen(
        [sys.executable, "-c", wait, *command, "--period", "0.05"],
        env=env, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert login.stdout is not None
    assert any(line == "up\n" for line in login.stdout)
    pid = served.service.status().pid
    assert pid is not None and os.getsid(pid) != login.pid
    os.killpg(login.pid, signal.SIGHUP)
    os.killpg(login.pid, signal.SIGKILL)
    login.wait()
    login.stdout.close()
    (one,) = submit(served, shell_app(served, "echo still here"))
    assert finished(served, one).state == "JOB_FINISHED" and is_running(pid)
    assert not [fd for fd in psutil.Process(pid).open_files() if not fd.path.startswith(str(served.path))]


def test_it_ends_when_its_site_is_deleted(served: EmbeddedEngine) -> None:
    pid = served.service.start(SERIAL).pid
    assert pid is not None
    (served.path / "balsam.db").rename(served.path / "gone.db")
    psutil.Process(pid).wait(30)
    (served.path / "gone.db").rename(served.path / "balsam.db")
    assert f"the service ends: {served.path} is gone" in log_of(served)[-1]


def test_a_damaged_file_is_told(served: EmbeddedEngine) -> None:
    (served.path / "service.json").write_text("{")
    with pytest.raises(SiteError, match=r"service.json is damaged; delete it"):
        served.service.status()
    (served.path / "service.json").unlink()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"max_nodes": 2}, "max_nodes=2 is more than site 'here' has (1)"),
        ({"min_nodes": 2}, "min_nodes=2 is more than max_nodes=1"),
        ({"min_nodes": 0}, "min_nodes must be a whole number of at least 1"),
        ({"wall_time_min": 0}, "wall_time_min must be a number above 0"),
        ({"job_mode": "seriel"}, "Did you mean 'serial'?"),
        ({"max_queued": -1}, "max_queued must be a whole number"),
        ({"period": "x"}, "period must be a number above 0, not 'x'"),
        ({"filter_tags": ["a"]}, "filter_tags must be a mapping"),
        ({"wf_filter": 3}, "wf_filter is a text"),
        ({"queue": ""}, "queue must be a name"),
    ],
)
def test_settings_that_cannot_be(site: Site, given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as told:
        site.service.start(**given)
    assert says in str(told.value)
    assert not (Path(site.path) / "service.json").exists()


def test_the_object_of_a_site(site: Site, until: Callable[..., None]) -> None:
    assert repr(site.service) == "The service of site 'here' does not run."
    report = site.service.start(job_mode="serial", wall_time_min=5)
    assert report.running and "max_nodes=1, wall_time_min=5, job_mode=serial" in repr(report)
    assert "The service of site" in report._repr_html_()
    assert site.service.stop() is True and site.service.stop() is False


CPU = Settings(nodes=4, cores_per_node=8, gpus_per_node=4)


@pytest.mark.parametrize(
    ("wants", "nodes"),
    [
        (Resources(), 1 / 8),
        (Resources(ranks_per_node=4), 1 / 2),
        (Resources(threads_per_rank=4, threads_per_core=2), 1 / 4),
        (Resources(gpus_per_rank=1), 1 / 4),
        (Resources(node_packing_count=2), 1 / 2),
        (Resources(node_packing_count=100), 1 / 8),
        (Resources(gpus_per_rank=0.5), 1 / 4),
        (Resources(num_nodes=3), 3),
        (Resources(ranks_per_node=99), 1),
    ],
)
def test_footprints(wants: Resources, nodes: float) -> None:
    assert footprint(wants, CPU) == nodes


def test_which_allocation_takes_which_jobs() -> None:
    def taken(request: AllocationRequest, wants: Resources | None = None, **tags: str) -> bool:
        return takes(request, Demand(wants or Resources(), tags, 1))

    wide = Resources(num_nodes=2)
    assert taken(AllocationRequest(1, 5)) and not taken(AllocationRequest(1, 5), wide)
    assert taken(AllocationRequest(2, 5), wide) and not taken(AllocationRequest(2, 5, "serial"), wide)
    parts = (
        {"job_mode": "mpi", "num_nodes": 2, "filter_tags": {"role": "leader"}},
        {"job_mode": "serial", "num_nodes": 6, "filter_tags": {"role": "worker"}},
    )
    assert not takes(AllocationRequest(1, 5), Demand(Resources(wall_time_min=2), {}, 1), remaining_s=60)
    both = AllocationRequest(8, 5, partitions=parts, filter_tags={"a": "1"})
    assert taken(both, wide, role="leader", a="1") and not taken(both, wide, role="worker", a="1")
    assert taken(both, role="worker", a="1") and not taken(both, role="worker") and not taken(both, a="1")


def test_kinds_of_waiting_work_are_counted(engine: EmbeddedEngine) -> None:
    assert demand.waiting(engine.store.con) == [] and demand.running(engine.store.con) == []
    common = shell_app(engine, "echo {{ x }}", "x")
    for tags, number in (({}, 3), ({"a": "1"}, 2), ({"a": "2"}, 1)):
        submit(engine, JobCommon(common.app_id, tags=tags), [{"x": n} for n in range(number)])
    found = demand.waiting(engine.store.con)
    assert [(group.tags, group.number) for group in found] == [({}, 3), ({"a": "1"}, 2), ({"a": "2"}, 1)]


@pytest.mark.parametrize("settings", ["nodes: 3\ncores_per_node: 1\nidle_time_s: 0.2\ngrace_period_s: 1\n"])
@pytest.mark.parametrize(("seed", "kills"), [(1, 6), pytest.param(2, 100, marks=pytest.mark.soak)])
def test_killed_at_random_it_never_asks_for_too_much(served: EmbeddedEngine, seed: int, kills: int) -> None:
    chance = random.Random(seed)
    asked = ServiceSettings(1, 2, 5, "serial", 2, period=0.05)
    common = shell_app(served, "sleep {{ s }}", "s")
    jobs = 0
    for _ in range(kills):
        status = served.service.start(asked)
        assert status.pid is not None
        cursor = served.events("now").cursor
        jobs += len(submit(served, common, [{"s": 0.3 * chance.random()} for _ in range(chance.randint(1, 5))]))
        for _ in range(chance.randint(0, 4)):
            cursor = served.events(cursor, chance.random()).cursor
        live = [one for one in served.allocations() if one.state not in ("finished", "submit_failed")]
        assert sum(one.request.num_nodes for one in live) <= 2
        os.kill(status.pid, signal.SIGKILL)
        wait_until(served, lambda pid=status.pid: not is_running(pid))  # type: ignore[misc]
    served.service.start(asked)
    wait_until(served, lambda: ended(served) == jobs)
    assert {one.attempts for one in served.jobs(Query())} == {1}
