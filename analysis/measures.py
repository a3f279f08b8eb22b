"""Measures of a network's topology, and of its evolution, as tidy tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

import topo
from topo.names import find

__all__ = ["MEASURES", "LayerState", "active_neurons", "degrees", "elm_overlap", "summary"]


@dataclass(frozen=True)
class LayerState:
    """One layer at one step, as a measure sees it.

    Attributes
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
    percolated : csr_array of bool, shape (n_out, n_in)
        What is left after the whole network is percolated.
    overlap : float
        ELM overlap of the update that made it; NaN where there was none.
    """

    adjacency: sparse.csr_array
    percolated: sparse.csr_array
    overlap: float


def degrees(adjacency: sparse.csr_array, side: str) -> npt.NDArray[np.int64]:
    """Links of each neuron on one side of a layer, inactive ones (degree 0) included.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
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
    if side == "output":
        return np.diff(adjacency.indptr).astype(np.int64)
    if side == "input":
        return np.bincount(adjacency.indices, minlength=adjacency.shape[1])
    raise ValueError(f"side must be 'output' or 'input', not {side!r}")


def _active(state: LayerState) -> float:
    both = [degrees(state.percolated, side) for side in ("output", "input")]
    return float((np.concatenate(both) > 0).mean())


MEASURES: dict[str, Callable[[LayerState], float]] = {
    "links": lambda s: s.adjacency.nnz,
    "density": lambda s: s.adjacency.nnz / (s.adjacency.shape[0] * s.adjacency.shape[1]),
    "active_neuron_rate": _active,
    "elm_overlap": lambda s: s.overlap,
    "in_degree_mean": lambda s: float(degrees(s.adjacency, "output").mean()),
    "in_degree_std": lambda s: float(degrees(s.adjacency, "output").std()),
    "in_degree_max": lambda s: int(degrees(s.adjacency, "output").max()),
    "out_degree_mean": lambda s: float(degrees(s.adjacency, "input").mean()),
    "out_degree_std": lambda s: float(degrees(s.adjacency, "input").std()),
    "out_degree_max": lambda s: int(degrees(s.adjacency, "input").max()),
}
"""Per layer and step: a function of a `LayerState`."""


def summary(
    source: topo.Network | topo.History, measures: Iterable[str] | None = None
) -> pd.DataFrame:
    """Measure every layer of a network, or of every recorded step of a history.

    Parameters
    ----------
    source : topo.Network or topo.History
    measures : iterable of str, optional
        Names in `MEASURES`; all by default.

    Returns
    -------
    DataFrame
        Tidy: one row per step and layer with the columns layer, step and a column per measure.

        - links, density
        - active_neuron_rate: share of the layer's output and input neurons that have a link after
          the whole network is percolated (`active_neurons` has that of the network)
        - elm_overlap: |removed & regrown| / |regrown| of the update; NaN at step 0
        - in_degree_*: of the output neurons; out_degree_*: of the input neurons; inactive
          neurons count with degree 0

    Raises
    ------
    ValueError
        For an unknown measure; the message names the nearest.

    Examples
    --------
    >>> import topo, analysis
    >>> net = topo.Network({"fc": topo.erdos_renyi(40, 20, 0.1, seed=0)})
    >>> analysis.summary(net, measures=["links", "density"])
      layer  step  links  density
    0    fc     0     80      0.1
    """
    chosen = list(MEASURES) if measures is None else list(measures)
    for name in chosen:
        find(MEASURES, name, "measure")
    if isinstance(source, topo.Network):
        return _measure(source, 0, {}, chosen)
    if not isinstance(source, topo.History):
        raise ValueError(f"summary takes a Network or a History, not {type(source).__name__}")
    updates = source.updates()
    overlaps = {
        (step, layer): overlap
        for step, layer, overlap in zip(
            updates["step"], updates["layer"], updates["overlap"], strict=True
        )
    }
    parts = [_measure(network, step, overlaps, chosen) for step, network in source.networks()]
    return pd.concat(parts, ignore_index=True)


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
    table = history.updates()[["step", "layer", "overlap"]]
    return table.rename(columns={"overlap": "elm_overlap"})


def active_neurons(history: topo.History) -> pd.DataFrame:
    """Active neuron rate after percolation (ANP) of the whole network at every step.

    Returns
    -------
    DataFrame
        Columns step, active_neuron_rate (`topo.active_neuron_rate`).
    """
    recorded = history.updates().groupby("step")["active_neuron_rate"].first()
    if recorded.isna().any():
        rows = [(step, topo.active_neuron_rate(network)) for step, network in history.networks()]
    else:  # of every update: only the start is left to count
        start = topo.active_neuron_rate(history.at(0))
        rows = [(0, start), *zip(recorded.index, recorded, strict=True)]
    return pd.DataFrame(rows, columns=["step", "active_neuron_rate"])


def _measure(
    network: topo.Network, step: int, overlaps: dict[tuple[int, str], float], chosen: list[str]
) -> pd.DataFrame:
    percolated = topo.percolate(network)
    rows = []
    for name, adjacency in network.layers.items():
        overlap = overlaps.get((step, name), float("nan"))
        state = LayerState(adjacency, percolated.layers[name], overlap)
        values = {measure: MEASURES[measure](state) for measure in chosen}
        rows.append({"layer": name, "step": step, **values})
    return pd.DataFrame(rows)
