"""Jobs that wait for other jobs, and jobs that are run again by themselves."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balsam_jupyter import ApplicationDefinition, Job
from balsam_jupyter.api import EventLog
from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded.store import work
from balsam_jupyter.errors import BadInput, ExecutorException, NotFound
from balsam_jupyter.models import TERMINAL, JobCommon, JobSpec, Query

from .engine_site import allocate, finished, job, path_of, shell_app, submit, wait_until
from .processes import launchers

BORN = ["CREATED", "READY", "STAGED_IN", "PREPROCESSED"]
RAN = ["RUNNING", "RUN_DONE", "POSTPROCESSED", "STAGED_OUT", "JOB_FINISHED"]


def child(engine, common, *parents, row=None, **options):
    """A job with parents; its id."""
    common = replace(common, **options)
    return engine.submit([JobSpec(common, encode(row or {}), "lone/{id}", parents=parents)]).ids[0]


def test_a_child_runs_when_all_its_parents_have_finished(engine, tmp_path):
    app = shell_app(engine, f"sh -c 'echo {{{{ n }}}} >> {tmp_path}/order'", "n")
    first, second = submit(engine, app, [{"n": 1}, {"n": 2}])
    third = child(engine, app, first, second, row={"n": 3})
    fourth = child(engine, app, third, row={"n": 4})
    assert [job(engine, one).state for one in (third, fourth)] == ["AWAITING_PARENTS"] * 2
    assert job(engine, third).parent_ids == (first, second)
    assert [row.id for row in engine.jobs(Query(parent_ids=(first, third)))] == [third, fourth]
    allocate(engine)
    assert finished(engine, fourth).state == "JOB_FINISHED"
    assert sorted((tmp_path / "order").read_text().split()[:2]) == ["1", "2"]
    assert (tmp_path / "order").read_text().split()[2:] == ["3", "4"]
    assert path_of(engine, third) == ["CREATED", "AWAITING_PARENTS", *BORN[1:], *RAN]
    late = child(engine, app, first, row={"n": 5})
    assert path_of(engine, late)[:4] == BORN, "a parent that has finished holds nobody"


def test_a_failed_parent_fails_its_children_and_says_so(engine):
    bad, good = shell_app(engine, "false", app="Relax"), shell_app(engine, "true", app="Bands")
    [root] = submit(engine, bad)
    middle = child(engine, good, root)
    leaf = child(engine, good, middle)
    waiting = child(engine, good, root, on_parent_failure="wait")
    allocate(engine)
    assert finished(engine, leaf).state == "FAILED"
    assert job(engine, middle).error == f"parent job {root} (Relax) ended FAILED"
    assert job(engine, leaf).error == f"parent job {middle} (Bands) ended FAILED"
    assert path_of(engine, leaf) == ["CREATED", "AWAITING_PARENTS", "FAILED"]
    [told] = [row.data for row in engine.events("").rows if row.first_id == leaf and row.path[-1] == "FAILED"]
    assert told == {"error": job(engine, leaf).error}
    assert job(engine, waiting).state == "AWAITING_PARENTS"


def test_children_of_a_retried_parent(engine, tmp_path):
    flag = tmp_path / "flag"
    flaky, good = shell_app(engine, f"test -e {flag}", app="Flaky"), shell_app(engine, "true", app="Good")
    [root] = submit(engine, flaky)
    failing, waiting = child(engine, good, root), child(engine, good, root, on_parent_failure="wait")
    allocate(engine)
    assert finished(engine, failing).state == "FAILED"
    flag.touch()
    assert engine.update(Query(ids=(failing,)), "RESTART_READY") == 1
    assert job(engine, failing).state == "AWAITING_PARENTS", "its parent has still to be retried"
    assert job(engine, failing).error == ""
    assert engine.update(Query(ids=(root,)), "RESTART_READY") == 1
    assert finished(engine, failing).state == finished(engine, waiting).state == "JOB_FINISHED"
    assert path_of(engine, failing)[2:5] == ["FAILED", "AWAITING_PARENTS", "READY"]


def test_a_whole_family_is_retried_at_once(engine):
    bad = shell_app(engine, "false")
    [root] = submit(engine, bad)
    below = child(engine, bad, root)
    allocate(engine)
    finished(engine, below)
    shell_app(engine, "true")  # the app is mended
    assert engine.update(Query(states=("FAILED",)), "RESTART_READY") == 2
    assert finished(engine, below).state == job(engine, root).state == "JOB_FINISHED"


def test_parents_that_cannot_be(engine):
    app = shell_app(engine, "true")
    [dead, alive] = submit(engine, app, [{}, {}])
    engine.update(Query(ids=(dead,)), "USER_KILLED")
    with pytest.raises(NotFound, match="There is no job 98, 99 at this site"):
        child(engine, app, 99, alive, 98)
    with pytest.raises(BadInput, match=rf"Parent job {dead} \(App\) is USER_KILLED.*retry it first.*'wait'"):
        child(engine, app, alive, dead)
    assert engine.count(Query()) == {"USER_KILLED": 1, "PREPROCESSED": 1}, "nothing is stored"
    patient = child(engine, app, dead, on_parent_failure="wait")
    engine.update(Query(ids=(dead,)), "RESTART_READY")
    allocate(engine)
    assert finished(engine, patient).state == "JOB_FINISHED"


def test_waiting_jobs_are_killed_and_deleted(engine):
    app = shell_app(engine, "true")
    [root] = submit(engine, app)
    killed, deleted, orphan = (child(engine, app, root) for _ in range(3))
    below = child(engine, app, killed)
    assert engine.update(Query(ids=(killed,)), "USER_KILLED") == 1
    assert job(engine, killed).state == "USER_KILLED"
    assert job(engine, below).error == f"parent job {killed} (App) ended USER_KILLED"
    assert engine.delete(Query(ids=(deleted,))) == 1 and not engine.jobs(Query(ids=(deleted,)))
    assert engine.delete(Query(ids=(root,))) == 1
    assert job(engine, orphan).error == f"parent job {root} (App) was deleted"


def test_a_killed_parent_that_runs(engine):
    app = shell_app(engine, "sleep 60")
    [root] = submit(engine, app)
    below = child(engine, app, root)
    allocate(engine)
    wait_until(engine, lambda: job(engine, root).state == "RUNNING")
    engine.update(Query(ids=(root,)), "USER_KILLED")
    assert finished(engine, below).error == f"parent job {root} (App) ended USER_KILLED"


def test_a_family_survives_its_launcher(engine):
    app = shell_app(engine, "sleep {{ s }}", "s")
    [root] = submit(engine, app, [{"s": 0.5}])
    below = child(engine, app, root, row={"s": 0})
    allocation = allocate(engine)
    wait_until(engine, lambda: job(engine, root).state == "RUNNING")
    for pid in launchers(allocation.id, engine.path):
        os.kill(pid, signal.SIGKILL)
    assert finished(engine, below).state == "JOB_FINISHED"


# -- automatic retries -------------------------------------------------------------------------------------------------


def test_a_job_is_run_again_by_itself(engine, tmp_path):
    app = shell_app(engine, f"sh -c 'echo x >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) -ge 3'")
    [one] = submit(engine, replace(app, max_retries=2))
    below = child(engine, app, one)
    allocate(engine)
    assert finished(engine, below).state == job(engine, one).state == "JOB_FINISHED"
    again = ["RUNNING", "RUN_ERROR", "RESTART_READY"]
    assert path_of(engine, one) == [*BORN, *again, *again, *RAN]
    assert (job(engine, one).attempts, job(engine, one).max_retries, job(engine, one).error) == (3, 2, "")
    assert sorted(path.name for path in Path(engine.path, "data", "lone", str(one)).iterdir()) == [
        "job.out", "job.out.1", "job.out.2",
    ]  # fmt: skip


def test_retries_end(engine):
    [one] = submit(engine, replace(shell_app(engine, "false"), max_retries=1))
    allocate(engine)
    assert finished(engine, one).state == "FAILED" and job(engine, one).attempts == 2
    engine.update(Query(ids=(one,)), "RESTART_READY")  # asked for by a person, it has all its retries again
    wait_until(engine, lambda: job(engine, one).attempts == 4 and job(engine, one).state in TERMINAL)
    assert job(engine, one).state == "FAILED"


# -- Balsam's API, and the executor ------------------------------------------------------------------------------------


class Step(ApplicationDefinition):
    command_template = "echo {{ n }}"


def test_the_api_and_the_executor(exctr, allocation):
    exctr.register_app(Step)
    first = Job.objects.create(app_id="Step", workdir="first", parameters={"n": 1})
    second = Job.objects.create(app_id="Step", workdir="second", parameters={"n": 2}, parent_ids=[first.id])
    assert second.parent_ids == {first.id} and [one.id for one in second.parent_query()] == [first.id]
    task = exctr.submit(app_name="Step", app_args={"n": 3}, parent_ids=[second], max_retries=1)
    ensemble = exctr.submit_sweep("Step", {"n": [4, 5]}, name="after", parent_ids=[first, task], max_retries=2)
    ensemble.wait(60)
    assert ensemble.counts()["FINISHED"] == 2
    assert Job.objects.filter(parent_id=first.id).order_by("id")[0].id == second.id
    last = ensemble.tasks()[0].process
    assert (last.parent_ids, last.max_retries) == ({first.id, task.id}, 2)
    assert [event.to_state for event in EventLog.objects.filter(job_id=last.id)][:3] == [
        "CREATED", "AWAITING_PARENTS", "READY",
    ]  # fmt: skip
    assert exctr.submit_sweep("Step", {"n": [4, 5]}, name="after", parent_ids=[first, task]).new == 0


def test_what_a_job_with_parents_refuses(exctr):
    exctr.register_app(Step)
    job = Job.objects.create(app_id="Step", workdir="w", parameters={"n": 1})
    for wrong, match in (
        ({"parent_ids": [job.id, 77]}, "no job 77"), ({"max_retries": 1.5}, "max_retries"),
        ({"on_parent_failure": "stop"}, "'fail' or 'wait'"),
    ):  # fmt: skip
        with pytest.raises(ExecutorException, match=match):
            Job.objects.create(app_id="Step", workdir="x", parameters={"n": 1}, **wrong)
    assert Job.objects.count() == 1


# -- any graph, any order of events, against a model -------------------------------------------------------------------


class Model:
    """What the states of a family should be."""

    def __init__(self) -> None:
        self.state: dict[int, str] = {}
        self.parents: dict[int, tuple[int, ...]] = {}
        self.wait: dict[int, bool] = {}
        self.ran: set[int] = set()

    def waits(self, one: int) -> bool:
        return any(self.state.get(parent, "JOB_FINISHED") != "JOB_FINISHED" for parent in self.parents[one])

    def add(self, one: int, parents: tuple[int, ...], wait: bool) -> None:
        self.parents[one], self.wait[one] = parents, wait
        self.state[one] = "AWAITING_PARENTS" if self.waits(one) else "PREPROCESSED"

    def over(self, one: int, state: str | None) -> None:
        """A job is over (None: deleted)."""
        finished = self.state[one] == "JOB_FINISHED"
        if state is None:
            del self.state[one]
        else:
            self.state[one] = state
        for other in [other for other, parents in self.parents.items() if one in parents]:
            if self.state.get(other) == "AWAITING_PARENTS":
                if state == "JOB_FINISHED" and not self.waits(other):
                    self.state[other] = "PREPROCESSED"
                elif (state is None and not finished) or (state in ("FAILED", "USER_KILLED") and not self.wait[other]):
                    self.over(other, "FAILED")

    def retry(self, one: int) -> None:
        self.state[one] = "AWAITING_PARENTS" if self.waits(one) else "RESTART_READY"


ops = st.tuples(
    st.sampled_from(["add", "add", "add", "finish", "finish", "fail", "kill", "delete", "retry"]),
    st.integers(0, 30),
    st.sets(st.integers(0, 30), max_size=3),
    st.booleans(),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ops, max_size=40))
def test_any_family_behaves_as_the_model(engine, steps):
    common = shell_app(engine, "true")
    model = Model()
    for what, pick, chosen, wait in steps:
        known = sorted(model.parents)
        if what == "add":
            parents = tuple(sorted({known[n % len(known)] for n in chosen})) if known else ()
            fates = [model.state.get(parent) for parent in parents]
            if None in fates or (not wait and {"FAILED", "USER_KILLED"} & set(fates)):
                with pytest.raises((NotFound, BadInput)):
                    child(engine, common, *parents, on_parent_failure="wait" if wait else "fail")
            else:
                number = child(engine, common, *parents, on_parent_failure="wait" if wait else "fail")
                model.add(number, parents, wait)
        elif known:
            one = known[pick % len(known)]
            state = model.state.get(one)
            if what in ("finish", "fail") and state in ("PREPROCESSED", "RESTART_READY"):
                end(engine, one, state, what == "finish")
                model.over(one, "JOB_FINISHED" if what == "finish" else "FAILED")
            elif what == "kill" and state is not None and state not in TERMINAL:
                assert engine.update(Query(ids=(one,)), "USER_KILLED") == 1
                model.over(one, "USER_KILLED")
            elif what == "delete" and state is not None:
                assert engine.delete(Query(ids=(one,))) == 1
                model.over(one, None)
            elif what == "retry" and state in ("FAILED", "USER_KILLED"):
                assert engine.update(Query(ids=(one,)), "RESTART_READY") == 1
                model.retry(one)
        assert {row.id: row.state for row in engine.jobs(Query(ids=tuple(model.parents)))} == model.state


def end(engine, one: int, state: str, well: bool) -> None:
    """A run, as a launcher writes it down."""
    with engine.store.transaction() as con:
        session = work.open_session(con, 1, os.getpid(), "launcher")
        con.execute("UPDATE job SET session_id = ?, attempts = attempts + 1 WHERE id = ?", (session, one))
        outcome = "finished" if well else "error"
        work.commit_ends(con, session, [work.End(one, outcome, state, time.time(), 0.1, 0 if well else 1)])
        work.set_session(con, session, "closed")


def test_a_submission_of_children_is_all_or_nothing(engine):
    app = shell_app(engine, "true")
    [root] = submit(engine, app)
    specs = [JobSpec(JobCommon(app.app_id), "{}", "lone/{id}", parents=(root,)) for _ in range(5)]
    with pytest.raises(NotFound):
        engine.submit([*specs, specs[0]._replace(parents=(root, 10**6))])
    assert engine.count(Query()) == {"PREPROCESSED": 1}
    assert engine.store.con.execute("SELECT count(*) FROM dependency").fetchone() == (0,)
