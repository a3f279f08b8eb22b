# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""What two neurons of a side share: one pass over all paths of length two."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from analysis.measures.graphs import two_ways
from topo.compiled import njit
from topo.parallel import map_threads, thread_count

__all__ = ["Overlaps", "blocks", "overlaps"]


class Overlaps(NamedTuple):
    r"""Sums over a neuron's second neighbours v, which share w > 0 neighbours with it.

    Each an array of shape (neurons of the side,).

    Attributes
    ----------
    degree : array of int
    seconds : array of int
        How many second neighbours there are.
    dot, min, max : array of float
        Sums of w over the union, the smaller, the larger of the two neighbourhoods.
    squares : array of int
        Sum of w (w - 1) / 2: cycles of length four through the neuron.
    nested : array of float
        Sum of w / degree of v, over those v of a smaller degree.
    """

    degree: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.int64]
    dot: npt.NDArray[np.float64]
    min: npt.NDArray[np.float64]
    max: npt.NDArray[np.float64]
    squares: npt.NDArray[np.int64]
    nested: npt.NDArray[np.float64]


def overlaps(adjacency: sparse.csr_array, side: str) -> Overlaps:
    """Compare each neuron of a side with all that share neighbours with it.

    Time in proportion to the paths of length two, the sum of the other side's squared degrees.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
    side : {"output", "input"}
    """
    ends = two_ways(adjacency, side)
    n = len(ends[0]) - 1
    degree = np.diff(ends[0]).astype(np.int64)
    counts = np.zeros((2, n), np.int64)
    sums = np.zeros((4, n))
    map_threads(lambda block: _compare(*block, *ends, counts, sums), blocks(ends[0]))
    dot, smallest, largest, nested = sums
    return Overlaps(degree, counts[0], dot, smallest, largest, counts[1], nested)


def blocks(indptr: npt.NDArray[np.int32]) -> list[tuple[int, int]]:
    """Ranges of rows of about as many links, a few for each thread."""
    parts = min(4 * thread_count(), len(indptr) - 1)
    cuts = np.searchsorted(indptr, np.linspace(0, indptr[-1], parts + 1)[1:-1])
    bounds = np.unique([0, *cuts, len(indptr) - 1]).tolist()
    return list(pairwise(bounds))


@njit(nogil=True, cache=True)
def _compare(low, high, indptr, indices, other_indptr, other_indices, counts, sums):
    n = len(indptr) - 1
    shared = np.zeros(n, np.int32)
    seconds = np.empty(n, np.int32)
    for u in range(low, high):
        found = 0
        for p in range(indptr[u], indptr[u + 1]):
            c = indices[p]
            for q in range(other_indptr[c], other_indptr[c + 1]):
                v = other_indices[q]
                if shared[v] == 0:
                    seconds[found] = v
                    found += 1
                shared[v] += 1
        of_u = np.int64(indptr[u + 1] - indptr[u])
        dot, smallest, largest, nested = 0.0, 0.0, 0.0, 0.0
        squares = np.int64(0)
        for i in range(found):
            v = seconds[i]
            w = np.int64(shared[v])
            shared[v] = 0
            if v == u:
                continue
            of_v = np.int64(indptr[v + 1] - indptr[v])
            dot += w / (of_u + of_v - w)
            smallest += w / min(of_u, of_v)
            largest += w / max(of_u, of_v)
            squares += w * (w - 1) // 2
            if of_v < of_u:
                nested += w / of_v
        counts[0, u] = max(found - 1, 0)
        counts[1, u] = squares
        sums[0, u] = dot
        sums[1, u] = smallest
        sums[2, u] = largest
        sums[3, u] = nested
