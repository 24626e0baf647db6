"""What a site refuses before anything is stored: what can never fit there, and what cannot be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import BadInput, SiteError
from ...models import AllocationRequest, AppRecord, Resources
from . import files, scheduler, site
from .launcher.placement import need
from .launcher.prepare import launch_words

if TYPE_CHECKING:
    from .engine import EmbeddedEngine


def app(record: AppRecord) -> None:
    """Refuse an app with text that no file and no environment can hold."""
    for name, value in record.environment_variables.items():
        files.check_encodable(f"environment variable {name!r} of {record.name}", name + value)
    for name, given in record.inputs.items():
        files.check_encodable(f"input {name!r} of {record.name}", name + "".join(given.values()))


def resources(engine: EmbeddedEngine, asked: Resources) -> None:
    """Refuse what can never fit at this site."""
    if engine.trouble:
        raise SiteError(engine.trouble)
    _nodes(engine, asked.num_nodes)
    place = engine.site
    what, node = need(asked, engine.settings), f"a node of {place.name!r} has"
    if what.cores > place.cores_per_node:
        ranks, threads = asked.ranks_per_node, asked.threads_per_rank
        wants = f"{ranks} ranks × {threads} threads" if ranks > 1 < threads else f"{max(ranks, threads)} "
        wants += "" if ranks > 1 < threads else "ranks" if ranks > 1 else "threads"
        limit = f"{node} {place.cores_per_node} cores"
        nodes = -(-what.cores * what.nodes // place.cores_per_node)
        apart = f", or use num_nodes={nodes} (--num-nodes)" if ranks > 1 and nodes <= place.nodes else ""
        raise BadInput(f"{wants} are too many: {limit} (cores_per_node in its settings.yml); ask for fewer{apart}.")
    if what.gpus > place.gpus_per_node:
        raise BadInput(f"{what.gpus} GPUs on a node are too many: {node} {place.gpus_per_node}; ask for fewer.")
    if asked.num_nodes * asked.ranks_per_node > 1 and not engine.settings.mpi_launcher:
        engine.settings = site.Settings.read(engine.path / "settings.yml")  # it may have been installed since
        if not engine.settings.mpi_launcher:
            raise BadInput(
                "A task of several ranks needs an MPI launcher, and none of mpiexec, mpirun, srun is on the PATH: "
                "pip install mpich, or name it as mpi_launcher in the site's settings.yml."
            )
    launch_words(engine.settings.mpi_launcher, asked)


def request(engine: EmbeddedEngine, asked: AllocationRequest) -> None:
    """Refuse an allocation that can never start here."""
    _nodes(engine, asked.num_nodes)
    if asked.wall_time_min <= 0:
        raise BadInput(f"wall_time_min is {asked.wall_time_min}; give more than 0 minutes.")
    if asked.job_mode not in ("mpi", "serial"):
        raise BadInput(f"Unknown job mode {asked.job_mode!r}: use 'mpi' or 'serial'.")
    if asked.queue != "local":
        raise BadInput(f"Unknown queue {asked.queue!r}: the embedded engine has one, 'local'.")
    site.Settings.read(engine.path / "settings.yml")  # its launcher will
    scheduler.check_template(engine.path)


def _nodes(engine: EmbeddedEngine, asked: int) -> None:
    if asked > engine.site.nodes:
        limit = f"the site {engine.site.name!r} has {engine.site.nodes}"
        raise BadInput(f"{asked} nodes are too many: {limit}; ask for fewer.")
    if asked < 1:
        raise BadInput(f"{asked} nodes are too few; ask for at least 1.")
