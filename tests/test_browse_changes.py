"""Listings of tasks while tasks come, run, end, run again and go."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from balsam_jupyter import browse
from balsam_jupyter.browse import Browser, Listing
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.models import Query

from .ended import Pilot, add_rows


class Changes(RuleBasedStateMachine):
    """Listings that follow changes are what new ones are."""

    folder: ClassVar[Path]
    number: ClassVar[Any] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        name = f"s{next(self.number)}"
        self.engine = EmbeddedEngine.open(name, str(self.folder / name))
        self.pilot = Pilot(self.engine)
        add_rows(self.engine, "s", [{"T": at, "name": "x"} for at in range(5)])
        self.browser = Browser(self.engine, "e")
        lines = ["", "state=WAITING", "state!=WAITING", "T<3", "lost", "runtime>1"]
        self.searches = [self.browser.search(line, (), "id") for line in lines]
        self.listings = [Listing(self.engine, search) for search in self.searches]
        self.running: list[int] = []

    @rule(values=st.lists(st.integers(0, 5), max_size=4), ensemble=st.sampled_from(["e", "f", None]))
    def submit(self, values: list[int], ensemble: str | None) -> None:
        add_rows(self.engine, "s", [{"T": value, "name": "x"} for value in values], ensemble)

    @rule(most=st.integers(1, 3))
    def start(self, most: int) -> None:
        jobs = self.pilot.take(most)
        self.pilot.start(jobs)
        self.running += [job.id for job in jobs]

    @rule(how=st.sampled_from([("finished", ""), ("error", "lost")]), runtime=st.integers(0, 3))
    def end(self, how: tuple[str, str], runtime: int) -> None:
        if self.running:
            self.pilot.end(self.running.pop(), how[0], runtime, how[1])

    @rule()
    def kill(self) -> None:
        self.engine.update(Query(ensemble="e", states=("PREPROCESSED",)), "USER_KILLED")

    @rule()
    def retry(self) -> None:
        self.engine.update(Query(ensemble="e"), "RESTART_READY")

    @rule(at=st.integers(0, 30))
    def delete(self, at: int) -> None:
        rows = [row.id for row in self.engine.jobs(Query()) if row.id not in self.running]
        if rows:
            self.engine.delete(Query(ids=(rows[at % len(rows)],)))

    @invariant()
    def listings_are_as_new_ones(self) -> None:
        for search, listing in zip(self.searches, self.listings, strict=True):
            listing.follow()
            listing.work()
            fresh = Listing(self.engine, search)
            fresh.work()
            assert listing.complete and fresh.complete
            assert list(listing.ids) == list(fresh.ids), search

    def teardown(self) -> None:
        self.pilot.close()
        self.engine.close()


def test_listings_follow_any_changes(home: Path, tmp_path: Path) -> None:
    Changes.folder = tmp_path
    run_state_machine_as_test(
        Changes,
        settings=settings(
            max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_more_changes_than_are_followed_make_it_anew(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "_EVENTS", 3)
    add_rows(engine, "s", [{"T": at} for at in range(20)])
    browser = Browser(engine, "e")
    waiting, plain = browser.search("state=WAITING"), browser.search()
    assert browser.page(waiting, 0, 50).total == browser.page(plain, 0, 50).total == 20
    engine.update(Query(ensemble="e", rows=tuple(range(8))), "USER_KILLED")
    engine.delete(Query(ensemble="e", rows=(19, 18, 17, 2, 3)))
    assert browser.page(waiting, 0, 50).total == 9
    assert [cells.row for cells in browser.page(plain, 0, 50).rows if cells] == [0, 1, *range(4, 17)]


def test_an_order_of_what_changes_is_made_anew_after_a_while(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = add_rows(engine, "s", [{"T": at} for at in range(6)])
    browser, pilot = Browser(engine, "e"), Pilot(engine)
    search = browser.search("", (), "runtime", True)
    before = browser.page(search, 0, 50)
    pilot.start(pilot.take(2))
    pilot.end(ids[0], runtime_s=1.0)
    pilot.end(ids[1], runtime_s=9.0)
    after = browser.page(search, 0, 50)
    assert after.stale and after.version == before.version, "rows do not jump under the eyes of who reads them"
    assert [cells.runtime_s for cells in after.rows if cells][:2] == [1.0, 9.0], "but they are shown as they are"
    monkeypatch.setattr(browse, "_RENEW_S", 0.0)
    monkeypatch.setattr(browse, "_PATIENCE", 0)
    renewed = browser.page(search, 0, 50)
    assert not renewed.stale and renewed.version != before.version
    assert [cells.id for cells in renewed.rows if cells][:2] == [ids[1], ids[0]]
    pilot.close()


def test_several_threads_may_ask_at_once(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "_FIRST_STEP", 50)
    add_rows(engine, "s", [{"T": at % 7} for at in range(2000)])
    browser = Browser(engine, "e")
    search = browser.search("T>2", (), "T", True)
    totals = []

    def ask() -> None:
        while not (page := browser.page(search, 0, 10, seconds=0.0)).complete:
            pass
        totals.append((page.total, [cells.row for cells in page.rows if cells]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sixes = [row for row in range(2000) if row % 7 == 6][:10]
    assert totals == [(sum(row % 7 > 2 for row in range(2000)), sixes)] * 4
