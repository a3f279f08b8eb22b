# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Random integers and orders for the generators, from counters and integers alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from topo.compiled import njit
from topo.hashing import _U, bits

__all__ = ["below", "integers_below", "shuffle", "shuffled"]


@njit(nogil=True, cache=True, inline="always")
def below(n, x):
    """64 random bits to one of 0..n-1 (n < 2**32): the upper half of the 96-bit product."""
    low = (x & _U(0xFFFFFFFF)) * _U(n)
    return np.int64(((x >> _U(32)) * _U(n) + (low >> _U(32))) >> _U(32))


@njit(nogil=True, cache=True)
def shuffle(values, key):
    """Put an array in random order, in place (Fisher and Yates)."""
    for i in range(len(values) - 1, 0, -1):
        j = below(i + 1, bits(key, i, 0))
        values[i], values[j] = values[j], values[i]


@njit(nogil=True, cache=True)
def _integers_below(n, k, key):
    out = np.empty(k, dtype=np.int64)
    for i in range(k):
        out[i] = below(n, bits(key, i, 0))
    return out


def integers_below(n: int, k: int, key: int) -> npt.NDArray[np.int64]:
    """k independent integers out of 0..n-1, uniformly.

    Examples
    --------
    >>> import topo
    >>> from topo.generators._draw import integers_below
    >>> integers_below(6, 4, topo.stream(0)).tolist()
    [5, 4, 1, 4]
    """
    return np.asarray(_integers_below(n, k, _U(key)))


def shuffled(n: int, key: int) -> npt.NDArray[np.int64]:
    """The numbers 0..n-1 in random order.

    Examples
    --------
    >>> import topo
    >>> from topo.generators._draw import shuffled
    >>> shuffled(5, topo.stream(0)).tolist()
    [2, 1, 0, 4, 3]
    """
    order = np.arange(n, dtype=np.int64)
    shuffle(order, _U(key))
    return order
