"""What a page with a task table is told: rows, a task, its log piece by piece, and what is done to tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Site, Sweep, browse
from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.errors import BalsamJupyterError, NotFound
from balsam_jupyter.models import Query
from balsam_jupyter.widgets import tasks
from balsam_jupyter.widgets.tasks import LOG_PIECE, answers

from .ended import Pilot, add_rows, log_into

HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\u202e\x00"


@pytest.fixture
def pilot(site: Site) -> Any:
    assert isinstance(site.engine, EmbeddedEngine)
    pilot = Pilot(site.engine)
    yield pilot
    pilot.close()


def plain(value: Any) -> Any:
    """What reaches the page: a message is JSON, without what JSON does not have."""
    return json.loads(json.dumps(value, allow_nan=False).encode())


def test_rows_of_an_ensemble_have_a_column_for_each_parameter(site: Site, pilot: Pilot) -> None:
    ids = add_rows(
        pilot.engine, "s", [{"T": 300.5, "name": HOSTILE, "flag": math.nan}, {"T": [1] * 1000, "name": "\ud800"}]
    )
    pilot.start(pilot.take(1))
    pilot.end(
        ids[0], "error", 2.5, "Traceback (most recent call last):\n  File x\nValueError: \x1b[31mbad\x1b[0m\n", None, 3
    )
    page = plain(answers(site, "e")["tasks.page"]())
    assert page["columns"] == page["names"] == ["T", "name", "flag"]
    first, second = page["rows"]
    assert first["passed"] == ["300.5", HOSTILE, "nan"]
    assert (first["state"], first["code"], first["runtime"], first["error"]) == ("FAILED", 3, 2.5, "ValueError: bad")
    assert second["state"] == "WAITING" and second["passed"][1:] == ["?", ""]
    assert len(second["passed"][0]) == tasks.CELL and second["passed"][0].endswith("…")
    assert page["total"] == 2 and page["complete"] and page["looked"] == page["among"] == 2


def test_rows_of_a_site_have_one_column_for_all_parameters(site: Site, pilot: Pilot) -> None:
    add_rows(pilot.engine, "s", [{"T": 1}], "e")
    add_rows(pilot.engine, "s", [{"T": 2, "name": "x"}], None)
    page = plain(answers(site)["tasks.page"](descending=True))
    assert page["columns"] == [] and page["names"] == ["T", "name", "flag"]
    assert [(row["passed"], row["ensemble"]) for row in page["rows"]] == [("T=2  name=x", ""), ("T=1", "e")]


class Gone:
    """Pickled by name, so that it cannot be read once the name is gone."""


def test_what_this_kernel_cannot_read_hides_no_row(site: Site, pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = add_rows(pilot.engine, "s", [{"T": Gone()}, {"T": 5}])
    pilot.start(pilot.take(1))
    pilot.end(ids[0], value=encode(Gone()))  # type: ignore[arg-type]
    monkeypatch.delitem(globals(), "Gone")
    with pytest.raises(AttributeError):
        cloudpickle.loads(encode_of(site, ids[0]))
    ask = answers(site, "e")
    page = plain(ask["tasks.page"]())
    assert [row["passed"] for row in page["rows"]] == [["", "", ""], ["5", "", ""]]
    assert page["rows"][0]["value"].startswith("(not readable in this kernel")
    assert plain(ask["tasks.page"]("T>1", order="T"))["total"] == 1
    assert plain(ask["tasks.task"](ids[0]))["unreadable"]


def encode_of(site: Site, job_id: int) -> bytes:
    stored = site.engine.jobs(Query(ids=(job_id,)))[0].parameters
    assert isinstance(stored, bytes)
    return stored


def test_a_task_is_told_whole(site: Site, exctr: BalsamExecutor, allocation: BatchJob) -> None:
    class Say(ApplicationDefinition):
        command_template = "sh -c 'echo {{ word }}; exit {{ code }}'"
        environment_variables = {"LEVEL": "3"}

    exctr.register_app(Say)
    ensemble = exctr.submit_sweep("Say", Sweep.zip(word=["a", "b"], code=[0, 7]), name="say", tags={"study": "x"})
    ensemble.wait(60)
    good, bad = (task.id for task in ensemble.tasks())
    ask = answers(site, "say")
    told = plain(ask["tasks.task"](good))
    assert told["command"].endswith("sh -c 'echo a; exit 0'") and told["environment"]["LEVEL"] == "3"
    assert told["parameters"] == {"word": "a", "code": "0"} and told["tags"] == {"study": "x", "workflow": "say"}
    assert told["path"] == str(site.data_path / "say" / "0") and told["over"] and told["code"] == 0
    states = [step["job"] for step in told["timeline"]]
    assert states[0] == "CREATED" and states[-5:] == [
        "RUNNING",
        "RUN_DONE",
        "POSTPROCESSED",
        "STAGED_OUT",
        "JOB_FINISHED",
    ]
    assert told["timeline"][states.index("RUNNING")]["seconds"] >= 0 and told["timeline"][-1]["seconds"] is None
    assert plain(ask["tasks.log"](good)) | {"text": "a\n", "next": 2, "left": 0, "state": "FINISHED"} == plain(
        ask["tasks.log"](good)
    )
    told = plain(ask["tasks.task"](bad))
    assert (told["state"], told["code"], told["job"]) == ("FAILED", 7, "FAILED")

    assert ask["tasks.retry"](bad) == "1 task will run again."
    ensemble.wait(60)
    again = plain(ask["tasks.log"](bad, 0, 1))
    assert again["anew"] and again["attempts"] == 2, "the log of the run before is another file now"
    site.engine.delete(Query(ids=(good,)))
    with pytest.raises(NotFound, match=f"Task {good} is no more"):
        ask["tasks.task"](good)


def test_an_app_that_has_gone_or_changed_is_said(site: Site, pilot: Pilot) -> None:
    (job,) = add_rows(pilot.engine, "s", [{"T": 1}])
    app = site.engine.apps()[0]
    app.command_template = "echo {{ T.missing.attribute }}"
    site.engine.register(app)
    assert plain(answers(site, "e")["tasks.task"](job))["command"].startswith("(not known: ")


# -- logs --------------------------------------------------------------------------------------------------------------


def read_all(ask: Callable[..., dict[str, Any]], job: int, start: int = 0) -> str:
    parts, left = [], 1
    while left:
        said = plain(ask(job, start, 0))
        parts.append(said["text"])
        start, left = said["next"], said["left"]
    return "".join(parts)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from("aé€😀\n"), max_size=60), cuts=st.lists(st.integers(0, 240), max_size=5))
def test_a_log_that_grows_anywhere_is_followed_without_loss(
    site: Site, pilot: Pilot, text: str, cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "LOG_PIECE", 7)
    job = (
        pilot.engine.jobs(Query(limit=1))[0].id if site.engine.count(Query()) else add_rows(pilot.engine, "s", [{}])[0]
    )
    data, ask = text.encode(), answers(site, "e")["tasks.log"]
    reached, seen = 0, ""
    for cut in sorted({*(min(cut, len(data)) for cut in cuts), len(data)}):
        log_into(pilot.engine, job, data[:cut])
        while True:
            said = ask(job, reached, 0)
            assert not said["anew"]
            reached, seen = said["next"], seen + said["text"]
            if not said["left"]:
                break
    assert seen == text and reached == len(data)


def test_a_long_log_begins_near_its_end_with_a_whole_line(site: Site, pilot: Pilot) -> None:
    (job,) = add_rows(pilot.engine, "s", [{}])
    lines = b"".join(b"line %06d\n" % at for at in range(20_000))
    log_into(pilot.engine, job, lines)
    ask = answers(site, "e")["tasks.log"]
    said = plain(ask(job))
    assert said["anew"] and said["text"].startswith("line ") and said["text"].endswith("line 019999\n")
    assert said["next"] == len(lines) and LOG_PIECE - 20 < len(said["text"]) <= LOG_PIECE
    log_into(pilot.engine, job, b"fresh\n")
    said = plain(ask(job, said["next"], 0))
    assert said["anew"] and said["text"] == "fresh\n", "it was replaced by a shorter one"
    log_into(pilot.engine, job, b"\xff\xfe\x1b[31m<b>\n")
    assert plain(ask(job))["text"] == "\ufffd\ufffd\x1b[31m<b>\n"


# -- what is done ------------------------------------------------------------------------------------------------------


def test_what_was_found_is_killed_and_run_again(site: Site, pilot: Pilot) -> None:
    ids = add_rows(pilot.engine, "s", [{"T": at} for at in range(10)])
    ask = answers(site, "e")
    assert ask["tasks.kill"](line="T>=4 T<8") == "4 tasks asked to end."
    assert [row.state for row in site.engine.jobs(Query(ids=tuple(ids[3:5])))] == ["PREPROCESSED", "USER_KILLED"]
    assert ask["tasks.retry"](line="T<5") == "1 task will run again."
    assert ask["tasks.kill"](ids[4]) == "1 task asked to end." and ask["tasks.kill"](ids[4]) == "0 tasks asked to end."
    assert ask["tasks.retry"](states=["USER_KILLED"]) == "4 tasks will run again."


def test_nothing_is_done_to_what_was_not_all_looked_through(
    site: Site, pilot: Pilot, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_rows(pilot.engine, "s", [{"T": at} for at in range(10)])
    monkeypatch.setattr(browse, "SLICE_S", 0.0)
    monkeypatch.setattr(browse, "_FIRST_STEP", 3)
    with pytest.raises(BalsamJupyterError, match="Not all tasks have been looked through"):
        answers(site, "e")["tasks.kill"](line="T<5")
    assert site.engine.count(Query()) == {"PREPROCESSED": 10}
