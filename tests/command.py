"""The real command, in a real terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "balsam_jupyter.cli"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def at_terminal(*words: str, cwd: Path, **more: str) -> str:
    """What the command shows in a terminal, when it is through."""
    mine, theirs = pty.openpty()
    process = subprocess.Popen([*COMMAND, *words], cwd=cwd, env=environment(**more), stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(mine, 4096):
            shown += piece
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(mine)
    assert process.wait() == 0
    return shown.decode()
