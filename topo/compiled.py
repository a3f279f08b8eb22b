"""Compile kernels with numba, and keep them on disk where there is a place for them.

numba notices a change of the file that a kernel is in, but not of other kernels that are compiled
into it: after editing `topo.hashing` or `topo.predictors._lanes`, ``make clean``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

__all__ = ["njit"]


def njit(*, cache: bool, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit`, without the cache where no folder can be written (a read-only container)."""

    def compile_kernel(kernel: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=cache, **options)(kernel)
        except RuntimeError:
            return numba.njit(cache=False, **options)(kernel)

    return compile_kernel
