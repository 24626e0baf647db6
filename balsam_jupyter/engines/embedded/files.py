"""What a job left in its work directory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ...errors import BadInput, NotFound, listing, nearest
from ...outputs import regular


def below(workdir: Path, path: str) -> Path:
    """A file of a job, which must be below its work directory."""
    if os.path.isabs(path) or ".." in Path(path).parts:
        raise BadInput(f"{path!r} must be a relative path below the work directory.")
    return workdir / path


def read(workdir: Path, path: str) -> bytes:
    """A file's content; an error names what is there instead."""
    file = below(workdir, path)
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        there = sorted(entry.name for entry in file.parent.iterdir()) if file.parent.is_dir() else []
        raise NotFound(
            f"{path!r} is not a file in {file.parent}; there: {listing(there)}.{nearest(file.name, there)}"
        ) from None


def log_piece(workdir: Path, start: int, most: int) -> bytes:
    """At most `most` bytes (-1: all) of the log from `start` on; b"" before there is one."""
    log = workdir / "job.out"
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(log, "rb", opener=regular) as file:
        file.seek(start)
        return file.read(most)
    return b""


def log_size(workdir: Path) -> int:
    """Bytes of the log; 0 before there is one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return (workdir / "job.out").stat().st_size
    return 0


def log_text(workdir: Path, tail: int | None) -> str:
    """The log, or its last `tail` lines; logs can be huge, so no more than 1,000 bytes a line are looked at."""
    if tail is None:
        return log_piece(workdir, 0, -1).decode(errors="replace")
    if tail <= 0:
        return ""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        size = (workdir / "job.out").stat().st_size
        text = log_piece(workdir, max(0, size - 1000 * tail), -1).decode(errors="replace")
        return "\n".join(text.splitlines()[-tail:])
    return ""


def check_encodable(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"The {what} has a character that cannot be written ({error.object[error.start]!r}).") from None
