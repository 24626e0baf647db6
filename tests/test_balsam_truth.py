"""What a Balsam site cannot do, or would never do: refused with the way round, or told."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor
from balsam_jupyter.engines.balsam import truth
from balsam_jupyter.errors import BadInput, Unsupported
from balsam_jupyter.models import Query
from balsam_jupyter.status import explain

from .anywhere import opened
from .balsam_service.site import ServiceSite

SOON = 60.0


class Nap(ApplicationDefinition):
    command_template = "sleep {{ seconds }}"


@pytest.fixture
def exctr(balsam_site: ServiceSite, tmp_path: Path) -> Iterator[BalsamExecutor]:
    with opened("balsam", tmp_path, balsam_site) as site:
        executor = BalsamExecutor(site)
        executor.register_app(Nap)
        yield executor


def test_what_runs_is_ended_with_its_allocation_alone(exctr: BalsamExecutor) -> None:
    name = f"nap-{secrets.token_hex(3)}"
    allocation = exctr.submit_allocation(exctr.site.id, 1, 10, filter_tags={"workflow": name})
    naps = exctr.submit_sweep("Nap", {"seconds": [100]}, name=name)
    (task,) = naps.tasks()
    assert task._wait(lambda: task.state == "RUNNING", SOON)
    naps.add([{"seconds": 101}])
    waits = exctr.submit_sweep("Nap", {"seconds": [1]}, name=f"{name}-w", parent_ids=[task])
    with pytest.raises(Unsupported, match=r"(?s)Balsam cannot stop .*kill\(force=\"revoke\"\)"):
        task.kill()
    assert task.state == "RUNNING" and waits.counts()["WAITING"] == 1
    assert waits.kill(purge=True) == 1 and len(waits) == 0
    assert naps.kill(force="revoke") == 2
    assert naps.wait(SOON).counts()["USER_KILLED"] == 2
    allocation.refresh_from_db()
    assert allocation.state == "finished"


def test_what_would_never_run_is_refused(exctr: BalsamExecutor, balsam_site: ServiceSite) -> None:
    before = balsam_site.service.count()
    for wrong, said in (
        ({"num_nodes": 3}, "3 nodes are too many"),
        ({"wall_time_min": 5000}, "longer than any allocation"),
        ({"workdir": "../outside"}, "work directory"),
        ({"workdir": "x" * 300}, "has 314 characters, and Balsam takes 256"),
        ({"workdir": "half of a \ud800"}, "not the name of a work directory"),
        ({"tags": {"half": "\ud800"}}, "must be text"),
        ({"scratch": True}, "cleanup_files"),
        ({"tags": {"bj_row": "1"}}, "bj_"),
    ):
        with pytest.raises((BadInput, Unsupported), match=said):
            exctr.submit(app_name="Nap", app_args={"seconds": 1}, **wrong)
    for wrong, said in (
        ({"queue": "fast"}, "no queue 'fast'; it has local"),
        ({"project": "gold"}, "'gold' cannot be charged"),
        ({"wall_time_min": 5000}, "too long"),
        ({"wf_filter": "x"}, "by its tag"),
        ({"filter_tags": {"study": "a b"}}, "the tag 'a b', which would not pass"),
        ({"filter_tags": {"study": "$(reboot)"}}, "would not pass"),
        ({"optional_params": {"ssd": "1"}}, "no parameter 'ssd'"),
    ):
        with pytest.raises((BadInput, Unsupported), match=said):
            exctr.submit_allocation(exctr.site.id, **{"num_nodes": 1, "wall_time_min": 5, **wrong})
    assert balsam_site.service.count() == before
    waits = exctr.submit_sweep("Nap", {"seconds": [1]}, name=f"nap-{secrets.token_hex(3)}")
    with pytest.raises(BadInput, match="bj_"):
        waits.tag(bj_row="7")
    job = waits.tasks()[0].process
    assert job is not None
    for field, value, said in (
        ("num_nodes", 3, "too many"),
        ("wall_time_min", 5000, "longer"),
        ("tags", {"bj_": ""}, "bj_"),
    ):
        with pytest.raises(BadInput, match=said):
            setattr(job, field, value)
            job.save()
        job.refresh_from_db()
    waits.kill(purge=True)
    for refused in (exctr.site.engine.vacuum, exctr.site.engine.check, lambda: exctr.site.service.start()):
        with pytest.raises(Unsupported):
            refused()


def test_which_queue_and_which_project(bare_site: ServiceSite, tmp_path: Path) -> None:
    limits = {"max_nodes": 1, "max_walltime": 60, "max_queued_jobs": 9}
    has = {"allowed_queues": {"main": limits, "short": limits}, "allowed_projects": ["physics", "chemistry"]}
    with bare_site.service.client() as client:
        client.put(f"/sites/{bare_site.id}", json=has).raise_for_status()
    with opened("balsam", tmp_path, bare_site) as site:
        executor = BalsamExecutor(site)
        with pytest.raises(BadInput, match=r"Which queue\? Site .* has main, short: -q NAME, or queue=NAME"):
            executor.submit_allocation(site.id, 1, 10)
        with pytest.raises(BadInput, match=r"Which project\? Site .* has physics, chemistry: -A NAME"):
            executor.submit_allocation(site.id, 1, 10, queue="main")


def test_a_silent_agent_is_told_of(exctr: BalsamExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    naps = exctr.submit_sweep("Nap", {"seconds": [1]}, name=f"nap-{secrets.token_hex(3)}")
    assert "Ask for one: %balsam_allocate" in explain(exctr.site.engine, naps.name).why
    monkeypatch.setattr(truth, "SILENT_S", -10.0)
    status = explain(exctr.site.engine, naps.name)
    assert "no sign of life" in status.why and "balsam site start" in status.why and status.stuck
    naps.kill()
    assert exctr.site.engine.count(Query(ensemble=naps.name)) == {"USER_KILLED": 1}
