"""Credit assignment paths: chains of links from input to output, and hubs among them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import topo
from analysis.measures.graphs import as_network
from analysis.measures.undefined import Undefined
from topo.populations import neurons

__all__ = ["CreditPaths", "credit_paths"]

_Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CreditPaths:
    """How many chains lead through a network, and through its hubs.

    Attributes
    ----------
    chains : float
        From any input neuron to any output neuron, one link per layer. Exact up to 2**53; inf from
        1.8e308.
    through_hubs : float
        Those that pass through a hub in every middle layer.
    through_any_hub : float
        Those that pass through at least one hub.
    layers : DataFrame
        A row per middle layer of neurons: layer (the one that ends at them), neurons, hubs,
        chains (through its hubs) and share (of all chains; NaN if there are none).
    """

    chains: float
    through_hubs: float
    through_any_hub: float
    layers: pd.DataFrame

    @property
    def hub_share(self) -> float:
        """Share of the chains that pass through a hub in every middle layer."""
        if not len(self.layers):
            return Undefined("a single layer has no middle neurons")
        if not self.chains:
            return Undefined("no chain leads from input to output")
        if np.isinf(self.chains):
            return Undefined("there are more chains than floating point counts")
        return self.through_hubs / self.chains


def credit_paths(network: topo.Network | Any, hubs: float = 0.05) -> CreditPaths:
    r"""Count the chains of links from input to output that pass through hubs.

    With f the chains from the inputs to a neuron, :math:`f_l = A_l f_{l-1}`, and b those from it to
    the outputs, :math:`b_{l-1} = A_l^T b_l`, the chains through it are f b. Hubs are the neurons of
    the highest degree (in- and out-degree together) of each middle layer, at least one; of equal
    degrees the first. Inactive neurons carry no chain.

    Parameters
    ----------
    network : topo.Network
        Its layers must follow each other: the outputs of each are the inputs of the next, as in a
        multilayer perceptron. An adjacency counts as one layer, which has no middle neurons.
    hubs : float
        Share of each middle layer's neurons, in (0, 1].

    Returns
    -------
    CreditPaths

    Raises
    ------
    ValueError
        If the layers are no chain, or hubs is no share.

    References
    ----------
    Zhang et al., ICLR 2024 (CHT), on credit assigned paths through hubs.

    Examples
    --------
    >>> import topo, analysis
    >>> net = topo.Network({"fc1": [[1, 1], [0, 1]], "fc2": [[1, 1], [1, 0]]})
    >>> found = analysis.credit_paths(net)
    >>> found.chains, found.through_hubs
    (5.0, 4.0)
    """
    if isinstance(hubs, bool) or not isinstance(hubs, Real) or not 0 < hubs <= 1:
        raise ValueError(f"hubs, the share of a layer's neurons, must be in (0, 1], not {hubs!r}")
    net = as_network(network)
    _check_chain(net)
    layers = [a.astype(np.float64) for a in net.layers.values()]
    chosen = []
    for into, out in pairwise(layers):
        degree = np.asarray(into.sum(axis=1) + out.sum(axis=0))
        keep = np.zeros(len(degree))
        keep[np.argsort(-degree, kind="stable")[: max(1, round(hubs * len(degree)))]] = 1
        chosen.append(keep)
    everyone = [np.ones_like(keep) for keep in chosen]
    chains = _count(layers, everyone)
    rows = []
    for i, (name, keep) in enumerate(zip(net.layers, chosen, strict=False)):
        through = _count(layers, [*everyone[:i], keep, *everyone[i + 1 :]])
        rows.append((name, len(keep), int(keep.sum()), through, through / (chains or np.nan)))
    return CreditPaths(
        chains=chains,
        through_hubs=_count(layers, chosen),
        through_any_hub=chains - _count(layers, [1 - keep for keep in chosen]) if chosen else 0.0,
        layers=pd.DataFrame(rows, columns=["layer", "neurons", "hubs", "chains", "share"]),
    )


def _count(layers: list[Any], passing: list[_Values]) -> float:
    """Chains through the middle neurons that may be passed."""
    reached = np.ones(layers[0].shape[1])
    with np.errstate(over="ignore"):
        for layer, keep in zip(layers, [*passing, np.ones(1)], strict=True):
            reached = np.where(keep, layer @ reached, 0.0)
        return float(reached.sum())


def _check_chain(network: topo.Network) -> None:
    names = list(network.layers)
    population = neurons(network).population
    follows = all(population[a, 0] == population[b, 1] for a, b in pairwise(names))
    if not follows or len(set(population.values())) != len(names) + 1:
        raise ValueError(
            f"the layers {', '.join(names[:4])}{', ...' if len(names) > 4 else ''} are no chain, "
            "each ending where the next begins: pass a topo.Network of those that are"
        )
