"""Looking at real processes."""

from __future__ import annotations

import os
from pathlib import Path


def _commands() -> dict[int, list[str]]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found[int(name)] = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
    return found


def launchers(allocation: int, site: os.PathLike[str] | str) -> list[int]:
    """Process ids of the launchers of an allocation."""
    wanted = ["balsam_jupyter.engines.embedded.launcher", "--site", str(site), "--allocation", str(allocation)]
    return [pid for pid, words in _commands().items() if words[2:7] == wanted]


def slot_processes(site: os.PathLike[str] | str, kind: str) -> list[int]:
    """Process ids of the site's spawners or workers."""
    run = f"{site}/run/"
    return sorted(
        pid for pid, words in _commands().items() if any(w.startswith(run) and w.endswith(f".{kind}") for w in words)
    )


def children_of(parent: int) -> list[int]:
    children = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                children.append(int(name))
    return children


def marked(text: str) -> list[int]:
    """Process ids whose command line holds the text."""
    return [pid for pid, words in _commands().items() if any(text in word for word in words) and pid != os.getpid()]


def is_running(pid: int) -> bool:
    """Whether the process is there and not a zombie that nobody has buried yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def processors(site: os.PathLike[str] | str) -> list[int]:
    """Process ids of the site's processor: one at most."""
    wanted = ["balsam_jupyter.engines.embedded.processor", "--site", str(site)]
    return [pid for pid, words in _commands().items() if words[2:5] == wanted]


def removers(site: os.PathLike[str] | str) -> list[int]:
    """Process ids of the site's remover: one at most."""
    wanted = ["balsam_jupyter.engines.embedded.remover", "--site", str(site)]
    return [pid for pid, words in _commands().items() if words[2:5] == wanted and "python" in words[0]]
