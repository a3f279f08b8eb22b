"""Modularity of bipartite graphs, and the communities that maximise it."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

import topo
from analysis.measures.graphs import biadjacency, side_degrees
from analysis.measures.undefined import Undefined
from topo.checks import as_integer

__all__ = ["Modularity", "barber_modularity", "modularity"]

_EQUAL = 1e-12  # of two modularities
_Labels = npt.NDArray[np.int64]
_igraph_draws = threading.Lock()  # its generator is one for the process


@dataclass(frozen=True)
class Modularity:
    """A division of a layer's neurons into communities.

    Attributes
    ----------
    modularity : float
        Barber's; `Undefined` without links.
    output_communities, input_communities : array of int
        The community of each neuron, numbered by size from 0; -1 for neurons without links.
    """

    modularity: float
    output_communities: _Labels
    input_communities: _Labels

    @property
    def communities(self) -> int:
        """How many there are."""
        both = np.concatenate([self.output_communities, self.input_communities])
        return int(both.max(initial=-1)) + 1


def barber_modularity(
    adjacency: Any, output_communities: npt.ArrayLike, input_communities: npt.ArrayLike
) -> float:
    r"""Barber's modularity of a division of both sides' neurons into communities.

    .. math:: Q_B = \frac{1}{m} \sum_{ij} \left(A_{ij} - \frac{k_i d_j}{m}\right) \delta(g_i, h_j)

    with m links, degrees k of the output and d of the input neurons. Newman's modularity of the
    same graph would expect links within a side, where there can be none.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
    output_communities : array_like of int, shape (n_out,)
    input_communities : array_like of int, shape (n_in,)
        Any labels; equal ones are of one community. Neurons without links do not matter.

    Returns
    -------
    float
        In [-1, 1); `Undefined` if there are no links.

    References
    ----------
    Barber, Modularity and community detection in bipartite networks, Physical Review E 76, 2007.

    Examples
    --------
    >>> import analysis
    >>> analysis.barber_modularity([[1, 0], [0, 1]], [0, 1], [0, 1])
    0.5
    """
    layer = biadjacency(adjacency)
    g, h = np.asarray(output_communities), np.asarray(input_communities)
    if (g.shape, h.shape) != ((layer.shape[0],), (layer.shape[1],)):
        raise ValueError(
            f"a layer of shape {layer.shape} needs as many labels of either side, not labels of "
            f"shapes {g.shape} and {h.shape}"
        )
    if not layer.nnz:
        return Undefined("no neuron has a link")
    labels = np.unique(np.concatenate([g, h]), return_inverse=True)[1]
    g, h = labels[: len(g)], labels[len(g) :]
    rows, columns = topo.links(layer)
    m, n = layer.nnz, int(labels.max()) + 1
    k = np.bincount(g[rows], minlength=n)
    d = np.bincount(h[columns], minlength=n)
    return float((g[rows] == h[columns]).mean() - np.dot(k / m, d / m))


def modularity(adjacency: Any, *, trials: int = 5, seed: int = 0) -> Modularity:
    """Find communities of both sides' neurons that maximise Barber's modularity.

    The Leiden algorithm with Newman's modularity, which is never above Barber's of the same
    communities; then Barber's own algorithm: in turn, all neurons of a side join the community that
    is best given those of the other side, until nothing is gained. The best of some trials; whether
    it is the maximum, nobody knows.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
    trials : int
        Starts of the random algorithm.
    seed : int

    Returns
    -------
    Modularity

    Raises
    ------
    ImportError
        Without igraph: ``pip install 'epitopo[graphs]'``.

    References
    ----------
    Traag, Waltman and van Eck, From Louvain to Leiden, Scientific Reports 9, 2019. Barber,
    Modularity and community detection in bipartite networks, Physical Review E 76, 2007 (BRIM).

    Examples
    --------
    >>> import topo, analysis
    >>> two = topo.as_adjacency([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    >>> found = analysis.modularity(two)
    >>> round(found.modularity, 3), found.output_communities.tolist()
    (0.444, [0, 0, 1, -1])
    """
    layer = biadjacency(adjacency)
    as_integer("trials", trials, 1)
    n_out, n_in = layer.shape
    if not layer.nnz:
        return Modularity(Undefined("no neuron has a link"), np.full(n_out, -1), np.full(n_in, -1))
    best, communities = 0.0, (np.zeros(n_out, np.int64), np.zeros(n_in, np.int64))
    for labels in _leiden(layer, trials, seed):
        found, g, h = _climb(layer, labels[:n_out], labels[n_out:])
        if found > best + _EQUAL:
            best, communities = found, (g, h)
    return Modularity(best, *_by_size(layer, *communities))


def _leiden(layer: sparse.csr_array, trials: int, seed: int) -> list[_Labels]:
    """Not of a directed graph, whose modularity is Barber's: igraph 1.0 leaves neurons alone."""
    try:
        import igraph
    except ImportError as error:
        raise ImportError("modularity needs igraph: pip install 'epitopo[graphs]'") from error
    n_out, n_in = layer.shape
    rows, columns = topo.links(layer)
    graph = igraph.Graph(n_out + n_in, np.stack([rows, columns + n_out], axis=1))
    with _igraph_draws:
        igraph.set_random_number_generator(random.Random(topo.stream(seed, "modularity")))
        try:
            found = [graph.community_leiden("modularity", n_iterations=-1) for _ in range(trials)]
        finally:
            igraph.set_random_number_generator(random)
    return [np.array(clusters.membership, np.int64) for clusters in found]


def _climb(layer: sparse.csr_array, g: _Labels, h: _Labels) -> tuple[float, _Labels, _Labels]:
    """Barber's BRIM, from given communities."""
    back, best = sparse.csr_array(layer.T), -np.inf
    while (found := barber_modularity(layer, g, h)) > best + _EQUAL:
        best, kept = found, (g, h)
        g = _join(layer, h)
        h = _join(back, g)
    return best, *kept


def _join(layer: sparse.csr_array, labels: _Labels) -> _Labels:
    """The best community of each output neuron, given those of the input neurons."""
    one_hot = sparse.csr_array((np.ones(len(labels)), labels, np.arange(len(labels) + 1)))
    links = sparse.csr_array(layer @ one_hot)
    k, d = side_degrees(layer, "output"), side_degrees(layer, "input")
    rows = np.repeat(np.arange(len(k)), np.diff(links.indptr))
    gain = links.data - k[rows] * np.bincount(labels, d)[links.indices] / layer.nnz
    order = np.lexsort((links.indices, -gain, rows))
    best = np.zeros(len(k), np.int64)
    best[k > 0] = links.indices[order[links.indptr[:-1][k > 0]]]  # to have no link gains nothing
    return best


def _by_size(layer: sparse.csr_array, g: _Labels, h: _Labels) -> tuple[_Labels, _Labels]:
    """Number communities from the largest, ties by their first neuron; -1 without links."""
    active = side_degrees(layer, "output") > 0, side_degrees(layer, "input") > 0
    both = np.concatenate([g[active[0]], h[active[1]]])
    labels, first, sizes = np.unique(both, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    number = np.full(int(max(g.max(), h.max())) + 1, -1)
    number[labels[order]] = np.arange(len(labels))
    return np.where(active[0], number[g], -1), np.where(active[1], number[h], -1)
