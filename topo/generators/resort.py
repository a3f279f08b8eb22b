"""Resort: let hubs of one layer meet hubs of the next."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from topo.adjacency import as_adjacency, from_links, links

__all__ = ["resort"]


def resort(first: Any, second: Any) -> sparse.csr_array:
    """Permute the input neurons of a layer so that hubs of the layer before it meet its hubs.

    The neurons between two layers have an in-degree (their row of `first`) and an out-degree
    (their column of `second`). The columns of `second` change places so that the neuron with the
    most links in has the most links out, the next has the next, and so on; equal degrees are
    ranked by index.

    Parameters
    ----------
    first : csr_array, or any 0/1 matrix, shape (n_hidden, n_in)
        The layer before; it stays as it is.
    second : csr_array, or any 0/1 matrix, shape (n_out, n_hidden)
        The layer after.

    Returns
    -------
    csr_array of bool, shape (n_out, n_hidden)
        `second` with its columns permuted.

    Raises
    ------
    ValueError
        If `second` has not as many inputs as `first` has outputs.

    See Also
    --------
    equal_partition : the counterpart for the first layer.

    Notes
    -----
    Only columns move: neither the inputs of `first` (pixels) nor the outputs of `second` change
    their meaning, and what was sorted before stays sorted. A chain of layers is sorted from the
    first on, each layer after the one before it::

        for i in range(1, len(layers)):
            layers[i] = topo.resort(layers[i - 1], layers[i])

    References
    ----------
    Zhang et al., Brain network science modelling of sparse neural networks (CHTs/CHTss), arXiv
    2501.19107: the bipartite scale-free initialisation.

    Examples
    --------
    The third hidden neuron has the most links in, so it gets those of the column with the most.

    >>> import topo
    >>> first = [[1, 0], [0, 0], [1, 1]]
    >>> topo.resort(first, [[1, 0, 0], [1, 1, 0]]).toarray().astype(int)
    array([[0, 0, 1],
           [1, 0, 1]])
    """
    before, after = as_adjacency(first), as_adjacency(second)
    hidden = after.shape[1]
    if before.shape[0] != hidden:
        raise ValueError(
            f"the second layer must have as many inputs as the first has outputs, but their "
            f"shapes are {after.shape} and {before.shape}: pass two layers that follow each other"
        )
    into = np.diff(before.indptr)
    rows, cols = links(after)
    out_of = np.bincount(cols, minlength=hidden)
    moved_to = np.empty(hidden, dtype=np.int64)
    moved_to[np.argsort(-out_of, kind="stable")] = np.argsort(-into, kind="stable")
    return from_links(rows, moved_to[cols], after.shape)
