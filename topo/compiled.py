"""Compile kernels with numba, and keep them on disk where there is a place for them.

numba notices a change of the file that a kernel is in, but not of other kernels that are compiled
into it: after editing `topo.hashing` or `topo.predictors._lanes`, ``make clean``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

__all__ = ["cfunc", "njit"]


def njit(*, cache: bool, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit`, without the cache where no folder can be written (a read-only container)."""
    return lambda kernel: _cached_or_not(
        lambda keep: numba.njit(cache=keep, **options)(kernel), cache
    )


def cfunc(signature: Any, function: Callable[..., Any]) -> Any:
    """A function that C can call, by `numba.cfunc`, cached likewise."""
    return _cached_or_not(lambda keep: numba.cfunc(signature, cache=keep)(function), True)


def _cached_or_not(compile_it: Callable[[bool], Any], cache: bool) -> Any:
    try:
        return compile_it(cache)
    except RuntimeError:
        return compile_it(False)
