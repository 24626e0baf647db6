"""What a kernel with a Balsam site goes through: Ctrl-C, SIGKILL, forks, a mirror that is deleted, closing."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from balsam_jupyter import BalsamExecutor, Site, Sweep, open_site
from balsam_jupyter.errors import SiteError

from .balsam_service import proxy as faults
from .balsam_service.proxy import Answer, Forward, Proxy, Request
from .balsam_service.site import ServiceSite
from .test_balsam_faults import counts, executor, whole

FORK = multiprocessing.get_context("fork")
SUBMIT = """
import sys
from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Sweep, open_site

class Hello(ApplicationDefinition):
    command_template = "echo hello {{ number }}"

exctr = BalsamExecutor(open_site(sys.argv[1], engine="balsam"))
exctr.register_app(Hello)
print(exctr.submit_sweep("Hello", Sweep.grid(number=range(5_500)), name="rows").new)
"""


@pytest.fixture
def exctr(bare_site: ServiceSite, signed_in: Path) -> BalsamExecutor:
    site = open_site(bare_site.name, engine="balsam")
    yield executor(site)
    site.close()


def waits_for_a_result(thread: threading.Thread) -> bool:
    """Whether a thread is inside of `Future.result`: before, Python may drop an interrupt (in a finalizer)."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code is not Future.result.__code__:
        frame = frame.f_back
    return frame is not None


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_does_not_wait_for_the_service(
    exctr: BalsamExecutor, bare_site: ServiceSite, proxy: Proxy
) -> None:
    released = threading.Event()

    async def slow(request: Request, forward: Forward) -> Answer:
        while not waits_for_a_result(threading.main_thread()):
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.to_thread(released.wait, 20)
        return await forward()

    with proxy.spoil(faults.first(1, slow, "POST", "/jobs")):
        with pytest.raises(KeyboardInterrupt):
            exctr.submit_sweep("hello", Sweep.grid(number=range(50)), name="rows")
        assert not released.is_set()
        threading.Timer(0.5, released.set).start()
        again = exctr.submit_sweep("hello", Sweep.grid(number=range(60)), name="rows")
    assert again.new == 10  # the others were stored after all
    whole(bare_site, 60)


@pytest.mark.parametrize("carried_out", [False, True])
def test_a_kernel_that_is_killed_while_it_submits(
    bare_site: ServiceSite, signed_in: Path, proxy: Proxy, carried_out: bool
) -> None:
    """In the second of two chunks, before or after the service has stored it."""
    kernels: list[subprocess.Popen[str]] = []
    seen: list[Request] = []

    def kernel() -> subprocess.Popen[str]:
        kernels.append(subprocess.Popen([sys.executable, "-c", SUBMIT, bare_site.name], stdout=-1, text=True))
        return kernels[-1]

    async def killed(request: Request, forward: Forward) -> Answer:
        answer = await forward() if carried_out else Answer(503, {}, b"")
        kernels[0].kill()
        return answer

    def rule(request: Request) -> faults.Fault | None:
        seen.extend([request] if (request.method, request.path) == ("POST", "/jobs/") else [])
        return killed if len(seen) == 2 and request is seen[-1] else None

    with proxy.spoil(rule):
        assert kernel().wait(60) == -signal.SIGKILL
    said, _ = kernel().communicate(timeout=60)
    assert int(said) == (0 if carried_out else 500)
    whole(bare_site, 5_500)


def _in_a_fork(site: Site, answers: Any) -> None:
    site.engine.refresh(now=True)
    answers.put((site.engine.silence, site.name in [one.name for one in site.engine.sites()]))


def test_forks(exctr: BalsamExecutor, bare_site: ServiceSite, proxy: Proxy) -> None:
    """Forked while a thread is in the middle of a request; both go on."""
    exctr.submit_sweep("hello", Sweep.grid(number=range(5)), name="rows")
    site, answers = exctr.site, FORK.Queue()
    asked, released = threading.Event(), threading.Event()

    async def slow(request: Request, forward: Forward) -> Answer:
        asked.set()
        await asyncio.to_thread(released.wait, 20)
        return await forward()

    with proxy.spoil(faults.first(1, slow, "GET", "/jobs")):
        looks = threading.Thread(target=site.engine.refresh, args=(True,))
        looks.start()
        assert asked.wait(20)
        child = FORK.Process(target=_in_a_fork, args=(site, answers))
        child.start()
        assert answers.get(timeout=20) == (None, True)
        released.set()
        looks.join(20)
    child.join(20)
    assert site.engine.silence is None


def test_a_mirror_that_is_deleted(exctr: BalsamExecutor, bare_site: ServiceSite, home: Path) -> None:
    """It is only a copy; so it can be deleted also while the site is open."""
    ens = exctr.submit_sweep("hello", Sweep.grid(number=range(20)), name="rows")
    shutil.rmtree(home)
    assert exctr.submit_sweep("hello", Sweep.grid(number=range(30)), name="rows").new == 10
    whole(bare_site, 30)
    shutil.rmtree(home)
    assert ens.kill(rows=[3, 4]) == 2
    assert counts(ens) == {"WAITING": 28, "USER_KILLED": 2}
    shutil.rmtree(home)
    exctr.site.engine.refresh(now=True)
    assert exctr.site.engine.silence is None
    assert ens.retry() == 2


def test_a_mirror_that_is_damaged(exctr: BalsamExecutor, bare_site: ServiceSite) -> None:
    path = exctr.site.engine.store.path
    exctr.site.close()
    for file in path.parent.glob(f"{path.name}-*"):
        file.unlink()
    path.write_bytes(b"rubbish" * 1000)
    with pytest.raises(SiteError, match="only a copy of what the service has: delete it"):
        open_site(bare_site.name, engine="balsam")
    path.unlink()
    open_site(bare_site.name, engine="balsam").close()


def test_a_site_that_is_closed(exctr: BalsamExecutor, bare_site: ServiceSite, proxy: Proxy) -> None:
    """Handles go on, as those of other sites do; also what another thread is asking at that moment."""
    ens = exctr.submit_sweep("hello", Sweep.grid(number=range(20)), name="rows")
    asked, raised = threading.Event(), []

    async def slow(request: Request, forward: Forward) -> Answer:
        asked.set()
        await asyncio.sleep(1.0)
        return await forward()

    def look() -> None:
        try:
            exctr.site.engine.refresh(now=True)
        except Exception as error:
            raised.append(error)

    with proxy.spoil(faults.first(1, slow, "GET", "/jobs")):
        looks = threading.Thread(target=look)
        looks.start()
        assert asked.wait(20)
        exctr.site.close()
        looks.join(20)
    assert not raised
    assert ens.kill(rows=[0]) == 1
    assert counts(ens) == {"WAITING": 19, "USER_KILLED": 1}
