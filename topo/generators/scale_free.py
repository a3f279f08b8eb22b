# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Bipartite scale free (BSF): a Barabasi-Albert graph, its neurons dealt to two sides."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo.adjacency import link_count
from topo.compiled import njit
from topo.generators._degrees import layer_of_degrees
from topo.generators._draw import below, integers_below, shuffled
from topo.hashing import _U, bits, sample_integers, stream

__all__ = ["scale_free"]


def scale_free(n_out: int, n_in: int, density: float, *, seed: int) -> sparse.csr_array:
    r"""A layer with a few hubs: degrees as preferential attachment makes them.

    A Barabasi-Albert graph of ``n_out + n_in`` neurons and exactly
    ``round(density * n_out * n_in)`` links grows from a complete core of :math:`m + 1` neurons:
    every further neuron links to :math:`m` or :math:`m + 1` older ones, evenly mixed, with

    .. math:: P(i) \propto k_i,

    which makes :math:`P(k) \sim k^{-3}`. Its neurons are dealt to the two sides at random. Links
    across stay; links inside a side are taken away, and the ends they leave loose are joined
    across at random.

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

    Notes
    -----
    Every neuron keeps its degree if the degrees of either side add up to the number of links,
    and a layer with these degrees exists. Therefore:

    * Sides of (nearly) equal size: random pairs of neurons change sides until the sums agree,
      wherever agreement is within three standard deviations of a random deal. No degree changes
      then (but in layers so tiny that 64 attempts per neuron find no such pairs).
    * Otherwise one side has s ends too many and the other as many too few. Random loose ends of
      the first go (never a neuron's last, if possible), and every end that goes is given to a
      neuron of the other side with probability proportional to its degree. Both sides keep their
      power law, and the sum of all changes is 2 s, the least possible.
    * A degree larger than the other side is cut to its size, and the ends cut off go to neurons
      of the same side likewise: again the least change.
    * If no layer has the resulting degrees (Gale and Ryser), the output side keeps them and the
      input side differs as little as possible (the sum of the differences).
    * In dense layers (from a quarter for hundreds of neurons, from a tenth for thousands), where
      ends joined at random meet existing links too often, the links across do not stay but are
      dealt anew with the others. Degrees are as above.

    References
    ----------
    Barabasi and Albert, Science 1999; the bipartite form is that of Zhang et al., Brain network
    science modelling of sparse neural networks (CHTs/CHTss), arXiv 2501.19107.

    Examples
    --------
    >>> import numpy as np, topo
    >>> layer = topo.scale_free(400, 400, 0.01, seed=0)
    >>> layer.nnz, int(np.diff(layer.indptr).min()), int(np.diff(layer.indptr).max())
    (1600, 2, 66)
    """
    links = link_count(density, n_out, n_in)
    n_out, n_in = int(n_out), int(n_in)
    ends = _grow(n_out + n_in, links, _U(stream(seed, "scale_free", "grow")))
    degree = np.bincount(ends, minlength=n_out + n_in)
    place = _places(degree, n_out, seed)

    # a neuron's place is its row, or n_out + its column
    low, high = np.sort(place[ends].reshape(-1, 2), axis=1).T
    across = (low < n_out) & (high >= n_out)
    rows, cols = low[across], high[across] - n_out
    at = np.empty_like(degree)
    at[place] = degree
    row_ends, col_ends = (
        _fit(degrees, np.bincount(kept, minlength=len(degrees)), other_side, links, key)
        for degrees, kept, other_side, key in (
            (at[:n_out], rows, n_in, stream(seed, "scale_free", "rows")),
            (at[n_out:], cols, n_out, stream(seed, "scale_free", "cols")),
        )
    )
    return layer_of_degrees(rows, cols, row_ends, col_ends, stream(seed, "scale_free", "rewire"))


@njit(nogil=True, cache=True)
def _grow(n, links, key):
    """A Barabasi-Albert graph: the two ends of every link, one after the other."""
    # m + 1 neurons in the core and m links for each of the others is the most that fits
    m = 0
    while m * (m + 1) // 2 + (n - m - 1) * m + (n - m - 1) <= links and m < n - 1:
        m += 1
    extra = links - (m * (m + 1) // 2 + (n - m - 1) * m)
    ends = np.empty(2 * links, dtype=np.int32)
    filled = 0
    for i in range(m + 1):
        for j in range(i):
            ends[filled] = i
            ends[filled + 1] = j
            filled += 2
    chosen = np.full(n, -1, dtype=np.int32)  # the last neuron that chose it
    draws = 0
    for t in range(m + 1, n):
        others = n - m - 1
        wanted = m + (t - m) * extra // others - (t - m - 1) * extra // others
        older = filled
        for _ in range(wanted):
            while True:
                x = bits(key, draws, 0)
                draws += 1
                # an end of a random link: in proportion to degrees
                target = ends[below(older, x)] if older else below(t, x)
                if chosen[target] != t:
                    break
            chosen[target] = t
            ends[filled] = t
            ends[filled + 1] = target
            filled += 2
    return ends


def _places(degree: npt.NDArray[np.int64], n_out: int, seed: int) -> npt.NDArray[np.int64]:
    """A random order of the neurons, the first n_out with half of all ends if that can be."""
    n, total = len(degree), int(degree.sum())
    place = shuffled(n, stream(seed, "scale_free", "deal"))
    spread = n * int((degree**2).sum()) - total**2  # n^2 times the variance
    off = n * total // 2 - total * n_out  # n times what the output side lacks on average
    if off * off * (n - 1) <= 9 * n_out * (n - n_out) * spread:
        _balance(degree, place, n_out, _U(stream(seed, "scale_free", "balance")))
    return place


@njit(nogil=True, cache=True)
def _balance(degree, place, n_out, key):
    """Let random pairs change sides while that brings the sums of degrees closer."""
    n = len(degree)
    neuron = np.empty(n, dtype=np.int64)
    neuron[place] = np.arange(n)
    surplus = degree[neuron[:n_out]].sum() - degree[neuron[n_out:]].sum()
    for draw in range(64 * n):
        if surplus == 0:
            break
        i = below(n_out, bits(key, draw, 0))
        j = n_out + below(n - n_out, bits(key, draw, 1))
        change = 2 * (degree[neuron[i]] - degree[neuron[j]])
        if abs(surplus - change) < abs(surplus):
            neuron[i], neuron[j] = neuron[j], neuron[i]
            surplus -= change
    place[neuron] = np.arange(n)


def _fit(
    degree: npt.NDArray[np.int64],
    kept: npt.NDArray[np.int64],
    other_side: int,
    links: int,
    key: int,
) -> npt.NDArray[np.int64]:
    """Loose ends of a side, changed as little as its sum and the size of the other side demand."""
    n = len(degree)
    ends = np.minimum(degree, other_side) - kept
    surplus = int(ends.sum() + kept.sum()) - links
    if surplus > 0:
        spare = ends - ((kept == 0) & (ends > 0))  # all but a neuron's last
        if spare.sum() < surplus:
            spare = ends
        pool = np.repeat(np.arange(n), spare)
        gone = sample_integers(len(pool), surplus, stream(key, "lose"))
        return np.asarray(ends - np.bincount(pool[gone], minlength=n))
    turn = 0
    while surplus < 0:
        room = other_side - kept - ends
        pool = np.repeat(np.arange(n), np.where(room > 0, np.maximum(degree, 1), 0))
        drawn = pool[integers_below(len(pool), -surplus, stream(key, "gain", turn))]
        gained = np.minimum(np.bincount(drawn, minlength=n), room)
        ends += gained
        surplus += int(gained.sum())
        turn += 1
    return ends
