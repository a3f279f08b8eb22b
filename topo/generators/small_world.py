"""Bipartite small world (BSW): a ring lattice with a share of its links rewired."""

from __future__ import annotations

from numbers import Real

import numpy as np
from scipy import sparse

from topo.absent import sample_absent
from topo.adjacency import _from_sorted_keys, link_count, link_keys
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
    large, small = max(n_out, n_in), min(n_out, n_in)
    edges = np.arange(large + 1, dtype=np.int64) * links // large
    degree = np.diff(edges)
    # the window's first node is ceil(p - k / 2), in integers
    first = -((degree * large - 2 * np.arange(large, dtype=np.int64) * small) // (2 * large))
    large_end = np.repeat(np.arange(large, dtype=np.int64), degree)
    small_end = np.repeat(first - edges[:-1], degree) + np.arange(links, dtype=np.int64)
    small_end %= small
    rows, cols = (large_end, small_end) if n_out >= n_in else (small_end, large_end)
    lattice = np.sort(rows * n_in + cols)

    moved = round(float(beta) * links)
    cut = sample_integers(links, moved, stream(seed, "small_world", "cut"))
    if not moved:
        return _from_sorted_keys(lattice, (n_out, n_in))
    kept = np.delete(lattice, cut)
    rest = _from_sorted_keys(kept, (n_out, n_in))
    new_rows, new_cols = sample_absent(rest, moved, stream(seed, "small_world", "rewire"))
    new = new_rows.astype(np.int64) * n_in + new_cols
    return _from_sorted_keys(np.sort(np.concatenate([link_keys(rest), new])), (n_out, n_in))
