"""What following a site of a Balsam service costs, and what is told of one that is silent."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Sweep, open_site, status
from balsam_jupyter.engines.balsam import queue
from balsam_jupyter.models import Query
from balsam_jupyter.status import explain

from .balsam_service.proxy import Proxy
from .balsam_service.site import ServiceSite

QUEUES = {"local": {"max_nodes": 1, "max_walltime": 60, "max_queued_jobs": 9}}


class Hello(ApplicationDefinition):
    site = "default"
    command_template = "echo hello {{ number }}"


def test_a_poll_of_10_000_jobs(bare_site: ServiceSite, proxy: Proxy, signed_in: Path) -> None:
    """At most three requests, no more often than every 2 s, and few bytes where few jobs changed."""
    site = open_site(bare_site.name, engine="balsam")
    exctr = BalsamExecutor(site)
    exctr.register_app(Hello, app_name="hello")
    ens = exctr.submit_sweep("hello", Sweep.grid(number=range(10_000)), name="rows")
    ids = [task.id for task in ens.tasks()]
    polls = []
    for part in range(8):
        time.sleep(2.1)  # what the engine leaves between two polls
        changed = ids[10 * part : 10 * part + 10]
        bare_site.report(changed, "PREPROCESSED", "RUNNING", "RUN_DONE", "JOB_FINISHED")
        before, requests = proxy.sent, len(proxy.requests)
        ens.counts()
        polls.append((len(proxy.requests) - requests, proxy.sent - before))
    finished = ens.counts()["FINISHED"]
    assert finished >= 70
    assert max(number for number, _ in polls) <= 3
    assert max(size for _, size in polls[5:]) < 50_000  # the first ones read again what was just submitted
    site.close()


def test_one_who_waits_is_patient(bare_site: ServiceSite, proxy: Proxy, signed_in: Path) -> None:
    site = open_site(bare_site.name, engine="balsam")
    before, began = len(proxy.requests), time.monotonic()
    cursor = site.engine.events("now").cursor
    while time.monotonic() - began < 12:
        cursor = site.engine.events(cursor, timeout=1.0).cursor
        site.engine.ensembles()
    requests = len(proxy.requests) - before
    assert requests <= 12, "more than three requests every 2 s, growing rarer, while nothing changes"
    site.close()


def test_a_silent_agent(bare_site: ServiceSite, signed_in: Path) -> None:
    site = open_site(bare_site.name, engine="balsam")
    exctr = BalsamExecutor(site)
    exctr.register_app(Hello, app_name="hello")
    exctr.submit_sweep("hello", Sweep.grid(number=range(3)), name="rows")
    assert "no sign of life" not in str(explain(site.engine))
    site.close()
    past = f"now() AT TIME ZONE 'UTC' - interval '14 minutes' WHERE id = {bare_site.id}"
    bare_site.service.postgres.execute(f"UPDATE sites SET last_refresh = {past}")
    site = open_site(bare_site.name, engine="balsam")
    told = str(explain(site.engine))
    site.close()
    assert "no sign of life for 14 min" in told
    assert "balsam site start" in told


def test_what_comes_next_and_who_is_waited_for(
    bare_site: ServiceSite, signed_in: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(queue, "_TELL_S", 0.1)
    with bare_site.service.client() as client:
        client.put(f"/sites/{bare_site.id}", json={"allowed_queues": QUEUES, "allowed_projects": ["local"]})
        site = open_site(bare_site.name, engine="balsam")
        exctr = BalsamExecutor(site)
        exctr.register_app(Hello, app_name="hello")
        tasks = exctr.submit_sweep("hello", Sweep.grid(number=range(3)), name="rows").tasks()
        allocation = exctr.submit_allocation(site.id, 1, 10)
        assert "come first; the site's agent sees to them" in explain(site.engine).why
        bare_site.report([task.id for task in tasks], "PREPROCESSED")
        client.put(f"/batch-jobs/{allocation.id}", json={"state": "running", "scheduler_id": 1}).raise_for_status()
        site.engine.refresh(now=True)
        site.engine.refresh(now=True)
    assert explain(site.engine).why.endswith("has its nodes and is about to start them.")
    monkeypatch.setattr(status, "_LATE_S", 0.0)
    assert "about to start them; if it does not, log/ of the site says why." in explain(site.engine).why
    assert not exctr.revoke_allocation(allocation, timeout=1)
    assert f"Waiting until site {site.name} has ended allocation {allocation.id}, 1 s at most." in caplog.text
    site.close()


def test_who_opens_a_site_sees_allocations_asked_for_elsewhere(
    bare_site: ServiceSite, signed_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_site(bare_site.name, engine="balsam").close()
    with monkeypatch.context() as other, bare_site.service.client() as client:
        other.setenv("BALSAM_JUPYTER_HOME", str(signed_in.parent / "elsewhere"))
        site = open_site(bare_site.name, engine="balsam")
        client.put(f"/sites/{bare_site.id}", json={"allowed_queues": QUEUES, "allowed_projects": ["local"]})
        site.close()
        site = open_site(bare_site.name, engine="balsam")
        first, second = (BalsamExecutor(site).submit_allocation(site.id, 1, 10).id for _ in range(2))
        site.close()
    site = open_site(bare_site.name, engine="balsam")
    assert [one.id for one in site.engine.allocations()] == [first, second]
    site.close()
    with bare_site.service.client() as client:
        client.put(f"/batch-jobs/{first}", json={"state": "finished"}).raise_for_status()
    site = open_site(bare_site.name, engine="balsam")
    assert [one.state for one in site.engine.allocations()] == ["finished", "pending_submission"]
    site.close()


def test_twins_are_one_row(bare_site: ServiceSite, signed_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that was stored twice is shown once, also where both are read for the first time; one of them goes."""
    site = open_site(bare_site.name, engine="balsam")
    exctr = BalsamExecutor(site)
    exctr.register_app(Hello, app_name="hello")
    exctr.submit_sweep("hello", Sweep.grid(number=range(3)), name="rows")
    site.close()
    first = bare_site.jobs()[0]
    sent = ("app_id", "tags", "serialized_parameters", "num_nodes", "ranks_per_node", "node_packing_count")
    with bare_site.service.client() as client:
        tags = {**first["tags"], "bj_batch": "of another machine"}
        twin = {name: first[name] for name in sent} | {"workdir": "rows/twin", "tags": tags}
        client.post("/jobs/", json=[twin]).raise_for_status()
    monkeypatch.setenv("BALSAM_JUPYTER_HOME", str(signed_in.parent / "elsewhere"))
    site = open_site(bare_site.name, engine="balsam")
    assert site.engine.count(Query(ensemble="rows")) == {"STAGED_IN": 3}
    site.engine.refresh(now=True)
    left = [job["id"] for job in bare_site.jobs()]
    assert left[0] == first["id"] and len(left) == 3
    site.close()
