"""Reading a command's outputs when no slot is there to do it: after a launcher died."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from ....models import AppRecord
from ..doorbell import readable
from .prepare import clean_environment
from .slot import Channel

PATIENCE_S = 10.0  # whoever takes over does this while others wait


def read_outputs(record: AppRecord, directory: Path) -> tuple[str | bytes | None, str]:
    """Encoded values and a note, from a Python process of its own (the outputs may be functions of the user)."""
    with tempfile.TemporaryDirectory() as scratch:
        journal = Path(scratch) / "journal"
        argv = [
            record.python_exe or sys.executable,
            "-u",
            str(Path(__file__).with_name("worker.py")),
            str(journal),
            "0",
        ]
        channel = Channel("worker", argv, clean_environment(), journal)
        os.set_blocking(channel.outlet, True)
        channel.send(("app", 1, (record.name, record.payload, record.sys_path, record.outputs)))
        channel.send(("extract", 1, str(directory), 1))
        assert channel.process.stdin is not None
        deadline = time.monotonic() + PATIENCE_S
        try:
            while True:
                left = deadline - time.monotonic()
                if left <= 0 or not readable(left, channel.outlet):
                    channel.process.kill()
                    return None, f"reading the outputs took more than {PATIENCE_S:g} s; extract() reads them again"
                data = os.read(channel.outlet, 1 << 16)
                channel.received += data
                for frame in channel.frames():
                    for _, value, note in frame[3]:
                        return value, note
                if not data:
                    return None, "the process that read the outputs died"
        finally:
            channel.process.stdin.close()
            channel.process.wait()
            assert channel.process.stdout is not None
            channel.process.stdout.close()
