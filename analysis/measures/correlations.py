"""Do hubs meet hubs? Within a layer, and from layer to layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

import topo
from analysis.measures.graphs import biadjacency, side_degrees
from analysis.measures.undefined import Undefined
from topo.populations import neurons

__all__ = ["assortativity", "hub_agreement", "layer_hub_agreement"]


def assortativity(adjacency: Any) -> float:
    r"""Whether links join neurons of like degrees: degree assortativity of a layer.

    Pearson's correlation, over the links, of the in-degree of the output neuron and the out-degree
    of the input neuron. Neurons without links do not enter.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)

    Returns
    -------
    float
        In [-1, 1]; `Undefined` if all links end at neurons of one degree, on either side.

    References
    ----------
    Newman, Assortative mixing in networks, Physical Review Letters 89, 2002; of a graph directed
    from inputs to outputs.

    Examples
    --------
    >>> import analysis
    >>> analysis.assortativity([[1, 0, 0], [1, 0, 0], [0, 1, 1]])
    -1.0
    """
    layer = biadjacency(adjacency)
    rows, columns = topo.links(layer)
    k = side_degrees(layer, "output")[rows]
    d = side_degrees(layer, "input")[columns]
    return _correlation(k.astype(float), d.astype(float), "links")


def hub_agreement(network: topo.Network) -> pd.DataFrame:
    """Whether hidden neurons are hubs both ways: rank correlation of in- and out-degrees.

    Spearman's, over the neurons that layers share one to one and that have a link on either side.
    The in-degree is of all layers that end at a neuron, the out-degree of all that leave it.

    Parameters
    ----------
    network : topo.Network

    Returns
    -------
    DataFrame
        A row per layer, with the columns layer, hub_agreement (of its input neurons; NaN, with the
        reason beside it, where no layer ends at them or all degrees are equal), neurons (that
        entered) and reason.

    Examples
    --------
    >>> import topo, analysis
    >>> net = topo.Network({"fc1": [[1, 1], [1, 0], [0, 0]], "fc2": [[1, 1, 0], [1, 0, 1]]})
    >>> analysis.hub_agreement(net)[["layer", "hub_agreement", "neurons"]]
      layer  hub_agreement  neurons
    0   fc1            NaN        0
    1   fc2       0.866025        3
    """
    rows = [
        {
            "layer": name,
            "hub_agreement": float(value),
            "neurons": count,
            "reason": getattr(value, "reason", ""),
        }
        for name, (value, count) in layer_hub_agreement(network).items()
    ]
    return pd.DataFrame(rows)


def layer_hub_agreement(network: topo.Network) -> dict[str, tuple[float, int]]:
    """Hub agreement of each layer's input neurons, and how many of them entered."""
    found = neurons(network)
    n = int(found.start[-1])
    incoming, outgoing = (np.bincount(ends, minlength=n) for ends in (found.target, found.source))
    fed = {found.population[name, 0] for name in network.layers}
    results: dict[str, tuple[float, int]] = {}
    for name in network.layers:
        p = found.population[name, 1]
        if p not in fed:
            results[name] = Undefined("no other layer ends at this layer's input neurons"), 0
            continue
        own = slice(found.start[p], found.start[p + 1])
        into, out = incoming[own], outgoing[own]
        active = (into > 0) | (out > 0)
        ranks = rankdata(into[active]), rankdata(out[active])
        results[name] = _correlation(*ranks, "active neurons"), int(active.sum())
    return results


def _correlation(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], of: str) -> float:
    if len(x) < 2:
        return Undefined(f"a correlation needs two {of}, and there are {len(x)}")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Undefined(f"all degrees of one side are equal over the {of}")
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y)), -1.0, 1.0))
