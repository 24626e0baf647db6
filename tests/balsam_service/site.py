"""A site of the service: its directory, and its agent."""

from __future__ import annotations

import json
import shutil
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .run import ENVIRONMENT, INSIDE, wait_until
from .service import Service

SETTINGS = """\
logging:
    level: INFO
    buffer_num_records: 1
    flush_period: 1
filter_tags: {{}}
launcher:
    idle_ttl_sec: 600
    delay_sec: 1
    error_tail_num_lines: 10
    max_concurrent_mpiruns: 1000
    compute_node: site_classes.{node}
    mpi_app_launcher: site_classes.{runs}
    local_app_launcher: site_classes.PlainRun
    mpirun_allows_node_packing: true
    serial_mode_prefetch_per_rank: 64
    serial_mode_startup_params: {{}}
scheduler:
    scheduler_class: site_classes.{scheduler}
    sync_period: 1
    allowed_queues: {queues}
    allowed_projects: {projects}
    optional_batch_job_params: {{reservation: ""}}
    job_template_path: job-template.sh
processing:
    num_workers: 1
    prefetch_depth: 1000
transfers: {transfers}
elastic_queue: null
queue_maintainer: null
file_cleaner: null
"""

# The local scheduler starts the script before the site has told the server its id, so the launcher would not find its
# allocation: hence the pause. It takes the id of the process, which has to be that of the script: hence `exec`.
TEMPLATE = """\
#!/bin/bash
{head}
export BALSAM_TEST_SCRIPT=$0
export BALSAM_SITE_PATH={{{{ balsam_site_path }}}}
cd $BALSAM_SITE_PATH
{pause}
exec {{{{ launcher_cmd }}}} -j {{{{ job_mode }}}} -t {{{{ wall_time_min }}}} \\
    {{% for k, v in filter_tags.items() %}}--tag {{{{ k }}}}={{{{ v }}}} {{% endfor %}} {{{{ partitions }}}}
"""


@dataclass(frozen=True)
class Kind:
    """What differs between sites."""

    node: str
    runs: str
    scheduler: str
    queues: Mapping[str, Mapping[str, int]]
    projects: tuple[str, ...]
    head: str = ""
    pause: str = ""
    endpoints: tuple[str, ...] = ()
    """Names of its transfer locations: directories of the site's `endpoints`."""


LOCAL = Kind(
    "WideNode",
    "PlainRun",
    "GentleScheduler",
    {"local": {"max_nodes": 1, "max_walltime": 1440, "max_queued_jobs": 100_000}},  # it counts the user's processes
    ("local",),
    pause="sleep 1",
)


class ServiceSite:
    """`name`, `id` and `path` are the site's; its agent can be killed and started again."""

    def __init__(self, service: Service, name: str, kind: Kind = LOCAL, environment: Mapping[str, str] = {}) -> None:
        self.service = service
        self.name = name
        self.path = service.run.folder / name
        self._environment = dict(environment)
        self.agent: Any = None
        self.slurm: Any = None  # a `slurm.Slurm`, where the site has one
        for folder in ("data", "log", "qsubmit"):
            (self.path / folder).mkdir(parents=True)
        self.endpoints = {name: self.path / "endpoints" / str(uuid.uuid4()) for name in kind.endpoints}
        for endpoint in self.endpoints.values():
            endpoint.mkdir(parents=True)
        settings = SETTINGS.format(
            transfers=json.dumps(self._transfers()),
            node=kind.node,
            runs=kind.runs,
            scheduler=kind.scheduler,
            queues=json.dumps(kind.queues),
            projects=json.dumps(kind.projects),
        )
        (self.path / "settings.yml").write_text(settings)
        (self.path / "job-template.sh").write_text(TEMPLATE.format(head=kind.head, pause=kind.pause))
        with service.client() as client:
            made = client.post("/sites/", json={"name": name, "path": str(self.path)}).raise_for_status().json()
        self.id = int(made["id"])
        (self.path / ".balsam-site").write_text(str(self.id))

    def _transfers(self) -> dict[str, Any] | None:
        return (
            self.endpoints
            and {
                "transfer_locations": {name: f"globus://{folder.name}" for name, folder in self.endpoints.items()},
                "globus_endpoint_id": str(uuid.uuid4()),
                "globus_endpoint_site_path": str(self.path),
                "service_period": 1,
            }
        ) or None

    def start(self) -> None:
        """Start the agent, and wait for its first sign of life as a whole."""
        before = self.record()
        self.start_agent()
        for _ in range(1 if before["allowed_queues"] else 2):  # at the very first start it tells its settings before
            last = before["last_refresh"]
            wait_until(lambda: self.record()["last_refresh"] != last, f"the agent of {self.name} starts", self.agent)  # noqa: B023
            before = self.record()

    def start_agent(self) -> None:
        """Start the agent; it is there in a second or two."""
        (self.path / "balsam-service.pid").unlink(missing_ok=True)
        programs = f"{Path(sys.executable).parent}:{self.service.run.environment['PATH']}"  # what jobs may call
        environment = {
            "PATH": programs,
            "PYTHONPATH": str(INSIDE),
            "BALSAM_SITE_PATH": str(self.path),
            "BALSAM_TEST_ENDPOINTS": str(self.path / "endpoints"),
            "BALSAM_CLIENT_PATH": str(self.service.client_file),
            **self._environment,
        }
        command = [ENVIRONMENT / "bin/python", "-W", "ignore", "-m", "balsam.site.service.main"]
        self.agent = self.service.run.start(f"agent-{self.name}", command, environment, cwd=self.path)

    def stop(self) -> None:
        """Stop the agent as `balsam site stop` does, for a test of what a silent site looks like."""
        self.agent.terminate()
        self.agent.wait(30)

    def record(self) -> dict[str, Any]:
        """The site as the server has it."""
        with self.service.client() as client:
            found: dict[str, Any] = client.get(f"/sites/{self.id}").raise_for_status().json()
        return found

    def report(self, ids: Iterable[int], *states: str, when: float | None = None, **fields: Any) -> None:
        """Say of jobs what an agent says of them, for a site that has none; `when` by the clock of the site."""
        moment = datetime.fromtimestamp(time.time() if when is None else when, timezone.utc).replace(tzinfo=None)
        with self.service.client() as client:
            for state in states:
                change = {"state": state, "state_timestamp": moment.isoformat(), **fields}
                client.patch("/jobs/", json=[{"id": one, **change} for one in ids]).raise_for_status()

    def jobs(self, **query: Any) -> list[dict[str, Any]]:
        """What the server has of the site's jobs."""
        with self.service.client() as client:
            answer = client.get("/jobs/", params={"site_id": self.id, "limit": 100_000, "ordering": "id", **query})
            found: list[dict[str, Any]] = answer.raise_for_status().json()["results"]
        return found

    def delete(self) -> None:
        """Have the server forget the site with all its jobs."""
        with self.service.client() as client:
            client.delete(f"/sites/{self.id}").raise_for_status()
        shutil.rmtree(self.path)

    def workdir(self, workdir: str) -> Path:
        """Where a job's files are."""
        return self.path / "data" / workdir

    def logs(self, lines: int = 40) -> str:
        """The last lines of all logs of the site, for messages of failing tests."""
        files = [*sorted((self.path / "log").iterdir()), *sorted((self.path / "qsubmit").glob("*.output"))]
        texts = [self.service.run.log(f"agent-{self.name}", lines)] if self.agent else []
        for file in files:
            tail = "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
            texts.append(f"== {file.name}\n{tail}")
        return "\n".join(texts)
