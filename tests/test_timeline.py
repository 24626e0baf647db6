"""The sum of the past, and events from there on: the same picture as that of all events one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.history import BINS, WIDTH, History, Ranges, Running, apply
from balsam_jupyter.models import JobCommon, JobSpec, Query, Resources
from balsam_jupyter.past import Nodes
from balsam_jupyter.tracker import Tracker, snapshot

from .played import ALONE, TWO, WHOLE, Player

OUTCOMES = ("finished", "done", "error", "timeout", "killed", "died")
small = st.integers(1, 6)
span = st.sampled_from([0.001, 0.3, 7.0, 4000.0])
names = st.sampled_from(["a", "b", ""])
wants = st.lists(st.sampled_from([ALONE, WHOLE, TWO]), min_size=1, max_size=6)
same = st.lists(st.just(ALONE), min_size=1, max_size=6)


def acts(asked: st.SearchStrategy[list[Resources]], deletes: bool) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """What may happen at a site, in any order."""
    some = [
        st.tuples(st.just("submit"), names, asked),
        st.tuples(st.just("generation"), asked),
        st.tuples(st.just("check_out"), small),
        st.tuples(st.just("start"), small, span),
        st.tuples(st.just("end"), small, st.sampled_from(OUTCOMES), span, st.booleans()),
        st.tuples(st.just("finish"), small, span, st.booleans()),
        st.tuples(st.just("give_back")),
        st.tuples(st.just("kill"), names),
        st.tuples(st.just("retry"), names),
        st.tuples(st.just("tag"), names),
        st.tuples(st.just("join"), names),
        st.tuples(st.just("read"), st.booleans()),
        *([st.tuples(st.just("delete"), st.integers(0, 30))] if deletes else []),
    ]
    return st.lists(st.one_of(some), min_size=3, max_size=40)


class Site:
    """A site at which things happen, and those who watch it from different moments on."""

    def __init__(self, folder: Path) -> None:
        self.engine = EmbeddedEngine.open(folder.name, str(folder))
        self.player = Player(self.engine)
        self.generation = 0
        self.next_generation([ALONE])
        self.player.submit("b", [ALONE])
        self.watching: list[Tracker] = []
        for name in ("", "a", "b"):
            self.join(name)

    def join(self, name: str) -> None:
        self.watching.append(Tracker(self.engine, name))
        self.watching[-1].catch_up()

    def next_generation(self, asked: list[Resources]) -> None:
        self.generation += 1
        self.player.submit("a", asked, self.generation)

    def do(self, what: str, *how: Any) -> None:
        player, engine = self.player, self.engine
        calls: dict[str, Callable[..., object]] = {
            "submit": lambda name, asked: player.submit(name, asked, self.generation if name == "a" else 1),
            "generation": self.next_generation,
            "kill": lambda name: engine.update(query(name), "USER_KILLED"),
            "retry": lambda name: engine.update(query(name), "RESTART_READY"),
            "tag": lambda name: engine.tag(query(name), {"colour": "red"}),
            "delete": lambda job: engine.delete(Query(ids=(job,))),
            "join": self.join,
            "read": lambda all_: [one.catch_up() for one in self.watching[:: 1 if all_ else 2]],
        }
        (calls.get(what) or getattr(player, what))(*how)

    def close(self) -> None:
        self.player.close()
        self.engine.close()


def query(name: str) -> Query:
    return Query(ensemble=name) if name else Query(tags={"workflow": ""})


def replay(engine: EmbeddedEngine, ids: Ranges, shares: dict[int, float]) -> History:
    """The picture from all events, one by one."""
    history, running = History(WIDTH), Running(Nodes(0.5))
    for row in engine.events("", limit=1_000_000).rows:
        apply(history, row, ids, running, Nodes(0.5, shares))
    return history


folders = iter(range(1_000_000))


def happened(base: Path, what: list[tuple[Any, ...]]) -> Site:
    folder = base / f"site{next(folders)}"
    folder.mkdir()
    (folder / "settings.yml").write_text("cores_per_node: 2\nnodes: 4\n")
    site = Site(folder)
    site.engine.store.con.execute("PRAGMA synchronous=OFF")
    for one in what:
        site.do(*one)
    return site


quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(acts(same, deletes=True))
@quick
def test_the_past_and_what_follows_is_all_that_was(home: Path, tmp_path: Path, what: list[tuple[Any, ...]]) -> None:
    site = happened(tmp_path, what)
    for one in site.watching:
        one.catch_up()
        new = Tracker(site.engine, one.ensemble)
        new.catch_up()
        stored = site.engine.count(Query(ensemble=one.ensemble or None))
        assert new.history.series() == replay(site.engine, new.ids, {}).series()
        assert sum(stored.values()) == sum(new.history.counts().values())
        assert one.history.counts() == new.history.counts()
        assert one.generation == new.generation == (site.generation if one.ensemble == "a" else one.generation)
        if not one.ensemble:  # tasks that were deleted were an ensemble's, which nobody knows afterwards
            assert one.history.series() == new.history.series()
    site.close()


@given(acts(wants, deletes=False))
@quick
def test_so_are_the_nodes_in_use(home: Path, tmp_path: Path, what: list[tuple[Any, ...]]) -> None:
    site = happened(tmp_path, what)
    jobs = site.engine.jobs(Query())
    shares = {job.id: site.engine.accounts.footprint(job.resources) for job in jobs}
    assert set(shares.values()) <= {0.5, 1.0, 2.0}
    for one in site.watching:
        one.catch_up()
        new = Tracker(site.engine, one.ensemble)
        new.catch_up()
        series = one.history.series()
        assert series == new.history.series() == replay(site.engine, new.ids, shares).series()
        runs = [job.id for job in jobs if job.state == "RUNNING" and one.ids.overlap(job.id, job.id)]
        assert series.busy[-1:] == ([sum(shares[job] for job in runs)] if len(series) else [])
        assert len(series) <= BINS
    site.close()


def test_an_ensemble_of_many_submissions_is_found_among_others(engine: EmbeddedEngine) -> None:
    player = Player(engine)
    for _ in range(30):
        player.submit("a", [ALONE] * 3)
        player.submit("b", [ALONE])
    tracker = Tracker(engine, "a")
    tracker.catch_up()
    assert len(tracker.ids) == 90 and tracker.ids.overlap(4, 4) == 0
    player.check_out(200)
    player.finish(50)
    player.end(30, "error", started=False)
    tracker.catch_up()
    again = Tracker(engine, "a")
    again.catch_up()
    assert tracker.history.series() == again.history.series()
    assert 0 < sum(again.history.series().ended) < 80
    player.close()


def test_one_submission_may_be_for_several_ensembles(engine: EmbeddedEngine) -> None:
    player = Player(engine)
    for name in ("a", "b"):
        player.submit(name, [ALONE])
    trackers = [Tracker(engine, name) for name in ("a", "b", "")]
    for one in trackers:
        one.catch_up()
    commons = [JobCommon(player.app, ensemble=name) for name in ("a", "b", "a")]
    engine.submit(JobSpec(common, "{}", key=b"%16d" % number) for number, common in enumerate(commons))
    for one in trackers:
        one.catch_up()
    # The submission began and ended with rows of a, and one of b is between them.
    assert [one.history.counts()["WAITING"] for one in trackers] == [3, 2, 5]
    assert engine.timeline.members("a", None, 3, 5) == [range(3, 4), range(5, 6)]
    player.close()


def test_tasks_that_share_an_event_are_each_in_their_own_bin(engine: EmbeddedEngine) -> None:
    player = Player(engine)
    player.submit("a", [ALONE] * 400)
    player.check_out(400)
    for runtime in (0.01, 0.02, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0) * 3:
        player.finish(9, runtime)
        tracker = Tracker(engine, "a")
        tracker.catch_up()
        assert tracker.history.series() == replay(engine, tracker.ids, {}).series()
    player.close()


def test_a_picture_may_begin_later(engine: EmbeddedEngine) -> None:
    player = Player(engine)
    player.submit("a", [ALONE] * 50)
    player.check_out(50)
    player.end(20, "finished", started=False)
    player.start(10)
    player.clock = since = player.clock + 1000.0
    late = Tracker(engine, "", since=since)  # before anything is there to show
    late.catch_up()
    player.end(10, "error", runtime=20_000.0)
    player.clock += 5
    player.finish(20)
    late.catch_up()
    after = snapshot(engine, "a", since=since)
    assert after.series.start == late.history.series().start == since
    assert after.counts == late.history.counts() == {**dict.fromkeys(after.counts, 0), "FINISHED": 40, "FAILED": 10}
    assert {state: numbers[0] for state, numbers in after.series.counts.items() if numbers[0]} == {
        "WAITING": 20,
        "RUNNING": 10,
        "FINISHED": 20,
    }
    assert after.series.busy[0] == 5.0 and sum(after.series.ended) == 30 and after.series.ended[0] == 0
    assert snapshot(engine, "a", since=1.0).series == snapshot(engine, "a").series
    player.close()


@pytest.mark.parametrize("settings", ["cores_per_node: 2\nnodes: 4\n"])
def test_many_alternating_footprints(engine: EmbeddedEngine) -> None:
    player = Player(engine)
    player.submit("a", [ALONE, TWO] * 150)  # more runs of one shape than are looked at one by one
    player.submit("a", [WHOLE] * 50)
    player.check_out(350)
    player.start(200, step=1.0)
    player.end(100, "finished", runtime=50.0)
    player.finish(150, runtime=30.0)
    tracker = Tracker(engine, "a")
    tracker.catch_up()
    shares = {job.id: engine.accounts.footprint(job.resources) for job in engine.jobs(Query())}
    assert tracker.history.series() == replay(engine, tracker.ids, shares).series()
    assert max(tracker.history.series().busy) > 100
    player.close()
