"""Nestedness: how far the neighbours of lesser neurons are among those of greater ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.measures.graphs import biadjacency
from analysis.measures.overlaps import Overlaps, overlaps
from analysis.measures.undefined import Undefined

__all__ = ["nestedness", "nodf"]


def nestedness(adjacency: Any) -> float:
    r"""Nestedness of a layer by overlap and decreasing fill (NODF).

    .. math:: \frac{100}{P} \sum_{u, v:\ k_u > k_v} |N(u) \cap N(v)| / k_v

    over the pairs of neurons of one side, of both sides, P in all; a pair of equal degrees counts
    as 0. Neurons without links are left out.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)

    Returns
    -------
    float
        From 0 to 100; `Undefined` if neither side has two active neurons.

    References
    ----------
    Almeida-Neto et al., A consistent metric for nestedness analysis in ecological systems, Oikos
    117, 2008.

    Examples
    --------
    >>> import analysis
    >>> analysis.nestedness([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
    100.0
    """
    layer = biadjacency(adjacency)
    return nodf([overlaps(layer, side) for side in ("output", "input")])


def nodf(sides: list[Overlaps]) -> float:
    """NODF of what the neurons of both sides share."""
    active = [int((found.degree > 0).sum()) for found in sides]
    pairs = sum(n * (n - 1) // 2 for n in active)
    if not pairs:
        return Undefined("no side has two neurons with links")
    return float(100 * np.sum([found.nested.sum() for found in sides]) / pairs)
