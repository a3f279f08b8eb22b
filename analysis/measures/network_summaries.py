"""Measures of whole networks, over the steps of a history."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

import topo
from analysis.measures.credit import CreditPaths, credit_paths
from analysis.measures.distances import path_length
from analysis.measures.graphs import block_graph
from analysis.measures.summaries import names_of
from analysis.measures.undefined import Undefined
from analysis.power_law import power_law
from topo.names import find
from topo.parallel import stream_threads

__all__ = ["NETWORK_MEASURES", "network_summary"]

_EXACT = 8192  # neurons of a network whose paths are measured from all of them
_SAMPLED = 512


def _paths(network: topo.Network) -> tuple[float, ...]:
    neurons = block_graph(network).shape[0]
    found = path_length(network, sources=None if neurons <= _EXACT else _SAMPLED)
    return found.mean, found.error, found.unreachable


def _credit(network: topo.Network) -> tuple[float, ...]:
    try:
        found: CreditPaths = credit_paths(network)
    except ValueError as error:
        return (Undefined(str(error)),) * 2
    return found.chains, found.hub_share


def _alpha(network: topo.Network) -> tuple[float, ...]:
    fit = power_law(np.diff(block_graph(network).indptr))
    return (fit.alpha if fit.fits else Undefined("; ".join(fit.reasons)),)


NETWORK_MEASURES: dict[str, tuple[tuple[str, ...], Callable[[topo.Network], tuple[float, ...]]]] = {
    "links": (("links",), lambda n: (n.links,)),
    "density": (("density",), lambda n: (n.density,)),
    "active_neuron_rate": (("active_neuron_rate",), lambda n: (topo.active_neuron_rate(n),)),
    "credit_paths": (("credit_paths", "hub_share"), _credit),
    "degree_alpha": (("degree_alpha",), _alpha),
    "path_length": (("path_length", "path_length_error", "unreachable"), _paths),
}
"""The columns of each measure, and the function that gives them."""


def network_summary(
    source: topo.Network | topo.History, measures: Iterable[str] | None = None
) -> pd.DataFrame:
    """Measure a network as a whole, or that of every recorded step of a history.

    Parameters
    ----------
    source : topo.Network or topo.History
    measures : iterable of str, optional
        Names in `NETWORK_MEASURES`. Default: all but path_length.

    Returns
    -------
    DataFrame
        A row per step, NaN where a measure has no value (`reasons` says why), with the columns
        step and

        - links, density, active_neuron_rate (`topo.active_neuron_rate`)
        - credit_paths: chains from input to output; hub_share: share of them through a hub in every
          middle layer (`credit_paths`); NaN where the layers are no chain
        - degree_alpha: exponent of the power law of all neurons' degrees, NaN where none fits
        - path_length, path_length_error, unreachable: `path_length` of the layered network, from
          all neurons, or from 512 where there are more than 8,192

    Raises
    ------
    ValueError
        For an unknown measure; the message names the nearest.

    Examples
    --------
    >>> import topo, analysis
    >>> net = topo.Network({"fc1": [[1, 1], [0, 1]], "fc2": [[1, 1], [1, 0]]})
    >>> analysis.network_summary(net, ["credit_paths", "path_length"]).T.round(3)
                           0
    step               0.000
    credit_paths       5.000
    hub_share          0.800
    path_length        1.733
    path_length_error  0.000
    unreachable        0.000
    """
    chosen = [m for m in NETWORK_MEASURES if m != "path_length"]
    chosen = chosen if measures is None else names_of(measures)
    functions = [find(NETWORK_MEASURES, name, "measure of a network") for name in chosen]

    def measure(state: tuple[int, topo.Network]) -> dict[str, float]:
        step, network = state
        row: dict[str, float] = {"step": step}
        for columns, function in functions:
            row |= dict(zip(columns, function(network), strict=True))
        return row

    if isinstance(source, topo.Network):
        rows = [measure((0, source))]
    elif isinstance(source, topo.History):
        rows = list(stream_threads(measure, source.networks()))
    else:
        raise ValueError(
            f"network_summary takes a Network or a History, not {type(source).__name__}"
        )
    table = pd.DataFrame(rows).astype(float)
    table = table.astype({name: "int64" for name in ("step", "links") if name in table})
    table.attrs["reasons"] = [
        (row["step"], "network", name, getattr(value, "reason", "not given"))
        for row in rows
        for name, value in row.items()
        if value != value  # NaN
    ]
    return table
