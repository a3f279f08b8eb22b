"""Is a layer a small world? Compared with random graphs of its degrees, and with a lattice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import topo
from analysis.measures.clusterings import CLUSTERINGS
from analysis.measures.distances import path_length
from analysis.measures.graphs import active_part, biadjacency
from analysis.measures.nulls import degree_preserving_null, lattice
from analysis.measures.undefined import Undefined
from topo.checks import as_integer
from topo.names import find

__all__ = ["SmallWorldness", "small_worldness"]


@dataclass(frozen=True)
class SmallWorldness:
    """How a layer lies between random graphs and a lattice.

    Attributes
    ----------
    sigma : float
        Above 1: more clustered than random graphs, at paths about as short. `Undefined` where the
        random graphs have no clustering or there are no paths.
    omega : float
        Near 0: a small world; towards 1 random, towards -1 a lattice. To be read with sigma: of
        dense random graphs, whose clustering is near the lattice's, it approaches 0, too.
    clustering, path_length : float
        Of the layer.
    null_clustering, null_path_length : float
        Means over the random graphs.
    null_clustering_std, null_path_length_std : float
        Their standard deviations.
    lattice_clustering : float
    unreachable, null_unreachable : float
        Share of the pairs that no path joins, in the layer and on average in the random graphs.
        Lengths are of the others alone: where many are left out, sigma and omega say little.
    """

    sigma: float
    omega: float
    clustering: float
    path_length: float
    null_clustering: float
    null_path_length: float
    null_clustering_std: float
    null_path_length_std: float
    lattice_clustering: float
    unreachable: float
    null_unreachable: float


def small_worldness(
    adjacency: Any,
    *,
    kind: str = "robins_alexander",
    nulls: int = 10,
    sources: int | None = None,
    seed: int = 0,
) -> SmallWorldness:
    r"""Small-worldness sigma and omega of a layer's bipartite graph.

    .. math:: \sigma = \frac{C / C_{null}}{L / L_{null}}, \qquad
        \omega = \frac{L_{null}}{L} - \frac{C}{C_{lattice}}

    with C a bipartite clustering (both sides), L the mean shortest path between reachable pairs,
    null graphs that keep the degree of every neuron (`degree_preserving_null`) and the bipartite
    ring lattice of as many links (`lattice`). Neurons without links are left out of all.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
    kind : str
        Of `clustering`.
    nulls : int
        Random graphs to average over.
    sources : int, optional
        Of `path_length`: sample instead of measuring from every neuron.
    seed : int

    Returns
    -------
    SmallWorldness

    References
    ----------
    Humphries and Gurney, Network small-world-ness, PLoS ONE 3, 2008 (sigma). Telesford et al., The
    ubiquity of small-world networks, Brain Connectivity 1, 2011 (omega). Robins and Alexander,
    Small worlds among interlocking directors, 2004 (bipartite graphs).

    Examples
    --------
    >>> import topo, analysis
    >>> found = analysis.small_worldness(topo.small_world(100, 100, 0.08, beta=0.1, seed=0))
    >>> found.sigma > 1.5
    True
    """
    layer = active_part(biadjacency(adjacency))
    measure = find(CLUSTERINGS, kind, "kind of clustering")
    as_integer("nulls", nulls, 1)
    c, paths = measure(layer, "both"), path_length(layer, sources=sources, seed=seed)
    length = paths.mean
    graphs = [
        degree_preserving_null(layer, seed=topo.stream(seed, "null", i)) for i in range(nulls)
    ]
    null_c = [measure(graph, "both") for graph in graphs]
    null_paths = [path_length(graph, sources=sources, seed=seed) for graph in graphs]
    null_length = [found.mean for found in null_paths]
    ring = measure(lattice(layer), "both") if layer.nnz else Undefined("no neuron has a link")
    mean_c, mean_length = _over(null_c, np.mean), _over(null_length, np.mean)
    return SmallWorldness(
        sigma=_sigma(c, mean_c, length, mean_length),
        omega=_omega(c, ring, length, mean_length),
        clustering=c,
        path_length=length,
        null_clustering=mean_c,
        null_path_length=mean_length,
        null_clustering_std=_over(null_c, np.std),
        null_path_length_std=_over(null_length, np.std),
        lattice_clustering=ring,
        unreachable=paths.unreachable,
        null_unreachable=_over([found.unreachable for found in null_paths], np.mean),
    )


def _over(values: list[float], statistic: Callable[[list[float]], Any]) -> float:
    """Their mean or deviation, or the first of them that has no value."""
    return next((value for value in values if np.isnan(value)), float(statistic(values)))


def _sigma(c: float, null_c: float, length: float, null_length: float) -> float:
    if np.isnan(c):
        return c
    if np.isnan(null_c) or null_c == 0:
        return Undefined("random graphs of these degrees have no clustering to compare with")
    return (c / null_c) / (length / null_length)


def _omega(c: float, ring: float, length: float, null_length: float) -> float:
    if np.isnan(c):
        return c
    if np.isnan(ring) or ring == 0:
        return Undefined("the lattice of as many links has no clustering to compare with")
    return null_length / length - c / ring
