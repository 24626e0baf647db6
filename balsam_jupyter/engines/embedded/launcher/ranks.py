"""A Python app with several ranks: each rank calls ``run()``, and what rank 0 returns is the job's value.

The launcher writes a task file and runs, as a command like any other in the job's directory with the job's log,
``MPI-LAUNCH-LINE PYTHON ranks.py TASKFILE``. Rank 0 writes ``TASKFILE.value``; the first rank that raises writes
``TASKFILE.error``, prints its traceback and aborts the job with exit code 1, as the others may wait for it. The files
are written in one step and named by the launcher, so a takeover finds them beside the journals.
"""

from __future__ import annotations

import contextlib
import importlib.util
import marshal
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace, TracebackType
from typing import Any

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
"""Who sets them: Open MPI; MPICH and Intel MPI; any launcher that speaks PMIx; srun."""

Record = tuple[str, "bytes | None", list[str], dict[str, "str | None"]]
Outcome = tuple[Any, str, "bytes | None", str]


def task_file(session_folder: Path, job: int, attempt: int) -> Path:
    """Where the task file of a run lies."""
    return session_folder / f"task-{job}-{attempt}"


def write_task(path: Path, record: Record, job: int, parameters: str | bytes, info: str | bytes) -> None:
    """Write what the ranks of a job read.

    Parameters
    ----------
    path : Path
        A new file in a folder that is there, for one attempt of one job.
    record : tuple
        As in a worker's "app" frame: name, payload, sys_path, output specs.
    job : int
        The job's id.
    parameters, info
        As in a worker's task: encoded parameters, and the encoded rest of ``self.job`` (tags, data).
    """
    _write(path, (record, job, parameters, info))


def read_outcome(path: Path) -> Outcome | None:
    """What a job with this task file came to, as a worker reports it: value, error, exception, note on the outputs.

    An error of any rank counts more than the value. None if no rank wrote anything: they were killed, or did
    not get so far as to load the app; the job's log says more.
    """
    for kind in (".error", ".value"):
        with contextlib.suppress(FileNotFoundError):
            outcome: Outcome = marshal.loads(Path(f"{path}{kind}").read_bytes())
            return outcome
    return None


def remove_task(path: Path) -> None:
    """Remove a task file and what the ranks wrote beside it."""
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink(missing_ok=True)


def rank() -> int:
    """This process's number among the ranks; 0 where no MPI launcher has started it."""
    return next((int(os.environ[name]) for name in RANK_VARIABLES if name in os.environ), 0)


def _write(path: Path, content: Any) -> None:
    fresh = Path(f"{path}.{os.getpid()}.new")
    fresh.write_bytes(marshal.dumps(content))
    fresh.replace(path)


def _write_first(path: Path, content: Any) -> None:
    """As `_write`, but what is there stays."""
    fresh = Path(f"{path}.{os.getpid()}.new")
    fresh.write_bytes(marshal.dumps(content))
    with contextlib.suppress(FileExistsError):
        os.link(fresh, path)
    fresh.unlink()


def _worker() -> ModuleType:
    """The module `worker.py` beside this file; it makes this very copy of the package importable."""
    spec = importlib.util.spec_from_file_location("_balsam_jupyter_worker", Path(__file__).with_name("worker.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _call(worker: Any, me: int, record: Record, job: int, parameters: str | bytes, info: str) -> Outcome:
    app = worker.userapp.App(*record)
    given = worker.decode(parameters)
    directory = Path.cwd()
    value = app.call(SimpleNamespace(id=job, workdir=directory, parameters=given, **worker.decode(info)), given)
    note = ""
    if me == 0 and app.outputs:
        _flush()
        found, note = worker.extract(str(directory), app.outputs)
        value = {**found, **(value if isinstance(value, dict) else {} if value is None else {"value": value})}
    return (None if value is None or me else worker.encode(value)), "", None, note


def _users(worker: Any, error: BaseException) -> TracebackType | None:
    """The traceback without the frames of this file and of the worker's on top."""
    inner = error.__traceback__
    while inner is not None and inner.tb_frame.f_code.co_filename == __file__:
        inner = inner.tb_next
    trace: TracebackType | None = worker.userapp.user_frames(inner)
    return trace or error.__traceback__


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _abort(code: int) -> None:
    """End this rank and, by the MPI launcher, the others; not by way of `MPI_Finalize`, which would wait for them.

    Open MPI and srun end the others when one exits with such a code. Hydra (MPICH, Intel MPI) does so only
    once MPI was initialized, or when it is asked to in its protocol.
    """
    if "PMI_FD" in os.environ:
        with contextlib.suppress(OSError, ValueError):
            os.write(int(os.environ["PMI_FD"]), b"cmd=abort exitcode=%d\n" % code)
    os._exit(code)


def main(path: str) -> None:
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [each for each in sys.path if os.path.realpath(each) != here]  # its modules are not the user's
    worker: Any = _worker()
    me = rank()
    error: BaseException | None = None
    outcome: Outcome = (None, "", None, "")
    code = 0
    try:
        outcome = _call(worker, me, *marshal.loads(Path(path).read_bytes()))
    except SystemExit as stop:
        code = stop.code & 0xFF if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if code:
            print(stop.code, file=sys.stderr)
            outcome = (None, f"SystemExit: {stop.code}", None, "")
    except BaseException as raised:
        error, code = raised, 1
    if error is not None:
        text = "".join(traceback.format_exception(type(error), error, _users(worker, error)))
        print(text, file=sys.stderr)
        outcome = (None, f"{text}(rank {me})\n" if me else text, worker.userapp.pickled(error), "")
    if code:
        _write_first(Path(f"{path}.error"), outcome)
        _flush()
        _abort(code)
    if me == 0:
        _write(Path(f"{path}.value"), outcome)


if __name__ == "__main__":
    main(sys.argv[1])
