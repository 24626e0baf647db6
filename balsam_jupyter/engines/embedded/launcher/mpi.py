"""Command lines of the MPI launchers: what stands before a program to start its ranks on this machine.

The site is one machine, so every rank is local and virtual nodes are only numbers. What holds for each flavour:

- Ranks are not bound to cores: they keep the affinity that the launcher of this package gave to their slot.
- The ranks and whatever is between them and the MPI launcher inherit its environment, so they carry the task's mark.
- An allocation of a batch system around us (Slurm, PBS) is not looked at; all but `srun` start ranks by a plain fork.
- SIGKILL of the MPI launcher ends the ranks with MPICH and Intel MPI, whose proxy sees it; with Open MPI 5 they live
  on. So a task has ended only when nothing carries its mark any more.

`launch_params` are Balsam's (its command line for Perlmutter): ``{"cpu-bind": "cores"}`` becomes ``--cpu-bind cores``.
A key of one letter gets one dash, and a key that begins with a dash stays as it is. A value is split into words as by
a shell: ``{"genv": "A 1"}`` is ``--genv A 1``, and "" is no word. A parameter takes the place of an option of the same
name given here.
"""

from __future__ import annotations

import functools
import itertools
import os
import shlex
import subprocess
from collections.abc import Mapping

from ....errors import BadInput, SiteError, listing
from ..site import MPI_LAUNCHERS

VERSION_S = 20.0  # a launcher on a slow file system may take seconds to say its version, never so many

_SAYS = {"Open MPI": "openmpi", "OpenRTE": "openmpi", "Intel(R) MPI": "intelmpi", "HYDRA": "mpich"}
"""What the output of ``--version`` holds, and the flavour it tells."""
_SAME = {"np": "n", "ntasks": "n", "perhost": "ppn", "c": "cpus-per-task", "N": "nodes", "H": "host"}


@functools.cache
def flavour(path: str) -> str:
    """Which kind of MPI launcher a program is; it is asked once, with ``--version``.

    Parameters
    ----------
    path : str
        The setting ``mpi_launcher``.

    Returns
    -------
    str
        "mpich" (anything with the Hydra process manager), "openmpi", "intelmpi", "srun", or "other".

    Raises
    ------
    SiteError
        If the path is empty, or the program does not run.
    """
    if not path:
        raise SiteError(
            f"No MPI launcher was found (looked for {listing(MPI_LAUNCHERS)} on the PATH and beside this Python): "
            "install one (pip install mpich), or name it as mpi_launcher in settings.yml."
        )
    if os.path.basename(path) == "srun":  # may take long to say anything where its controller is away
        return "srun"
    try:
        run = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=VERSION_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SiteError(
            f"The MPI launcher {path} does not run ({error}): correct mpi_launcher in settings.yml."
        ) from None
    said = run.stdout + run.stderr
    return next((kind for words, kind in _SAYS.items() if words in said), "other")


def launch_line(
    kind: str,
    path: str,
    *,
    nodes: int,
    ranks_per_node: int,
    threads_per_rank: int = 1,
    threads_per_core: int = 1,
    launch_params: Mapping[str, str] = {},
    root: bool | None = None,
) -> list[str]:
    """The words that stand before a program and its arguments.

    Parameters
    ----------
    kind : str
        The launcher's `flavour`.
    path : str
        The launcher.
    nodes, ranks_per_node : int
        Virtual nodes and ranks on each; their product is the number of ranks.
    threads_per_rank, threads_per_core : int
        Only `srun` is told: as cores of a rank, at least one.
    launch_params : mapping
        Passed through; see the module's text.
    root : bool, optional
        Whether we are root, which Open MPI has to be told. Default: looked up.

    Raises
    ------
    BadInput
        If a value of `launch_params` has a quote that is not closed.
    """
    ranks = str(nodes * ranks_per_node)
    options = [("-n", ranks), *_options(kind, nodes, ranks_per_node, max(1, threads_per_rank // threads_per_core))]
    if kind == "openmpi" and (os.geteuid() == 0 if root is None else root):
        options.append(("--allow-run-as-root",))
    try:
        given = [(_option(key), *shlex.split(value)) for key, value in launch_params.items()]
    except ValueError as error:
        raise BadInput(f"launch_params {dict(launch_params)!r}: {error}; quote values as for a shell.") from None
    replaced = {_name(option) for option, *_ in given}
    kept = [words for words in options if _name(words[0]) not in replaced or words[0] == "-genv"]
    return [path, *itertools.chain(*kept, *given)]


def _options(kind: str, nodes: int, ranks_per_node: int, cores_per_rank: int) -> list[tuple[str, ...]]:
    if kind == "mpich":
        return [("-ppn", str(ranks_per_node)), ("-launcher", "fork"), ("-rmk", "user"), ("-bind-to", "none")]
    if kind == "intelmpi":
        pin = ("-genv", "I_MPI_PIN", "0")
        return [("-ppn", str(ranks_per_node)), ("-bootstrap", "fork"), ("-rmk", "user"), pin]
    if kind == "openmpi":
        # It knows this machine as one node, so ranks per (virtual) node cannot be asked for.
        slots = f"localhost:{nodes * ranks_per_node}"
        return [("--host", slots), ("--map-by", "slot:OVERSUBSCRIBE"), ("--bind-to", "none")]
    if kind == "srun":
        return [
            ("--nodes", str(nodes)),
            ("--ntasks-per-node", str(ranks_per_node)),
            ("--cpus-per-task", str(cores_per_rank)),
            ("--cpu-bind", "none"),
            ("--kill-on-bad-exit",),  # as the other launchers do unasked
            ("--overlap",),  # placement is ours: a step never waits for another
        ]
    return []


def _option(key: str) -> str:
    return key if key.startswith("-") else f"-{key}" if len(key) == 1 else f"--{key}"


def _name(option: str) -> str:
    """The same for all spellings of an option; MPI launchers refuse one that is given twice."""
    name = option.lstrip("-").partition("=")[0]
    return _SAME.get(name, name)
