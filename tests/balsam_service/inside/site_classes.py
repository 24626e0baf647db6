"""What the settings.yml of the test sites name: nodes, launchers and schedulers of one small machine.

Also makes the fixed waits of an agent and a launcher shorter, since Balsam has no setting for them.
"""

import os
import shlex
import shutil
import socket
import subprocess
import uuid
from multiprocessing.queues import Queue
from pathlib import Path

import psutil
from balsam.platform.app_run.app_run import SubprocessAppRun
from balsam.platform.compute_node import DefaultNode
from balsam.platform.compute_node.compute_node import ComputeNode
from balsam.platform.scheduler import LocalProcessScheduler, SlurmScheduler
from balsam.platform.transfer import globus_transfer
from balsam.schemas import SchedulerJobLog
from balsam.util import SigHandler

SHORT = 0.3


def sooner(function):
    """The same function, which waits less where it would wait a second or two."""

    def shortened(*args, timeout=None, **kwargs):
        return function(*args, timeout=SHORT if timeout in (1, 2) else timeout, **kwargs)

    return shortened


Queue.get = sooner(Queue.get)
SigHandler.wait_until_exit = staticmethod(sooner(SigHandler.wait_until_exit))


class LocalGlobus:
    """Stands for Globus, a service that no test can reach: an endpoint is a directory of $BALSAM_TEST_ENDPOINTS.

    One that has no directory there is this machine itself. As with Globus, a task is all or nothing, and says later
    what became of it.
    """

    tasks = {}

    def get_submission_id(self):
        return {"value": str(uuid.uuid4())}

    def submit_transfer(self, data):
        here, there = (
            Path(os.environ["BALSAM_TEST_ENDPOINTS"], data[f"{end}_endpoint"]) for end in ("source", "destination")
        )
        task = {"task_id": str(uuid.uuid4()), "status": "SUCCEEDED"}
        for item in data["DATA"]:
            source, target = under(here, item["source_path"]), under(there, item["destination_path"])
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                (shutil.copytree if item["recursive"] else shutil.copyfile)(source, target)
            except OSError as error:
                task |= {"status": "FAILED", "fatal_error": {"code": "NOT_FOUND", "description": str(error)}}
        self.tasks[task["task_id"]] = task
        return task

    def get_task(self, number):
        return self.tasks[number]


def under(endpoint, path):
    return Path(f"{endpoint}{path}") if endpoint.is_dir() else Path(path)


globus_transfer.get_client = LocalGlobus


class WideNode(DefaultNode):
    """A node with 64 slots; the default has as many as there are cores."""

    cpu_ids = list(range(64))


class PlainRun(SubprocessAppRun):
    """A command without CPU affinity, through mpiexec only if it wants more than one rank."""

    def _build_cmdline(self):
        ranks = self.get_num_ranks()
        return self._cmdline if ranks == 1 else f"mpiexec -n {ranks} sh -c {shlex.quote(self._cmdline)}"


class GentleScheduler(LocalProcessScheduler):
    """Ends the launcher of an allocation before its jobs, so that these become RUN_TIMEOUT as with a real scheduler.

    The original sends SIGTERM to all of them at once, and jobs that die first are FAILED. And it forgets what a
    launcher started meanwhile, such as a serial master, which would keep the one port that they have.
    """

    @classmethod
    def delete_job(cls, scheduler_id):
        try:
            tree = [root := psutil.Process(scheduler_id), *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return str(scheduler_id)
        scripts = {mark_of(one) for one in tree} - {None}
        launchers = [one for one in tree if any("balsam/cmdline/launcher.py" in word for word in words(one)[:2])]
        for one in launchers:
            one.terminate()
        psutil.wait_procs(launchers, timeout=15)
        while left := [one for one in psutil.process_iter() if mark_of(one) in scripts]:
            for one in left:
                one.kill()
            psutil.wait_procs(left, timeout=5)
        return super().delete_job(scheduler_id)


def mark_of(process):
    """The script of the allocation that a process belongs to."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.environ().get("BALSAM_TEST_SCRIPT")
    except psutil.Error:
        return None


def words(process):
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


class SlurmNode(ComputeNode):
    """A virtual node of Slurm: its name is the id, the host is the one they all are on."""

    cpu_ids = list(range(32))

    @classmethod
    def get_job_nodelist(cls):
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return [cls(name, socket.gethostname()) for name in names]

    @staticmethod
    def get_scheduler_id():
        return int(os.environ["SLURM_JOB_ID"])


class SlurmRun(SubprocessAppRun):
    """A command through srun on the nodes it was given."""

    def _build_cmdline(self):
        nodes = self._node_spec.node_ids
        options = f"-N {len(nodes)} -w {','.join(nodes)} -n {self.get_num_ranks()}"
        return f"srun --overlap {options} sh -c {shlex.quote(self._cmdline)}"


class PlainSlurm(SlurmScheduler):
    """Slurm without accounting: there is no sacct to ask when a job ran, and asking it would end the agent."""

    @staticmethod
    def _parse_logs(scheduler_id, job_script_path):
        return SchedulerJobLog()
