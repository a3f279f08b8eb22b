# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Two rings of neurons side by side: equal shares of the links, and who is nearest to whom."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from topo.compiled import njit

__all__ = ["equal_shares", "nearest"]


def equal_shares(links: int, neurons: int) -> npt.NDArray[np.int64]:
    """Row pointers that share the links out evenly: every row has the floor or the ceiling.

    Examples
    --------
    >>> from topo.generators._ring import equal_shares
    >>> equal_shares(7, 4).tolist()
    [0, 1, 3, 5, 7]
    """
    return np.arange(neurons + 1, dtype=np.int64) * links // neurons


@njit(nogil=True, cache=True)
def nearest(indptr, ring):
    """For every neuron, as many of the other ring's as its row holds: the nearest, ascending.

    Neuron j of n sits at ``p = j * ring / n`` among the 0..ring-1 of the other ring. Its k
    nearest are the window that starts at ``ceil(p - k / 2)``: of two neurons equally near, the
    one before p comes first. Integers only.
    """
    n = len(indptr) - 1
    indices = np.empty(indptr[n], dtype=np.int32)
    for j in range(n):
        at = indptr[j]
        k = indptr[j + 1] - at
        start = -((k * n - 2 * j * ring) // (2 * n)) % ring
        past_the_end = max(0, start + k - ring)
        for i in range(past_the_end):
            indices[at + i] = i
        for i in range(k - past_the_end):
            indices[at + past_the_end + i] = start + i
    return indices
