"""``balsam-jupyter``: the real entry point in real processes for the main paths, click's runner for the small ones."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from balsam_jupyter import cli
from balsam_jupyter.cli.common import scalar
from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.models import EnsembleRecord, JobCommon, JobSpec, Query

from .command import COMMAND, at_terminal, environment
from .engine_site import allocate, ended, job, shell_app, submit, wait_until

Cli = Callable[..., Result]


def terminal(*words: str, cwd: Path, code: int = 0, **more: str) -> str:
    """Run it as a user does, in a pipe; what it prints. Nobody ever sees a traceback."""
    run = subprocess.run([*COMMAND, *words], cwd=cwd, env=environment(**more), capture_output=True, text=True)
    assert run.returncode == code, (run.stdout, run.stderr)
    assert "Traceback" not in run.stderr
    return run.stdout if code == 0 else run.stderr


def output(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=60)
    return said


@pytest.fixture
def run(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in the site's directory; its exit code has to be `code`."""
    monkeypatch.chdir(engine.path)

    def invoke(*words: str, code: int = 0, **options: Any) -> Result:
        result = CliRunner().invoke(cli.main, list(words), **options)
        assert result.exit_code == code, (result.output, result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke


def told(run: Cli, *words: str) -> Any:
    """The JSON document a command prints."""
    return json.loads(run(*words, "--json").stdout)


def table(text: str) -> list[dict[str, str]]:
    head, *rows = (line.split("\t") for line in text.splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


# -- real processes ----------------------------------------------------------------------------------------


def test_a_session_at_a_terminal(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "melts"
    assert f"Site 'melts' is at {folder}" in terminal("site", "init", str(folder), cwd=tmp_path)
    (folder / "settings.yml").write_text("cores_per_node: 2\ngrace_period_s: 1\n")
    engine = EmbeddedEngine.open("melts")
    shell_app(engine, "echo {{ x }}; exit {{ code }}", "x", "code", app="hello")
    inside = folder / "data"
    assert table(terminal("app", "ls", cwd=inside))[0]["parameters"] == "x code"
    assert "Job 1 of hello in libe_workflow/hello_1: PREPROCESSED" in terminal(
        "job", "create", "-a", "hello", "-p", "x=one two", "-p", "code=0", cwd=inside
    )
    terminal("job", "create", "-a", "hello", "-p", "x=2", "-p", "code=3", "-w", "my/dir", "--tag", "k=v", cwd=inside)
    assert terminal(
        "submit-launch", "-A", "local", "-q", "local", "-t", "5", "-n", "1", "--job-mode=serial", cwd=inside
    )
    wait_until(engine, lambda: ended(engine) == 2)
    rows = table(terminal("job", "ls", cwd=inside))
    assert [(row["id"], row["state"], row["workdir"], row["code"], row["tags"]) for row in rows] == [
        ("1", "JOB_FINISHED", "libe_workflow/hello_1", "0", ""),
        ("2", "FAILED", "my/dir", "3", "k=v"),
    ]
    assert terminal("job", "logs", "1", cwd=inside) == "one two\n"
    assert "  2\n" in terminal("job", "ls", "--error", cwd=inside)
    assert "1 job will run again" in terminal("job", "retry", "2", cwd=inside)
    wait_until(engine, lambda: job(engine, 2).attempts == 2 and ended(engine) == 2)
    assert table(terminal("queue", "ls", cwd=tmp_path, BALSAM_SITE_PATH=str(folder)))[0]["state"] == "running"
    assert "Allocation 1 has ended." in terminal("queue", "rm", "1", "--site", "melts", cwd=tmp_path)
    assert "No allocation waits or runs (1 have ended" in terminal("queue", "ls", "--site", str(folder), cwd=tmp_path)
    assert terminal("site", "check", "--site", "melts", cwd=tmp_path).endswith("no faults.\n")
    engine.close()


def test_mistakes_are_told_in_a_line_or_two(engine: EmbeddedEngine, tmp_path: Path) -> None:
    assert terminal("job", "create", "-a", "no", cwd=engine.path, code=1).count("\n") <= 2
    assert "site init" in terminal("job", "ls", "--site", str(tmp_path), cwd=tmp_path, code=1)
    (engine.path / "settings.yml").write_text("cores: 3")
    assert "unknown setting 'cores'" in terminal("submit-launch", cwd=engine.path, code=1)
    (engine.path / "settings.yml").write_text("")
    engine.close()
    sound = (engine.path / "balsam.db").read_bytes()
    (engine.path / "balsam.db").write_bytes(b"not a database" * 1000)
    assert "cannot be used as a site's database" in terminal("job", "ls", cwd=engine.path, code=1)
    (engine.path / "balsam.db").write_bytes(sound)


def test_help_is_quick_and_imports_little(home: Path) -> None:
    code = "import sys, balsam_jupyter.cli; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert not {"rich", "yaml", "jinja2", "numpy", "pandas", "IPython", "cloudpickle"} & set(run.stdout.split())


def test_at_a_terminal_lists_are_tables_with_colours(engine: EmbeddedEngine) -> None:
    submit(engine, shell_app(engine, "echo"))
    engine.update(Query(), "USER_KILLED")
    text = at_terminal("job", "ls", cwd=engine.path, TERM="xterm-256color", COLUMNS="150")
    assert "─" in text and "\x1b[33mUSER_KILLED" in text and "lone/1" in text and "\t" not in text


def test_a_pipe_gets_plain_whole_values(engine: EmbeddedEngine) -> None:
    long = "lone/" + "x" * 150
    common = shell_app(engine, "echo")
    engine.submit([JobSpec(common, encode({}), long)])
    text = terminal("job", "ls", cwd=engine.path, FORCE_COLOR="1")
    assert table(text)[0]["workdir"] == long and "\x1b" not in text


# -- small ones --------------------------------------------------------------------------------------------


def test_sites(run: Cli, engine: EmbeddedEngine, tmp_path: Path) -> None:
    run("site", "init", str(tmp_path / "two"), "--name", "second")
    assert [one["name"] for one in told(run, "site", "ls")["sites"]] == ["here", "second"]
    assert told(run, "job", "ls", "--site", "second") == {"jobs": [], "left_out": 0}
    assert told(run, "site", "check", "--site", "2")["site"] == "second"
    assert "Did you mean 'second'?" in run("job", "ls", "--site", "secnd", code=1).output
    again = told(run, "site", "init", str(tmp_path / "two"))
    assert again == {"id": 2, "name": "second", "path": str(tmp_path / "two")}
    assert "choose another name for" in run("site", "init", "x", "--name", "here", code=2).output
    assert run("site", "ls", "--limit", "1").output.count("\n") == 3  # the head, one site, what was left out


def test_apps(run: Cli, engine: EmbeddedEngine) -> None:
    shell_app(engine, "echo {{ x }}\nsleep 1", "x")
    (one,) = told(run, "app", "ls")["apps"]
    assert one["name"] == "App" and one["parameters"]["x"]["required"] is True
    assert table(run("app", "ls").stdout)[0]["command"] == "echo {{ x }} …"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("300", 300), ("-3", -3), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("007", "007"), ("1_000", "1_000"),
        ("true", True), ("yes", "yes"), ("null", None), ("", ""), ("Ar", "Ar"), ("12:30", "12:30"), ("'5'", "5"),
        ("[1, 2.5, a]", [1, 2.5, "a"]), ("{a: 1}", {"a": 1}), ("2026-01-01", "2026-01-01"), ("a: b", "a: b"),
        ("nan", "nan"), ("1.2.3", "1.2.3"), ("0", 0), ("-0.0", -0.0), ("x=y", "x=y"),
    ],
)  # fmt: skip
def test_values_are_yaml_scalars(text: str, value: object) -> None:
    found = scalar("x", text)
    assert found == value and type(found) is type(value)


def test_create(run: Cli, engine: EmbeddedEngine) -> None:
    common = shell_app(engine, "echo {% for y in x %}{{ y }} {% endfor %}", "x")
    made = told(run, "job", "create", "-a", "App", "-p", "x=[1, 2]", "-tag", "a=b=c", "-t", "3", "-y")
    assert made["parameters"] == {"x": [1, 2]} and made["tags"] == {"a": "b=c"} and made["state"] == "PREPROCESSED"
    assert made["resources"]["wall_time_min"] == 3
    assert told(run, "job", "create", "-a", str(common.app_id), "-p", "x=ab", "-w", "w/{id}")["workdir"] == "w/2"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("job create", 2, "Missing option '-a'"),
        ("job create -a Ap", 1, "Site 'here' has no app 'Ap'"),
        ("job create -a App", 2, "x"),
        ("job create -a App -p y=1", 2, "App App has no parameter 'y'; its parameters: x"),
        ("job create -a App -p x", 2, "-p x: write -p NAME=VALUE."),
        ("job create -a App -p x=1 -p x=2", 2, "-p x is given twice."),
        ("job create -a App -p x=[1", 2, "quote it to have it as text"),
        ("job create -a App -p x=1 -n 9", 2, "9 nodes are too many: the site 'here' has 1"),
        ("job create -a App -p x=1 -w /tmp", 2, "must lie below the site's data folder"),
        ("job create -a App -p x=1 --tag a", 2, "--tag a: write --tag KEY=VALUE."),
        ("job create -a App -p x=1 --num-procs 3 -rpn 2", 2, "contradict each other"),
        ("job ls --state RUNING", 2, "'RUNING' is not a job state. Did you mean 'RUNNING'?"),
        ("job ls --app Appp", 1, "Did you mean 'App'?"),
        ("job ls --ensemble scam", 1, "Did you mean 'scan'?"),
        ("job ls --order size", 2, "Jobs cannot be ordered by 'size'"),
        ("job ls --limit 0", 2, "0 is not in the range x>=1"),
        ("job ls --error --state RUNNING", 2, "leave --state out"),
        ("job lss", 2, "There is no command 'lss'"),
        ("jobs", 2, "Did you mean 'job'?"),
        ("job kill", 2, "Which jobs? Give ids, an ensemble, or an option"),
        ("job kill 77", 1, "Site 'here' has no ensemble, task or work directory '77'"),
        ("kill 1 --tag a=b", 2, "not both"),
        ("job retry", 2, "Which jobs?"),
        ("job rm --state FAILED -y", 1, "No job is chosen by that"),
        ("job logs scan", 2, "ensemble 'scan' has many jobs"),
        ("job logs 99", 1, "no ensemble, task or work directory '99'"),
        ("job logs 1 -f --json", 2, "leave one of the two out"),
        ("submit-launch -n 2", 2, "num_nodes=2 is more than site 'here' has (1 node"),
        ("submit-launch -t 0", 2, "wall_time_min must be a number above 0"),
        ("submit-launch -t x", 2, "'x' is not a valid float"),
        ("submit-launch -j seriel", 2, "Did you mean 'serial'?"),
        ("submit-launch -q debug", 2, "Unknown queue 'debug'"),
        ("submit-launch -p mpi", 2, "write MODE:NODES[:KEY=VALUE…]"),
        ("submit-launch -p mpi:one", 2, "'one' is no number of nodes"),
        ("submit-launch -p mpi:1:role", 2, "'role' is not KEY=VALUE"),
        ("submit-launch -p mp:1", 2, "job_mode is 'mpi' or 'serial', not 'mp'"),
        ("submit-launch -n 1 -p mpi:1 -p serial:1", 2, "The partitions must have 1 node together"),
        ("queue rm", 2, "Which one? Allocations that wait or run: (none)."),
        ("queue rm 7", 1, "There is no allocation 7 at site 'here'"),
        ("service start -n 3", 2, "max_nodes=3 is more than site 'here' has (1)"),
        ("service begin", 2, "There is no command 'begin'"),
        ("site check --site nowhere", 1, "There is no site 'nowhere'"),
        ("site export runs.xls", 2, "'xls' is no format"),
        ("site init settings.yml", 2, "is a file"),
    ],
)
def test_mistakes(run: Cli, engine: EmbeddedEngine, words: str, code: int, says: str) -> None:
    common = shell_app(engine, "echo {{ x }}", "x")
    shared = JobCommon(common.app_id, ensemble="scan")
    engine.submit([JobSpec(shared, encode({"x": 1}), key=b"1" * 16)], EnsembleRecord("scan", "App"))
    before = engine.count(Query()), len(engine.allocations())
    result = run(*words.split(), code=code)
    assert says in result.output and result.stdout == ""
    mistake = [line for line in result.stderr.splitlines() if not line.startswith(("Usage:", "Try ")) and line]
    assert 1 <= len(mistake) <= 2
    assert (engine.count(Query()), len(engine.allocations())) == before


def test_ls_chooses_orders_and_says_what_it_leaves_out(run: Cli, engine: EmbeddedEngine) -> None:
    common = shell_app(engine, "echo {{ x }}", "x")
    submit(engine, common, [{"x": n} for n in range(60)])
    submit(engine, JobCommon(common.app_id, tags={"k": "v"}), [{"x": 1}])
    engine.update(Query(ids=(3,)), "USER_KILLED")
    result = run("job", "ls")
    assert len(table(result.stdout)) == 50 and "… and 11 more; --limit shows more of them" in result.stderr
    assert [one["id"] for one in told(run, "job", "ls", "--limit", "2", "--order", "-id")["jobs"]] == [61, 60]
    assert told(run, "job", "ls", "--limit", "2")["left_out"] == 59
    assert [one["id"] for one in told(run, "job", "ls", "-t", "k=v")["jobs"]] == [61]
    assert [one["id"] for one in told(run, "job", "ls", "-s", "user_killed")["jobs"]] == [3]
    assert told(run, "job", "ls", "-ns", "USER_KILLED")["left_out"] == 10
    assert [one["id"] for one in told(run, "job", "ls", "--id", "5", "--id", "6")["jobs"]] == [5, 6]
    assert told(run, "job", "ls", "--by-state") == {"PREPROCESSED": 60, "USER_KILLED": 1}
    assert told(run, "job", "ls", "-w", "lone/7")["jobs"][0]["id"] == 7
    history = told(run, "job", "ls", "--id", "3", "--history")["jobs"][0]["history"]
    assert [one["to"] for one in history] == ["CREATED", "READY", "STAGED_IN", "PREPROCESSED", "USER_KILLED"]
    assert "USER_KILLED" in run("job", "ls", "--id", "3", "--history").stdout
    assert "workdir: lone/3" in run("job", "ls", "--id", "3", "-v").stdout
    assert run("job", "ls", "-t", "k=w").stdout == "No such job.\n"


def test_kill_retry_and_rm(run: Cli, engine: EmbeddedEngine) -> None:
    common = shell_app(engine, "sleep {{ s }}", "s")
    submit(engine, common, [{"s": 60} for _ in range(4)])
    allocate(engine)
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING") == 2)
    assert run("kill", "1", "--now").stdout == "task 1: 1 task killed.\n"
    assert run("kill", "1").stdout == "task 1: nothing to kill: it had ended.\n"
    assert told(run, "job", "kill", "lone/2", "App_3") == {"said": ["task 2: 1 task killed.", "task 3: 1 task killed."]}
    assert "still run: kill them first" in run("job", "rm", "4", "-y", code=1).stdout
    run("kill", "--state", "RUNNING", "--state", "PREPROCESSED")
    assert run("job", "retry", "4").stdout == "task 4: 1 job will run again.\n"
    assert run("job", "retry", "--state", "JOB_FINISHED", code=1).stdout == (
        "the jobs chosen: nothing to retry: there are no such tasks.\n"
    )
    engine.update(Query(), "USER_KILLED")
    wait_until(engine, lambda: ended(engine) == 4)
    assert "Forget 4 jobs for ever?" in run("job", "rm", "--app", "App", code=1, input="n\n").stderr
    assert engine.count(Query()) == {"USER_KILLED": 4}
    assert run("job", "rm", "--app", "App", input="y\n").stdout == "4 jobs removed.\n"
    assert engine.count(Query()) == {}


def test_logs(run: Cli, engine: EmbeddedEngine) -> None:
    common = shell_app(engine, "for i in 1 2 3; do echo $i; done; sleep {{ s }}; echo end", "s")
    first, second = submit(engine, common, [{"s": 0}, {"s": 1}])
    assert run("job", "logs", str(first)).stdout == ""
    allocate(engine)
    assert run("job", "logs", str(second), "-f").stdout == "1\n2\n3\nend\n"
    assert run("job", "logs", str(first), "--tail", "2").stdout == "3\nend\n"
    assert told(run, "job", "logs", f"App_{first}", "--tail", "1") == {
        "id": first,
        "state": "JOB_FINISHED",
        "log": "end",
    }


def test_allocations(run: Cli, engine: EmbeddedEngine) -> None:
    words = ["-A", "proj", "-t", "2.5", "-n", "1", "--job-mode=mpi", "--wf-filter=scan", "--tag", "k=v", "-x", "a=b"]
    given = told(run, "submit-launch", *words)
    assert (given["project"], given["wall_time_min"], given["job_mode"], given["wf_filter"]) == (
        "proj",
        2.5,
        "mpi",
        "scan",
    )
    assert given["filter_tags"] == {"k": "v"} and given["optional_params"] == {"a": "b"} and given["state"] == "running"
    behind = run("queue", "submit", "-t", "5").stdout
    assert behind.startswith("Allocation 2: queued, 1 node, 5 min, serial, behind allocation 1 (")
    rows = table(run("queue", "ls").stdout)
    assert [(row["id"], row["state"], row["for"]) for row in rows] == [
        ("1", "running", "k=v workflow~scan"),
        ("2", "queued", ""),
    ]
    assert run("queue", "rm", "all").stdout == "Allocation 1 has ended.\nAllocation 2 has ended.\n"
    assert run("queue", "rm", "2").stdout == "Allocation 2 had ended.\n"
    assert [row["id"] for row in table(run("queue", "ls", "--history").stdout)] == ["2", "1"]


@pytest.mark.parametrize("settings", ["nodes: 2\ncores_per_node: 1\n"])
def test_partitions(run: Cli, engine: EmbeddedEngine) -> None:
    common = shell_app(engine, "echo {{ x }}", "x")
    for role in ("leader", "worker", "none"):
        submit(engine, JobCommon(common.app_id, tags={"role": role}), [{"x": 1}])
    given = told(run, "submit-launch", "-t", "5", "-p", "mpi:1:role=leader", "-p", "serial:1:role=worker")
    assert given["num_nodes"] == 2
    wait_until(engine, lambda: ended(engine) == 2)
    assert [job(engine, number).state for number in (1, 2, 3)] == ["JOB_FINISHED", "JOB_FINISHED", "PREPROCESSED"]
    assert table(run("queue", "ls").stdout)[0]["for"] == "[mpi:1 role=leader] [serial:1 role=worker]"


def test_service(run: Cli, engine: EmbeddedEngine) -> None:
    assert told(run, "service", "status")["running"] is False
    try:
        started = told(run, "service", "start", "-n", "1", "-t", "5", "-j", "serial", "--tag", "k=v")
        assert started["running"] and started["settings"]["filter_tags"] == {"k": "v"}
        assert "Stop it first, or start with replace (--replace)" in run("service", "start", "-t", "9", code=2).output
        assert told(run, "service", "start") == told(run, "service", "status")
        assert (
            "runs already; stop it first"
            in run("service", "run", "-n", "1", "-t", "5", "-j", "serial", "--tag", "k=v", code=2).output
        )
        assert "since" in run("service", "status").stdout
    finally:
        assert "does not run" in run("service", "stop", "--revoke").stdout


def test_the_service_in_the_foreground(engine: EmbeddedEngine) -> None:
    process = subprocess.Popen(
        [*COMMAND, "service", "run", "-t", "5"], cwd=engine.path, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "the service of site 'here' runs" in process.stdout.readline()
    submit(engine, shell_app(engine, "echo"))
    assert "asked for allocation 1: 1 node, 5 min" in process.stdout.readline()
    wait_until(engine, lambda: ended(engine) == 1)
    process.send_signal(signal.SIGINT)
    assert "it received SIGINT; its allocations go on: 1" in output(process)
    status = engine.service.status()
    assert process.returncode == 0 and not status.running and not status.died


def test_upkeep(run: Cli, engine: EmbeddedEngine, tmp_path: Path) -> None:
    submit(engine, shell_app(engine, "echo"))
    (engine.path / "data" / "stray").mkdir()
    result = run("site", "check")
    assert "note: 1 directory in data/ belong to no job: data/stray\n  → " in result.stdout
    (engine.path / "data" / "stray").rmdir()
    assert told(run, "site", "check") == {"site": "here", "faults": 0, "findings": []}
    assert told(run, "site", "vacuum")["folders"] == 0
    file = str(tmp_path / "runs.csv")
    assert run("site", "export", file).stdout.startswith(f"{file}: 1 jobs\n")
    assert "exists; choose another name" in run("site", "export", file, code=2).output
