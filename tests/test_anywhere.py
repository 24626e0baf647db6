"""What the executor promises, on the embedded engine and at a site of a real Balsam service: the same tests."""

from __future__ import annotations

import datetime
import math
import secrets
from pathlib import Path
from typing import Any

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Sweep, TaskFailed, TimeoutExpired
from balsam_jupyter.errors import BadInput, NotFound
from balsam_jupyter.models import Query
from tests.anywhere import anywhere, opened  # noqa: F401 - a fixture

SOON = 60.0


class Echo(ApplicationDefinition):
    """Says a word."""

    command_template = "echo {{ word }}"
    outputs = {"said": r"(.+)"}


ECHO = Echo


class Script(ApplicationDefinition):
    command_template = "sh -c '{{ text }}'"


class Divide(ApplicationDefinition):
    def run(self, a: float, b: float = 2.0) -> dict[str, float]:
        print("dividing")
        return {"ratio": a / b}


class Hooked(ApplicationDefinition):
    """A file is written before, and read after."""

    command_template = "cat start.txt; cat deck.in"
    inputs = {"deck.in": "T = {{ T }}\n"}
    outputs = {"temperature": r"T = (\S+)", "folder": lambda folder: folder.name}

    def preprocess(self) -> None:
        Path("start.txt").write_text(f"{self.job.parameters['T']} is hot\n")
        self.job.state = "PREPROCESSED"


@pytest.fixture
def exctr(anywhere: BalsamExecutor) -> BalsamExecutor:  # noqa: F811
    for app in (Echo, Script, Divide, Hooked):
        anywhere.register_app(app)
    return anywhere


def name() -> str:
    return f"e{secrets.token_hex(4)}"


def test_a_task_from_submission_to_its_log(exctr: BalsamExecutor) -> None:
    task = exctr.submit(app_name="Echo", app_args={"word": 'it\'s $HOME; "quoted" {{ x }}'})
    assert task.state in ("WAITING", "RUNNING") and not task.finished and task.errcode is None
    assert task.result(SOON) == "FINISHED"
    assert task.exception() == 0
    assert task.done() and task.success and not task.running() and not task.cancelled()
    assert task.read_stdout() == 'it\'s $HOME; "quoted" {{ x }}\n'
    assert task.value() == {"said": 'it\'s $HOME; "quoted" {{ x }}'}
    assert task.file_exists_in_workdir("job.out") and not task.file_exists_in_workdir("nothing")
    assert 0 <= task.runtime <= (task.total_time or 0) < SOON
    assert task.process is not None and task.process.state == "JOB_FINISHED"


def test_values_and_exceptions_of_a_python_app(exctr: BalsamExecutor) -> None:
    ensemble = exctr.submit_sweep("Divide", {"a": [1.0, 2.0], "b": [4.0, 0.0]}, name=name())
    tasks = ensemble.wait(SOON).tasks()
    assert [task.state for task in tasks] == ["FINISHED", "FAILED", "FINISHED", "FAILED"]
    assert [task.value() for task in (tasks[0], tasks[2])] == [{"ratio": 0.25}, {"ratio": 0.5}]
    with pytest.raises(ZeroDivisionError) as raised:
        tasks[1].value()
    assert "in run" in str(raised.value.__cause__)
    assert "dividing" in tasks[1].read_stdout()
    table = ensemble.to_dataframe()
    assert list(table["ratio"][table["state"] == "FINISHED"]) == [0.25, 0.5]
    assert "ZeroDivisionError" in table["error"][1]
    (group,) = ensemble.failures()
    assert group.count == 2


def test_a_command_that_fails_says_how(exctr: BalsamExecutor) -> None:
    task = exctr.submit(app_name="Script", app_args={"text": "echo on the way; exit 3"})
    assert task.result(SOON) == "FAILED"
    assert task.errcode == 3
    with pytest.raises(TaskFailed, match=r"(?s)return code 3.*on the way"):
        task.value()


def test_hooks_inputs_and_outputs(exctr: BalsamExecutor) -> None:
    ensemble = exctr.submit_sweep("Hooked", {"T": [300, 310.5]}, name=name()).wait(SOON)
    table = ensemble.to_dataframe()
    assert list(table["temperature"]) == [300, 310.5]
    assert list(table["folder"]) == ["0", "1"]
    assert ensemble.tasks()[1].read_file_in_workdir("job.out") == "310.5 is hot\nT = 310.5\n"


def test_the_same_name_keeps_its_rows_and_adds_new_ones(exctr: BalsamExecutor) -> None:
    study = name()
    first = exctr.submit_sweep("Echo", {"word": ["a", "b"]}, name=study)
    again = exctr.submit_sweep("Echo", {"word": ["b", "c", "a"]}, name=study)
    assert (again.new, again.kept) == (1, 2)
    assert len(exctr.ensemble(study)) == 3 == len(first)
    assert list(again.wait(SOON).to_dataframe()["said"]) == ["a", "b", "c"]
    assert again.add([{"word": "d"}, {"word": "a"}]) == 1
    assert again.missing({"word": ["d", "e"]}) == [{"word": "e"}]


def test_a_changed_app_asks(exctr: BalsamExecutor) -> None:
    study = name()
    exctr.submit_sweep("Echo", {"word": ["a"]}, name=study).wait(SOON)

    class Echo(ApplicationDefinition):
        command_template = "echo again {{ word }}"
        outputs = {"said": r"(.+)"}

    exctr.register_app(Echo)
    with pytest.raises(BadInput, match="has changed since rows"):
        exctr.submit_sweep("Echo", {"word": ["a"]}, name=study)
    fresh = exctr.submit_sweep("Echo", {"word": ["a"]}, name=study, if_changed="fresh")
    assert (fresh.new, fresh.generation) == (1, 2)
    assert fresh.wait(SOON).counts()["FINISHED"] == 1
    assert exctr.ensemble(study, 1).counts()["FINISHED"] == 1
    exctr.register_app(ECHO)
    kept = exctr.submit_sweep("Echo", {"word": ["a"]}, name=study, if_changed="keep")
    assert (kept.new, kept.kept, kept.counts()["FINISHED"]) == (0, 1, 1)


def test_failures_are_retried(exctr: BalsamExecutor, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    text = f"test -e {flag} || exit 2; echo there"
    ensemble = exctr.submit_sweep("Script", [{"text": text}, {"text": "true"}], name=name()).wait(SOON)
    assert ensemble.counts()["FAILED"] == 1
    flag.touch()
    assert ensemble.retry() == 1
    assert ensemble.wait(SOON).counts()["FINISHED"] == 2
    assert ensemble.to_dataframe()["return_code"].tolist() == [0, 0]


def test_tasks_that_wait_are_killed_and_retried(exctr: BalsamExecutor) -> None:
    # an allocation that takes none of them: they wait
    ensemble = exctr.submit_sweep("Echo", {"word": ["x", "y", "z"]}, name=name(), parent_ids=[_parent(exctr)])
    assert ensemble.kill(rows=[0, 1]) == 2
    assert ensemble.counts()["USER_KILLED"] == 2
    task = ensemble.tasks()[0]
    assert task.cancelled() and task.state == "USER_KILLED"
    with pytest.raises(TaskFailed, match="was killed"):
        task.value()
    assert ensemble.kill(rows=[0, 1]) == 0
    assert ensemble.retry(rows=[0]) == 1
    assert ensemble.counts()["USER_KILLED"] == 1
    assert ensemble.wait(SOON).counts() == {"WAITING": 0, "RUNNING": 0, "FINISHED": 2, "FAILED": 0, "USER_KILLED": 1}


def _parent(exctr: BalsamExecutor) -> Any:
    return exctr.submit(app_name="Script", app_args={"text": "sleep 6"})


def test_children_of_a_task_that_fails_fail(exctr: BalsamExecutor) -> None:
    parent = exctr.submit(app_name="Script", app_args={"text": "sleep 2; exit 1"})
    child = exctr.submit(app_name="Echo", app_args={"word": "never"}, parent_ids=[parent])
    assert child.result(SOON) == "FAILED"
    with pytest.raises(TaskFailed, match=f"parent job {parent.id}"):
        child.value()


def test_automatic_retries(exctr: BalsamExecutor, tmp_path: Path) -> None:
    text = f"echo x >> {tmp_path}/runs; test $(wc -l < {tmp_path}/runs) = 3"
    task = exctr.submit(app_name="Script", app_args={"text": text}, max_retries=2)
    assert task.result(SOON) == "FINISHED"
    assert (tmp_path / "runs").read_text() == "x\nx\nx\n"


def test_parameters_of_all_kinds(exctr: BalsamExecutor) -> None:
    odd = [1.5, math.inf, None, "ä €", [1, {"k": (2, 3)}], datetime.date(2030, 1, 2), Path("a/b")]

    class Kinds(ApplicationDefinition):
        def run(self, value: Any) -> str:
            return repr(value)

    exctr.register_app(Kinds)
    tasks = [exctr.submit(app_name="Kinds", app_args={"value": value}) for value in odd]
    assert [task.value(SOON) for task in tasks] == [repr(value) for value in odd]


def test_tags_rename_and_delete(exctr: BalsamExecutor) -> None:
    study, other = name(), name()
    ensemble = exctr.submit_sweep("Echo", {"word": ["a", "b"]}, name=study, tags={"kind": "test"}).wait(SOON)
    assert ensemble.tag(kind=None, color="red") == 2
    assert [row.tags for row in exctr.site.engine.jobs(Query(ensemble=study))] == [
        {"workflow": study, "color": "red"}
    ] * 2
    ensemble.rename(other)
    with pytest.raises(NotFound):
        exctr.ensemble(study)
    assert exctr.ensemble(other).counts()["FINISHED"] == 2
    assert exctr.site.engine.jobs(Query(ensemble=other))[0].tags["workflow"] == other
    ensemble.delete()
    with pytest.raises(NotFound):
        exctr.ensemble(other)
    assert len(exctr.submit_sweep("Echo", {"word": ["a"]}, name=other).wait(SOON)) == 1


def test_wait_gives_up_and_the_task_goes_on(exctr: BalsamExecutor) -> None:
    task = exctr.submit(app_name="Script", app_args={"text": "sleep 5"})
    with pytest.raises(TimeoutExpired):
        task.wait(0.5)
    assert task.result(SOON) == "FINISHED"


def test_as_completed_and_callbacks(exctr: BalsamExecutor) -> None:
    ensemble = exctr.submit_sweep("Divide", {"a": [1.0, 2.0, 3.0]}, name=name())
    seen: list[float] = []
    ensemble.on_finished(lambda task: seen.append(task.value()["ratio"]))
    assert sorted(task.value()["ratio"] for task in ensemble.as_completed(SOON)) == [0.5, 1.0, 1.5]
    assert sorted(seen) == [0.5, 1.0, 1.5]


def test_filter_tags(exctr: BalsamExecutor) -> None:
    ours = {job.id for job in exctr.site.engine.jobs(Query(tags={"workflow": "nothing"}))}
    assert ours == set()
    with pytest.raises(BadInput, match="too many"):
        exctr.submit(app_name="Echo", app_args={"word": "x"}, num_nodes=1000)


def test_a_sweep_without_a_name_finds_its_ensemble_again(exctr: BalsamExecutor) -> None:
    words = [secrets.token_hex(3) for _ in range(3)]
    first = exctr.submit_sweep("Echo", Sweep.grid(word=words))
    again = exctr.submit_sweep("Echo", Sweep.grid(word=words[::-1]))
    assert (first.name, again.new) == (again.name, 0)


def test_status_and_cost(exctr: BalsamExecutor) -> None:
    ensemble = exctr.submit_sweep("Echo", {"word": [str(at) for at in range(5)]}, name=name()).wait(SOON)
    assert "5 FINISHED" in repr(exctr.status(ensemble.name)) if hasattr(exctr, "status") else True
    price = ensemble.cost()
    assert price.tasks == 0 and price.spent["FINISHED"].tasks == 5


def test_work_moves_to_another_site(exctr: BalsamExecutor, tmp_path: Path) -> None:
    study, flag = name(), tmp_path / "flag"
    with opened("embedded", tmp_path) as laptop:
        here = BalsamExecutor(laptop)
        here.register_app(Divide)
        here.register_app(Script)
        allocation = here.submit_allocation(laptop.id, 1, 10, job_mode="serial")
        begun = here.submit_sweep("Divide", {"a": [1.0, 2.0, 3.0], "b": [4.0]}, name=study).wait(SOON)
        with pytest.raises(BadInput, match="nothing to move"):
            begun.move_to(exctr.site)
        ran = here.submit_sweep("Script", [{"text": "true"}, {"text": f"test -e {flag}"}], name=f"{study}-s").wait(SOON)
        here.revoke_allocation(allocation)
        begun.add([{"a": 5.0, "b": 2.0}])
        flag.touch()
        moved, other = begun.move_to(exctr.site), ran.move_to(exctr.site)
        assert begun.counts()["USER_KILLED"] == 1
        times = begun.to_dataframe()["runtime_s"].tolist()[:3]
    table = moved.wait(SOON).to_dataframe()
    assert table["ratio"].tolist() == [0.25, 0.5, 0.75, 2.5]
    assert table["a"].tolist() == [1.0, 2.0, 3.0, 5.0] and table.index.tolist() == [0, 1, 2, 3]
    assert table["runtime_s"].tolist()[:3] == times
    assert other.wait(SOON).to_dataframe()["state"].tolist() == ["FINISHED", "FINISHED"]
    assert exctr.submit_sweep("Divide", {"a": [1.0, 5.0], "b": [4.0]}, name=study).new == 1


def test_work_comes_back_from_another_site(exctr: BalsamExecutor, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with opened("embedded", tmp_path) as laptop:
        here = BalsamExecutor(laptop)
        here.register_app(Divide)
        here.register_app(Script)
        begun = here.submit_sweep("Script", [{"text": f"test -e {flag}"}, {"text": "echo"}], name=name())
        there = begun.move_to(exctr.site).wait(SOON)
        assert begun.counts()["USER_KILLED"] == 2
        times = there.to_dataframe()["runtime_s"].tolist()[1:]
        flag.touch()
        back = there.move_to(laptop)
        assert back.counts()["WAITING"] == 1 and back.counts()["FINISHED"] == 1
        here.submit_allocation(laptop.id, 1, 10, job_mode="serial")
        table = back.wait(SOON).to_dataframe()
    assert table["state"].tolist() == ["FINISHED", "FINISHED"] and table["runtime_s"].tolist()[1:] == times
