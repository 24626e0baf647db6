"""Clocks that jump: the time of day of a launcher is moved by an hour while it works, its monotonic clock is not.

That is what setting the clock looks like, and what a machine looks like that slept for an hour.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from balsam_jupyter.engines.embedded.store import work
from balsam_jupyter.models import Query

from .engine_site import allocate, ended, job, shell_app, submit, wait_until
from .processes import children_of, slot_processes
from .witness import check_transitions

HOUR = 3600


# Moves the time of day of each process it is loaded into by the seconds that the file CLOCK_OFFSET holds.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    const char *path = getenv("CLOCK_OFFSET");
    if (clock == CLOCK_REALTIME && path) {
        char text[32] = "";
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
            close(file);
        }
    }
    return result;
}
"""


@pytest.fixture
def faked_clock(engine, tmp_path):
    """The file that says by how much the clock of the site's launchers and tasks is off, in seconds."""
    source, library, file = tmp_path / "shim.c", tmp_path / "shim.so", tmp_path / "clock"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    file.write_text("0")
    template = Path(engine.path, "job-template.sh")
    faked = f"export LD_PRELOAD={library} CLOCK_OFFSET={file}\n"
    template.write_text(template.read_text().replace("#!/bin/bash\n", "#!/bin/bash\n" + faked))
    return file


def move(clock: Path, by: int) -> None:
    fresh = clock.with_suffix(".new")
    fresh.write_text(str(by))
    fresh.replace(clock)


TELL = """
import sys, time
print(time.time(), flush=True)
time.sleep(float(sys.argv[1]))
print(time.time())
"""


@pytest.mark.parametrize("jump", [-HOUR, +HOUR])
def test_the_clock_of_a_launcher_jumps(engine, faked_clock, tmp_path, jump):
    """Order, runtimes and wall time stay right, and nothing is taken over."""
    script = tmp_path / "tell.py"
    script.write_text(TELL)
    app = shell_app(engine, f"{sys.executable} -I -S {script} {{{{ s }}}}", "s")
    first = submit(engine, app, [{"s": 0.05}] * 10)
    allocation = allocate(engine, 5)
    wait_until(engine, lambda: ended(engine) == 10)
    [long] = submit(engine, app, [{"s": 1.5}])
    wait_until(engine, lambda: job(engine, long).state == "RUNNING" and engine.output(long))
    move(faked_clock, jump)
    later = submit(engine, app, [{"s": 0.05}] * 10)
    wait_until(engine, lambda: ended(engine) == 21)
    assert engine.count(Query()) == {"JOB_FINISHED": 21}
    told = {j.id: [float(line) for line in engine.output(j.id).split()] for j in engine.jobs(Query())}
    shift = told[later[0]][0] - told[first[-1]][1]
    assert abs(shift - jump) < 60, "the clock of the tasks was not moved"
    assert abs(told[long][1] - told[long][0] - jump) < 60, "it was not moved while the long task ran"
    for each in engine.jobs(Query()):
        least = 1.5 if each.id == long else 0.05
        assert each.attempts == 1 and least <= each.runtime_s < 60
        assert each.end_time - each.start_time == pytest.approx(each.runtime_s, abs=1e-3)
    ran = [row.first_id for row in engine.events("").rows if row.path[-1] == "JOB_FINISHED"]
    assert set(ran[:10]) == set(first) and set(ran[10:]) == {long, *later}, "the order is that of the commits"
    check_transitions(engine)
    now = engine.allocations()[0]
    assert now.state == "running" and 240 < now.remaining_s <= 300
    assert work.session(engine.store.con, 1)[1] == "open" and work.unclosed_sessions(engine.store.con) == [(1, now.id)]
    assert engine.usage().node_hours < 0.05 and sum(j.runtime_s for j in engine.jobs(Query())) < 180
    assert now.id == allocation.id


def test_a_run_whose_end_nobody_saw_has_no_hour_of_runtime(engine, faked_clock):
    """A spawner dies after the clock was moved: what its task ran is measured all the same."""
    allocate(engine)
    [one] = submit(engine, shell_app(engine, "test -e ran && exit 0; touch ran; sleep 300"))
    wait_until(engine, lambda: job(engine, one).state == "RUNNING")
    move(faked_clock, HOUR)
    [spawner] = [pid for pid in slot_processes(engine.path, "spawner") if children_of(pid)]
    os.kill(spawner, signal.SIGKILL)
    wait_until(engine, lambda: job(engine, one).state == "JOB_FINISHED")
    first = next(row for row in engine.events("").rows if "RUN_TIMEOUT" in row.path)
    assert 0 <= first.end_time - first.time < 60
