"""Being told to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Stop:
    """Falsy until a signal asks for the end; `name` is that signal's then, `times` how often one came."""

    def __init__(self) -> None:
        self.name = ""
        self.times = 0

    def __bool__(self) -> bool:
        return bool(self.times)


@contextlib.contextmanager
def stopped_by(*numbers: signal.Signals, wake: Callable[[], None]) -> Iterator[Stop]:
    """Note these signals instead of dying by them; `wake` ends the wait this thread is in."""
    stop = Stop()

    def note(number: int, _: Any) -> None:
        stop.name = signal.Signals(number).name
        stop.times += 1
        wake()

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
