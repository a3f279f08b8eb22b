"""Erdos-Renyi: uniformly random links (ER)."""

from __future__ import annotations

from scipy import sparse

from topo.adjacency import _from_sorted_keys, link_count
from topo.hashing import sample_integers, stream

__all__ = ["erdos_renyi"]


def erdos_renyi(n_out: int, n_in: int, density: float, *, seed: int) -> sparse.csr_array:
    """A layer with exactly ``round(density * n_out * n_in)`` uniformly random links.

    Parameters
    ----------
    n_out, n_in : int
        Neurons on the output and the input side.
    density : float
        Share of the possible links that exist, in (0, 1].
    seed : int
        The same seed gives the same links on every machine.

    Returns
    -------
    csr_array of bool, shape (n_out, n_in)

    References
    ----------
    Erdos and Renyi, On random graphs I, 1959: the model G(n, M), here bipartite. The start of
    SET (Mocanu et al., Nature Communications 2018) and most dynamic sparse training.

    Examples
    --------
    >>> import topo
    >>> topo.erdos_renyi(100, 50, 0.01, seed=0).nnz
    50
    """
    links = link_count(density, n_out, n_in)
    n_out, n_in = int(n_out), int(n_in)
    keys = sample_integers(n_out * n_in, links, stream(seed, "erdos_renyi"))
    return _from_sorted_keys(keys, (n_out, n_in))
