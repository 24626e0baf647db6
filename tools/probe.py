"""Measure a page of JupyterLab: what arrives from the kernel, when it is painted, what the main thread and heap take.

    with Lab(folder) as lab, Browser(script=SCRIPT) as browser:
        notebook = browser.open(lab, "watch.ipynb")
        probe = Probe(notebook)
        probe.follow(".bj-done")       # note each text of this element when it is painted
        probe.start()
        …
        load = probe.stop()

Times are seconds since the epoch by the machine's clock, which page, kernel and launchers share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import Notebook

SCRIPT = """(() => {
  const probe = window.probe = { frames: [], texts: [], now: () => (performance.timeOrigin + performance.now()) / 1e3 };

  // The kernel's socket: time, length and kind of each message (header of v1.kernel.websocket.jupyter.org, or JSON).
  const text = new TextDecoder();
  const kind = data => {
    if (typeof data === 'string') return JSON.parse(data).header?.msg_type ?? '';
    const view = new DataView(data), at = number => Number(view.getBigUint64(8 * number, true));
    return JSON.parse(text.decode(new Uint8Array(data, at(2), at(3) - at(2)))).msg_type;
  };
  const Socket = window.WebSocket;
  window.WebSocket = class extends Socket {
    constructor(...given) {
      super(...given);
      if (!String(given[0]).includes('/channels')) return;
      this.addEventListener('message', ({ data }) =>
        probe.frames.push([probe.now(), data.byteLength ?? data.length, kind(data)]));
    }
  };

  // A change is noted in the task after the next frame: what it shows has been painted by then (up to a frame before).
  probe.follow = selector => {
    let last = null;
    const look = () => {
      const now = document.querySelector(selector)?.textContent ?? '';
      if (now === last) return;
      last = now;
      requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = () => probe.texts.push([probe.now(), now]);
        channel.port2.postMessage(0);
      });
    };
    probe.observer?.disconnect();
    probe.observer = new MutationObserver(look);
    // The element itself once it is there: watching all of the page costs something at each of its changes.
    const root = document.querySelector(selector) ?? document.body;
    probe.observer.observe(root, { subtree: true, childList: true, characterData: true });
    look();
  };
})()"""


@dataclass(frozen=True)
class Load:
    """What a page took in, and what it took, in `seconds`."""

    seconds: float
    main_thread: float
    """Share of a core that the page's main thread took."""
    frames: list[tuple[float, int, str]]
    """Of each message from the kernel: when it came, its bytes, its kind."""
    texts: list[tuple[float, str]]
    """When which text of the followed element was painted."""
    heap_mb: float

    def updates(self, apart_s: float = 0.04) -> list[list[int]]:
        """Sizes of the widgets' messages, those together that came less than `apart_s` one after the other."""
        groups: list[list[int]] = []
        before = 0.0
        for when, size, kind in self.frames:
            if not kind.startswith("comm_"):
                continue
            if when - before > apart_s:
                groups.append([])
            groups[-1].append(size)
            before = when
        return groups


class Probe:
    """Measures one open notebook whose browser was given `SCRIPT`."""

    def __init__(self, notebook: Notebook) -> None:
        self.page = notebook.page
        self._devtools = self.page.context.new_cdp_session(self.page)
        # Processor time, which is the same on a machine that is busy with other things.
        self._devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def metrics(self) -> dict[str, float]:
        """Chromium's counters of the page: TaskDuration (s), JSHeapUsedSize (bytes), Nodes, …"""
        return {each["name"]: each["value"] for each in self._devtools.send("Performance.getMetrics")["metrics"]}

    def heap_mb(self) -> float:
        """The page's JavaScript heap after a collection."""
        self._devtools.send("HeapProfiler.collectGarbage")
        return self.metrics()["JSHeapUsedSize"] / 1e6

    def follow(self, selector: str) -> None:
        """Note from now on when each new text of an element is painted."""
        self.page.evaluate("selector => window.probe.follow(selector)", selector)

    def start(self) -> None:
        """Begin to measure."""
        self.page.evaluate("() => { window.probe.frames.length = 0; window.probe.texts.length = 0; }")
        self._began = time.monotonic()
        self._before = self.metrics()["TaskDuration"]

    def stop(self) -> Load:
        """What there was since `start`."""
        took, seconds = self.metrics()["TaskDuration"] - self._before, time.monotonic() - self._began
        seen = self.page.evaluate("() => ({frames: window.probe.frames, texts: window.probe.texts})")
        return Load(
            seconds,
            took / seconds,
            [tuple(frame) for frame in seen["frames"]],
            [tuple(each) for each in seen["texts"]],
            self.heap_mb(),
        )


def delays(commits: Iterable[tuple[float, int]], shown: Sequence[tuple[float, int]]) -> list[float]:
    """Seconds from each commit (when, how many had ended) to the first picture that shows as many.

    Commits after the last picture are left out. Both are in order of time, and both numbers only grow.
    """
    found = []
    at = 0
    for when, number in commits:
        while at < len(shown) and shown[at][1] < number:
            at += 1
        if at == len(shown):
            break
        found.append(shown[at][0] - when)
    return found


def cpu_s(pid: int, thread: int | None = None) -> float:
    """Seconds of a processor that a process, or one thread of it, has used."""
    if thread is not None:  # in nanoseconds, which the process as a whole does not have
        return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Memory of a process that is in use."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024
