"""Equal partition: give every input neuron its equal share of a layer's links."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from topo.adjacency import as_adjacency
from topo.generators._degrees import layer_of_degrees
from topo.generators._draw import shuffled
from topo.hashing import stream

__all__ = ["equal_partition"]


def equal_partition(adjacency: Any, *, seed: int) -> sparse.csr_array:
    """Re-deal a layer's links: output degrees stay, input degrees become equal.

    Every output neuron keeps its number of links; every input neuron gets the floor or the
    ceiling of ``links / n_in`` of them (which ones get the ceiling is random), so that no input,
    a pixel say, is favoured by a hub that fell on it by chance. Such a layer always exists. For
    the first layer of a scale-free network.

    Parameters
    ----------
    adjacency : csr_array, or any 0/1 matrix, shape (n_out, n_in)
    seed : int
        The same seed gives the same links on every machine.

    Returns
    -------
    csr_array of bool, shape (n_out, n_in)

    See Also
    --------
    resort : the counterpart for middle layers.

    References
    ----------
    Zhang et al., Brain network science modelling of sparse neural networks (CHTs/CHTss), arXiv
    2501.19107: the bipartite scale-free initialisation.

    Examples
    --------
    >>> import topo
    >>> hub = [[1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    >>> topo.equal_partition(hub, seed=0).toarray().astype(int)
    array([[1, 0, 1, 1],
           [0, 1, 0, 0],
           [0, 1, 0, 0]])
    """
    a = as_adjacency(adjacency)
    n_in = a.shape[1]
    shares = np.full(n_in, a.nnz // n_in)
    order = shuffled(n_in, stream(seed, "equal_partition", "larger shares"))
    shares[order[: a.nnz % n_in]] += 1
    none = np.empty(0, dtype=np.int64)
    ends = np.diff(a.indptr).astype(np.int64)
    return layer_of_degrees(none, none, ends, shares, stream(seed, "equal_partition"))
