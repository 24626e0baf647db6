"""A dashboard that is left open while work goes on, some times faster than in life: nothing grows with the time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Notebook
from player import Pace, fill, prepare
from probe import Probe, rss_mb

from balsam_jupyter import BalsamExecutor, open_site

UPDATES = int(os.environ.get("BALSAM_TEST_UPDATES", "36000"))  # an hour of ten a second
FASTER = 5
CELL = f"""
import os
from balsam_jupyter import BalsamExecutor, monitor, open_site
from balsam_jupyter.widgets import dashboard, watch

monitor.SETTLE_S = monitor.LOOKING_S = watch.PERIOD_S = 0.1 / {FASTER}
watch.STILL_S, dashboard.WHOLE_S = 30 / {FASTER}, 2 / {FASTER}
ensemble = BalsamExecutor(open_site("played")).ensemble("all")
print(os.getpid())
"""


@pytest.mark.soak
def test_an_hour_takes_no_memory(
    open_notebook: Callable[..., Notebook], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BALSAM_JUPYTER_HOME", str(folder / "home"))
    prepare(folder / "played", Pace(rate=500, ends_s=UPDATES, group_s=0.05 / FASTER))
    executor = BalsamExecutor(open_site("played", folder / "played"))
    fill(executor, "all", 40_000, 20_000)
    notebook = open_notebook(CELL, "ensemble.watch()")
    for cell in (0, 1):
        notebook.run(cell)
        notebook.wait_run(cell)
    kernel = int(notebook.output(0))
    notebook.wait_for(".bj-live canvas")
    allocation = executor.submit_allocation("played", 1, 600, job_mode="serial")
    probe = Probe(notebook)

    def let_pass(updates: int) -> dict[str, float]:
        """Wait for so many updates; what there is then in the kernel and in the page."""
        seen = 0
        while seen < updates:
            probe.start()  # forgets what came before: the probe must not grow either
            notebook.wait_until("window.probe.frames.length > 200", timeout=120)
            seen += len(probe.stop().updates(apart_s=0.005))
        heap = probe.heap_mb()
        counters = probe.metrics()
        found = {"kernel, MB": rss_mb(kernel), "page, MB": heap}
        return found | {name: counters[name] for name in ("Nodes", "JSEventListeners")}

    early = let_pass(UPDATES // 6)
    late = let_pass(UPDATES - UPDATES // 6)
    assert executor.revoke_allocation(allocation)
    executor.site.engine.close()
    print(f"\nafter {UPDATES // 6:,} updates {early}, after {UPDATES:,} {late}")
    assert late["kernel, MB"] < early["kernel, MB"] + 8
    assert late["page, MB"] < early["page, MB"] + 2
    assert late["Nodes"] < early["Nodes"] + 500
    assert late["JSEventListeners"] < early["JSEventListeners"] + 50
