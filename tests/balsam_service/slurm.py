"""A Slurm of virtual nodes on this machine: no systemd, no cgroups, no accounting."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess

from .run import Run, wait_until
from .site import Kind

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
SBIN = "/usr/sbin:/sbin"

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge/munge.sock
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
TmpFS={root}/tmp
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
EnforcePartLimits=ALL
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=30
MinJobAge=300
MaxJobCount=10000
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=32 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=n1 MaxTime=1 State=UP
"""

HEAD = """\
#SBATCH --exclusive
#SBATCH --partition={{ queue }}
#SBATCH --no-requeue
"""

KIND = Kind(
    "SlurmNode",
    "SlurmRun",
    "PlainSlurm",
    {
        "main": {"max_nodes": 3, "max_walltime": 600, "max_queued_jobs": 100},
        "short": {"max_nodes": 1, "max_walltime": 1, "max_queued_jobs": 100},
    },
    ("physics",),
    head=HEAD,
)


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:{SBIN}"


class Slurm:
    """A cluster of `nodes` nodes n1, n2, …, of 32 cores each (more than the machine has)."""

    def __init__(self, run: Run, nodes: int = 3) -> None:
        self._run = run
        self.nodes = nodes
        self.root = run.folder / "slurm"
        self.environment = {"SLURM_CONF": str(self.root / "slurm.conf"), "PATH": _path()}

    def start(self) -> None:
        """Start munge, the controller and the nodes; wait until the nodes are idle."""
        for folder in ("munge", "state", "spool", "tmp"):
            (self.root / folder).mkdir(parents=True)
        key = self.root / "munge" / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        port, first = _free_ports(self.nodes + 1)
        configuration = CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            port=port,
            user=getpass.getuser(),
            root=self.root,
            nodes=self.nodes,
            first=first,
            last=first + self.nodes - 1,
        )
        (self.root / "slurm.conf").write_text(configuration)
        munge = self.root / "munge"
        files = [f"--{what}-file={munge}/munged.{what}" for what in ("pid", "log", "seed")]
        self._start("munged", "--foreground", f"--key-file={key}", f"--socket={munge}/munge.sock", *files)
        wait_until(lambda: (munge / "munge.sock").exists(), "munge starts")
        self._start("slurmctld", "-D")
        for number in range(1, self.nodes + 1):
            self._start("slurmd", "-D", "-N", f"n{number}", name=f"slurmd-n{number}")
        wait_until(lambda: len(set(self.call("sinfo", "-hN", "-t", "idle", "-o", "%N").split())) == self.nodes, "Slurm")

    def call(self, *words: str) -> str:
        """What a command of Slurm prints; "" if it fails."""
        environment = self._run.environment | self.environment
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60).stdout

    def queue(self) -> list[list[str]]:
        """Id, state, nodes and name of what `squeue` shows."""
        return [line.split() for line in self.call("squeue", "-h", "-o", "%i %T %D %j").splitlines()]

    def _start(self, program: str, *options: str, name: str = "") -> None:
        path = shutil.which(program, path=_path())
        assert path, f"{program} is not installed"
        self._run.start(name or program, [path, *options], self.environment)


def _free_ports(number: int) -> tuple[int, int]:
    """One free port, and the first of a row of free ones after it."""
    for start in range(21000 + os.getpid() % 5000, 32000, number):
        sockets = [socket.socket() for _ in range(number)]
        try:
            for offset, one in enumerate(sockets):
                one.bind(("127.0.0.1", start + offset))
            return start, start + 1
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise OSError("no free ports")
