"""A warm-up for each new link: its weight changes little at first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dst.sparse_linear import SparseLinear
from topo.adjacency import link_keys, locate

__all__ = ["LinkWarmup"]

Keys = npt.NDArray[np.int64]


class LinkWarmup:
    """Scale each optimizer step of a link by ``min(1, age / steps)``, age 1 being its first.

    What an optimizer does to a weight is scaled, not its gradient, so that it holds for any of
    them (Adam undoes the scale of a gradient).

    Parameters
    ----------
    layers : mapping of str to SparseLinear
    optimizer : torch.optim.Optimizer
    steps : int
    """

    def __init__(
        self, layers: Mapping[str, SparseLinear], optimizer: torch.optim.Optimizer, steps: int
    ) -> None:
        self.layers = layers
        self.steps = steps
        none = np.empty(0, dtype=np.int64)
        self._young: dict[str, tuple[Keys, Keys]] = dict.fromkeys(layers, (none, none))  # and ages
        self._at: dict[str, Tensor] = {}
        self._loaded = False
        self._before: dict[str, Tensor] = {}
        self._hooks = (
            optimizer.register_step_pre_hook(lambda *_: self._read()),
            optimizer.register_step_post_hook(lambda *_: self._scale()),
        )

    def close(self) -> None:
        """Let go of the optimizer."""
        for hook in self._hooks:
            hook.remove()

    def update(self, name: str, new: Keys) -> None:
        """Take note that links are new in a layer, and others are gone."""
        keys, ages = self._young[name]
        there = locate(keys, among=link_keys(self.layers[name].adjacency)) >= 0
        self._set(
            name,
            np.concatenate([keys[there], new]),
            np.concatenate([ages[there], np.zeros_like(new)]),
        )

    def _set(self, name: str, keys: Keys, ages: Keys) -> None:
        self._young[name] = keys, ages
        self._at.pop(name, None)
        if len(keys):
            self._at[name] = self.layers[name].flat_positions(keys)

    @torch.no_grad()
    def _read(self) -> None:
        if self._loaded:  # and by now the layers' topology is, too
            for name, (keys, ages) in self._young.items():
                self._set(name, keys, ages)
            self._loaded = False
        self._before = {n: self.layers[n].parameter.view(-1)[at] for n, at in self._at.items()}

    @torch.no_grad()
    def _scale(self) -> None:
        for name, before in self._before.items():
            keys, ages = self._young[name]
            ages = ages + 1
            weights = self.layers[name].parameter.view(-1)
            at = self._at[name]
            shares = torch.from_numpy(np.minimum(1.0, ages / self.steps)).to(before)
            weights[at] = torch.lerp(before, weights[at], shares)
            still = ages < self.steps
            self._young[name] = keys, ages
            if not still.all():
                self._set(name, keys[still], ages[still])
        self._before = {}

    def state_dict(self) -> dict[str, Any]:
        """Links and their ages."""
        return {
            n: (torch.from_numpy(keys.copy()), torch.from_numpy(ages.copy()))
            for n, (keys, ages) in self._young.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; the layers' topology may be loaded later."""
        for name, (keys, ages) in state.items():
            self._young[name] = keys.cpu().numpy().copy(), ages.cpu().numpy().copy()
        self._loaded = True
