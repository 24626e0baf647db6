"""What is known of a price before it is paid, and limits that hold."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Site, Sweep, open_site
from balsam_jupyter.accounts import Usage, check_allocation, duration, node_hours
from balsam_jupyter.engines.embedded.service import Service
from balsam_jupyter.errors import BadInput, BalsamJupyterError, OverLimit
from balsam_jupyter.forecast import Span, forecast
from balsam_jupyter.models import AllocationRequest, Query, Resources, ServiceSettings


class Nap(ApplicationDefinition):
    command_template = "sleep {{ s }}"


class Lazy(ApplicationDefinition):
    command_template = "sleep {{ s }}; true"


def limited(site: Site, hours: float) -> None:
    settings = Path(site.path) / "settings.yml"
    settings.write_text(settings.read_text() + f"max_node_hours: {hours}\n")


def test_before_any_has_run(exctr: BalsamExecutor) -> None:
    exctr.register_app(Nap)
    unknown = exctr.price("Nap", {"s": [1, 2, 3]})
    assert (unknown.tasks, unknown.node_hours, unknown.expected_s) == (3, None, None)
    assert "node-hours unknown" in repr(unknown) and "fewer than 3" in repr(unknown)
    # a node of two cores: a task of one takes half of it
    asked = exctr.price("Nap", Sweep.grid(s=range(100)), wall_time_min=6)
    assert asked.node_hours == pytest.approx(100 * 0.1 / 2)
    assert "≈ 5 node-hours, from wall_time_min=6" in str(asked)
    whole = exctr.price("Nap", 10, max_tasks_per_node=1, wall_time_min=60)
    assert whole.node_hours == pytest.approx(10)
    assert exctr.site.engine.count(Query()) == {}


def test_once_some_have_run(exctr: BalsamExecutor) -> None:
    exctr.register_app(Nap)
    exctr.submit_allocation("here", 1, 10, job_mode="serial")
    ran = exctr.submit_sweep("Nap", {"s": [0.1] * 8}, "first").wait(30)
    price = exctr.price("Nap", 600)
    assert price.basis == "its last 8 finished tasks" and price.expected_s
    low, middle, high = price.expected_s
    assert 600 * 0.1 / 2 <= low <= middle <= high
    assert price.node_hours == pytest.approx(middle / 3600, rel=0.3)  # two at a time on the one node
    assert price.fits and 500 < price.left_s <= 600 and "fits into the 10 min left" in repr(price)
    assert exctr.price("Nap", 60_000).fits is False
    assert "other resources" in exctr.price("Nap", 6, threads_per_rank=2).basis
    assert "<table>" in price._repr_html_() and "used" in str(price)
    cost = ran.cost()
    assert cost.tasks == 0 and cost.spent["FINISHED"].tasks == 8
    assert cost.spent["FINISHED"].core_hours == pytest.approx(2 * cost.used_node_hours)
    assert cost.used_node_hours >= 0.8 / 3600 / 2


def test_what_waits_before_counts(exctr: BalsamExecutor) -> None:
    exctr.register_app(Nap)
    allocation = exctr.submit_allocation("here", 1, 10, job_mode="serial")
    exctr.submit_sweep("Nap", {"s": [0.05] * 4}, "first").wait(30)
    assert exctr.revoke_allocation(allocation)
    assert "no allocation" in exctr.price("Nap", 10).why
    before = exctr.submit_sweep("Nap", {"s": [0.05] * 500}, "second")
    allocation = exctr.submit_allocation("here", 1, 10, filter_tags={"kind": "b"})
    alone = exctr.price("Nap", 500, tags={"kind": "b"}).expected_s  # the others are not for this allocation
    assert alone and alone[1] > 500 * 0.05 / 2
    assert "no allocation would run them" in exctr.price("Nap", 500).why
    assert exctr.revoke_allocation(allocation)
    exctr.submit_sweep("Nap", {"s": [60] * 500}, "third", tags={"kind": "b"})
    exctr.submit_allocation("here", 1, 10, filter_tags={"kind": "b"})
    both = exctr.price("Nap", 500, tags={"kind": "b"}).expected_s
    assert both and both[1] == pytest.approx(2 * alone[1], rel=0.2)
    rest = before.cost()
    assert rest.tasks == 500 and not rest.spent and rest.node_hours


def test_older_versions_and_failures(exctr: BalsamExecutor) -> None:
    exctr.register_app(Nap)
    exctr.submit_allocation("here", 1, 10, job_mode="serial")
    ran = exctr.submit_sweep("Nap", {"s": ["0.05"] * 3 + ["x"]}, "first").wait(30)
    assert ran.cost().spent["FAILED"].tasks == 1 and "(wasted)" in str(ran.cost())
    exctr.register_app(Lazy, app_name="Nap")
    assert exctr.price("Nap", 5).basis == "its last 3 finished tasks of an older version of it"


def test_names_that_are_wrong(exctr: BalsamExecutor) -> None:
    exctr.register_app(Nap)
    with pytest.raises(BadInput, match="Did you mean 'num_nodes'"):
        exctr.price("Nap", 5, num_node=2)
    with pytest.raises(BadInput, match="at least 1"):
        exctr.price("Nap", 0)
    with pytest.raises(BadInput, match="max_node_hours must be a number above 0"):
        exctr.submit_allocation("here", 1, 10, max_node_hours=-1)
    with pytest.raises(BadInput, match="max_node_hours must be a number above 0"):
        exctr.submit_sweep("Nap", {"s": [1]}, max_node_hours="many")


def test_the_last_runs_are_found_without_reading_what_waits(exctr: BalsamExecutor) -> None:
    """Neither a million waiting rows nor those of other apps are walked over."""
    exctr.register_app(Nap)
    exctr.submit_allocation("here", 1, 10, job_mode="serial")
    exctr.submit_sweep("Nap", {"s": [0.01] * 5}, "first").wait(30)
    task = exctr.submit(app_name="Nap", app_args={"s": 0.02})
    task.wait(30)
    runs = exctr.site.engine.accounts.runs("Nap", 4)
    assert len(runs) == 4 and runs[0].runtime_s >= 0.02 and runs[0].resources == Resources()
    con = exctr.site.engine.store.con
    steps: list[str] = []
    con.set_trace_callback(steps.append)
    exctr.site.engine.accounts.runs("Nap", 4)
    con.set_trace_callback(None)
    plans = [row[3] for text in steps for row in con.execute(f"EXPLAIN QUERY PLAN {text}")]
    assert any("job_state (ensemble_id=? AND state=?)" in plan for plan in plans)
    assert not any(plan.startswith("SCAN job") and "SUBQUERY" not in plan for plan in plans if plan != "SCAN job")


# -- limits ------------------------------------------------------------------------------------------------------------


def test_the_site_has_a_limit(exctr: BalsamExecutor) -> None:
    limited(exctr.site, 0.5)
    first = exctr.submit_allocation("here", 1, 20)
    with pytest.raises(OverLimit) as error:
        exctr.submit_allocation("here", 1, 20)
    said = str(error.value)
    assert "limit of site 'here' of 0.5 node-hours" in said and "asks for 0.333 node-hours" in said
    assert "(10 min)" in said and "raise max_node_hours in its settings.yml" in said
    assert len(exctr.site.engine.allocations()) == 1
    assert exctr.revoke_allocation(first)  # what it may not use any more is free again
    exctr.submit_allocation("here", 1, 20)


def test_a_call_has_a_limit(exctr: BalsamExecutor) -> None:
    with pytest.raises(OverLimit, match="limit given"):
        exctr.submit_allocation("here", 1, 61, max_node_hours=1)
    exctr.submit_allocation("here", 1, 60, max_node_hours=1)
    assert exctr.site.engine.allocations()[0].request.max_node_hours == 1


def test_two_who_ask_at_once_cannot_both_have_the_rest(exctr: BalsamExecutor) -> None:
    limited(exctr.site, 1)
    engine = exctr.site.engine
    outcomes: list[str] = []
    barrier = threading.Barrier(4)

    def ask() -> None:
        barrier.wait()
        try:
            engine.allocate(AllocationRequest(1, 60, "serial"))
            outcomes.append("given")
        except OverLimit:
            outcomes.append("refused")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["given", "refused", "refused", "refused"]


def test_a_submission_obeys_the_limit(exctr: BalsamExecutor) -> None:
    exctr.register_app(Nap)
    exctr.submit_sweep("Nap", {"s": [1]}, "unknown", max_node_hours=0.001)  # nothing is known about it: it passes
    with pytest.raises(OverLimit, match=r"nothing was submitted\. Submit 20 at most"):
        exctr.submit_sweep("Nap", {"s": range(100)}, "much", wall_time_min=6, max_node_hours=1)
    assert [one.name for one in exctr.ensembles()] == ["unknown"]
    exctr.submit_sweep("Nap", {"s": range(20)}, "much", wall_time_min=6, max_node_hours=1)
    limited(exctr.site, 1)
    with pytest.raises(OverLimit, match="limit of site 'here'"):
        exctr.submit_sweep("Nap", {"s": range(41)}, "much", wall_time_min=6)
    # rows that are there cost nothing: only the new ones count
    assert exctr.submit_sweep("Nap", {"s": range(40)}, "much", wall_time_min=6).new == 20


def test_the_service_and_the_terminal_obey_it(exctr: BalsamExecutor, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from balsam_jupyter.cli import main

    limited(exctr.site, 0.5)
    exctr.register_app(Nap)
    exctr.submit_sweep("Nap", {"s": [0.1, 0.2]}, "few")
    lines: list[str] = []
    service = Service(exctr.site.engine, ServiceSettings(wall_time_min=60), lines.append)
    service.decide()
    service.decide()
    assert len(lines) == 1 and "asked for nothing more" in lines[0] and "limit of site" in lines[0]
    for words in (
        ["submit-launch", "-t", "60"],
        ["launcher", "-t", "60"],
        ["submit-launch", "--max-node-hours", "0.1"],
    ):
        given = CliRunner().invoke(main, [*words, "--site", "here"])
        assert given.exit_code != 0 and "more than the limit" in given.output
    assert exctr.site.engine.allocations() == []


def test_settings_that_are_wrong(exctr: BalsamExecutor) -> None:
    limited(exctr.site, -1)
    with pytest.raises(BalsamJupyterError, match="max_node_hours must be a number of at least 0"):
        exctr.submit_allocation("here", 1, 10)
    (Path(exctr.site.path) / "settings.yml").write_text("max_node_hours: 0\n")
    with pytest.raises(OverLimit):
        exctr.submit_allocation("here", 1, 10)
    assert open_site("here").engine.usage() == Usage(0, 0, 0)


# -- arithmetic --------------------------------------------------------------------------------------------------------


@given(st.floats(0, 100), st.floats(0, 100), st.integers(1, 100), st.floats(0.1, 1e4), st.floats(0.01, 1e3))
def test_a_limit_is_kept(used: float, committed: float, nodes: int, minutes: float, limit: float) -> None:
    over = used + committed + nodes * minutes / 60 > limit + 1e-6
    try:
        check_allocation(Usage(used, committed, None), nodes, minutes, limit, "here")
    except OverLimit as error:
        assert len(str(error)) < 400
    else:
        assert not over


@given(
    st.lists(st.floats(0.01, 100), min_size=3, max_size=20),
    st.integers(1, 3000),
    st.floats(0, 1e4),
    st.lists(st.tuples(st.floats(0, 1000), st.integers(1, 20)), min_size=1, max_size=4),
)
def test_a_forecast_keeps_the_bounds_of_list_scheduling(
    sample: list[float], tasks: int, ahead: float, where: list[tuple[float, int]]
) -> None:
    found = forecast(sample, tasks, ahead, [Span(start, 1e9, slots, 1) for start, slots in where])
    assert found.low <= found.middle <= found.high and found.in_time == 1
    first, slots = min(start for start, _ in where), sum(number for _, number in where)
    assert found.low >= first + min(sample)
    if tasks <= 100:  # never more than all the work behind the last start
        assert found.high <= max(start for start, _ in where) + ahead / slots + tasks * max(sample) + 1e-6
    assert forecast(sample, tasks, ahead, [Span(start, 1e9, n, 1) for start, n in where]) == found


def test_a_forecast_of_equal_tasks_is_exact() -> None:
    found = forecast([2.0] * 5, 10, 0.0, [Span(0, 9, 4, 1)])
    assert (found.low, found.middle, found.high, found.in_time) == (6, 6, 6, 1)
    assert forecast([2.0] * 5, 20, 0.0, [Span(0, 9, 4, 1)]).in_time == 0


def test_units() -> None:
    assert [node_hours(x) for x in (0, 0.00312, 1, 3.21, 12.4, 12345)] == [
        "≈ 0 node-hours", "≈ 0.0031 node-hours", "≈ 1 node-hour", "≈ 3.2 node-hours", "≈ 12 node-hours",
        "≈ 12,345 node-hours",
    ]  # fmt: skip
    assert [duration(x) for x in (0.42, 12.4, 240, 12_600)] == ["0.42 s", "12 s", "4 min", "3.5 h"]
