"""What goes wrong between the notebook and a Balsam service: nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Site, Sweep, open_site
from balsam_jupyter.engines.balsam import acts, changes
from balsam_jupyter.ensemble import Ensemble
from balsam_jupyter.errors import BadInput, BalsamJupyterError, NotSignedIn
from balsam_jupyter.models import Query
from balsam_jupyter.status import explain

from .balsam_service import proxy as faults
from .balsam_service.proxy import Answer, Forward, Proxy, Request, Reset
from .balsam_service.service import Service
from .balsam_service.site import ServiceSite


class Hello(ApplicationDefinition):
    command_template = "echo hello {{ number }}"


@pytest.fixture
def site(bare_site: ServiceSite, signed_in: Path) -> Site:
    opened = open_site(bare_site.name, engine="balsam")
    yield opened
    opened.close()


@pytest.fixture
def exctr(site: Site) -> BalsamExecutor:
    return executor(site)


def executor(site: Site) -> BalsamExecutor:
    made = BalsamExecutor(site)
    made.register_app(type("Hello", (Hello,), {"site": site.name}), app_name="hello")
    return made


def whole(bare_site: ServiceSite, rows: int) -> None:
    """The server has each row once."""
    found = bare_site.jobs()
    assert len(found) == rows
    assert {int(job["tags"]["bj_row"]) for job in found} == set(range(rows))
    assert len({job["workdir"] for job in found}) == rows


def ids_of(ens: Ensemble) -> list[int]:
    return [task.id for task in ens.tasks()]


def counts(ens: Ensemble) -> dict[str, int]:
    return {state: number for state, number in ens.counts().items() if number}


def one_line(error: BaseException) -> str:
    said = str(error)
    assert len(said.splitlines()) <= 2
    assert "Traceback" not in said
    return said


# -- submission --------------------------------------------------------------------------------------------

LOSSES = {
    "reset": faults.reset,
    "answer lost": faults.lost,
    "answer cut": faults.cut,
    "truncated JSON": faults.truncated,
    "500, not carried out": faults.answers(500, {"detail": "Internal Server Error"}),
    "500, carried out": faults.after(500),
    "502 of a gateway": faults.answers(502),
    "504, carried out": faults.after(504),
    "200 without rows": faults.after(200, []),
}


@pytest.mark.parametrize("fault", LOSSES.values(), ids=LOSSES)
def test_a_lost_submission(exctr: BalsamExecutor, bare_site: ServiceSite, proxy: Proxy, fault: faults.Fault) -> None:
    with proxy.spoil(faults.first(1, fault, "POST", "/jobs")):
        ens = exctr.submit_sweep("hello", Sweep.grid(number=range(50)), name="rows")
    assert proxy.spoilt == 1
    assert len(ens) == 50
    whole(bare_site, 50)
    again = exctr.submit_sweep("hello", Sweep.grid(number=range(60)), name="rows")
    assert len(again) == 60
    whole(bare_site, 60)


def test_a_refused_submission(exctr: BalsamExecutor, bare_site: ServiceSite, proxy: Proxy) -> None:
    detail = [{"loc": ["body", 0, "workdir"], "msg": "value is not a valid path", "type": "value_error"}]
    with (
        proxy.spoil(faults.every(1, faults.answers(422, {"detail": detail}), "POST", "/jobs")),
        pytest.raises(BadInput) as caught,
    ):
        exctr.submit_sweep("hello", Sweep.grid(number=range(50)), name="rows")
    assert "value is not a valid path" in one_line(caught.value)
    assert proxy.spoilt == 1  # it is not asked again
    assert bare_site.jobs() == [] == exctr.ensembles()
    exctr.submit_sweep("hello", Sweep.grid(number=range(50)), name="rows")
    whole(bare_site, 50)


def test_a_service_that_always_fails(exctr: BalsamExecutor, bare_site: ServiceSite, proxy: Proxy) -> None:
    with (
        proxy.spoil(faults.every(1, faults.answers(500, {"detail": "no room"}), "POST", "/jobs")),
        pytest.raises(BalsamJupyterError) as caught,
    ):
        exctr.submit_sweep("hello", Sweep.grid(number=range(50)), name="rows")
    assert "no room" in one_line(caught.value)
    exctr.submit_sweep("hello", Sweep.grid(number=range(50)), name="rows")
    whole(bare_site, 50)


@pytest.mark.parametrize("moment", [*(pytest.param(s, marks=pytest.mark.soak) for s in (0.0, 0.5)), 0.1, 1.0])
def test_the_server_is_killed_in_a_submission(
    exctr: BalsamExecutor, bare_site: ServiceSite, balsam_service: Service, proxy: Proxy, moment: float
) -> None:
    """In the second of three chunks; it is back two seconds later."""
    back: list[threading.Timer] = []

    async def killed(request: Request, forward: Forward) -> Answer:
        answer = asyncio.ensure_future(forward())
        await asyncio.sleep(moment)
        balsam_service.kill_server()
        back.append(threading.Timer(2.0, balsam_service.start_server))
        back[0].start()
        await asyncio.gather(answer, return_exceptions=True)
        raise Reset

    seen: list[Request] = []

    def rule(request: Request) -> faults.Fault | None:
        if (request.method, request.path) == ("POST", "/jobs/"):
            seen.append(request)
            return killed if len(seen) == 2 else None
        return None

    with proxy.spoil(rule):
        ens = exctr.submit_sweep("hello", Sweep.grid(number=range(10_500)), name="rows")
    back[0].join()
    assert len(ens) == 10_500
    whole(bare_site, 10_500)


def test_a_rename_that_fails(
    exctr: BalsamExecutor, bare_site: ServiceSite, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ens = exctr.submit_sweep("hello", Sweep.grid(number=range(5)), name="rows")
    with proxy.spoil(faults.every(1, faults.answers(503), "PATCH", "/jobs")), pytest.raises(BalsamJupyterError):
        ens.rename("lines")
    assert [one.name for one in exctr.ensembles()] == ["rows"]

    def killed(*given: object) -> int:
        raise KeyboardInterrupt  # as SIGKILL: nothing is set right

    with monkeypatch.context() as during, pytest.raises(KeyboardInterrupt):
        during.setattr(acts, "patch", killed)
        ens.rename("lines")
    assert exctr.submit_sweep("hello", Sweep.grid(number=range(6)), name="rows").new == 1
    assert [one.name for one in exctr.ensembles()] == ["rows"]
    whole(bare_site, 6)


def test_every_tenth_request_is_reset(exctr: BalsamExecutor, bare_site: ServiceSite, proxy: Proxy) -> None:
    with proxy.spoil(faults.every(10, faults.reset)):
        for number in range(1, 21):
            ens = exctr.submit_sweep("hello", Sweep.grid(number=range(20 * number)), name="rows")
        assert len(ens) == 400
        ids = ids_of(ens)
        bare_site.report(ids[:100], "PREPROCESSED", "RUNNING", "RUN_DONE", "POSTPROCESSED", "JOB_FINISHED")
        eventually(lambda: counts(ens).get("FINISHED") == 100)
        ens.kill()
        eventually(lambda: counts(ens).get("USER_KILLED") == 300)
        ens.retry()
    assert proxy.spoilt >= 4
    whole(bare_site, 400)
    states = [job["state"] for job in bare_site.jobs()]
    assert states == ["JOB_FINISHED"] * 100 + ["STAGED_IN"] * 300  # they had not begun


# -- following ---------------------------------------------------------------------------------------------


def eventually(holds: Callable[[], object], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.2)


def test_the_server_is_killed_while_one_waits(balsam_service: Service, bare_site: ServiceSite, signed_in: Path) -> None:
    balsam_service.write_client_file(signed_in)  # past the proxy
    site = open_site(bare_site.name, engine="balsam")
    exctr = executor(site)
    ens = exctr.submit_sweep("hello", Sweep.grid(number=range(20)), name="rows")
    ids = ids_of(ens)
    bare_site.report(ids[:5], "PREPROCESSED", "RUNNING", "RUN_DONE", "JOB_FINISHED")
    eventually(lambda: counts(ens).get("FINISHED") == 5)
    waiting = threading.Thread(target=ens.wait, kwargs={"timeout": 60})
    waiting.start()
    balsam_service.kill_server()
    eventually(lambda: site.engine.silence is not None)
    assert counts(ens).get("FINISHED") == 5  # what is known stays
    assert len(ens.to_dataframe()) == 20
    age, why = site.engine.silence
    assert age < 30
    assert "does not answer" in why
    said = str(explain(site.engine))
    assert "does not answer" in said
    balsam_service.start_server()
    bare_site.report(ids[5:], "PREPROCESSED", "RUNNING", "RUN_DONE", "JOB_FINISHED")
    waiting.join(60)
    assert not waiting.is_alive()
    assert site.engine.silence is None
    assert counts(ens) == {"FINISHED": 20}
    site.close()


def test_a_token_that_expires(
    site: Site, exctr: BalsamExecutor, bare_site: ServiceSite, balsam_service: Service, proxy: Proxy, signed_in: Path
) -> None:
    ens = exctr.submit_sweep("hello", Sweep.grid(number=range(20)), name="rows")
    for told in (None, 3600.0):  # the file says so; only the service says so
        balsam_service.write_client_file(signed_in, proxy.url, valid_s=-5, told_s=told or 0)
        with pytest.raises(NotSignedIn) as caught:
            exctr.submit_sweep("hello", Sweep.grid(number=range(40)), name="rows")
        assert f"balsam-jupyter login {proxy.url}" in one_line(caught.value)
        assert counts(ens) == {"WAITING": 20}
        eventually(lambda: str(explain(site.engine)).count("balsam-jupyter login") == 1)
    balsam_service.write_client_file(signed_in, proxy.url)
    exctr.submit_sweep("hello", Sweep.grid(number=range(40)), name="rows")
    whole(bare_site, 40)
    bare_site.report([job["id"] for job in bare_site.jobs()], "PREPROCESSED", "RUNNING", "RUN_DONE", "JOB_FINISHED")
    ens.wait(timeout=30)


POLLING = {
    "reset": faults.reset,
    "cut": faults.cut,
    "truncated JSON": faults.truncated,
    "500": faults.answers(500, {"detail": "Internal Server Error"}),
    "422": faults.answers(422, {"detail": []}),
    "a login page": faults.answers(200, "<html>Please log in</html>"),
    "rows of another form": faults.answers(200, {"count": 1, "results": [{"id": 1, "tags": None}]}),
    "no rows": faults.answers(200, {"count": 1, "results": ["<b>"]}),
    "half an answer": faults.edited(lambda found: {"count": found.get("count", 0)} if isinstance(found, dict) else {}),
}


@pytest.mark.parametrize("fault", POLLING.values(), ids=POLLING)
def test_spoilt_polls(
    site: Site, exctr: BalsamExecutor, bare_site: ServiceSite, proxy: Proxy, fault: faults.Fault
) -> None:
    ens = exctr.submit_sweep("hello", Sweep.grid(number=range(20)), name="rows")
    ids = ids_of(ens)
    with proxy.spoil(faults.every(1, fault, "GET")):
        bare_site.report(ids, "PREPROCESSED", "RUNNING", "RUN_DONE", "JOB_FINISHED")
        eventually(lambda: counts(ens) and site.engine.silence is not None)
        assert counts(ens) == {"WAITING": 20}
        one_line(ValueError(site.engine.silence[1]))
    ens.wait(timeout=30)
    assert counts(ens) == {"FINISHED": 20}


def test_late_events_out_of_order(exctr: BalsamExecutor, bare_site: ServiceSite) -> None:
    """A site whose clock is 20 minutes slow, and that tells things in a strange order."""
    ens = exctr.submit_sweep("hello", Sweep.grid(number=range(30)), name="rows")
    ids = ids_of(ens)
    past = time.time() - 1200
    bare_site.report(ids[:10], "PREPROCESSED", "RUNNING", "RUN_DONE", "JOB_FINISHED", when=past)
    eventually(lambda: counts(ens) == {"WAITING": 20, "FINISHED": 10})
    bare_site.report(ids[10:20], "RUN_DONE", when=past + 60)
    bare_site.report(ids[10:20], "RUNNING", when=past + 50)
    bare_site.report(ids[10:20], "JOB_FINISHED", when=past + 70)
    bare_site.report(ids[20:], "PREPROCESSED", "RUNNING", when=past + 900)
    error = {"returncode": 3, "error": "no such file"}
    bare_site.report(ids[20:], "RUN_ERROR", "FAILED", when=past + 100, state_data=error)
    ens.wait(timeout=30)
    assert counts(ens) == {"FINISHED": 20, "FAILED": 10}
    tasks = ens.tasks()
    assert {round(task.runtime) for task in tasks[10:20]} == {10}
    assert {task.errcode for task in tasks[20:]} == {3}
    assert "no such file" in str(ens.failures())
    assert min(task.runtime for task in tasks) >= 0


def test_a_poll_that_breaks_off_is_made_again(
    exctr: BalsamExecutor, bare_site: ServiceSite, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changed is asked for until it is taken in, also when that takes longer than the overlap of two polls."""
    ens = exctr.submit_sweep("hello", Sweep.grid(number=range(3)), name="rows")
    engine = exctr.site.engine
    engine.refresh(now=True)
    monkeypatch.setattr(changes, "OVERLAP_S", -30.0)
    with proxy.spoil(faults.every(1, faults.answers(500), "GET", "/events")):
        bare_site.report(ids_of(ens), "PREPROCESSED", "RUNNING")
        engine.refresh(now=True)
        assert engine.silence is not None
    engine.refresh(now=True)
    assert counts(ens) == {"RUNNING": 3}


def test_hidden_events(exctr: BalsamExecutor, bare_site: ServiceSite, proxy: Proxy) -> None:
    """States need no events."""

    def none(found: dict[str, object]) -> dict[str, object]:
        return {"count": 0, "results": []}

    ens = exctr.submit_sweep("hello", Sweep.grid(number=range(20)), name="rows")
    with proxy.spoil(faults.every(1, faults.edited(none), "GET", "/events")):
        bare_site.report(ids_of(ens), "PREPROCESSED", "RUNNING", "RUN_DONE", "JOB_FINISHED")
        ens.wait(timeout=30)
        assert counts(ens) == {"FINISHED": 20}
        assert len(ens.to_dataframe()) == 20


def test_missed_changes_are_found_by_counting(exctr: BalsamExecutor, bare_site: ServiceSite, proxy: Proxy) -> None:
    ens = exctr.submit_sweep("hello", Sweep.grid(number=range(20)), name="rows")

    async def nothing_new(request: Request, forward: Forward) -> Answer:
        if "last_update_after" not in dict(request.query):
            return await forward()
        return Answer(200, {"content-type": "application/json"}, b'{"count": 0, "results": []}')

    with proxy.spoil(faults.every(1, nothing_new, "GET", "/jobs")):
        bare_site.report(ids_of(ens), "PREPROCESSED", "RUNNING", "RUN_DONE", "JOB_FINISHED")
        ens.wait(timeout=90)


def test_jobs_that_somebody_else_deleted(site: Site, exctr: BalsamExecutor, bare_site: ServiceSite) -> None:
    ens = exctr.submit_sweep("hello", Sweep.grid(number=range(20)), name="rows")
    gone = ids_of(ens)[:5]
    with bare_site.service.client() as client:
        client.delete("/jobs/", params={"id": gone}).raise_for_status()
    eventually(lambda: site.engine.count(Query(ensemble=ens.name)) == {"STAGED_IN": 15}, 60)
