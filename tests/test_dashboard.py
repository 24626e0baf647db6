"""What a dashboard sends, in which order and how much of it; its buttons; its failures; and its modules in Node."""

from __future__ import annotations

import json
import random
import shutil
import struct
import subprocess
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright._impl._driver import compute_driver_executable

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Ensemble, Site, Sweep
from balsam_jupyter.history import BINS, History
from balsam_jupyter.models import Allocation, AllocationRequest, Query
from balsam_jupyter.monitor import Snapshot, snapshot
from balsam_jupyter.widgets import static
from balsam_jupyter.widgets.actions import actions
from balsam_jupyter.widgets.groups import Groups
from balsam_jupyter.widgets.live import module
from balsam_jupyter.widgets.palette import COLOURS
from balsam_jupyter.widgets.wire import Wire, rows_of, whole

RUNNING = Allocation(1, AllocationRequest(2, 30, job_mode="serial"), "running", start_time=1000.0)


def grown(seconds: int, tasks: int = 1000, width: float = 0.05) -> Snapshot:
    """Of an ensemble of which one task has ended each tenth of a second."""
    history = History(width=width)
    history.add(1000.0, "", "WAITING", tasks)
    for task in range(10 * seconds):
        history.add(1000.0 + task / 10, "WAITING", "RUNNING")
        history.use(1000.0 + task / 10, 0.5)
        history.add(1000.1 + task / 10, "RUNNING", "FAILED" if task % 7 == 0 else "FINISHED")
        history.use(1000.1 + task / 10, 0.5, -1)
    series = history.series(1000.0 + seconds)
    return Snapshot("scan", history.counts(), series, 1000.0 + seconds, [RUNNING], 10.0, 60.0)


class Page:
    """A page as state.js is one, in a few lines."""

    def __init__(self, first: dict[str, Any]) -> None:
        self.seq = -1
        self.rows: list[list[float]] = []
        self.take(first, b"")

    def take(self, told: dict[str, Any], buffer: bytes) -> bool:
        """Whether the message could be taken in."""
        if not told["whole"] and told["seq"] != self.seq + 1:
            return False
        self.seq, series = told["seq"], told["series"]
        if "rows" in told:
            self.rows = [list(map(float, row)) for row in told["rows"]]
            return True
        values, first = array("f", buffer), series["from"]
        length = series["bins"] - first
        assert len(values) == length * (len(COLOURS) + 1)
        old = self.rows or [[] for _ in range(len(COLOURS) + 1)]
        self.rows = [row[:first] + list(values[at * length : (at + 1) * length]) for at, row in enumerate(old)]
        return True


def single(rows: list[Any]) -> list[list[float]]:
    """As float32 has them."""
    return [[struct.unpack("f", struct.pack("f", value))[0] for value in row] for row in rows]


def test_a_page_that_sees_all_messages_has_the_series_and_they_are_small() -> None:
    wire = Wire()
    page = Page(whole(grown(0), None, wire.seq))
    sizes = []
    for second in range(1, 120):
        told = grown(second, width=0.05 * 2 ** (second // 15 if second < 30 else 3))
        message, buffer = wire.next(told, None, whole=False)
        assert page.take(message, buffer)
        assert page.rows == single(rows_of(told))
        sizes.append(len(json.dumps(message)) + len(buffer))
    assert max(sizes) < 10_000
    assert sorted(sizes)[len(sizes) // 2] < 1500, "most say only what is new"


def test_a_page_that_missed_a_message_gets_on_with_the_next_whole_one() -> None:
    wire = Wire()
    page = Page(whole(grown(0), None, wire.seq))
    wire.next(grown(1), None, whole=False)
    assert not page.take(*wire.next(grown(2), None, whole=False))
    message, buffer = wire.next(grown(BINS // 20), None, whole=True)
    assert len(json.dumps(message)) + len(buffer) < 10_000
    assert page.take(message, buffer) and page.rows == single(rows_of(grown(BINS // 20)))
    assert page.take(*wire.next(grown(BINS // 20 + 1), None, whole=False))


def test_allocations_and_failures_are_sent_when_they_change_and_kept_while_the_site_says_nothing() -> None:
    wire, groups = Wire(), {"total": 1, "of": 1, "groups": [], "more": 0}
    assert wire.next(grown(1), groups, whole=False)[0]["allocations"][0]["nodes"] == 2
    again = wire.next(replace(grown(2), time=1003.0), groups, whole=False)[0]
    assert "allocations" not in again and "failures" not in again
    silent = replace(grown(2), allocations=[], error="the disk is full", age_s=9.0)
    assert "allocations" not in wire.next(silent, groups, whole=False)[0]
    ended = replace(RUNNING, state="finished", end_time=1004.0, status_info={"reason": "revoked"})
    sent = wire.next(replace(grown(3), allocations=[ended]), {**groups, "total": 2}, whole=False)[0]
    assert (sent["allocations"][0]["why"], sent["failures"]["total"]) == ("revoked", 2)
    many = [replace(ended, id=number) for number in range(1000)]
    crowded = wire.next(replace(grown(3), allocations=[RUNNING, *many]), groups, whole=True)
    assert len(json.dumps(crowded[0])) + len(crowded[1]) < 10_000
    assert crowded[0]["allocations"][0]["id"] == 1 and crowded[0]["allocations"][0]["state"] == "running"


# -- the buttons and the failures, at a real site ----------------------------------------------------------------------


class Odd(ApplicationDefinition):
    def run(self, n: int) -> int:
        if n % 2:
            raise ValueError(f"<b>{n}</b> is odd")
        return n


@pytest.fixture
def odd(exctr: BalsamExecutor) -> Ensemble:
    exctr.register_app(Odd)
    return exctr.submit_sweep("Odd", Sweep.grid(n=range(6)), "odd")


def test_what_the_buttons_do_is_what_they_say(
    odd: Ensemble, site: Site, until: Callable[[Callable[[], bool]], None]
) -> None:
    can = actions(site, Query(ensemble="odd", generation=1), "odd")
    with pytest.raises(ValueError, match=r"no allocation yet .* %balsam_allocate -n 1 -t 10"):
        can["extend"]()
    assert can["kill"]() == "odd: 6 tasks killed."
    assert can["retry"](killed=False) == "odd: nothing to retry by now."
    site.engine.allocate(AllocationRequest(1, 7, job_mode="serial", by_service=True))
    assert can["retry"](killed=True) == "odd: 6 tasks will run again."
    until(lambda: odd.counts()["FAILED"] == 3 and odd.counts()["FINISHED"] == 3)
    assert can["retry"](killed=False) == "odd: 3 tasks will run again."
    assert can["extend"]() == "Allocation 2: queued, 1 node, 7 min, serial."
    assert not site.engine.allocations()[-1].request.by_service
    assert can["revoke"](id=2) == "Allocation 2 has ended."
    until(lambda: odd.counts()["FAILED"] == 3)
    assert can["revoke"](id=1) == "Allocation 1 has ended."


def test_failures_are_grouped_beside_and_the_copy_has_them_as_text(
    odd: Ensemble, site: Site, until: Callable[[Callable[[], bool]], None]
) -> None:
    site.engine.allocate(AllocationRequest(1, 10, job_mode="serial"))
    until(lambda: odd.counts()["FAILED"] == 3 and odd.counts()["FINISHED"] == 3)
    told: list[int] = []
    groups = Groups(site, Query(ensemble="odd"), lambda: told.append(groups.shown["total"]))
    groups.look(0)
    assert told == []  # there is nothing to look for
    groups.look(3, wait=True)
    (group,) = groups.shown["groups"]
    assert told == [3] and group["shape"].startswith("ValueError: <b><n></b> is odd")
    assert "<b>1</b> is odd" in group["log"] and group["hand"].startswith("balsam-jupyter job try ")
    groups.look(3)
    assert told == [3]
    html = static.html(snapshot(site.engine, "odd"), "<i>odd</i>", groups.shown)
    assert "&lt;i&gt;odd&lt;/i&gt;" in html and "<i>" not in html
    assert "&lt;b&gt;&lt;n&gt;&lt;/b&gt; is odd" in html and "3 tasks" in html


def test_the_copy_of_a_long_random_run_is_small() -> None:
    history, luck = History(), random.Random(7)
    history.add(0.0, "", "WAITING", 1_000_000)
    for step in range(20_000):
        left, reached = luck.sample(list(COLOURS), 2)
        history.add(float(step), left, reached, luck.randrange(40))
    told = Snapshot("scan", history.counts(), history.series(), 2e4, [RUNNING] * 30)
    assert len(static.html(told)) < 50_000


# -- the page's own arithmetic -----------------------------------------------------------------------------------------


def node() -> str:
    """Any Node: the machine's, or the one that Playwright brings."""
    return shutil.which("node") or compute_driver_executable()[0]


def test_the_modules_of_the_page_in_node(tmp_path: Path) -> None:
    (tmp_path / "joined.mjs").write_text(module("dashboard.js"))
    subprocess.run([node(), "--check", tmp_path / "joined.mjs"], check=True)
    esm = Path(static.__file__).parent / "esm"
    shutil.copytree(esm, tmp_path / "esm")
    told = whole(grown(10), {"total": 0}, 0)
    code = f"""
import {{ follow, throughput, available, STATES }} from "./esm/state.js";
import {{ connect }} from "./esm/link.js";
import {{ short, span, timeTicks, valueTicks, whole }} from "./esm/format.js";
const listeners = {{}};
const state = follow({{ on: (kind, f) => (listeners[kind] = f), ask: () => Promise.reject() }}, {json.dumps(told)});
let sent = 0;
const dying = {{ on: () => {{}}, send: () => {{ if ((sent += 1) > 1) throw new Error("Cannot send"); }} }};
const link = connect(dying);
const before = link.ask("page").catch((error) => error.message);
const alive = link.gone();
const waits = [];
link.onWaiting((now) => waits.push(now));
const gone = await link.ask("page").catch((error) => error.message);
await new Promise((later) => setTimeout(later, 600)); // by when it would be said that it waits
const busy = Array.from(available(state).slice(0, state.bins));
console.log(JSON.stringify({{
  states: STATES, bins: state.bins, most: Math.max(...busy),
  ended: throughput(state).reduce((sum, one) => sum + one * state.width, 0),
  gone: [alive, await before, gone, link.gone(), waits],
  whole: whole(1234567), short: [short(0.0312), short(4.24), short(123.4), short(12345)],
  span: [span(4), span(250), span(7500), span(1e5)],
  ticks: [valueTicks(800), valueTicks(1), valueTicks(0)], times: timeTicks(1000.2, 1060.2, 7).ticks.length,
}}));
"""
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "try.js").write_text(code)
    ran = subprocess.run([node(), "try.js"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["states"] == list(COLOURS)
    assert said["bins"] == len(grown(10).series)
    assert round(said["ended"]) == grown(10).ended and said["most"] == 2
    assert said["whole"] == "1,234,567" and said["short"] == ["0.031", "4.24", "123", "12,345"]
    assert said["span"] == ["4 s", "4 min 10 s", "2 h 05 min", "1 d 3 h"]
    lost = "The kernel that showed this has gone. Run this cell again."
    assert said["gone"] == [False, lost, lost, True, [False]]  # nobody is said to wait any more
    assert said["ticks"] == [[0, 200, 400, 600, 800], [0, 0.5, 1], [0]] and 5 <= said["times"] <= 7
