"""Degrees of neurons, and their distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

import topo
from analysis.measures.graphs import as_network, biadjacency, block_graph, side_degrees

__all__ = ["SIDES", "degree_distribution", "degrees"]

SIDES = ("output", "input")


def degrees(adjacency: Any, side: str) -> npt.NDArray[np.int64]:
    """Links of each neuron on one side of a layer, inactive ones (degree 0) included.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
        Or any 0/1 matrix, or a network of one layer.
    side : {"output", "input"}
        "output": the in-degrees of the n_out output neurons; "input": the out-degrees of the
        n_in input neurons.

    Examples
    --------
    >>> import topo, analysis
    >>> a = topo.as_adjacency([[1, 1, 0], [0, 1, 0]])
    >>> analysis.degrees(a, "output").tolist(), analysis.degrees(a, "input").tolist()
    ([2, 1], [1, 2, 0])
    """
    return side_degrees(biadjacency(adjacency), side)


def degree_distribution(source: topo.Network | sparse.csr_array) -> pd.DataFrame:
    """How many neurons have which degree: per layer and side, and in the whole network.

    Parameters
    ----------
    source : topo.Network, or an adjacency (a network of one layer, "layer")

    Returns
    -------
    DataFrame
        A row per degree that occurs, ascending, with the columns

        - layer: the layer's name; "network" for all neurons of all layers, where coupled layers
          share theirs and a neuron's degree is the number of neurons it has links with, on both
          sides (`block_graph`: gate and up between the same two neurons count once)
        - side: "output" (in-degrees), "input" (out-degrees), "both" (the whole network)
        - degree, neurons: how many have it; degree 0 is that of inactive neurons
        - share: of all neurons of that side
        - ccdf: share of the neurons with links that have at least this degree; NaN at degree 0

    Examples
    --------
    >>> import topo, analysis
    >>> table = analysis.degree_distribution(topo.as_adjacency([[1, 1, 0], [0, 1, 0]]))
    >>> table[table["side"] == "input"].drop(columns=["layer", "side"])
       degree  neurons     share  ccdf
    2       0        1  0.333333   NaN
    3       1        1  0.333333   1.0
    4       2        1  0.333333   0.5
    """
    network = as_network(source)
    parts = [
        _distribution(side_degrees(adjacency, side), name, side)
        for name, adjacency in network.layers.items()
        for side in SIDES
    ]
    graph = block_graph(network)
    parts.append(_distribution(np.diff(graph.indptr), "network", "both"))
    return pd.concat(parts, ignore_index=True)


def _distribution(of: npt.NDArray[np.int64], layer: str, side: str) -> pd.DataFrame:
    values, neurons = np.unique(of, return_counts=True)
    at_least = np.cumsum(neurons[::-1])[::-1]
    active = int((of > 0).sum())
    with np.errstate(invalid="ignore"):
        ccdf = np.where(values > 0, at_least / max(active, 1), np.nan)
    return pd.DataFrame(
        {
            "layer": layer,
            "side": side,
            "degree": values.astype(np.int64),
            "neurons": neurons,
            "share": neurons / len(of),
            "ccdf": ccdf,
        }
    )
