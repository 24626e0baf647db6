"""Submitting a name again: what it keeps, and what becomes of rows that ran with another version of the app."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Ensemble, Job, Site, Sweep
from balsam_jupyter.errors import BadInput, NotFound
from balsam_jupyter.identity import summary
from balsam_jupyter.models import Query

SOON = 60.0
Until = Callable[[Callable[[], bool]], None]


def declare(exctr: BalsamExecutor, word: str, name: str = "Said") -> str:
    """Register a version of the app; rows of x above 9 fail, rows of x above 99 take a minute. Its version."""
    command = f"sh -c 'echo {word} $0; test $0 -lt 100 || sleep 60; test $0 -lt 10' {{{{ x }}}}"
    exctr.register_app(type(name, (ApplicationDefinition,), {"site": "here", "command_template": command}))
    return exctr.site.app(name).version


def said(ens: Ensemble) -> list[str]:
    return [task.read_stdout().split()[0] if task.stdout_exists() else "" for task in ens.tasks()]


@pytest.fixture
def mixed(exctr: BalsamExecutor, allocation: BatchJob) -> Ensemble:
    """Rows 0 and 1 finished, row 2 failed, all with version "one"; nothing runs any more."""
    declare(exctr, "one")
    ens = exctr.submit_sweep("Said", {"x": [1, 2, 11]}, name="said").wait(SOON)
    assert exctr.revoke_allocation(allocation)
    return ens


def test_a_name_again_says_what_it_kept(exctr: BalsamExecutor, mixed: Ensemble) -> None:
    rows = [1, 2, 11, *range(20, 24)]
    more = exctr.submit_sweep("Said", {"x": rows}, name="said")
    assert (more.new, more.kept) == (4, 3)
    assert repr(more) == "<Ensemble 'said' of Said: 7 rows: 2 finished, 1 failed, 4 new>"
    assert "7 rows: 2 finished, 1 failed, 4 new" in more._repr_html_()
    again = exctr.submit_sweep("Said", {"x": rows}, name="said")
    assert repr(again) == "<Ensemble 'said' of Said: 7 rows: 2 finished, 1 failed, 4 waiting>"
    assert repr(exctr.submit_sweep("Said", {"x": [30]}, name="said")).endswith("1 failed, 1 new, 4 waiting>")
    # What is new stays so only while it waits; rows before it may wait on.
    assert more.kill(rows=[5, 6]) == 2 and again.retry(rows=2) == 1
    assert repr(more) == "<Ensemble 'said' of Said: 8 rows: 2 finished, 2 user killed, 3 new, 1 waiting>"


@given(
    st.fixed_dictionaries(
        {s: st.integers(0, 3000) for s in ("WAITING", "RUNNING", "FINISHED", "FAILED", "USER_KILLED")}
    )
)
def test_the_numbers_of_a_summary_add_up(counts: dict[str, int]) -> None:
    for new in {0, counts["WAITING"] // 2, counts["WAITING"]}:
        total, _, parts = summary(counts, new).partition(": ")
        words = dict(reversed(part.split(" ", 1)) for part in parts.split(", ")) if sum(counts.values()) else {}
        numbers = {word: int(number.replace(",", "")) for word, number in words.items()}
        assert int(total.split()[0].replace(",", "")) == sum(numbers.values()) == sum(counts.values())
        assert 0 not in numbers.values() and numbers.get("new", 0) == new
        assert numbers.get("waiting", 0) == counts["WAITING"] - new
        assert numbers.get("user killed", 0) == counts["USER_KILLED"]


def test_an_app_that_changed_asks_and_stores_nothing(exctr: BalsamExecutor, site: Site, mixed: Ensemble) -> None:
    old = site.app("Said").version
    assert mixed.retry(rows=[2]) == 1 and mixed.kill(rows=[2]) == 1  # killed before it ran again
    new = declare(exctr, "two")
    with pytest.raises(BadInput) as asked:
        exctr.submit_sweep("Said", {"x": [1, 2, 11, 5]}, name="said")
    text = str(asked.value)
    assert f"3 rows (0–2) ran with version {old[:8]}, the app is {new[:8]} now" in text
    assert "--keep (if_changed='keep')" in text and "--fresh (if_changed='fresh')" in text and "\n" not in text
    assert "killed" not in text  # nothing of it waits
    assert len(mixed) == 3 and [one.generation for one in site.engine.ensembles()] == [1]
    with pytest.raises(BadInput, match="has changed since rows of ensemble 'said' ran"):
        mixed.add([{"x": 5}])
    with pytest.raises(BadInput, match=r"Did you mean 'keep'"):
        exctr.submit_sweep("Said", {"x": [1]}, name="said", if_changed="kep")
    with pytest.raises(BadInput, match="if_changed is 'keep'"):
        exctr.submit_sweep("Said", {"x": [1]}, name="said", if_changed=True)
    assert Job.objects.count() == 3


def test_keep_is_remembered(exctr: BalsamExecutor, site: Site, mixed: Ensemble) -> None:
    one, rows = site.app("Said").version, {"x": [1, 2, 11, 5]}
    declare(exctr, "two")
    kept = exctr.submit_sweep("Said", rows, name="said", if_changed="keep")
    assert (kept.new, kept.kept, kept.generation) == (1, 3, 1)
    exctr.submit_allocation("here", 1, 10, "serial")
    kept.wait(SOON)
    again = exctr.submit_sweep("Said", rows, name="said")  # no flag any more
    assert (again.new, again.kept) == (0, 4)
    assert said(again) == ["one", "one", "one", "two"]
    # A third version: both older ones are named; what was kept once is asked about again.
    two, three = site.app("Said").version, declare(exctr, "three")
    with pytest.raises(BadInput) as asked:
        exctr.submit_sweep("Said", rows, name="said")
    assert f"3 rows (0–2) ran with version {one[:8]}" in str(asked.value)
    assert f"1 row (3) ran with version {two[:8]}" in str(asked.value) and three[:8] in str(asked.value)
    # Back at the first: only the row of the second is another's.
    declare(exctr, "one")
    with pytest.raises(BadInput, match=r"ran: 1 row \(3\) ran with version"):
        exctr.submit_sweep("Said", rows, name="said")
    assert exctr.submit_sweep("Said", rows, name="said", if_changed="keep").kept == 4
    assert exctr.submit_sweep("Said", rows, name="said").kept == 4


def test_fresh_is_a_new_generation(
    exctr: BalsamExecutor, site: Site, mixed: Ensemble, caplog: pytest.LogCaptureFixture
) -> None:
    mixed.add({"x": [6, 7]})
    declare(exctr, "two")
    rows = {"x": [1, 2, 11, 5]}
    with pytest.raises(BadInput, match=r"generation 1 stays to be read \(2 of its rows have not ended: they are kill"):
        exctr.submit_sweep("Said", rows, name="said")
    ens = exctr.submit_sweep("Said", rows, name="said", if_changed="fresh")
    assert "said: 2 rows of generation 1 had not ended and are killed" in caplog.text
    assert (ens.new, ens.kept, ens.generation, ens.generations) == (4, 0, 2, [1, 2])
    assert repr(ens) == "<Ensemble 'said' (generation 2) of Said: 4 rows: 4 new>"
    assert exctr.ensemble("said").generation == 2 and len(exctr.ensembles()) == 1
    old = exctr.ensemble("said", generation=1)
    assert repr(old) == "<Ensemble 'said' of Said: 5 rows: 2 finished, 1 failed, 2 user killed>"
    exctr.submit_allocation("here", 1, 10, "serial")
    ens.wait(SOON)
    assert said(ens) == ["two"] * 4 and said(old)[:3] == ["one"] * 3
    assert ens.tasks()[0].workdir.endswith("data/said~2/0")
    # The flag left in the cell: nothing has changed, nothing runs.
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        again = exctr.submit_sweep("Said", rows, name="said", if_changed="fresh")
    assert (again.new, again.generation, caplog.text) == (0, 2, "")
    with pytest.raises(BadInput, match=r"Generation 1 of 'said' takes no more rows: generation 2"):
        old.add([{"x": 9}])
    with pytest.raises(NotFound, match="no generation 3; it has 1, 2"):
        exctr.ensemble("said", generation=3)


def test_fresh_kills_what_runs(exctr: BalsamExecutor, allocation: BatchJob, until: Until) -> None:
    declare(exctr, "one")
    old = exctr.submit_sweep("Said", {"x": [1, 100]}, name="said")
    until(lambda: old.counts()["FINISHED"] == 1 and old.counts()["RUNNING"] == 1)
    declare(exctr, "two")
    new = exctr.submit_sweep("Said", {"x": [1]}, name="said", if_changed="fresh")
    assert old.wait(SOON).counts()["USER_KILLED"] == 1 and said(new.wait(SOON)) == ["two"]


def test_a_change_that_no_ended_row_has_seen_asks_nothing(
    exctr: BalsamExecutor, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    declare(exctr, "one")
    ens = exctr.submit_sweep("Said", {"x": [1, 2]}, name="said")
    ens.kill(rows=1)  # it never ran, so it saw no version
    two = declare(exctr, "two")
    assert exctr.submit_sweep("Said", {"x": [1, 2]}, name="said").kept == 2
    assert [one.app_version for one in site.engine.ensembles()] == [two]
    ens.retry()
    exctr.submit_allocation("here", 1, 10, "serial")
    assert said(ens.wait(SOON)) == ["two", "two"]
    assert exctr.submit_sweep("Said", {"x": [1, 2]}, name="said").kept == 2
    assert caplog.text == ""


def test_a_row_retried_with_the_new_version_is_of_it(exctr: BalsamExecutor, mixed: Ensemble) -> None:
    declare(exctr, "two")
    exctr.submit_allocation("here", 1, 10, "serial")
    assert mixed.retry() == 1
    mixed.wait(SOON)
    with pytest.raises(BadInput, match=r"2 rows \(0–1\) ran with version"):
        exctr.submit_sweep("Said", {"x": [1, 2, 11]}, name="said")


def test_rows_that_ran_another_version_meanwhile_are_found(exctr: BalsamExecutor, mixed: Ensemble) -> None:
    """Changed and changed back between two submissions, while a row ran."""
    declare(exctr, "two")
    exctr.submit_allocation("here", 1, 10, "serial")
    mixed.retry()
    mixed.wait(SOON)
    declare(exctr, "one")
    with pytest.raises(BadInput, match=r"1 row \(2\) ran with version"):
        exctr.submit_sweep("Said", {"x": [1, 2, 11]}, name="said")


def test_ensembles_without_a_name_behave_alike(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    declare(exctr, "one")
    sweep = Sweep.grid(x=[1, 2])
    first = exctr.submit_sweep("Said", sweep).wait(SOON)
    declare(exctr, "two")
    with pytest.raises(BadInput, match=rf"ensemble '{first.name}' ran: 2 rows \(0–1\)"):
        exctr.submit_sweep("Said", sweep)
    fresh = exctr.submit_sweep("Said", sweep, if_changed="fresh").wait(SOON)
    assert (fresh.name, fresh.generation, said(fresh)) == (first.name, 2, ["two", "two"])
    assert exctr.submit_sweep("Said", sweep).new == 0
    # if_changed is no part of a first submission.
    assert exctr.submit_sweep("Said", {"x": [3]}, if_changed="keep").generation == 1


def test_all_cells_again_run_no_task(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    def cells() -> Any:
        declare(exctr, "one")
        return exctr.submit_sweep("Said", {"x": [1, 2, 11]}, name="said").wait(SOON)

    before = [(task.id, task._row.attempts) for task in cells().tasks()]
    assert [(task.id, task._row.attempts) for task in cells().tasks()] == before
    assert {attempts for _, attempts in before} == {1}


def test_versions_are_found_without_reading_the_rows(
    exctr: BalsamExecutor, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(exctr, "one")
    sweep = Sweep.grid(x=range(20_000))
    exctr.submit_sweep("Said", sweep, name="many")
    with site.engine.store.transaction() as con:
        con.execute("UPDATE job SET state = 'JOB_FINISHED', attempts = 1 WHERE row % 1000 <> 7")
    declare(exctr, "two")
    pages: list[Query] = []
    real = site.engine.jobs
    monkeypatch.setattr(site.engine, "jobs", lambda query: pages.append(query) or real(query))
    with pytest.raises(BadInput, match=r"19,980 rows \(0–6, 8–1006, 1008–2006, .* … and 9 more\) ran with"):
        exctr.submit_sweep("Said", sweep, name="many")
    assert exctr.submit_sweep("Said", sweep, name="many", if_changed="keep").kept == 20_000
    assert pages == []
