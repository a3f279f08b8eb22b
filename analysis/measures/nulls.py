# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Random graphs to compare a layer with."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

import topo
from analysis.measures.graphs import biadjacency
from topo.checks import as_integer
from topo.compiled import njit
from topo.hashing import bits

__all__ = ["degree_preserving_null", "lattice"]


def degree_preserving_null(adjacency: Any, *, swaps: int = 10, seed: int) -> sparse.csr_array:
    """Draw a bipartite graph in which every neuron of both sides keeps its degree.

    A Markov chain over such graphs: two links (i, a) and (j, b), drawn at random, become (i, b) and
    (j, a) unless one of these exists. Its stationary distribution is uniform.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
    swaps : int
        Attempts per link.
    seed : int

    Returns
    -------
    csr_array of bool, shape (n_out, n_in)

    References
    ----------
    Maslov and Sneppen, Specificity and stability in topology of protein networks, Science 296,
    2002. Milo et al., On the uniform generation of random graphs with prescribed degree
    sequences, arXiv cond-mat/0312028: on the number of swaps.

    Examples
    --------
    >>> import numpy as np, topo, analysis
    >>> a = topo.small_world(40, 40, 0.1, beta=0.0, seed=0)
    >>> b = analysis.degree_preserving_null(a, seed=0)
    >>> bool((np.diff(a.indptr) == np.diff(b.indptr)).all()), int((a != b).sum()) > 0
    (True, True)
    """
    layer = biadjacency(adjacency)
    attempts = as_integer("swaps", swaps, 0) * layer.nnz
    rows, columns = topo.links(layer)
    rows, columns = rows.astype(np.int64), columns.astype(np.int64)
    if layer.nnz > 1:
        words = -(-layer.shape[1] // 64)
        taken = np.zeros((layer.shape[0], words), np.uint64)
        np.bitwise_or.at(taken, (rows, columns // 64), np.uint64(1) << (columns % 64).astype("u8"))
        key = np.uint64(topo.stream(seed, "degree_preserving_null"))
        _swap(rows, columns, taken, attempts, key)
    return topo.from_links(rows, columns, layer.shape)


def lattice(adjacency: Any) -> sparse.csr_array:
    """Make the bipartite ring lattice of a layer's shape and number of links.

    Each neuron is linked to those that are opposite to it and nearest: `topo.small_world` at
    beta 0. Degrees of the larger side differ by one at most.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)

    Examples
    --------
    >>> import topo, analysis
    >>> analysis.lattice(topo.erdos_renyi(4, 4, 0.5, seed=0)).toarray().astype(int)
    array([[1, 0, 0, 1],
           [1, 1, 0, 0],
           [0, 1, 1, 0],
           [0, 0, 1, 1]])
    """
    layer = biadjacency(adjacency)
    if not layer.nnz:
        return layer
    density = layer.nnz / (layer.shape[0] * layer.shape[1])
    return topo.small_world(layer.shape[0], layer.shape[1], density, beta=0.0, seed=0)


@njit(nogil=True, cache=True)
def _swap(rows, columns, taken, attempts, key):
    links = np.uint64(len(rows))
    one = np.uint64(1)
    for attempt in range(attempts):
        p = np.int64(bits(key, attempt, 0) % links)
        q = np.int64(bits(key, attempt, 1) % links)
        i, a, j, b = rows[p], columns[p], rows[q], columns[q]
        at_a, at_b = one << np.uint64(a & 63), one << np.uint64(b & 63)
        if i == j or a == b or (taken[i, b >> 6] & at_b) or (taken[j, a >> 6] & at_a):
            continue
        taken[i, a >> 6] &= ~at_a
        taken[j, b >> 6] &= ~at_b
        taken[i, b >> 6] |= at_b
        taken[j, a >> 6] |= at_a
        columns[p], columns[q] = b, a
