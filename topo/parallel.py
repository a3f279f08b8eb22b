"""One pool of threads for the kernels, as many as torch uses where torch is loaded.

Kernels release the GIL and work on disjoint rows. numba's own ``parallel=True`` is not used: it
aborts the interpreter on concurrent calls where no thread-safe layer is installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["map_threads", "thread_count"]

T = TypeVar("T")
R = TypeVar("R")


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
    workers = min(thread_count(), len(todo))
    if workers <= 1:
        return [function(item) for item in todo]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, todo))
