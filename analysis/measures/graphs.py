"""What the measures take: adjacencies, networks, and graphs of all neurons."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

import topo
from topo.populations import neurons

__all__ = ["active_part", "as_network", "biadjacency", "block_graph", "side_degrees", "two_ways"]

Indices = npt.NDArray[np.int32]


def as_network(source: topo.Network | Any) -> topo.Network:
    """A network as it is; an adjacency as a network of one layer, "layer"."""
    if isinstance(source, topo.Network):
        return source
    return topo.Network({"layer": topo.as_adjacency(source)}, ())


def biadjacency(source: Any) -> sparse.csr_array:
    """A layer's adjacency, checked; a network of several layers is refused."""
    if isinstance(source, topo.Network):
        if len(source.layers) != 1:
            raise ValueError(
                f"this measure is of one layer, and the network has {len(source.layers)}: "
                f"pass network.layers[name], or analysis.summary(network) for all"
            )
        return next(iter(source.layers.values()))
    return topo.as_adjacency(source)


def active_part(adjacency: sparse.csr_array) -> sparse.csr_array:
    """The layer of those neurons that have links; as it is where none has."""
    if not adjacency.nnz:
        return adjacency
    k, d = (side_degrees(adjacency, side) for side in ("output", "input"))
    return topo.as_adjacency(adjacency[k > 0][:, d > 0])


def side_degrees(adjacency: sparse.csr_array, side: str) -> npt.NDArray[np.int64]:
    """`analysis.degrees` of an adjacency that was checked before."""
    _check_side(side)
    if side == "output":
        return np.diff(adjacency.indptr).astype(np.int64)
    return np.bincount(adjacency.indices, minlength=adjacency.shape[1])


def _check_side(side: str) -> None:
    if side not in ("output", "input"):
        raise ValueError(f"side must be 'output' or 'input', not {side!r}")


def two_ways(adjacency: sparse.csr_array, side: str) -> tuple[Indices, Indices, Indices, Indices]:
    """Neighbours of one side's neurons, and of the other's: indptr and indices of each, sorted."""
    _check_side(side)
    other = adjacency.tocsc()
    ends = (adjacency.indptr, adjacency.indices, other.indptr, other.indices)
    return ends if side == "output" else (ends[2], ends[3], ends[0], ends[1])


def block_graph(source: topo.Network | sparse.csr_array) -> sparse.csr_array:
    """All neurons of a layer or network as one undirected graph, from input to output.

    Layers that share their neurons one to one (`topo.Coupling`) share nodes; couplings by heads
    or under rotary embeddings join nothing. Links between the same two neurons (gate and up) count
    once; a neuron's link to itself (of a layer whose outputs are its inputs) is left out.

    Returns
    -------
    csr_array of bool, shape (neurons, neurons)
        Symmetric, canonical.
    """
    _, start, inputs, outputs = neurons(as_network(source))
    inputs, outputs = inputs[inputs != outputs], outputs[inputs != outputs]
    ends = np.concatenate([inputs, outputs]), np.concatenate([outputs, inputs])
    n = int(start[-1])
    graph = sparse.coo_array((np.ones(len(ends[0]), bool), ends), shape=(n, n)).tocsr()
    graph.sum_duplicates()
    graph.sort_indices()
    return graph
