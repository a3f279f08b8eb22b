"""Ctrl-C and SIGTERM at the end of a step, not in the midst of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupts", "interrupts"]


class Interrupts:
    """Whether the process was asked to stop.

    Attributes
    ----------
    asked : bool
    """

    asked: bool = False


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Note the first Ctrl-C or SIGTERM instead of obeying it; a second one stops at once.

    In another thread than the main one, which alone gets signals, nothing is changed.

    Examples
    --------
    >>> import signal
    >>> from dst.interrupts import interrupts
    >>> with interrupts() as stop:
    ...     signal.raise_signal(signal.SIGINT)
    ...     stop.asked
    True
    """
    stop = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
