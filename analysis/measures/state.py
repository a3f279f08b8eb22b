"""One layer at one step, as a measure sees it; what several measures need is computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from analysis.measures.barber import modularity
from analysis.measures.clusterings import clustering, mean_latapy, robins_alexander
from analysis.measures.correlations import assortativity
from analysis.measures.distances import PathLength, path_length
from analysis.measures.graphs import side_degrees
from analysis.measures.nested import nodf
from analysis.measures.overlaps import Overlaps, overlaps
from analysis.measures.small_worlds import SmallWorldness, small_worldness
from analysis.measures.spectrum import spectral_gap
from analysis.measures.undefined import Undefined
from analysis.power_law import power_law

__all__ = ["MEASURES", "ON_REQUEST", "LayerState"]

_NO_UPDATE = Undefined("no update made this topology")


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
    hub_agreement : float
        Of the layer's input neurons, in the whole network.
    itop_rate, turnover : float
        Of the history up to this step, and of the update; NaN outside a history.
    """

    adjacency: sparse.csr_array
    percolated: sparse.csr_array
    overlap: float = field(default=_NO_UPDATE)
    hub_agreement: float = field(default=Undefined("no other layer is known"))
    itop_rate: float = field(default=Undefined("a network has no past"))
    turnover: float = field(default=_NO_UPDATE)

    @cached_property
    def overlaps(self) -> list[Overlaps]:
        """What neurons share: of the output and of the input side."""
        return [overlaps(self.adjacency, side) for side in ("output", "input")]

    @cached_property
    def paths(self) -> PathLength:
        """Distances within the layer."""
        return path_length(self.adjacency)

    @cached_property
    def small_world(self) -> SmallWorldness:
        """Compared with random graphs and a lattice."""
        return small_worldness(self.adjacency)


def _active(state: LayerState) -> float:
    both = [side_degrees(state.percolated, side) for side in ("output", "input")]
    return float((np.concatenate(both) > 0).mean())


def _alpha(side: str) -> Callable[[LayerState], float]:
    def exponent(state: LayerState) -> float:
        fit = power_law(side_degrees(state.adjacency, side))
        return fit.alpha if fit.fits else Undefined("; ".join(fit.reasons))

    return exponent


def _of_degrees(side: str, statistic: Callable[[Any], Any]) -> Callable[[LayerState], float]:
    return lambda state: statistic(side_degrees(state.adjacency, side)).item()


MEASURES: dict[str, Callable[[LayerState], float]] = {
    "links": lambda s: s.adjacency.nnz,
    "density": lambda s: s.adjacency.nnz / (s.adjacency.shape[0] * s.adjacency.shape[1]),
    "active_neuron_rate": _active,
    "elm_overlap": lambda s: s.overlap,
    "turnover": lambda s: s.turnover,
    "itop_rate": lambda s: s.itop_rate,
    "in_degree_mean": _of_degrees("output", np.mean),
    "in_degree_std": _of_degrees("output", np.std),
    "in_degree_max": _of_degrees("output", np.max),
    "in_degree_alpha": _alpha("output"),
    "out_degree_mean": _of_degrees("input", np.mean),
    "out_degree_std": _of_degrees("input", np.std),
    "out_degree_max": _of_degrees("input", np.max),
    "out_degree_alpha": _alpha("input"),
    "clustering": lambda s: mean_latapy(s.overlaps),
    "robins_alexander": lambda s: robins_alexander(s.adjacency, s.overlaps[0]),
    "opsahl": lambda s: clustering(s.adjacency, "opsahl", "both"),
    "assortativity": lambda s: assortativity(s.adjacency),
    "hub_agreement": lambda s: s.hub_agreement,
    "spectral_gap": lambda s: spectral_gap(s.adjacency),
    "nestedness": lambda s: nodf(s.overlaps),
    "path_length": lambda s: s.paths.mean,
    "unreachable": lambda s: s.paths.unreachable,
    "sigma": lambda s: s.small_world.sigma,
    "omega": lambda s: s.small_world.omega,
    "modularity": lambda s: modularity(s.adjacency).modularity,
}
"""Per layer and step: functions of a `LayerState`. Where there is no value: `Undefined`."""

ON_REQUEST = frozenset({"path_length", "unreachable", "sigma", "omega", "modularity"})
"""Measures that `summary` takes only by name: seconds for a large layer."""
