"""Clustering coefficients of bipartite graphs, where there are no triangles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from analysis.measures.graphs import biadjacency, side_degrees
from analysis.measures.opsahl_counts import four_paths
from analysis.measures.overlaps import Overlaps, overlaps
from analysis.measures.undefined import Undefined
from topo.names import find

__all__ = ["CLUSTERINGS", "clustering", "local_clustering", "mean_latapy", "robins_alexander"]

_Values = npt.NDArray[np.float64]


def _shared(kind: str) -> Callable[[sparse.csr_array, str], _Values]:
    """Latapy's coefficient of each neuron of a side, in one of its three forms."""

    def local(adjacency: sparse.csr_array, side: str) -> _Values:
        return _latapy(overlaps(adjacency, side), kind)

    return local


def _latapy(found: Overlaps, kind: str) -> _Values:
    values = getattr(found, kind) / np.maximum(found.seconds, 1)
    values[found.degree == 0] = np.nan
    return np.asarray(values)


def _opsahl(adjacency: sparse.csr_array, side: str) -> _Values:
    total, closed = four_paths(adjacency, side)
    values = closed / np.maximum(total, 1)
    values[side_degrees(adjacency, side) == 0] = np.nan
    return np.asarray(values)


_LOCAL: dict[str, Callable[[sparse.csr_array, str], _Values]] = {
    "latapy": _shared("dot"),
    "latapy_min": _shared("min"),
    "latapy_max": _shared("max"),
    "opsahl": _opsahl,
}

_SIDES = {"output": ("output",), "input": ("input",), "both": ("output", "input")}


def local_clustering(adjacency: Any, kind: str = "latapy", side: str = "output") -> _Values:
    r"""Clustering coefficient of each neuron of a side.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
        Or any 0/1 matrix, or a network of one layer.
    kind : {"latapy", "latapy_min", "latapy_max", "opsahl"}
        See `clustering`.
    side : {"output", "input"}

    Returns
    -------
    array of float, shape (neurons of the side,)
        NaN for neurons without links.

    Examples
    --------
    >>> import topo, analysis
    >>> a = topo.as_adjacency([[1, 1, 0], [0, 1, 1], [0, 0, 0]])
    >>> analysis.local_clustering(a).round(3)
    array([0.333, 0.333,   nan])
    """
    measure = find(_LOCAL, kind, "clustering of single neurons")
    if side not in ("output", "input"):
        raise ValueError(f"side must be 'output' or 'input', not {side!r}")
    return measure(biadjacency(adjacency), side)


def _mean(kind: str) -> Callable[[sparse.csr_array, str], float]:
    def of_sides(adjacency: sparse.csr_array, side: str) -> float:
        values = np.concatenate([_LOCAL[kind](adjacency, one) for one in _SIDES[side]])
        return _mean_of_active(values)

    return of_sides


def _mean_of_active(values: _Values) -> float:
    active = values[~np.isnan(values)]
    return float(active.mean()) if active.size else Undefined("no neuron has a link")


def _opsahl_global(adjacency: sparse.csr_array, side: str) -> float:
    counts = [np.sum(four_paths(adjacency, one), axis=1) for one in _SIDES[side]]
    total, closed = np.sum(counts, axis=0)
    return float(closed / total) if total else Undefined("there is no path of length four")


def mean_latapy(sides: list[Overlaps]) -> float:
    """Latapy's coefficient (dot), the mean over the active neurons of some sides."""
    return _mean_of_active(np.concatenate([_latapy(found, "dot") for found in sides]))


def robins_alexander(adjacency: sparse.csr_array, found: Overlaps) -> float:
    """Four times the cycles of length four over the paths of length three."""
    if not adjacency.nnz:
        return Undefined("no neuron has a link")
    outputs, inputs = (side_degrees(adjacency, side) for side in ("output", "input"))
    paths = int(np.dot(outputs - 1, adjacency.astype(np.int64) @ (inputs - 1)))
    squares = int(found.squares.sum()) // 2  # each was met from both ends
    return 4 * squares / paths if paths else 0.0


CLUSTERINGS: dict[str, Callable[[sparse.csr_array, str], float]] = {
    **{kind: _mean(kind) for kind in _LOCAL},
    "opsahl_global": _opsahl_global,
    "robins_alexander": lambda a, side: robins_alexander(a, overlaps(a, "output")),
}
"""Functions of an adjacency and a side, by the name of the coefficient."""


def clustering(adjacency: Any, kind: str = "latapy", side: str = "output") -> float:
    r"""Clustering of one layer's bipartite graph.

    Triangles, which define the usual coefficient, do not exist between two sides. With
    :math:`N(u)` the neighbours of neuron u:

    - "latapy": mean over the neurons u of the side, of the mean over their second neighbours v, of
      :math:`|N(u) \cap N(v)| / |N(u) \cup N(v)|`; "latapy_min" and "latapy_max" divide by the
      smaller and the larger of the two degrees. A neuron without second neighbours counts as 0.
    - "opsahl": mean over the neurons j of the side, of the share of the paths i - a - j - b - k
      of length four centred on j whose ends i and k have a third neighbour in common. A neuron
      without such paths counts as 0. "opsahl_global": closed paths over all paths of the side.
    - "robins_alexander": :math:`4 C_4 / L_3`, cycles of length four over paths of length three; 0
      where there is no such path. It is of the whole graph, whatever the side.

    Neurons without links are left out.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
        Or any 0/1 matrix, or a network of one layer.
    kind : str
    side : {"output", "input", "both"}
        Whose neurons are averaged over; "both": all neurons of the layer.

    Returns
    -------
    float
        In [0, 1]; `Undefined` (NaN with a reason) if there are no links (of "opsahl_global": no
        path of length four).

    Raises
    ------
    ValueError
        For an unknown kind or side, or what is no 0/1 matrix.

    References
    ----------
    Latapy, Magnien and Del Vecchio, Basic notions for the analysis of large two-mode networks,
    Social Networks 30, 2008.
    Robins and Alexander, Small worlds among interlocking directors, Computational and Mathematical
    Organization Theory 10, 2004.
    Opsahl, Triadic closure in two-mode networks, Social Networks 35, 2013.

    Examples
    --------
    >>> import topo, analysis
    >>> ring = topo.small_world(64, 64, 0.1, beta=0.0, seed=0)
    >>> random = topo.erdos_renyi(64, 64, 0.1, seed=0)
    >>> [round(analysis.clustering(a, "robins_alexander"), 2) for a in (ring, random)]
    [0.55, 0.11]
    """
    measure = find(CLUSTERINGS, kind, "kind of clustering")
    if side not in tuple(_SIDES):  # which asks no hash of it
        raise ValueError(f"side must be 'output', 'input' or 'both', not {side!r}")
    return measure(biadjacency(adjacency), side)
