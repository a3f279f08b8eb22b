# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Run kernels on torch's own OpenMP threads.

Those wait awake for a while after every torch operation. Threads of ours would compete with them
for the cores; so ours are theirs, at a cost of microseconds per call.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.extending import overload

from topo.compiled import cfunc, njit
from topo.lanes import INT64, intrinsic
from topo.parallel import map_threads, thread_count

__all__ = ["array_at", "member", "my_parts", "run"]

_HEADER = 3


def _runtime() -> ctypes.CDLL | None:
    """The OpenMP library that torch has loaded, if it can be found and has GNU's entry points."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*")):
        try:
            library = ctypes.CDLL(str(path))
            library.GOMP_parallel.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_uint] * 2
            library.GOMP_parallel.restype = None
            if library.omp_get_num_threads and library.omp_get_thread_num:
                return library
        except (OSError, AttributeError):
            continue
    return None


_openmp = _runtime()
_ASK = [0, 0]
if _openmp is not None:
    _asked = (_openmp.omp_get_num_threads, _openmp.omp_get_thread_num)
    _ASK = [int(ctypes.cast(f, ctypes.c_void_p).value or 0) for f in _asked]


def _forget() -> None:
    """GNU's threads do not survive a fork: those of Python then."""
    global _openmp
    _openmp = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@intrinsic
def _ask(typing, function):
    """What the C function ``int f(void)`` at an address returns."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(32), ())
        return builder.sext(builder.call(builder.inttoptr(args[0], kind.as_pointer()), ()), INT64)

    return types.int64(types.int64), generate


@intrinsic
def _pointer(typing, address):
    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


def array_at(address, length, example):
    """The array of numbers like the example that begins at an address; for kernels."""
    raise NotImplementedError


@overload(array_at)
def _array_at(address, length, example):
    dtype = np.dtype(str(example))

    def build(address, length, example):
        return carray(_pointer(address), length, dtype)

    return build


class member:
    """Decorates what every thread of a team does: a function of the address that `my_parts` takes.

    It is compiled when it is first needed.
    """

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function

    @cached_property
    def address(self) -> int:
        """Of the compiled function."""
        self._compiled = cfunc(types.void(types.voidptr), self._function)
        return int(self._compiled.address or 0)


@njit(cache=True)
def my_parts(address):
    """The arguments, the first part that is this thread's, the number of parts, the step."""
    header = carray(address, _HEADER, np.int64)
    return carray(address, 64, np.int64)[_HEADER:], _ask(header[1]), header[2], _ask(header[0])


def run(kernel: Any, team: Any, arguments: list[int], extra: Any, worth: float) -> None:
    """Run a kernel of ``(arguments, part, parts, extra)`` on all its parts.

    Parameters
    ----------
    kernel : compiled function
    team : `member`
        Calls the kernel for the parts of one thread.
    arguments : list of int
        Sizes and addresses, at most 60.
    extra
        Passed to the kernel when it is not the team that calls it.
    worth : float
        How many threads the work is worth.
    """
    parts = min(thread_count(), int(worth))
    packed = np.array([*_ASK, max(parts, 1), *arguments], np.int64)
    if parts <= 1:
        kernel(packed[_HEADER:], 0, 1, extra)
    elif _openmp is not None:
        _openmp.GOMP_parallel(team.address, packed.ctypes.data, parts, 0)
    else:
        map_threads(lambda part: kernel(packed[_HEADER:], part, parts, extra), range(parts))
