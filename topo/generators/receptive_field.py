# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Bipartite receptive field (BRF): output neurons draw inputs, near ones more often."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo.adjacency import link_count, wrap_csr
from topo.compiled import njit
from topo.generators._draw import below
from topo.generators._ring import equal_shares, nearest
from topo.hashing import _U, bits, sample_integers, stream, to_unit
from topo.parallel import map_threads, thread_count

__all__ = ["receptive_field"]

_STEEPEST = 1e300  # of (1 - r) / r: times any logarithm it is finite
_SMALL_BLOCK = 2**14  # links; fewer are not worth a thread


def receptive_field(
    n_out: int, n_in: int, density: float, *, r: float = 0.1, degrees: str = "fixed", seed: int
) -> sparse.csr_array:
    r"""A layer whose output neurons each see a patch of the input ring, sharp or blurred.

    Output neuron j sits at :math:`p_j = j\, n_{in} / n_{out}` on the ring of the inputs (a real
    number) and draws :math:`k_j` distinct inputs, one after the other without replacement, with

    .. math:: P(i) \propto (1 + d_{ij})^{-(1 - r) / r},

    where :math:`d_{ij}` is the ring distance between i and :math:`p_j`. At r = 0 these are the
    :math:`k_j` nearest (of two equally near, the one before :math:`p_j` comes first), at r = 1
    any. The :math:`k_j` add up to exactly ``round(density * n_out * n_in)``.

    Parameters
    ----------
    n_out, n_in : int
        Neurons on the output and the input side.
    density : float
        Share of the possible links that exist, in (0, 1].
    r : float
        Randomness, in [0, 1]. The papers use 0 to 0.3 for LLaMA and find 0.25 best for MLPs.
    degrees : {"fixed", "uniform"}
        "fixed": every :math:`k_j` is the floor or the ceiling of the mean, evenly mixed.
        "uniform": one link each, and every further link goes to a uniformly random output neuron
        that has not all inputs yet. (Fewer links than output neurons: a random choice of them
        has one each.)
    seed : int
        The same seed gives the same links on every machine (as far as its log and exp agree: the
        last digit of one matters once in about 1e10 links).

    Returns
    -------
    csr_array of bool, shape (n_out, n_in)

    Notes
    -----
    The draw is a race (Efraimidis and Spirakis, 2006): with independent standard exponential
    :math:`E_i`, the k smallest :math:`(1 + d_{ij})^{(1 - r) / r} E_i` are exactly such a sample.
    Inputs are visited from near to far, in logarithms, and those too far to be likely winners
    are skipped by geometric jumps: time and memory are in proportion to the links.

    References
    ----------
    Zhang et al., Brain network science modelling of sparse neural networks (CHTs/CHTss),
    NeurIPS 2025, arXiv 2501.19107.

    Examples
    --------
    >>> import topo
    >>> topo.receptive_field(3, 6, 0.5, r=0, seed=0).toarray().astype(int)
    array([[1, 1, 0, 0, 0, 1],
           [0, 1, 1, 1, 0, 0],
           [0, 0, 0, 1, 1, 1]])
    """
    if isinstance(r, bool) or not isinstance(r, Real) or not 0 <= r <= 1:
        raise ValueError(f"r, the randomness of the receptive field, must be in [0, 1], not {r!r}")
    if degrees not in ("fixed", "uniform"):
        raise ValueError(f"degrees must be 'fixed' or 'uniform', not {degrees!r}")
    links = link_count(density, n_out, n_in)
    n_out, n_in = int(n_out), int(n_in)
    if degrees == "fixed":
        stream(seed)  # refuses a wrong seed where none is drawn from
        indptr = equal_shares(links, n_out)
    else:
        degree = _uniform_degrees(links, n_out, n_in, stream(seed, "receptive_field", "degrees"))
        indptr = np.concatenate([[0], np.cumsum(degree)])
    if r == 0:
        return wrap_csr(indptr.astype(np.int32), nearest(indptr, n_in), (n_out, n_in))

    steepness = min((1 - float(r)) / float(r), _STEEPEST)
    horizon = np.full(int(np.diff(indptr).max()) + 1, np.nan)
    for k in np.unique(np.diff(indptr)).tolist():
        horizon[k] = _horizon(k, n_in, steepness)
    key = _U(stream(seed, "receptive_field"))
    indices = np.empty(links, dtype=np.int32)

    def draw(rows: slice) -> None:
        _draw(rows.start, rows.stop, indptr, n_in, steepness, horizon, key, indices)

    map_threads(draw, _blocks(n_out, links))
    return wrap_csr(indptr.astype(np.int32), indices, (n_out, n_in))


def _blocks(n_out: int, links: int) -> Iterator[slice]:
    size = max(-(-n_out // (4 * thread_count())), _SMALL_BLOCK * n_out // links + 1)
    for start in range(0, n_out, size):
        yield slice(start, min(start + size, n_out))


def _uniform_degrees(links: int, n_out: int, n_in: int, key: int) -> npt.NDArray[np.int64]:
    if links < n_out:
        degree = np.zeros(n_out, dtype=np.int64)
        degree[sample_integers(n_out, links, key)] = 1
        return degree
    return np.asarray(_deal_degrees(links, n_out, n_in, _U(key)))


@njit(nogil=True, cache=True)
def _deal_degrees(links, n_out, n_in, key):
    degree = np.ones(n_out, dtype=np.int64)
    free = np.arange(n_out)  # output neurons that have not all inputs yet
    n_free = n_out if n_in > 1 else 0
    for i in range(links - n_out):
        at = below(n_free, bits(key, i, 0))
        degree[free[at]] += 1
        if degree[free[at]] == n_in:
            n_free -= 1
            free[at] = free[n_free]
    return degree


@njit(nogil=True, cache=True)
def _horizon(k, n_in, steepness):
    """Log time by which a few more than k of n_in inputs have probably arrived.

    Only the speed depends on it. Times are measured by the distance of the k-th nearest, so that
    log(E) < 3.7 for each of the k nearest is always enough.
    """
    wanted = k + 3.0 * np.sqrt(k) + 3.0
    if wanted >= n_in:
        return np.inf
    low, high = -50.0, 4.0
    for _ in range(20):
        middle = (low + high) / 2
        arrived, d = 0.0, 0
        while d <= n_in // 2:
            step = max(1, d // 16)  # coarser and coarser
            lag = steepness * np.log((1.0 + d + 0.5 * (step - 1)) / (1.0 + k // 2))
            arrived += (1 if d == 0 else 2 * step) * -np.expm1(-np.exp(min(middle - lag, 10.0)))
            d += step
        if arrived < wanted:
            low = middle
        else:
            high = middle
    return high


@njit(nogil=True, cache=True)
def _kth_smallest(values, k):
    """What sorting would put at k, by Hoare's Find (np.partition takes 8 s to compile)."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[k]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if j < k:
            low = i
        if k < i:
            high = j
    return values[k]


@njit(nogil=True, cache=True)
def _draw(start, stop, indptr, n_in, steepness, horizon, key, indices):
    """Draw the inputs of the output neurons start..stop-1."""
    n_out = len(indptr) - 1
    cols = np.empty(n_in, dtype=np.int32)  # inputs that have arrived, and when (log time)
    times = np.empty(n_in, dtype=np.float64)
    arrived = np.zeros(n_in, dtype=np.bool_)  # used only where a second period is needed
    for row in range(start, stop):
        first, k = indptr[row], indptr[row + 1] - indptr[row]
        if k == 0:
            continue
        # distances are integers in units of 1 / n_out
        past = row * n_in % n_out
        near = min(past, n_out - past)
        side = 1 if near == past else -1  # where the second nearest input is
        centre = row * n_in // n_out + (side < 0)
        kth = k // 2 * n_out + (near if k % 2 else -near)
        found, draws = 0, 0
        since, until = -np.inf, horizon[k]
        while True:
            q = 0  # inputs from near to far
            while q < n_in:
                distance = (q + 1) // 2 * n_out + (-near if q % 2 else near)
                # log of (1 + d) / (1 + d of the k-th): exact for those near the boundary
                lag = steepness * np.log1p((distance - kth) / (n_out + kth))
                limit = np.inf
                if lag > until + 1.0:  # unlikely to arrive: jump to one that might
                    limit = np.exp(until - lag)
                    jump = -np.log(to_unit(bits(key, row, draws))) / max(limit, 1e-300)
                    draws += 1
                    if jump >= n_in - q:
                        break
                    q += int(jump)
                    distance = (q + 1) // 2 * n_out + (-near if q % 2 else near)
                    lag = steepness * np.log1p((distance - kth) / (n_out + kth))
                col = (centre + (side if q % 2 else -side) * ((q + 1) // 2)) % n_in
                q += 1
                if since > -np.inf and arrived[col]:
                    continue
                u = to_unit(bits(key, row, draws))
                draws += 1
                # exponential, after a jump given that it is below the limit
                wait = -np.log(u) if limit == np.inf else -np.log1p(u * np.expm1(-limit))
                time = lag + np.log(wait + np.exp(since - lag))
                if time < until:
                    cols[found] = col
                    times[found] = time
                    found += 1
            if found >= k:
                break
            for i in range(found):
                arrived[cols[i]] = True
            since, until = until, until + 2.0
        if since > -np.inf:
            arrived[:] = False
        last = _kth_smallest(times[:found].copy(), k - 1)
        kept = 0
        for i in range(found):
            if times[i] <= last and kept < k:
                indices[first + kept] = cols[i]
                kept += 1
        indices[first : first + k].sort()
