"""One task on an idle, warm launcher, and what idling costs.

    python benchmarks/latency.py [--tasks 300] [--quick]

From the call of `submit` until `task.wait()` returns, for /bin/true, beside a bare `subprocess.run` of it,
in turns. Then the CPU time of the idle launcher with its slot processes, and of this process with an
executor and a Monitor that watches an ensemble that waits, in per cent of a core.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

from _common import Timer, arguments, launcher, scratch, site

IDLE_S = 10.0
WARM_UP = 20
RUN = {"run": "now"}  # the launcher takes tasks with this tag; the ensemble that is watched has it not


def cpu_s(pids: list[int]) -> float:
    """CPU seconds of processes so far, from /proc."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def processes_of(folder: Path) -> list[int]:
    """The allocation's script, launcher and slot processes: all that name the site's directory, but this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in words:
                found.append(int(entry.name))
    return found


def line(name: str, seconds: list[float]) -> str:
    last = statistics.quantiles(seconds, n=100)[98]
    return f"  {name:24} median {1e3 * statistics.median(seconds):6.2f} ms   99th percentile {1e3 * last:6.2f} ms"


def main() -> None:
    given = arguments(__doc__ or "", rounds=1, tasks=300).parse_args()
    tasks, idle_s = (30, 1.0) if given.quick else (given.tasks, IDLE_S)
    base = scratch("latency")
    from balsam_jupyter import ApplicationDefinition, BalsamExecutor
    from balsam_jupyter.monitor import Monitor

    class Command(ApplicationDefinition):
        command_template = "/bin/true"

    executor = BalsamExecutor(site(base))
    executor.register_app(Command)
    ours, bare = [], []
    with launcher(executor, filter_tags=RUN):
        print(f"one /bin/true at a time on an idle, warm launcher, {tasks} times (in {base})", flush=True)
        for number in range(WARM_UP + tasks):
            with Timer() as timer:
                task = executor.submit(app_name="Command", tags=RUN)
                task.wait()
            assert task.state == "FINISHED"
            with Timer() as other:
                subprocess.run(["/bin/true"], check=True)
            if number >= WARM_UP:
                ours.append(timer.seconds)
                bare.append(other.seconds)
        print(line("subprocess.run", bare))
        print(line("submit and wait", ours) + "   (asked for: under 5 and 15)")
        waits = executor.submit_sweep("Command", [{}] * 10, name="waits")
        watching = Monitor.of(executor.site.engine).watch(waits.name, lambda snapshot: None)
        launched = processes_of(base / "bench")
        assert launched
        time.sleep(min(2.0, idle_s))  # what the last task left behind is folded away
        before = cpu_s(launched), cpu_s([os.getpid()])
        time.sleep(idle_s)
        after = cpu_s(launched), cpu_s([os.getpid()])
        for name, one, two in zip(("launcher", "kernel"), before, after, strict=True):
            percent = 100 * (two - one) / idle_s
            print(f"  idle {name:8} {percent:5.2f} % of a core over {idle_s:g} s   (asked for: under 1)")
        watching.close()


if __name__ == "__main__":
    main()
