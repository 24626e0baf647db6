"""One job of one app, run to its end, and the states it passed."""

from __future__ import annotations

from balsam_jupyter import BalsamExecutor, Job
from balsam_jupyter.api import EventLog

SOON = 60.0
BEFORE = ["CREATED", "READY", "STAGED_IN", "PREPROCESSED"]
RAN = ["RUNNING", "RUN_DONE", "POSTPROCESSED", "STAGED_OUT", "JOB_FINISHED"]


def run(exctr: BalsamExecutor, app: type, args: dict | None = None, **fields) -> Job:
    """The job of one task, when it has ended."""
    exctr.register_app(app)
    task = exctr.submit(app_name=app.__name__, app_args=args or {}, **fields)
    task.wait(SOON)
    return task.process


def path(job: Job) -> list[str]:
    return [event.to_state for event in EventLog.objects.filter(job_id=job.id)]
