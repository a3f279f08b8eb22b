"""What the callbacks of trainers share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

import topo
from dst.evolver import Evolver
from dst.methods import Method
from dst.records import Update

__all__ = ["EvolverSettings", "log_entry"]


class EvolverSettings:
    """The arguments of an `Evolver` that is made when training begins.

    Attributes
    ----------
    evolver : Evolver or None
        None before training.
    """

    _hook: Any = None  # on the optimizer, while training

    def __init__(
        self,
        method: str | Method,
        *,
        every: int,
        total_steps: int | None = None,
        seed: int = 0,
        history: str | os.PathLike[str] | None = None,
        followers: Sequence[nn.Module] = (),
        couplings: Iterable[topo.Coupling] | None = None,
    ) -> None:
        self.evolver: Evolver | None = None
        self._total_steps = total_steps
        self._history = history
        self._options: dict[str, Any] = {
            "method": method,
            "every": every,
            "seed": seed,
            "followers": tuple(followers),
            "couplings": couplings,
        }

    def _begin(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        total_steps: int,
        saved: Mapping[str, Any] | None,
        records: bool,
    ) -> Evolver:
        """Make the evolver; `saved` is its state where model and optimizer were loaded already.

        Of several processes only the one where `records` writes the history.
        """
        history: Any = self._history if records else None
        if saved is not None and history is not None:
            history = topo.HistoryWriter.open(history, saved["steps"])
        evolver = Evolver(
            model,
            optimizer,
            total_steps=self._total_steps or total_steps,
            history=history,
            state=saved,
            **self._options,
        )
        self.evolver = evolver
        return evolver

    def _release(self) -> None:
        """Leave model and optimizer as they were."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self.evolver is not None:
            self.evolver.close()


def log_entry(update: Update) -> dict[str, float]:
    """The numbers of an update, over all layers; the ELM overlap only if anything was regrown.

    Examples
    --------
    >>> import dst
    >>> from dst.callbacks import log_entry
    >>> counts = {"links": 9, "thinned": 0, "removed": 3, "percolated": 0}
    >>> layers = {
    ...     "up": dst.LayerUpdate(**counts, grown=3, overlap=1 / 3),
    ...     "down": dst.LayerUpdate(**counts, grown=1, overlap=1.0),
    ... }
    >>> entry = log_entry(dst.Update(5, layers))
    >>> entry["topology/grown"], entry["topology/elm_overlap"]
    (4.0, 0.5)
    """
    layers = update.layers.values()
    entry = {
        what: float(sum(getattr(layer, what) for layer in layers))
        for what in ("links", "thinned", "removed", "percolated", "grown")
    }
    regrown = [layer for layer in layers if not math.isnan(layer.overlap)]
    if regrown:
        back = sum(layer.overlap * layer.grown for layer in regrown)
        entry["elm_overlap"] = back / sum(layer.grown for layer in regrown)
    entry["active_neuron_rate"] = update.active_neuron_rate
    return {f"topology/{what}": number for what, number in entry.items()}
