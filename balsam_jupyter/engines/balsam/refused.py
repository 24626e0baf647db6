"""What an engine whose jobs run elsewhere cannot do, each with the way round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ...disk import DiskUse
from ...errors import Unsupported
from ...models import (
    Allocation,
    AllocationRequest,
    Finding,
    Query,
    ServiceSettings,
    ServiceStatus,
    SiteRecord,
    Vacuumed,
)
from ..embedded.disk import measured
from ..embedded.store import jobs
from .mirror import Mirror


class NoService:
    """The site's own elastic queue stands where our service would."""

    def __init__(self, site: str) -> None:
        self._why = (
            f"Site {site!r} asks for allocations by itself where its settings.yml says so (elastic_queue); here ask "
            "for one with %balsam_allocate."
        )

    def start(self, settings: ServiceSettings, replace: bool = False) -> ServiceStatus:
        raise Unsupported(self._why)

    def stop(self, revoke: bool = False) -> bool:
        raise Unsupported(self._why)

    def status(self) -> ServiceStatus:
        raise Unsupported(self._why)

    def run(self, settings: ServiceSettings, show: Callable[[str], None]) -> None:
        raise Unsupported(self._why)


class Refused:
    """See `engines.base.Engine` for what the calls would do."""

    site: SiteRecord
    store: Mirror

    @property
    def service(self) -> NoService:
        return NoService(self.site.name)

    def try_job(self, job_id: int, folder: Path, output: int, show: Callable[[str], None]) -> int:
        raise Unsupported(
            f"The tasks of site {self.site.name!r} run on its machine: run the command of the task there "
            "(%balsam_failures shows it), or the app at an embedded site here."
        )

    def run_allocation(self, request: AllocationRequest, show: Callable[[str], None]) -> Allocation:
        raise Unsupported(f"The launchers of site {self.site.name!r} run on its machine: use %balsam_allocate instead.")

    def disk(self, query: Query) -> DiskUse:
        if not self.site.here:
            raise Unsupported(f"The files of site {self.site.name!r} are on its own machine: look with `du` there.")
        return measured(Path(self.site.path) / "data", jobs.workdirs(self.store.con, query))

    def clean(self, query: Query, keep: Iterable[str]) -> tuple[str, int]:
        raise Unsupported(
            "The files of a Balsam site are removed by the site: declare cleanup_files in the app, and switch its "
            "file_cleaner on in its settings.yml."
        )

    def cleaned(self, order: str, timeout: float = 0.0) -> bool:
        return True

    def check(self) -> list[Finding]:
        raise Unsupported(f"Site {self.site.name!r} is checked on its machine: balsam site ls, and its log/ folder.")

    def vacuum(self) -> Vacuumed:
        raise Unsupported(f"Site {self.site.name!r} keeps its jobs at the service; there is nothing to vacuum here.")
