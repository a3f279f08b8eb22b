"""Measures of a history's updates that it recorded."""

from __future__ import annotations

import numpy as np
import pandas as pd

import topo
from topo.checks import check_type

__all__ = ["active_neurons", "elm_overlap", "itop_rate"]


def elm_overlap(history: topo.History) -> pd.DataFrame:
    r"""ELM overlap of every update and layer.

    The epitopological local minima overlap :math:`O_t = |R_t \cap G_t| / |G_t|` is the share of
    the regrown links G_t that the same update had removed R_t, by score or by percolation. With
    top-k rules it rises as the topology settles.

    Parameters
    ----------
    history : topo.History

    Returns
    -------
    DataFrame
        Columns step, layer, elm_overlap; NaN where nothing was regrown.

    References
    ----------
    Zhang et al., ICLR 2024 (CHT): the criterion of its early stop.
    """
    check_type("history", history, topo.History)
    table = history.updates()[["step", "layer", "overlap"]]
    return table.rename(columns={"overlap": "elm_overlap"})


def active_neurons(history: topo.History) -> pd.DataFrame:
    """Active neuron rate after percolation (ANP) of the whole network at every step.

    Returns
    -------
    DataFrame
        Columns step, active_neuron_rate (`topo.active_neuron_rate`).
    """
    check_type("history", history, topo.History)
    recorded = history.updates().groupby("step")["active_neuron_rate"].first()
    if recorded.isna().any():
        rows = [(step, topo.active_neuron_rate(network)) for step, network in history.networks()]
    else:  # of every update: only the start is left to count
        start = topo.active_neuron_rate(history.at(0))
        rows = [(0, start), *zip(recorded.index, recorded, strict=True)]
    return pd.DataFrame(rows, columns=["step", "active_neuron_rate"])


def itop_rate(history: topo.History) -> pd.DataFrame:
    r"""Share of each layer's possible links that have ever existed, at every step.

    .. math:: R_t = |E_0 \cup \dots \cup E_t| / (n_{out} n_{in})

    Returns
    -------
    DataFrame
        Columns step (0 first), layer, itop_rate: as recorded; counted where it was not.

    References
    ----------
    Liu et al., Do we actually need dense over-parameterization? In-time over-parameterization in
    sparse training, ICML 2021.

    Examples
    --------
    >>> import tempfile, topo, analysis
    >>> folder = tempfile.mkdtemp()
    >>> writer = topo.HistoryWriter(folder, topo.Network({"fc": [[1, 0, 0]]}))
    >>> after = topo.Network({"fc": [[0, 1, 0]]})
    >>> writer.append(5, after, {"fc": {"removed": [0], "grown": [1]}})
    >>> analysis.itop_rate(topo.History.open(folder)).round(3)
       step layer  itop_rate
    0     0    fc      0.333
    1     5    fc      0.667
    """
    check_type("history", history, topo.History)
    updates = history.updates()
    rows = []
    if updates["itop_rate"].notna().all():  # of every update: only the start is left to count
        start = history.at(0).layers.items()
        rows = [(0, name, a.nnz / (a.shape[0] * a.shape[1])) for name, a in start]
        rows += zip(updates["step"], updates["layer"], updates["itop_rate"], strict=True)
    else:
        ever = {name: np.zeros(shape, bool) for name, shape in history.shapes.items()}
        for step, network in history.networks():
            for name, adjacency in network.layers.items():
                ever[name][topo.links(adjacency)] = True
                rows.append((step, name, float(ever[name].mean())))
    return pd.DataFrame(rows, columns=["step", "layer", "itop_rate"])
