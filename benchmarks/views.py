"""The live view of sites with 100, 10,000 and 1,000,000 tasks, 500 of whose states change a second, in a real browser.

    python benchmarks/views.py [--tasks 100,10000,1000000] [--seconds 20] [--quick]

A process of its own checks tasks out of the site's store and commits starts and ends, as a launcher does
(tools/player.py). JupyterLab and Chromium show the ensemble's live view meanwhile; then, in the same run, a plotly
FigureWidget with the same bins, drawn as often. Messages, bytes and paints are counted in the page; a delay is the
time from a commit to the first frame that shows as many ended tasks, by the machine's clock.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _common import ROOT, Timer, scratch

sys.path.insert(0, str(ROOT / "tools"))

from lab import Browser, Lab, Notebook, chromium
from player import Pace, fill, prepare
from probe import SCRIPT, Load, Probe, cpu_s, delays

if TYPE_CHECKING:
    from balsam_jupyter import BalsamExecutor

CHANGES = 500
WARM_S = 4.0  # between the first picture and the measurement
OPEN = """
import os, threading
from balsam_jupyter import BalsamExecutor, open_site
exctr = BalsamExecutor(open_site({site!r}))
ensemble = exctr.ensemble("all")
print(os.getpid())
"""
THREAD = """
print([thread.native_id for thread in threading.enumerate() if thread.name.startswith("balsam-monitor")][0])
"""
FIGURE = """
import plotly.graph_objects as go
from balsam_jupyter.monitor import Monitor

figure = go.FigureWidget(
    [go.Scatter(name=state, stackgroup="tasks", mode="lines", line_width=0) for state in ensemble.counts()],
    layout={"height": 320, "title": {"text": "-"}},
)

def draw(told):
    with figure.batch_update():
        figure.layout.title.text = f"{told.ended} of {told.total}"
        for trace in figure.data:
            trace.update(x0=1000 * told.series.start, dx=1000 * told.series.width, y=told.series.counts[trace.name])

subscription = Monitor.of(exctr.site.engine).watch("all", draw, period=0.1)
figure
"""


@dataclass(frozen=True)
class View:
    """What is measured: a cell, and where the page shows how many tasks have ended."""

    name: str
    cell: str
    count: str
    picture: str


VIEWS = (
    View("ensemble.watch()", "ensemble.watch()", ".bj-done", "canvas.bj-canvas-states"),
    View("plotly FigureWidget", FIGURE, ".gtitle", ".js-plotly-plot .main-svg"),
)


@dataclass(frozen=True)
class Figures:
    """A column of the table."""

    messages: float
    kilobytes: float
    updates: float
    delay_ms: float
    late_ms: float
    main_thread: float
    poller: float
    kernel: float
    first_s: float
    first_cpu_s: float
    heap_mb: float


ROWS = (
    ("messages an update", "messages", "{:.1f}", "few"),
    ("kB an update", "kilobytes", "{:.1f}", "under 10"),
    ("updates a second", "updates", "{:.1f}", ""),
    ("commit to pixel, median, ms", "delay_ms", "{:.0f}", "under 250"),
    ("commit to pixel, 95 %, ms", "late_ms", "{:.0f}", ""),
    ("main thread of the page, % of a core", "main_thread", "{:.1f}", "under 15"),
    ("poller's thread, % of a core", "poller", "{:.1f}", "under 5"),
    ("whole kernel, % of a core", "kernel", "{:.1f}", ""),
    ("first picture, s", "first_s", "{:.2f}", "under 2"),
    ("processor time of the kernel for it, s", "first_cpu_s", "{:.2f}", ""),
    ("page's JavaScript heap, MB", "heap_mb", "{:.0f}", ""),
)


def number(text: str) -> int:
    """The first number of a text, which may group its digits."""
    found = re.search(r"\d[\d,\u2009\u202f\u00a0]*", text)
    return int(re.sub(r"\D", "", found[0])) if found else 0


def measure(notebook: Notebook, view: View, commits: Path, seconds: float) -> Figures:
    """Run the view's cell in an open notebook, and watch it for some seconds."""
    probe = Probe(notebook)
    notebook.run(0)
    notebook.wait_run(0)
    kernel = int(notebook.output(0))
    probe.follow(view.count)
    idle = cpu_s(kernel)
    began = notebook.page.evaluate("() => window.probe.now()")
    notebook.run(1)
    notebook.wait_for(view.picture)
    notebook.wait_until("window.probe.texts.some(([, text]) => /\\d/.test(text))")
    first = notebook.page.evaluate("() => window.probe.texts.find(([, text]) => /\\d/.test(text))[0]")
    notebook.wait_run(1)
    first_cpu = cpu_s(kernel) - idle
    notebook.run(2)
    notebook.wait_run(2)
    poller = int(notebook.output(2))
    notebook.page.wait_for_timeout(1000 * WARM_S)
    probe.follow(view.count)
    before = cpu_s(kernel), cpu_s(kernel, poller)
    probe.start()
    notebook.page.wait_for_timeout(1000 * seconds)
    load = probe.stop()
    after = cpu_s(kernel), cpu_s(kernel, poller)
    whole, thread = ((late - early) / load.seconds for early, late in zip(before, after, strict=True))
    return figures(load, commits, thread, whole, (first - began, first_cpu))


def figures(load: Load, commits: Path, poller: float, kernel: float, first: tuple[float, float]) -> Figures:
    shown = [(when, number(text)) for when, text in load.texts]
    assert len(shown) > 1, f"the picture stood still: {load.texts}"
    rows = [line.split(",") for line in commits.read_text().splitlines()]
    during = [(float(when), int(ended)) for when, ended in rows if float(when) > shown[0][0]]
    waits = sorted(delays(during, shown))
    updates = load.updates()
    return Figures(
        messages=statistics.mean(map(len, updates)),
        kilobytes=statistics.mean(map(sum, updates)) / 1e3,
        updates=len(updates) / load.seconds,
        delay_ms=1e3 * statistics.median(waits),
        late_ms=1e3 * waits[int(0.95 * len(waits))],
        main_thread=100 * load.main_thread,
        poller=100 * poller,
        kernel=100 * kernel,
        first_s=first[0],
        first_cpu_s=first[1],
        heap_mb=load.heap_mb,
    )


def open_executor(base: Path, tasks: int, pace: Pace) -> BalsamExecutor:
    """A new site whose allocations start a player, with so many tasks, half of them ended."""
    from balsam_jupyter import BalsamExecutor, open_site

    name = f"site-{tasks}"
    prepare(base / name, pace)
    executor = BalsamExecutor(open_site(name, base / name))
    with Timer() as timer:
        fill(executor, "all", tasks, tasks // 2 if tasks > 1000 else 0)
    print(f"  {tasks:,} tasks put into a site in {timer.seconds:.1f} s", flush=True)
    return executor


def at_size(base: Path, tasks: int, seconds: float) -> list[Figures]:
    """One column for each view."""
    lasts = len(VIEWS) * (seconds + WARM_S + 10)  # a view that has nothing left to follow ends
    pace = Pace(CHANGES, ends_s=0.0 if tasks > CHANGES * lasts else lasts)
    executor = open_executor(base, tasks, pace)
    site = executor.site
    found = []
    home = {"BALSAM_JUPYTER_HOME": os.environ["BALSAM_JUPYTER_HOME"]}
    with Lab(base, home) as lab, Browser(script=SCRIPT) as browser:
        for view in VIEWS:
            name = lab.write(f"{site.name}.ipynb", OPEN.format(site=site.name), view.cell, THREAD)
            notebook = browser.open(lab, name)
            allocation = executor.submit_allocation(site.name, 1, 60, job_mode="serial")
            found.append(measure(notebook, view, Path(site.path) / "commits.csv", seconds))
            assert executor.revoke_allocation(allocation)
            notebook.close()
    return found


def table(sizes: Sequence[int], columns: Sequence[Sequence[Figures]]) -> None:
    """Our view at each size beside the budget, and the reference."""
    for at, view in enumerate(VIEWS):
        print(f"\n  {view.name:42}" + "".join(f"{size:>12,}" for size in sizes) + "   budget")
        for title, name, form, budget in ROWS:
            values: list[Any] = [getattr(column[at], name) for column in columns]
            said = budget if at == 0 else ""
            print(f"    {title:40}" + "".join(f"{form.format(value):>12}" for value in values) + f"   {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", default="100,10000,1000000")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--quick", action="store_true", help="few tasks, some seconds, for smoke tests")
    given = parser.parse_args()
    sizes, seconds = [int(size) for size in given.tasks.split(",")], given.seconds
    if given.quick:
        sizes, seconds = [2000], 3.0
    if chromium() is None:
        print("  MISSING: no Chromium; on Debian: apt-get install chromium fonts-dejavu-core")
        return
    base = scratch("views")
    print(f"Live views, {CHANGES} changes of state a second, {seconds:g} s each (in {base})", flush=True)
    table(sizes, [at_size(base, size, seconds) for size in sizes])


if __name__ == "__main__":
    main()
