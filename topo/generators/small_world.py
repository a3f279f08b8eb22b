# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Bipartite small world (BSW): a ring lattice with a share of its links rewired."""

from __future__ import annotations

from numbers import Real

import numpy as np
from scipy import sparse

from topo.absent import sample_absent
from topo.adjacency import _turn, link_count, wrap_csr
from topo.compiled import njit
from topo.generators._ring import equal_shares, nearest
from topo.hashing import sample_integers, stream

__all__ = ["small_world"]


def small_world(
    n_out: int, n_in: int, density: float, *, beta: float = 0.25, seed: int
) -> sparse.csr_array:
    r"""A Watts-Strogatz layer: both neuron sets on one ring, links to the nearest, some rewired.

    Node j of the larger side sits at :math:`p_j = j\, n_{small} / n_{large}` on the ring of the
    smaller side and links to the :math:`k_j` nodes nearest to it, a contiguous window centred on
    :math:`p_j`; the :math:`k_j` are the floor and ceiling of their mean, evenly mixed, and add up
    to exactly ``round(density * n_out * n_in)``. Then ``round(beta * links)`` links, chosen at
    random, are removed and as many are placed uniformly on empty cells (the emptied ones
    included).

    Parameters
    ----------
    n_out, n_in : int
        Neurons on the output and the input side.
    density : float
        Share of the possible links that exist, in (0, 1].
    beta : float
        Share of rewired links, in [0, 1]: 0 is the lattice, 1 is Erdos-Renyi. The papers' best
        is 0.25.
    seed : int
        The same seed gives the same links on every machine.

    Returns
    -------
    csr_array of bool, shape (n_out, n_in)

    References
    ----------
    Watts and Strogatz, Nature 1998; the bipartite form is that of Zhang et al., Brain
    network science modelling of sparse neural networks (CHTs/CHTss), arXiv 2501.19107.

    Examples
    --------
    >>> import topo
    >>> topo.small_world(4, 4, 0.5, beta=0, seed=0).toarray().astype(int)
    array([[1, 0, 0, 1],
           [1, 1, 0, 0],
           [0, 1, 1, 0],
           [0, 0, 1, 1]])
    """
    if isinstance(beta, bool) or not isinstance(beta, Real) or not 0 <= beta <= 1:
        raise ValueError(f"beta, the share of rewired links, must be in [0, 1], not {beta!r}")
    links = link_count(density, n_out, n_in)
    n_out, n_in = int(n_out), int(n_in)
    indptr = equal_shares(links, max(n_out, n_in))
    indices = nearest(indptr, min(n_out, n_in))
    if n_out < n_in:
        indptr, indices, _ = _turn(indptr, indices, n_out)

    moved = round(float(beta) * links)
    cut = sample_integers(links, moved, stream(seed, "small_world", "cut"))
    if moved:
        indptr = indptr - np.searchsorted(cut, indptr)
        indices = np.delete(indices, cut)
        rest = wrap_csr(indptr.astype(np.int32), indices, (n_out, n_in))
        rows, cols = sample_absent(rest, moved, stream(seed, "small_world", "rewire"))
        indptr, indices = _with_links(indptr, indices, rows, cols)
    return wrap_csr(indptr.astype(np.int32), indices, (n_out, n_in))


@njit(nogil=True, cache=True)
def _with_links(indptr, indices, rows, cols):
    """Merge further links, in row-major order, into sorted rows."""
    new_indptr = indptr.copy()
    new_indices = np.empty(len(indices) + len(cols), dtype=np.int32)
    p, q = 0, 0
    for row in range(len(indptr) - 1):
        while p < indptr[row + 1] or (q < len(rows) and rows[q] == row):
            if q == len(rows) or rows[q] > row or (p < indptr[row + 1] and indices[p] < cols[q]):
                new_indices[p + q] = indices[p]
                p += 1
            else:
                new_indices[p + q] = cols[q]
                q += 1
        new_indptr[row + 1] = p + q
    return new_indptr, new_indices
