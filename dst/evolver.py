"""The engine: apply a method to a torch model while it trains."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import nn

import topo
from dst.graph import network, sparse_layers
from dst.methods import METHODS, Links, Method
from dst.rewire import matching, plan
from topo.adjacency import link_keys, locate
from topo.checks import as_integer
from topo.names import find

__all__ = ["Evolver", "LayerUpdate", "Update"]

Keys = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LayerUpdate:
    """What an update did to one layer.

    Attributes
    ----------
    links : int
        Links after the update.
    removed, percolated, grown : int
        Links removed by score, removed by percolation, and regrown.
    overlap : float
        ELM overlap ``|removed & regrown| / |regrown|``, percolated links counted as removed;
        NaN where nothing was regrown.
    """

    links: int
    removed: int
    percolated: int
    grown: int
    overlap: float


@dataclass(frozen=True)
class Update:
    """The record of one topology update.

    Attributes
    ----------
    step : int
    layers : dict of str to LayerUpdate
    resized : tuple of str
        Layers whose number of links changed.
    """

    step: int
    layers: dict[str, LayerUpdate]
    resized: tuple[str, ...] = ()


class Evolver:
    """Evolve the topology of a model's sparse layers: remove, percolate, regrow.

    Call ``optimizer.step(); evolver.step()`` in every iteration, like a learning-rate scheduler.
    Every `every` calls, up to the method's end, all layers go through one phase before the next:
    the links that the removal rule does not select go, links of inactive neurons go
    (percolation), and the regrowth rule grows as many as went. New links start at 0; a link
    that is removed and regrown in the same update keeps its weight. Optimizer state and gradients
    move with the links, for any state tensor of the parameter's shape, and are 0 on new links.

    Parameters
    ----------
    model : torch.nn.Module
        With sparse layers (`dst.sparsify`).
    optimizer : torch.optim.Optimizer
        Made after `dst.sparsify`, so that it holds the sparse layers' parameters.
    method : str or Method
        A name in `dst.METHODS`, or a method of your own.
    every : int
        Steps between updates.
    total_steps : int
        Steps of the whole training; updates stop at the method's share of them.
    seed : int
        Every random choice is a function of (seed, step, layer, row, column).
    history : path or topo.HistoryWriter, optional
        Where to record the topology; a folder that does not exist yet.
    followers : sequence of torch.nn.Module
        Copies of the model (such as an EMA) whose topology follows.
    couplings : iterable of topo.Coupling, optional
        As in `dst.network`.

    Raises
    ------
    ValueError
        For an unknown method, a model without sparse layers, an optimizer that does not hold
        them, numbers that are not positive integers, or a history that exists.

    Examples
    --------
    >>> import torch, dst
    >>> nn = torch.nn
    >>> model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 2))
    >>> model = dst.sparsify(model, 0.2, exclude="2")
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> evolver = dst.Evolver(model, optimizer, "set", every=1, total_steps=4)
    >>> model(torch.ones(3, 20)).sum().backward()
    >>> optimizer.step()
    >>> evolver.step().layers["0"].grown
    36
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: str | Method,
        *,
        every: int,
        total_steps: int,
        seed: int = 0,
        history: str | os.PathLike[str] | topo.HistoryWriter | None = None,
        followers: Sequence[nn.Module] = (),
        couplings: Iterable[topo.Coupling] | None = None,
    ) -> None:
        self.method = method if isinstance(method, Method) else find(METHODS, method, "method")
        for name, number in (("every", every), ("total_steps", total_steps)):
            as_integer(name, number, 1)
        self.model = model
        self.layers = sparse_layers(model)
        start = network(model, couplings)
        self.couplings = start.couplings
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        strange = [n for n, layer in self.layers.items() if id(layer.parameter) not in held]
        if strange:
            raise ValueError(
                f"the optimizer does not hold the weights of {', '.join(map(repr, strange))}: "
                "make the optimizer after dst.sparsify, and freeze no layer that is to evolve"
            )
        self.optimizer = optimizer
        self.every = int(every)
        self.total_steps = int(total_steps)
        self.seed = seed
        topo.stream(seed)  # refuses what is no integer
        self.steps = 0
        end = self.method.t_end * self.total_steps
        #: The step of the last update; 0 if there is none.
        self.last = self.every * (min(math.floor(end + 1e-9), self.total_steps - 1) // self.every)
        self._end = end
        self._followers = tuple(followers)
        for follower in followers:
            matching(follower, self.layers)
        self.history = (
            topo.HistoryWriter(history, start)
            if isinstance(history, (str, os.PathLike))
            else history
        )
        if self.history is not None and self.history.network != start:
            raise ValueError("the history ends with another topology than the model has")

    def step(self) -> Update | None:
        """Count one optimizer step, and update the topology when one is due.

        Returns
        -------
        Update or None
            What the update did; None at the steps without one. An update may find nothing to do
            (static, or a churn annealed to 0): it is recorded as such.

        Raises
        ------
        ValueError
            If a layer's weights are not finite.
        OSError
            If the history cannot be written. Either way model and optimizer are as they were
            before the update.
        """
        self.steps += 1
        if self.steps % self.every or self.steps > self.last:
            return None
        return self._update(self.steps)

    def snapshot(self) -> None:
        """Record all links with their present weights in the history.

        `topo.History.at` gives them back with ``weights=True``.
        """
        if self.history is None:
            raise ValueError("there is no history to write to: pass history=path")
        weights = {n: layer.link_values().cpu().numpy() for n, layer in self.layers.items()}
        self.history.keyframe(self.steps, weights)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the model's and the optimizer's own state."""
        return {"steps": self.steps, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises
        ------
        ValueError
            If the state is of an evolver with other settings.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"this evolver has {name} {value!r}, the state {state.get(name)!r}: "
                    "resume with the settings of the run"
                )
        self.steps = int(state["steps"])

    def _identity(self) -> dict[str, Any]:
        return {
            "method": self.method.name,
            "every": self.every,
            "total_steps": self.total_steps,
            "seed": self.seed,
        }

    def _update(self, step: int) -> Update:
        progress = step / self._end
        before = {name: layer.adjacency for name, layer in self.layers.items()}

        remaining = {n: self._remove(n, a, step, progress) for n, a in before.items()}
        left = topo.Network(remaining, self.couplings)
        if self.method.percolates:
            left = topo.percolate(left)
        after = {
            name: self._regrow(name, a, before[name].nnz, step, progress)
            for name, a in left.layers.items()
        }

        events, record = {}, {}
        for name in self.layers:
            old, kept = link_keys(before[name]), link_keys(remaining[name])
            survived, new = link_keys(left.layers[name]), link_keys(after[name])
            phases = {
                "removed": np.setdiff1d(old, kept, assume_unique=True),
                "percolated": np.setdiff1d(kept, survived, assume_unique=True),
                "grown": np.setdiff1d(new, survived, assume_unique=True),
            }
            # regrown links that were there before: in `old`, gone, and back
            back = int((locate(phases["grown"], among=old) >= 0).sum())
            counts = {phase: len(keys) for phase, keys in phases.items()}
            overlap = back / counts["grown"] if counts["grown"] else float("nan")
            record[name] = LayerUpdate(len(new), **counts, overlap=overlap)
            events[name] = phases

        moves = plan(self.model, after, self._followers)
        if self.history is not None:  # first: if the disk is full, the model is as recorded
            overlaps = {name: update.overlap for name, update in record.items()}
            self.history.append(step, left.replace(after), events, overlaps)
        for move in moves:
            move(self.optimizer)
        return Update(step, record)

    def _remove(
        self, name: str, a: sparse.csr_array, step: int, progress: float
    ) -> sparse.csr_array:
        weights = self.layers[name].link_values().cpu().double().numpy()
        if not np.isfinite(weights).all():
            bad = int((~np.isfinite(weights)).sum())
            raise ValueError(
                f"layer {name!r} has {bad} weights that are NaN or infinite at step {step}: "
                "lower the learning rate, or find the first step whose loss is not finite"
            )
        rows, cols = topo.links(a)
        kept = topo.select(
            self.method.removal.score(Links(rows, cols, weights, a.shape)),
            a.nnz - int(self.method.churn(progress) * a.nnz),
            sharpness=self.method.removal.sharpness(progress),
            hashes=topo.hash_links(topo.stream(self.seed, step, name, "remove"), rows, cols),
        )
        return topo.from_links(rows[kept], cols[kept], a.shape)

    def _regrow(
        self, name: str, a: sparse.csr_array, links: int, step: int, progress: float
    ) -> sparse.csr_array:
        rule = self.method.regrowth
        new_rows, new_cols = topo.grow(
            a,
            links - a.nnz,
            rule.score,
            soft=rule.sharpness(progress),
            seed=topo.stream(self.seed, step, name, "grow"),
        )
        rows, cols = topo.links(a)
        return topo.from_links(
            np.concatenate([rows, new_rows]), np.concatenate([cols, new_cols]), a.shape
        )
