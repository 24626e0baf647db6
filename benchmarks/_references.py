"""Starting the workflow engines we are measured beside, with two local workers each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from _common import SLOTS, fresh


@contextlib.contextmanager
def parsl_workers(base: Path) -> Iterator[None]:
    """Parsl's HighThroughputExecutor, loaded."""
    import parsl
    from parsl.providers import LocalProvider

    provider = LocalProvider(init_blocks=1, max_blocks=1)
    workers = parsl.HighThroughputExecutor(address="127.0.0.1", max_workers_per_node=SLOTS, provider=provider)
    config = parsl.Config(executors=[workers], run_dir=str(fresh(base, "parsl")), initialize_logging=False)
    with parsl.load(config):
        yield


@contextlib.contextmanager
def dask_map(base: Path) -> Iterator[Callable[..., list[Any]]]:
    """A map over a Dask cluster of processes, a task for each item."""
    from distributed import Client, LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": None, "local_directory": str(fresh(base, "dask"))}
    with LocalCluster(n_workers=SLOTS, **options) as cluster, Client(cluster) as client:
        yield lambda call, items: list(client.gather([client.submit(call, item, pure=False) for item in items]))


@contextlib.contextmanager
def ipyparallel_map(base: Path) -> Iterator[Callable[..., list[Any]]]:
    """A map over a load-balanced view of ipyparallel engines, a task for each item."""
    os.environ["IPYTHONDIR"] = str(fresh(base, "ipython"))
    import ipyparallel

    with ipyparallel.Cluster(n=SLOTS, log_level=40) as client:
        view = client.load_balanced_view()
        yield lambda call, items: gathered([view.apply_async(call, item) for item in items])


def gathered(futures: list[Future[Any]]) -> list[Any]:
    return [future.result() for future in futures]
