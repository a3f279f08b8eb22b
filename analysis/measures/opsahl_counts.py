# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Paths of length four, and those that another neighbour of both ends closes (Opsahl 2013)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types
from scipy import sparse

from analysis.measures.graphs import two_ways
from analysis.measures.overlaps import blocks
from topo.compiled import njit
from topo.lanes import intrinsic
from topo.parallel import map_threads

__all__ = ["four_paths"]

_BITS = 2**26  # bytes of a matrix of bits that are no burden

_Counts = npt.NDArray[np.int64]


def four_paths(adjacency: sparse.csr_array, side: str) -> tuple[_Counts, _Counts]:
    r"""For each neuron of a side, the paths of length four centred on it, all and closed.

    A path i - a - j - b - k has three different neurons i, j, k of the side and two different
    neighbours a, b of the other; it is closed if i and k have a common neighbour besides a and b.
    Paths are counted in both directions.

    Of the paths from i over j to k, :math:`w_{ij} w_{jk} - t_{ijk}` in number (w common
    neighbours of two, t of all three), all are closed if i and k share three neighbours, none if
    they share none; those that are open though i and k share one or two are few, and counted one
    by one.

    Returns
    -------
    total, closed : array of int64, shape (neurons of the side,)
    """
    ends = two_ways(adjacency, side)
    indptr, indices, other_indptr, _ = ends
    n = len(indptr) - 1
    other_degree = np.diff(other_indptr).astype(np.int64)
    ranges = blocks(indptr)
    parts = map_threads(lambda block: _seconds(*block, *ends), ranges)
    starts = np.concatenate([[0], np.cumsum(np.concatenate([count for count, _, _, _ in parts]))])
    second = np.concatenate([ids for _, ids, _, _ in parts])
    weight = np.concatenate([weights for _, _, weights, _ in parts])
    open_yet = np.sum([opened for *_, opened in parts], axis=0)

    sums = _row_sums(starts, weight.astype(np.int64))
    squares = _row_sums(starts, weight.astype(np.int64) ** 2)
    triple = (other_degree - 1) * (other_degree - 2)
    common = _row_sums(indptr, triple[indices])  # pairs with a = b
    total = sums**2 - squares - common
    if _in_bits(n, len(second)):
        rows = np.zeros((n, -(-n // 64)), np.uint64)
        map_threads(lambda block: _set_bits(*block, starts, second, rows), ranges)
        parts = map_threads(
            lambda block: _product_of_bits(*block, starts, second, weight, rows), ranges
        )
    else:
        parts = map_threads(lambda block: _product(*block, starts, second, weight), ranges)
    return total, np.concatenate(parts) - common - open_yet


def _in_bits(n: int, seconds: int) -> bool:
    """Whether a matrix of bits is no burden: 20 times as fast, but of n * n / 8 bytes."""
    return n * n // 8 <= max(_BITS, 8 * seconds)


def _row_sums(indptr: npt.NDArray, values: _Counts) -> _Counts:
    running = np.concatenate([[0], np.cumsum(values)])
    return np.asarray(running[indptr[1:]] - running[indptr[:-1]])


@intrinsic
def _popcount(_: Any, word: Any) -> Any:
    """The number of bits that are set."""
    return types.uint64(types.uint64), lambda context, builder, signature, args: builder.ctpop(
        args[0]
    )


@njit(nogil=True, cache=True)
def _seconds(low, high, indptr, indices, other_indptr, other_indices):
    """Each row's second neighbours, how many neighbours they share, and the open paths."""
    n = len(indptr) - 1
    shared = np.zeros(n, np.int32)
    first = np.empty(n, np.int32)
    last = np.empty(n, np.int32)
    seconds = np.empty(n, np.int32)
    opened = np.zeros(n, np.int64)
    count = np.zeros(high - low, np.int64)
    size = 16
    ids = np.empty(size, np.int32)
    weights = np.empty(size, np.int32)
    filled = 0
    for i in range(low, high):
        found = 0
        for p in range(indptr[i], indptr[i + 1]):
            c = indices[p]
            for q in range(other_indptr[c], other_indptr[c + 1]):
                k = other_indices[q]
                if k == i:
                    continue
                if shared[k] == 0:
                    seconds[found] = k
                    found += 1
                    first[k] = c
                shared[k] += 1
                last[k] = c
        while filled + found > size:
            size *= 2
            grown = np.empty(size, np.int32)
            grown[:filled] = ids[:filled]
            ids = grown
            grown = np.empty(size, np.int32)
            grown[:filled] = weights[:filled]
            weights = grown
        for s in range(found):
            k = seconds[s]
            ids[filled] = k
            weights[filled] = shared[k]
            filled += 1
            if shared[k] == 2:
                # they share c and d: open are the two paths over both, for j next to both
                c, d = first[k], last[k]
                q, r = other_indptr[c], other_indptr[d]
                while q < other_indptr[c + 1] and r < other_indptr[d + 1]:
                    j, other = other_indices[q], other_indices[r]
                    if j == other:
                        if j != i and j != k:
                            opened[j] += 2
                        q += 1
                        r += 1
                    elif j < other:
                        q += 1
                    else:
                        r += 1
        for p in range(indptr[i], indptr[i + 1]):
            # where i and k share c alone, open over j next to c are paths with a = c or b = c,
            # w_ij + w_jk - 2; with those from k to i, 2 (w_ij - 1) for this direction
            c = indices[p]
            alone = 0
            for q in range(other_indptr[c], other_indptr[c + 1]):
                alone += shared[other_indices[q]] == 1
            if alone:
                for q in range(other_indptr[c], other_indptr[c + 1]):
                    j = other_indices[q]
                    if j != i:
                        opened[j] += 2 * alone * (shared[j] - 1)
        for s in range(found):
            shared[seconds[s]] = 0
        count[i - low] = found
    return count, ids[:filled], weights[:filled], opened


@njit(nogil=True, cache=True)
def _product(low, high, starts, second, weight):
    """Sum of w_ij w_jk over all i and k that share a neighbour, for each j."""
    n = len(starts) - 1
    mine = np.zeros(n, np.int32)
    out = np.zeros(high - low, np.int64)
    for j in range(low, high):
        for p in range(starts[j], starts[j + 1]):
            mine[second[p]] = weight[p]
        total = np.int64(0)
        for p in range(starts[j], starts[j + 1]):
            i = second[p]
            reached = np.int64(0)
            for q in range(starts[i], starts[i + 1]):
                reached += mine[second[q]]
            total += weight[p] * reached
        out[j - low] = total
        for p in range(starts[j], starts[j + 1]):
            mine[second[p]] = 0
    return out


@njit(nogil=True, cache=True)
def _set_bits(low, high, starts, second, rows):
    for i in range(low, high):
        for p in range(starts[i], starts[i + 1]):
            k = second[p]
            rows[i, k >> 6] |= np.uint64(1) << np.uint64(k & 63)


@njit(nogil=True, cache=True)
def _product_of_bits(low, high, starts, second, weight, rows):
    """As `_product`: the weights of each j as planes of bits, met by the bits of each i."""
    words = rows.shape[1]
    planes = np.empty((32, words), np.uint64)
    out = np.zeros(high - low, np.int64)
    for j in range(low, high):
        largest = 0
        for p in range(starts[j], starts[j + 1]):
            largest = max(largest, weight[p])
        used = 0
        while largest >> used:
            used += 1
        planes[:used] = 0
        for p in range(starts[j], starts[j + 1]):
            k = second[p]
            for b in range(used):
                if (weight[p] >> b) & 1:
                    planes[b, k >> 6] |= np.uint64(1) << np.uint64(k & 63)
        total = np.int64(0)
        for p in range(starts[j], starts[j + 1]):
            i = second[p]
            for b in range(used):
                both = np.int64(0)
                for w in range(words):
                    both += np.int64(_popcount(rows[i, w] & planes[b, w]))
                total += weight[p] * (both << b)
        out[j - low] = total
    return out
