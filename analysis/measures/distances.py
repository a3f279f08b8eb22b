# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Path lengths of layers and whole networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import topo
from analysis.measures.graphs import block_graph
from analysis.measures.undefined import Undefined
from topo.checks import as_integer
from topo.compiled import njit
from topo.parallel import map_threads

__all__ = ["PathLength", "path_length"]


@dataclass(frozen=True)
class PathLength:
    """Distances between the active neurons of a graph.

    Attributes
    ----------
    mean : float
        Links on a shortest path, mean over the pairs that have one; `Undefined` if none has.
    error : float
        Standard error of the mean, from sampled sources; 0 if exact.
    unreachable : float
        Share of the pairs that no path joins; `Undefined` without links.
    diameter : int
        The longest of the distances that were found.
    sources : int
        Neurons from which distances were measured.
    exact : bool
        Whether these were all.
    """

    mean: float
    error: float
    unreachable: float
    diameter: int
    sources: int
    exact: bool


def path_length(
    source: topo.Network | Any, *, sources: int | None = None, seed: int = 0
) -> PathLength:
    r"""Mean shortest path between neurons of a layer or of a whole network.

    .. math:: L = \frac{1}{|P|} \sum_{(u, v) \in P} d(u, v)

    over the ordered pairs P of different neurons that a path joins, in the undirected graph of all
    links (signals go one way, topology both). Neurons without links are left out; pairs that no
    path joins are not in P, and their share stands beside it.

    Parameters
    ----------
    source : topo.Network or csr_array of bool, shape (n_out, n_in)
        A network is one layered graph: layers that share their neurons one to one are joined there,
        and there alone. In a Transformer, the residual stream and heads under rotary embeddings
        join nothing, so most pairs have no path.
    sources : int, optional
        Measure from so many neurons, drawn without replacement. Default: from all, exactly. The
        standard error is that of a ratio of means over sources.
    seed : int

    Returns
    -------
    PathLength

    Notes
    -----
    Breadth-first search from 64 neurons at once, a bit for each: time in proportion to links times
    sources / 64 times the diameter.

    Examples
    --------
    >>> import topo, analysis
    >>> analysis.path_length(topo.as_adjacency([[1, 1, 0], [0, 1, 0]])).mean
    1.6666666666666667
    """
    if sources is not None:
        as_integer("sources", sources, 1)
    graph = block_graph(source)
    active = np.flatnonzero(np.diff(graph.indptr))
    n = len(active)
    if n == 0:
        nothing = Undefined("no neuron has a link")
        return PathLength(nothing, 0.0, nothing, 0, 0, True)
    chosen = active
    if sources is not None and sources < n:
        chosen = active[topo.sample_integers(n, sources, topo.stream(seed, "path_length"))]
    batches = [chosen[low : low + 64] for low in range(0, len(chosen), 64)]
    parts = map_threads(lambda batch: _search(batch, graph.indptr, graph.indices), batches)
    length, reached = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    mean = float(length.sum() / reached.sum())
    exact = len(chosen) == n
    return PathLength(
        mean=mean,
        error=0.0 if exact else _error(length - mean * reached, float(reached.mean()), n),
        unreachable=1 - float(reached.sum()) / (len(chosen) * (n - 1)),
        diameter=max(p[2] for p in parts),
        sources=len(chosen),
        exact=exact,
    )


def _error(residual: npt.NDArray[np.float64], reached: float, n: int) -> float:
    """Standard error of a ratio estimated from a sample without replacement of n sources."""
    k = len(residual)
    if k < 2:
        return Undefined("one source has no spread")
    return float(np.sqrt((1 - k / n) * np.var(residual, ddof=1) / k) / reached)


@njit(nogil=True, cache=True)
def _search(batch, indptr, indices):
    """Sum of distances and number of neurons reached of each source, and the largest distance."""
    n, k = len(indptr) - 1, len(batch)
    seen = np.zeros(n, np.uint64)
    now = np.zeros(n, np.uint64)
    length = np.zeros(k, np.int64)
    reached = np.zeros(k, np.int64)
    one = np.uint64(1)
    for i in range(k):
        seen[batch[i]] = one << np.uint64(i)
        now[batch[i]] = seen[batch[i]]
    distance = 0
    moved = True
    while moved:
        moved = False
        distance += 1
        after = np.zeros(n, np.uint64)
        for v in range(n):
            if now[v]:
                for p in range(indptr[v], indptr[v + 1]):
                    after[indices[p]] |= now[v]
        for v in range(n):
            new = after[v] & ~seen[v]
            after[v] = new
            seen[v] |= new
            if new:
                moved = True
                for i in range(k):
                    hit = np.int64((new >> np.uint64(i)) & one)
                    length[i] += hit * distance
                    reached[i] += hit
        now = after
    return length, reached, distance - 1
