"""One site of a Balsam service, used from several machines at once, by other clients, and behind our back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Ensemble, Sweep, api_site
from balsam_jupyter.api_site import Site
from balsam_jupyter.engines.balsam import BalsamEngine, changes
from balsam_jupyter.errors import BadInput
from balsam_jupyter.models import Query

from .balsam_service import proxy as faults
from .balsam_service.proxy import Answer, Forward, Proxy, Request
from .balsam_service.site import ServiceSite

Machine = Callable[..., BalsamExecutor]


class Hello(ApplicationDefinition):
    command_template = "echo hello {{ number }}"


@pytest.fixture
def machine(
    bare_site: ServiceSite, signed_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    """Makes executors at the site, each as on a machine of its own."""
    made: list[Site] = []

    def another(declares: bool = True) -> BalsamExecutor:
        monkeypatch.setenv("BALSAM_JUPYTER_HOME", str(tmp_path / f"machine-{len(made)}"))
        engine = BalsamEngine.open(bare_site.name)
        site = Site(engine.site, "balsam", engine)
        made.append(site)
        exctr = BalsamExecutor(site)
        if declares:
            exctr.register_app(Hello)
        return exctr

    yield another
    for site in made:
        site.close()


def look(*machines: BalsamExecutor) -> None:
    for one in machines:
        one.site.engine.refresh(now=True)


def shared(machine: Machine) -> tuple[BalsamExecutor, BalsamExecutor, Ensemble, Ensemble]:
    """Two machines, and an ensemble of five rows as each of them has it."""
    ada, ben = machine(), machine()
    ens = ada.submit_sweep("Hello", Sweep.grid(number=range(5)), name="rows")
    look(ada, ben)
    other = ben.ensemble("rows")
    assert len(other) == 5
    return ada, ben, ens, other


def rows_of(bare_site: ServiceSite) -> list[tuple[str, str]]:
    return sorted((job["tags"]["bj_ensemble"], job["tags"]["bj_row"]) for job in bare_site.jobs())


def test_the_same_rows_from_two_machines(machine: Machine, bare_site: ServiceSite) -> None:
    ada, ben = machine(), machine()
    ours = [one.submit_sweep("Hello", Sweep.grid(number=range(20)), name="rows") for one in (ada, ben)]
    for _ in range(3):
        look(ada, ben)
    jobs = bare_site.jobs()
    assert sorted(int(job["tags"]["bj_row"]) for job in jobs) == list(range(20))
    for ens in ours:
        assert sorted(task.id for task in ens.tasks()) == [job["id"] for job in jobs]


@pytest.mark.parametrize("mine_first", [True, False])
@pytest.mark.parametrize("first", [0, 10])
def test_rows_at_the_same_moment(
    machine: Machine, bare_site: ServiceSite, proxy: Proxy, mine_first: bool, first: int
) -> None:
    """Both have looked before either has stored a row."""
    ada, ben = machine(), machine()
    asked, stored = threading.Event(), threading.Event()

    async def held(request: Request, forward: Forward) -> Answer:
        answer = await forward() if mine_first else None
        asked.set()
        await asyncio.to_thread(stored.wait, 20)
        return answer or await forward()

    check = ben.site.engine.changes.check

    def checked_before(*place: Any) -> bool:
        ben.site.engine.changes.check = check
        return False

    with proxy.spoil(faults.first(1, held, "POST", "/jobs")), ThreadPoolExecutor(1) as other:
        ours = other.submit(ada.submit_sweep, "Hello", Sweep.grid(number=range(20)), name="rows")
        assert asked.wait(20)
        ben.site.engine.changes.check = checked_before
        theirs = ben.submit_sweep("Hello", Sweep.grid(number=range(first, first + 20)), name="rows")
        stored.set()
        mine = ours.result()
    for _ in range(2):
        look(ada, ben)
    jobs = bare_site.jobs()
    assert sorted(int(job["tags"]["bj_row"]) for job in jobs) == list(range(first + 20))
    assert {job["workdir"] for job in jobs} == {f"rows/{row}" for row in range(first + 20)}
    for ens in (mine, theirs):
        assert sorted(task.id for task in ens.tasks()) == [job["id"] for job in jobs]
        table = ens.to_dataframe()
        assert sorted(table["number"]) == sorted(table.index) == list(range(first + 20))


def test_other_rows_from_two_machines(machine: Machine, bare_site: ServiceSite) -> None:
    ada, ben = machine(), machine()
    ada.submit_sweep("Hello", Sweep.grid(number=range(20)), name="rows")
    ben.submit_sweep("Hello", Sweep.grid(number=range(10, 30)), name="rows")
    for _ in range(3):
        look(ada, ben)
    jobs = bare_site.jobs()
    assert len(jobs) == 30
    assert len({job["workdir"] for job in jobs}) == 30
    for one in (ada, ben):
        table = one.ensemble("rows").to_dataframe()
        assert sorted(table["number"]) == list(range(30))
        assert table.index.is_unique


def test_an_app_that_another_machine_changed(machine: Machine, bare_site: ServiceSite) -> None:
    ada, ben = machine(), machine()

    class Hello(ApplicationDefinition):
        command_template = "echo good morning {{ number }}"

    ben.register_app(Hello)
    ada.register_app(globals()["Hello"])
    (there,) = machine(False).site.engine.apps()
    assert there.command_template == "echo hello {{ number }}"


def test_an_app_that_changed_since_is_not_used_by_its_name(
    machine: Machine, bare_site: ServiceSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, ben = machine(), machine()
    ada.submit_sweep("Hello", Sweep.grid(number=range(2)), name="before")

    class Hello(ApplicationDefinition):
        command_template = "echo good morning {{ name }}"

    ben.register_app(Hello)
    monkeypatch.setattr(changes, "_SITE_S", 0.0)
    with pytest.raises(BadInput, match="App Hello was changed from another machine"):
        ada.submit_sweep("Hello", Sweep.grid(number=range(3)), name="rows")
    assert len(bare_site.jobs()) == 2 and "rows" not in [one.name for one in ada.ensembles()]
    monkeypatch.setattr(api_site, "APPS_AGE_S", 0.0)
    with pytest.raises(BadInput, match="no parameter 'number'"):
        ada.submit_sweep("Hello", Sweep.grid(number=range(3)), name="rows")
    assert ada.submit_sweep("Hello", [{"name": "Eve"}], name="rows").new == 1


def test_retry_from_two_machines(machine: Machine, bare_site: ServiceSite) -> None:
    ada, ben = machine(), machine()
    ens = ada.submit_sweep("Hello", Sweep.grid(number=range(5)), name="rows")
    ids = [task.id for task in ens.tasks()]
    bare_site.report(ids, "PREPROCESSED", "RUNNING", "RUN_ERROR", "FAILED")
    look(ada, ben)
    assert ada.ensemble("rows").retry() == 5
    bare_site.report(ids, "RUNNING")
    assert ben.ensemble("rows").retry() == 0
    assert {job["state"] for job in bare_site.jobs()} == {"RUNNING"}


def test_verbs_of_many_rows(machine: Machine) -> None:
    """More rows than one answer of the service has."""
    ens = machine().submit_sweep("Hello", Sweep.grid(number=range(6_000)), name="rows")
    assert ens.kill() == 6_000
    assert ens.counts()["USER_KILLED"] == 6_000
    assert ens.retry() == 6_000
    ens.rename("lines")
    assert (len(ens), ens.counts()["WAITING"]) == (6_000, 6_000)
    assert ens.kill(purge=True) == 6_000
    assert len(ens) == 0


def test_generations_are_renamed_together(machine: Machine, bare_site: ServiceSite) -> None:
    ada = machine()
    ens = ada.submit_sweep("Hello", Sweep.grid(number=range(5)), name="rows")
    bare_site.report([task.id for task in ens.tasks()], "PREPROCESSED", "RUNNING", "RUN_DONE", "JOB_FINISHED")
    look(ada)
    assert ens.counts()["FINISHED"] == 5 == len(ens.to_dataframe())

    class Hello(ApplicationDefinition):
        command_template = "echo good evening {{ number }}"

    ada.register_app(Hello)
    ada.submit_sweep("Hello", Sweep.grid(number=range(3)), name="rows", if_changed="fresh").rename("lines")
    look(ada)
    assert sorted(
        (one.name, one.generation, len(one)) for one in [ada.ensemble("lines", 1), ada.ensemble("lines")]
    ) == [
        ("lines", 1, 5),
        ("lines", 2, 3),
    ]
    assert {job["tags"]["bj_ensemble"] for job in bare_site.jobs()} == {"lines"}


def test_tags_from_two_machines(machine: Machine, bare_site: ServiceSite) -> None:
    _, _, ens, other = shared(machine)
    ens.tag(color="red")
    other.tag(shape="round")
    assert {(job["tags"].get("color"), job["tags"].get("shape")) for job in bare_site.jobs()} == {("red", "round")}


def test_rename_and_submit_from_two_machines(machine: Machine, bare_site: ServiceSite) -> None:
    ada, ben, ens, other = shared(machine)
    ens.rename("lines")
    other.tag(shape="round")
    look(ada, ben)
    assert {job["tags"]["bj_ensemble"] for job in bare_site.jobs()} == {"lines"}
    assert [ens.name for ens in ben.ensembles()] == ["lines"]
    assert ben.ensemble("lines").counts()["WAITING"] == 5


@pytest.mark.parametrize("verb", ["kill", "retry", "tag", "delete", "rename", "purge"])
def test_verbs_where_jobs_are_gone(machine: Machine, bare_site: ServiceSite, verb: str) -> None:
    ada = machine()
    ens = ada.submit_sweep("Hello", Sweep.grid(number=range(6)), name="rows")
    ids = [task.id for task in ens.tasks()]
    if verb in ("retry", "delete"):
        bare_site.report(ids, "PREPROCESSED", "RUNNING", "RUN_ERROR", "FAILED")
    look(ada)
    ens.counts()
    with bare_site.service.client() as client:
        client.delete("/jobs/", params={"id": ids[:2]}).raise_for_status()
    if verb == "kill":
        assert ens.kill() == 4
    elif verb == "purge":
        assert ens.kill(purge=True) == 4
    elif verb == "retry":
        assert ens.retry() == 4
    elif verb == "tag":
        assert ens.tag(color="red") == 4
    elif verb == "rename":
        ens.rename("lines")
    else:
        ens.delete()
    look(ada)


def test_the_tags_of_a_job_used_again(machine: Machine, bare_site: ServiceSite) -> None:
    """Somebody made a job by Balsam's own client with the tags of one of ours; it is not deleted as a twin."""
    ada = machine()
    ens = ada.submit_sweep("Hello", Sweep.grid(number=range(3)), name="rows")
    (job, *_) = bare_site.jobs()
    again = {name: job[name] for name in ("app_id", "serialized_parameters", "tags")}
    with bare_site.service.client() as client:
        client.post("/jobs/", json=[{**again, "workdir": "again"}]).raise_for_status()
    for one in (ada, machine()):
        look(one)
        look(one)
        assert len(bare_site.jobs()) == 4
        assert [row.row for row in one.site.engine.jobs(Query())] == [0, 1, 2, None]
    assert len(ens) == 3


def test_an_app_that_was_deleted(machine: Machine, bare_site: ServiceSite) -> None:
    ada = machine()
    ada.submit_sweep("Hello", Sweep.grid(number=range(5)), name="rows")
    with bare_site.service.client() as client:
        (row,) = client.get("/apps/", params={"site_id": bare_site.id}).json()["results"]
        client.delete(f"/apps/{row['id']}").raise_for_status()
    assert bare_site.jobs() == []
    ada.register_app(Hello)
    ens = ada.submit_sweep("Hello", Sweep.grid(number=range(5)), name="rows")
    look(ada)
    assert len(bare_site.jobs()) == 5, ens


def test_an_allocation_that_was_deleted(machine: Machine, bare_site: ServiceSite) -> None:
    ada = machine()
    for revoked in (False, True):
        number = ada.submit_allocation(ada.site.id, 1, 5).id
        with bare_site.service.client() as client:
            client.delete(f"/batch-jobs/{number}").raise_for_status()
        if revoked:
            assert ada.site.engine.revoke(number)
        else:
            look(ada)
            look(ada)  # what lives, and what lived, are asked for in turns
        one = next(one for one in ada.site.engine.allocations() if one.id == number)
        assert (one.state, one.status_info) == ("finished", {"reason": "deleted at the service"})


ODD = {
    "key": {"bj_key": "no hex"},
    "short key": {"bj_key": "ab"},
    "no generation": {"bj_gen": "first"},
    "negative generation": {"bj_gen": "-1"},
    "huge generation": {"bj_gen": "9" * 40},
    "row": {"bj_row": "one"},
    "huge row": {"bj_row": "9" * 40},
    "arabic row": {"bj_row": "٣"},
    "retries": {"bj_retries": "many"},
    "family": {"bj_parents": "eat"},
    "name": {"bj_ensemble": "../../<b>x</b>\n'\"", "workflow": "<script>"},
    "empty": {"bj_ensemble": ""},
}


@pytest.mark.parametrize("tags", ODD.values(), ids=ODD)
def test_jobs_of_others_with_odd_tags(machine: Machine, bare_site: ServiceSite, tags: dict[str, str]) -> None:
    ada = machine()
    ens = ada.submit_sweep("Hello", Sweep.grid(number=range(3)), name="rows")
    (job, *_) = bare_site.jobs()
    new = {name: job[name] for name in ("app_id", "serialized_parameters", "num_nodes", "ranks_per_node")}
    with bare_site.service.client() as client:
        base = {"bj_ensemble": "other", "bj_gen": "1", "bj_row": "0", "bj_key": "00" * 16}
        client.post("/jobs/", json=[{**new, "workdir": "odd", "tags": {**base, **tags}}]).raise_for_status()
    look(ada)
    assert ada.site.engine.silence is None
    assert sum(ada.site.engine.count(Query()).values()) == 4
    assert len(ens) == 3
    assert len(ada.site.engine.jobs(Query())) == 4
    assert "<b>x" not in "".join(one._repr_html_() for one in ada.ensembles())


DATA: dict[str, dict[str, Any]] = {
    "value": {"data": {"bj_value": {"a": [1]}}},
    "value text": {"data": {"bj_value": "no json"}},
    "ran": {"data": {"bj_ran": "yesterday"}},
    "ran short": {"data": {"bj_ran": [1, 2]}},
    "ran odd": {"data": {"bj_ran": [{}, [], "x", None]}},
    "note": {"data": {"bj_note": ["x"]}},
    "killed": {"data": {"bj_killed": "maybe"}},
    "return": {"serialized_return_value": "no base64!"},
    "return pickle": {"serialized_return_value": "AAAA"},
    "exception": {"serialized_exception": "%%%"},
}


@pytest.mark.parametrize("fields", DATA.values(), ids=DATA)
@pytest.mark.parametrize("end", ["JOB_FINISHED", "FAILED"])
def test_odd_data(machine: Machine, bare_site: ServiceSite, fields: dict[str, Any], end: str) -> None:
    ada = machine()
    ens = ada.submit_sweep("Hello", Sweep.grid(number=range(3)), name="rows")
    ids = [task.id for task in ens.tasks()]
    bare_site.report(ids, "PREPROCESSED", "RUNNING", "RUN_DONE", end, **fields)
    look(ada)
    assert ada.site.engine.silence is None
    ens.to_dataframe()
    ens.failures()
    assert {task.state for task in ens.tasks()} <= {"FINISHED", "FAILED", "USER_KILLED"}
    machine().ensemble("rows").to_dataframe()


@pytest.mark.parametrize("text", ["", "no base64!", "AAAA", "gARLAS4=", "gAROLg=="])
def test_odd_parameters(machine: Machine, bare_site: ServiceSite, text: str) -> None:
    ada = machine()
    ens = ada.submit_sweep("Hello", Sweep.grid(number=range(3)), name="rows")
    (job, *_) = bare_site.jobs()
    with bare_site.service.client() as client:
        tags = {**job["tags"], "bj_row": "3", "bj_key": "00" * 16}
        client.post(
            "/jobs/",
            json=[{"app_id": job["app_id"], "workdir": "odd", "serialized_parameters": text, "tags": tags}],
        ).raise_for_status()
    look(ada)
    assert ada.site.engine.silence is None
    ens.to_dataframe()
    assert len(ens) == 4
    ens.missing()
