"""Each benchmark still runs, with our engine and what the standard library has. What it measures is not judged here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .balsam_service.run import ENVIRONMENT

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("[a-z]*.py"))
# A line that each must print, with figures in it.
SAYS = {
    "balsam.py": r"\d+ requests .*, \d+\.\d kB",
    "latency.py": r"submit and wait +median +\d+\.\d\d ms",
    "launch.py": r"ProcessPoolExecutor +\d+ +\d+\.\d\d × that",
    "python_tasks.py": r"ProcessPoolExecutor map +\d+ +\d+\.\d\d × that",
    "results.py": r"median: the first \d+ ms, \d+ of them CPU .*after 10 changes \d+\.\d ms",
    "scale.py": r"executor\.poll\(\), ms +\d+\.\d\d",
    "views.py": r"commit to pixel, median, ms +\d+ +under 250",
    "timeline.py": r"first picture of the whole site +\d+\.\d\d s",
    "submit.py": r"\d+\.\d\d × executemany in our own indexed tables",
}


def run(script: str, folder: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / script), *options]
    given = {**os.environ, "BENCH_DIR": str(folder), **env}
    return subprocess.run(command, env=given, cwd=folder, capture_output=True, text=True)


_LONG = ("views.py", "balsam.py")  # with a browser; with a service of its own


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [pytest.param(one, marks=pytest.mark.soak) if one in _LONG else one for one in SCRIPTS]
)
def test_benchmark_runs(script: str, tmp_path: Path) -> None:
    if script == "balsam.py" and not (ENVIRONMENT / "bin" / "uvicorn").exists():
        pytest.skip("no environment with a Balsam server: `make test` makes it where it finds a Python 3.11")
    done = run(script, tmp_path, "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(SAYS[script], done.stdout), done.stdout
    assert "MISSING" not in done.stdout


def test_missing_reference_is_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    done = run("launch.py", tmp_path, "--quick", "--only", "GNU parallel", PATH=str(tmp_path / "nothing"))
    assert done.returncode == 0, done.stderr
    assert "MISSING: not installed: GNU parallel (Debian: apt-get install parallel)" in done.stdout
