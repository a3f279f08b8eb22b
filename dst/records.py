"""What a topology update did."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = ["PHASES", "LayerUpdate", "Update"]

PHASES = ("thin", "remove", "percolate", "regrow")


@dataclass(frozen=True)
class LayerUpdate:
    """What an update did to one layer.

    Attributes
    ----------
    links : int
        Links after the update.
    thinned, removed, percolated, grown : int
        Links that the density schedule took, that were removed by score, and by percolation, and
        links that grew.
    overlap : float
        ELM overlap ``|removed & regrown| / |regrown|``, percolated links counted as removed;
        NaN where nothing was regrown.
    frozen : bool
        Whether the overlap has stopped the layer's evolution.
    itop_rate : float
        The share of the layer's possible links that have ever existed.
    seconds : dict of str to float
        Per phase ("thin", "remove", "percolate", "regrow"), spent by this process; NaN where
        another one does the layer's work.
    """

    links: int
    thinned: int
    removed: int
    percolated: int
    grown: int
    overlap: float
    frozen: bool = False
    itop_rate: float = float("nan")
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(PHASES, float("nan")), compare=False
    )


@dataclass(frozen=True)
class Update:
    """The record of one topology update.

    Attributes
    ----------
    step : int
    layers : dict of str to LayerUpdate
    resized : tuple of str
        Layers whose number of links changed.
    active_neuron_rate : float
        ANP after the update (`topo.active_neuron_rate`).
    itop_rate : float
        The share of all possible links that have ever existed.
    """

    step: int
    layers: dict[str, LayerUpdate]
    resized: tuple[str, ...] = ()
    active_neuron_rate: float = float("nan")
    itop_rate: float = float("nan")

    def measures(self) -> dict[str, dict[str, float]]:
        """What the history keeps of each layer, beside counts and overlap."""
        return {
            name: {
                "active_neuron_rate": self.active_neuron_rate,
                "itop_rate": layer.itop_rate,
                "frozen": layer.frozen,
                **{f"{phase}_seconds": spent for phase, spent in layer.seconds.items()},
            }
            for name, layer in self.layers.items()
        }

    @property
    def seconds(self) -> dict[str, float]:
        """Per phase, of all layers that this process did."""
        spent = [layer.seconds for layer in self.layers.values()]
        return {p: sum(s[p] for s in spent if not math.isnan(s[p])) for p in PHASES}

    def __str__(self) -> str:
        layers = self.layers.values()
        counts = {
            what: sum(getattr(layer, what) for layer in layers)
            for what in ("links", "thinned", "removed", "percolated", "grown")
        }
        seconds = ", ".join(f"{phase} {spent:.3f} s" for phase, spent in self.seconds.items())
        frozen = sum(layer.frozen for layer in layers)
        return (
            f"step {self.step}: {', '.join(f'{n} {what}' for what, n in counts.items())}; "
            f"{self.active_neuron_rate:.1%} of the neurons active, "
            f"{self.itop_rate:.1%} of the links seen, {frozen} of {len(self.layers)} layers frozen "
            f"({seconds})"
        )
