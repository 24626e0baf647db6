"""The history behind the charts, and the monitor over a real site with real processes."""

from __future__ import annotations

import queue
import threading
import time
import tracemalloc
from array import array
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Monitor, Site, Sweep
from balsam_jupyter.history import BINS, History, Ranges, apply
from balsam_jupyter.models import TASK_STATES, EventRow, Events, Query
from balsam_jupyter.monitor import Snapshot, snapshot
from balsam_jupyter.widgets import static

BORN = ("", "CREATED", "READY", "STAGED_IN", "PREPROCESSED")
RAN = ("RUNNING", "RUN_DONE", "POSTPROCESSED", "STAGED_OUT", "JOB_FINISHED")


def event(seq: int, first: int, last: int, path: tuple[str, ...], time: float, end: float | None = None) -> EventRow:
    return EventRow(seq, first, last, path, time, time if end is None else end, {})


def ids(first: int, last: int) -> Ranges:
    found = Ranges()
    found.append(first, last)
    return found


def test_a_path_through_running_is_two_changes_in_time() -> None:
    history = History(width=1.0)
    apply(history, event(1, 1, 1, BORN, 100.0), ids(1, 1))
    apply(history, event(2, 1, 1, ("PREPROCESSED", *RAN), 102.0, 105.0), ids(1, 1))
    series = history.series()
    assert series.start == 100.0
    assert series.counts["WAITING"] == [1, 1, 0, 0, 0, 0]
    assert series.counts["RUNNING"] == [0, 0, 1, 1, 1, 0]
    assert series.counts["FINISHED"] == [0, 0, 0, 0, 0, 1]


def test_what_follows_running_in_a_later_commit_happened_at_its_end_time() -> None:
    history = History(width=1.0)
    apply(history, event(1, 1, 1, (*BORN, "RUNNING"), 0.0), ids(1, 1))
    apply(history, event(2, 1, 1, RAN[:2], 0.0, 2.0), ids(1, 1))
    apply(history, event(3, 1, 1, RAN[1:], 0.0, 2.0), ids(1, 1))
    assert history.series().counts["RUNNING"] == [1, 1, 0]


def test_tasks_that_share_an_event_have_times_of_their_own() -> None:
    times = array("d", [1.0, 2.0, 2.0, 4.0, 3.0, 4.0]).tobytes()
    shared = EventRow(2, 11, 13, ("PREPROCESSED", *RAN), 1.0, 4.0, {}, times)
    assert [shared.when(job) for job in (11, 12, 13)] == [(1.0, 2.0), (2.0, 4.0), (3.0, 4.0)]
    history = History(width=1.0)
    assert apply(history, event(1, 12, 20, BORN, 0.0), ids(12, 20))
    assert apply(history, shared, ids(12, 20))  # two of the three
    assert not apply(history, shared, ids(14, 20))
    series = history.series()
    assert series.counts["RUNNING"] == [0, 0, 1, 2, 0]
    assert series.counts["FINISHED"] == [0, 0, 0, 0, 2] and series.counts["WAITING"] == [9, 9, 8, 7, 7]


def test_an_error_and_a_rerun_wait_again() -> None:
    history = History(width=1.0)
    apply(history, event(1, 1, 3, (*BORN, "RUNNING"), 0.0), ids(1, 3))
    apply(history, event(2, 1, 1, ("RUNNING", "RUN_TIMEOUT", "RESTART_READY"), 0.0, 1.0), ids(1, 1))
    apply(history, event(3, 2, 2, ("RUNNING", "RUN_ERROR", "FAILED"), 0.0, 1.0), ids(2, 2))
    apply(history, event(4, 3, 3, ("RUNNING", "USER_KILLED"), 0.0, 1.0), ids(3, 3))
    assert history.counts() == {"WAITING": 1, "RUNNING": 0, "FINISHED": 0, "FAILED": 1, "USER_KILLED": 1}


def test_bins_stay_within_their_number_and_the_width_doubles() -> None:
    history = History(width=0.05)
    history.add(0.0, "", "WAITING", 1000)
    for task in range(1000):
        history.add(10.0 * task, "WAITING", "RUNNING")
        history.add(10.0 * task + 9, "RUNNING", "FINISHED")
    series = history.series(until=20_000.0)
    assert len(series) <= BINS
    assert series.width == 0.05 * 2**11
    assert series.end >= 20_000
    assert series.counts["FINISHED"][-1] == 1000
    half = int(5000 / series.width)
    assert abs(series.counts["FINISHED"][half] - 500) <= series.width / 10 + 1


changes = st.lists(
    st.tuples(st.floats(0, 1e7), st.sampled_from(TASK_STATES), st.sampled_from(TASK_STATES), st.integers(1, 9)),
    min_size=1,
    max_size=60,
)


@given(changes)
@settings(deadline=None)
def test_the_picture_ends_at_the_counts_whatever_the_order_of_time(some: list[tuple[float, str, str, int]]) -> None:
    history = History()
    history.add(0.0, "", "WAITING", 100)
    for when, left, reached, number in some:
        history.add(when, left, reached, number)
    series = history.series()
    assert len(series) <= BINS
    assert {state: numbers[-1] for state, numbers in series.counts.items()} == history.counts()
    assert all(sum(column) == 100 for column in zip(*series.counts.values(), strict=True))


@given(st.sets(st.integers(1, 400), max_size=200), st.integers(0, 410), st.integers(0, 20))
@settings(deadline=None)
def test_ranges_hold_just_the_ids(ids: set[int], first: int, length: int) -> None:
    ranges = Ranges(range(number, number + 1) for number in sorted(ids))
    assert len(ranges) == len(ids)
    assert ranges.overlap(first, first + length) == len(ids & set(range(first, first + length + 1)))


class Sleepy(ApplicationDefinition):
    command_template = "sleep {{ s }}; echo slept"
    outputs = {"word": "(slept)"}


Told = queue.Queue[Snapshot]


def until(told: Told, wanted: Callable[[Snapshot], bool], timeout: float = 60.0) -> Snapshot:
    """The first snapshot that is as wanted."""
    deadline = time.monotonic() + timeout
    while not wanted(snap := told.get(timeout=max(0.01, deadline - time.monotonic()))):
        pass
    return snap


@pytest.fixture
def sleepy(exctr: BalsamExecutor) -> BalsamExecutor:
    exctr.register_app(Sleepy)
    return exctr


def test_a_sweep_is_followed_to_its_end(sleepy: BalsamExecutor, site: Site) -> None:
    sleepy.submit_sweep("Sleepy", Sweep.grid(s=[0] * 5), "other")
    sleepy.submit_sweep("Sleepy", Sweep.grid(s=[0.2] * 12), "scan")
    told: Told = queue.Queue()
    threads: list[str] = []

    def listener(snap: Snapshot) -> None:
        threads.append(threading.current_thread().name)
        told.put(snap)

    monitor = Monitor.of(site.engine)
    monitor.watch("scan", listener, period=0.1)
    first = told.get_nowait()
    assert first.counts == {"WAITING": 12, "RUNNING": 0, "FINISHED": 0, "FAILED": 0, "USER_KILLED": 0}
    assert not first.done and first.allocations == [] and first.rate is None
    sleepy.submit_allocation("here", 1, 10, job_mode="serial")
    middle = until(told, lambda snap: snap.counts["RUNNING"] > 0)
    assert [one.state for one in middle.allocations] == ["running"]
    last = until(told, lambda snap: snap.done)
    assert last.counts["FINISHED"] == last.total == last.ended == 12
    assert monitor.join(10)
    assert told.empty()
    assert threads[0] == "MainThread" and set(threads[1:]) == {f"balsam-monitor-{site.path}"}
    assert Monitor.of(site.engine) is not monitor
    # A new reader of the store sees the same picture as the one who was there.
    again = snapshot(site.engine, "scan")
    assert again.series == last.series and again.counts == last.counts
    assert max(last.series.counts["RUNNING"]) == 2
    ensemble = sleepy.ensemble("scan")
    assert ensemble.counts() == last.counts


def test_views_share_a_thread_which_ends_with_the_last_of_them(sleepy: BalsamExecutor, site: Site) -> None:
    sleepy.submit_sweep("Sleepy", Sweep.grid(s=[0.1, 0.2]), "a")
    sleepy.submit_sweep("Sleepy", Sweep.grid(s=[0.3]), "b")
    one: Told = queue.Queue()
    two: Told = queue.Queue()
    monitor = Monitor.of(site.engine)
    first = monitor.watch("a", one.put, period=0.1)
    second = monitor.watch("b", two.put, period=0.1)
    third = monitor.watch("b", two.put, period=0.1)
    assert Monitor.of(site.engine) is monitor
    assert [name for name in thread_names() if name.startswith("balsam-monitor")] == [f"balsam-monitor-{site.path}"]
    second.close()
    second.close()
    assert monitor.alive
    sleepy.ensemble("b").kill()
    assert until(two, lambda snap: snap.done).counts["USER_KILLED"] == 1
    third.close()
    assert monitor.alive
    first.close()
    assert monitor.join(10)
    assert monitor.watch("b", two.put) and not monitor.alive  # it had ended: told once, and no thread for it


def thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_a_listener_that_fails_is_logged_and_disturbs_nobody(
    sleepy: BalsamExecutor, site: Site, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    sleepy.submit_sweep("Sleepy", Sweep.grid(s=[600]), "scan")
    told: Told = queue.Queue()

    def bad(_: Snapshot) -> None:
        raise ZeroDivisionError("of a view")

    monitor = Monitor.of(site.engine)
    broken = monitor.watch("scan", bad, period=0.1)
    monitor.watch("scan", told.put, period=0.1)
    sleepy.ensemble("scan").kill()
    until(told, lambda snap: snap.done)
    broken.close()
    assert monitor.join(10)
    assert "a listener of ensemble 'scan' failed" in caplog.text
    assert capsys.readouterr() == ("", "")


def test_rows_added_and_deleted_while_it_watches(sleepy: BalsamExecutor, site: Site) -> None:
    sleepy.submit_sweep("Sleepy", Sweep.grid(s=[601, 602]), "scan")
    sleepy.submit_sweep("Sleepy", Sweep.grid(s=[603]), "between")
    told: Told = queue.Queue()
    subscription = Monitor.of(site.engine).watch("scan", told.put, period=0.1)
    added = sleepy.submit_sweep("Sleepy", Sweep.grid(s=[602, 604, 605]), "scan")
    assert added.new == 2
    assert until(told, lambda snap: snap.total == 4).counts["WAITING"] == 4
    assert site.engine.delete(Query(ids=(added.tasks()[0].id,))) == 1
    assert until(told, lambda snap: snap.total == 3).counts["WAITING"] == 3
    subscription.close()


def test_an_ensemble_that_is_renamed_is_followed_to_its_end_and_said_to_be_gone(
    sleepy: BalsamExecutor, site: Site
) -> None:
    ens = sleepy.submit_sweep("Sleepy", Sweep.grid(s=[0.1] * 6), "scan")
    told: Told = queue.Queue()
    Monitor.of(site.engine).watch("scan", told.put, period=0.1)
    ens.rename("lines")
    sleepy.submit_allocation("here", 1, 10, job_mode="serial")
    last = until(told, lambda snap: snap.done)
    assert (last.counts["FINISHED"], last.total, last.gone) == (6, 6, True)
    assert static.text(last).endswith("6/6 done (6 FINISHED) · renamed or deleted since")
    afterwards = snapshot(site.engine, "scan")  # who had not followed it knows no more than that
    assert (afterwards.total, afterwards.done, afterwards.gone) == (0, True, True)
    assert not snapshot(site.engine, "lines").gone and not snapshot(site.engine, "").gone


def test_an_engine_that_fails_is_asked_again_and_the_views_know_its_age(
    sleepy: BalsamExecutor, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sleepy.submit_sweep("Sleepy", Sweep.grid(s=[600]), "scan")
    told: Told = queue.Queue()
    monitor = Monitor.of(site.engine)
    monitor.watch("scan", told.put, period=0.1)

    def unplugged(after: str, timeout: float = 0.0, limit: int = 10_000) -> Events:
        raise OSError("the network is down\nsecond line")

    with monkeypatch.context() as patched:
        patched.setattr(site.engine, "events", unplugged)
        silent = until(told, lambda snap: snap.age_s > 0.3)
        assert silent.error == "the network is down"
        assert silent.counts["WAITING"] == 1 and not silent.done
        sleepy.ensemble("scan").kill()
    last = until(told, lambda snap: snap.done)
    assert (last.error, last.counts["USER_KILLED"]) == ("", 1)
    assert monitor.join(10)
    assert capsys.readouterr() == ("", "")


def test_a_large_history_is_read_by_pages_into_a_small_picture(sleepy: BalsamExecutor, site: Site) -> None:
    sleepy.submit_sweep("Sleepy", Sweep.grid(s=range(25_000)), "large")
    sleepy.ensemble("large").kill()  # an event for each
    tracemalloc.start()
    snap = snapshot(site.engine, "large")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert snap.done and snap.counts["USER_KILLED"] == 25_000
    assert len(snap.series) <= BINS
    assert peak < 20e6  # a page of 10,000 events, not all of them
