"""The spectral gap of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator, eigsh

import topo
from analysis.measures.graphs import active_part, biadjacency, block_graph
from analysis.measures.undefined import Undefined

__all__ = ["spectral_gap"]

_SMALL = 64  # up to here all singular values are quicker
_ZERO = 1e-6  # roots of rounding errors are below, singular values of 0/1 matrices are not


def spectral_gap(adjacency: Any) -> float:
    r"""Spectral gap of a layer's bipartite graph: how fast signals mix.

    .. math:: 1 - \sigma_2, \qquad \sigma_1 = 1 \ge \sigma_2 \ge \dots
        \text{ the singular values of } D_{out}^{-1/2} A D_{in}^{-1/2}

    with the degrees D. Neurons without links are left out. The gap is 0 if the rest is not
    connected, and 1 if every output neuron has the same inputs.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)

    Returns
    -------
    float
        In [0, 1]; `Undefined` if there are no links.

    References
    ----------
    Chung, Spectral Graph Theory, 1997, chapters 1 and 2. Hoory, Linial and Wigderson, Expander
    graphs and their applications, Bulletin of the AMS 43, 2006.

    Examples
    --------
    The path of five neurons: 1 - cos(pi / 4).

    >>> import analysis
    >>> round(analysis.spectral_gap([[1, 1, 0], [0, 1, 1]]), 3)
    0.293
    """
    layer = biadjacency(adjacency)
    if not layer.nnz:
        return Undefined("no neuron has a link")
    layer = active_part(layer)
    if connected_components(block_graph(layer), directed=False, return_labels=False) > 1:
        return 0.0
    k, d = np.diff(layer.indptr).astype(float), np.bincount(layer.indices).astype(float)
    scaled = sparse.diags_array(k**-0.5) @ layer @ sparse.diags_array(d**-0.5)
    if min(scaled.shape) <= _SMALL:
        values = np.linalg.svd(scaled.toarray(), compute_uv=False)
        second = float(values[1]) if len(values) > 1 else 0.0
    else:
        k, d, scaled = (k, d, scaled) if len(k) >= len(d) else (d, k, scaled.T)
        second = _second(sparse.csr_array(scaled), np.sqrt(d / d.sum()))
    return float(np.clip(1 - second, 0.0, 1.0)) if second > _ZERO else 1.0


def _second(scaled: sparse.csr_array, right: npt.NDArray[np.float64]) -> float:
    """The second singular value: the first is 1, its right vector known, and is taken away."""
    back = sparse.csr_array(scaled.T)
    n = scaled.shape[1]
    operator = LinearOperator(
        (n, n), matvec=lambda x: back @ (scaled @ x) - right * (right @ x), dtype=np.float64
    )
    begin = topo.uniform(topo.hash_links(topo.stream(0, "spectral_gap"), np.arange(n))) - 0.5
    (largest,) = eigsh(operator, k=1, which="LA", v0=begin, return_eigenvectors=False, tol=1e-10)
    return float(np.sqrt(max(largest, 0.0)))
