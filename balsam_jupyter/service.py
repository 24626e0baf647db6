"""The service of a site, as users meet it: what asks for allocations by itself while work waits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from .api_check import mode, positive, positive_int, text_filter, text_map
from .errors import BadInput
from .models import ServiceSettings, ServiceStatus, SiteRecord

if TYPE_CHECKING:
    from .engines.base import Engine


class SiteService:
    """The service of a site (``site.service``): one process, which outlives this one.

    While work waits that no allocation covers, it asks for one; an allocation ends by itself when it has nothing to
    run. What it does and why is in the site's ``log/service.log``.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def start(
        self,
        min_nodes: int = 1,
        max_nodes: int | None = None,
        wall_time_min: float = 60,
        job_mode: str = "mpi",
        max_queued: int = 1,
        filter_tags: Mapping[str, str] | None = None,
        wf_filter: str = "",
        queue: str = "local",
        project: str = "local",
        period: float = 1.0,
        replace: bool = False,
    ) -> ServiceReport:
        """Start it; if it runs already with these settings, nothing happens.

        Parameters
        ----------
        min_nodes, max_nodes : int
            Nodes of an allocation; `max_nodes` (default: all of the site) also of all that it has asked for together.
        wall_time_min : float
            Minutes of each allocation.
        job_mode : {"mpi", "serial"}
            Of each allocation. Jobs of several ranks need ``"mpi"``.
        max_queued : int
            How many of its allocations may be waiting for nodes.
        filter_tags, wf_filter
            Which jobs it is for, as in `BalsamExecutor.submit_allocation`.
        queue, project : str
            The scheduler's queue and the account that is charged.
        period : float
            Seconds between two allocations, at least.
        replace : bool
            Stop one that runs with other settings.

        Raises
        ------
        BadInput
            If the settings cannot be, or it runs with others.
        """
        settings = service_settings(
            self._engine.site, min_nodes, max_nodes, wall_time_min, job_mode, max_queued, filter_tags, wf_filter,
            queue, project, period,
        )  # fmt: skip
        return ServiceReport(self._engine.site.name, self._engine.service.start(settings, replace))

    def stop(self, revoke: bool = False) -> bool:
        """Stop it; false if it did not run. Its allocations go on, unless `revoke`."""
        return self._engine.service.stop(revoke)

    def status(self) -> ServiceReport:
        """Whether it runs, since when, with which settings, and the last lines of its log."""
        return ServiceReport(self._engine.site.name, self._engine.service.status())

    def __repr__(self) -> str:
        return repr(self.status())


def service_settings(
    site: SiteRecord,
    min_nodes: object = 1,
    max_nodes: object = None,
    wall_time_min: object = 60,
    job_mode: object = "mpi",
    max_queued: object = 1,
    filter_tags: Mapping[str, str] | None = None,
    wf_filter: object = "",
    queue: str = "local",
    project: str = "local",
    period: object = 1.0,
) -> ServiceSettings:
    """Settings of a service, checked against the site."""
    most = site.nodes if max_nodes is None else positive_int("max_nodes", max_nodes)
    least = positive_int("min_nodes", min_nodes)
    if most > site.nodes:
        raise BadInput(f"max_nodes={most} is more than site {site.name!r} has ({site.nodes}).")
    if least > most:
        raise BadInput(f"min_nodes={least} is more than max_nodes={most}.")
    for name, value in (("queue", queue), ("project", project)):
        if not isinstance(value, str) or not value:
            raise BadInput(f"{name} must be a name, not {value!r}.")
    return ServiceSettings(
        min_nodes=least,
        max_nodes=most,
        wall_time_min=positive("wall_time_min", wall_time_min),
        job_mode=mode(job_mode),
        max_queued=positive_int("max_queued", max_queued),
        filter_tags=text_map("filter_tags", filter_tags),
        wf_filter=text_filter(wf_filter),
        queue=queue,
        project=project,
        period=positive("period", period),
    )


@dataclass(frozen=True, repr=False)
class ServiceReport:
    """How a site's service is, in lines of text."""

    site: str
    status: ServiceStatus

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.status.running

    def lines(self) -> list[str]:
        """What a person wants to know."""
        now = self.status
        who = f"The service of site {self.site!r}"
        if now.running:
            since = "" if now.since is None else f" since {time.strftime('%F %T', time.localtime(now.since))}"
            head = f"{who} runs{since} (process {now.pid})."
        elif now.died:
            head = f"{who} does not run: its process died. Start it again; its allocations were not lost."
        else:
            head = f"{who} does not run."
        settings = [f"  {plain(now.settings)}"] if now.running and now.settings else []
        asked = [f"  allocations: {', '.join(map(str, now.allocations))}"] if now.allocations else []
        return [head, *settings, *asked, *(f"  {line.partition(', min_nodes=')[0]}" for line in now.log)]

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        return f'<div style="white-space:pre-wrap">{escape(repr(self))}</div>'

    def document(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return {"site": self.site, **asdict(self.status)}


def plain(settings: ServiceSettings) -> str:
    """Settings in a line."""
    given = asdict(settings)
    tags = " ".join(f"{key}={value}" for key, value in given.pop("filter_tags").items())
    told = {key: f"{value:g}" if isinstance(value, float) else value for key, value in given.items() if value}
    return ", ".join([*(f"{key}={value}" for key, value in told.items()), *([f"tags {tags}"] if tags else [])])
