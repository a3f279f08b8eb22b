"""One pool of threads for the kernels, as many as torch uses where torch is loaded.

Kernels release the GIL and work on disjoint rows. Concurrent calls share the pool, so that their
threads do not add up. numba's own ``parallel=True`` is not used: it aborts the
interpreter on concurrent calls where no thread-safe layer is installed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

__all__ = ["map_threads", "stream_threads", "thread_count"]

T = TypeVar("T")
R = TypeVar("R")

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()
_worker = threading.local()


def thread_count() -> int:
    """Threads that the kernels use: torch's number if torch is loaded, else the process's cores."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``[function(item) for item in items]``, over the threads."""
    todo = list(items)
    workers = thread_count()
    if min(workers, len(todo)) <= 1 or getattr(
        _worker, "busy", False
    ):  # no thread waits for its own
        return [function(item) for item in todo]
    with _lock:
        if workers not in _pools:
            _pools[workers] = ThreadPoolExecutor(workers, "epitopo", _mark)
        pool = _pools[workers]
    futures: list[Future[R]] = []
    try:
        try:
            for item in todo:
                futures.append(pool.submit(function, item))
        except RuntimeError:  # the interpreter is shutting down: no more threads
            rest = [function(item) for item in todo[len(futures) :]]
        else:
            rest = []
        return [future.result() for future in futures] + rest
    finally:
        wait([future for future in futures if not future.cancel()])


def stream_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map_threads` of items that are too many to hold at once: a few for each thread.

    Examples
    --------
    >>> from topo.parallel import stream_threads
    >>> sum(stream_threads(len, ("ab" for _ in range(1000))))
    2000
    """
    rest = iter(items)
    while batch := list(islice(rest, 4 * thread_count())):
        yield from map_threads(function, batch)


def _mark() -> None:
    _worker.busy = True


def _forget() -> None:
    """Threads do not survive a fork."""
    global _lock
    _pools.clear()
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
