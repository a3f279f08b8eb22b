"""The engine: apply a method to a torch model while it trains."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import topo
from dst.dense_gradient import DenseGradient
from dst.distributed import Ranks, refuse_sharded, released
from dst.ever_linked import EverLinked
from dst.graph import network, sparse_layers
from dst.iterative_warmup import unwrapped
from dst.link_warmup import LinkWarmup
from dst.methods import Method, as_method
from dst.records import Update
from dst.rewire import matching, plan
from dst.scores import DenseScore
from dst.sparse_linear import SparseLinear
from dst.start import bring_to_start, check_updates
from dst.stored_weights import StoredWeights
from dst.topology_update import Adjacencies, TopologyUpdate, digest
from topo.adjacency import link_keys
from topo.changes import difference
from topo.checks import as_integer
from topo.files import is_taken

__all__ = ["Evolver"]

logger = logging.getLogger(__name__)

# What tells apart methods of the same name, where it can be told.
_SETTINGS = (
    "t_start", "t_end", "percolates", "recalls", "historical", "link_warmup", "stop_overlap",
)  # fmt: skip


class Evolver:
    """Evolve the topology of a model's sparse layers: thin, remove, percolate, regrow.

    Call ``optimizer.step(); evolver.step()`` in every iteration, like a learning-rate scheduler,
    and before ``optimizer.zero_grad()``; ``evolver.skip()`` where the optimizer's step was left out
    (overflow in float16). Every `every` calls, from the method's start to its end,
    all layers go through one phase before the next: where the density schedule falls, links that
    the thinning rule does not select go; so do those that the removal rule does not select, and
    those of inactive neurons (percolation); the regrowth rule fills up to the scheduled number.
    New links start at 0 (or at their last weight, if the method says so); a link that is removed
    and regrown in the same update keeps its weight. Optimizer state and gradients move with the
    links, for any state tensor of the parameter's shape, and are 0 on new links.

    Parameters
    ----------
    model : torch.nn.Module
        With sparse layers (`dst.sparsify`); also inside torch's wrappers. Layers that have not
        the links that the method starts with get them now: uniformly random ones, whose weights
        are initialised as the layer's were; the smallest weights go where there are too many.
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
    group : torch.distributed.ProcessGroup, optional
        The processes that train this model together; default: all, where torch.distributed is
        initialised. Each scores some of the layers, and all end with the same topology.
    state : mapping, optional
        The `state_dict` to go on from, where model and optimizer were loaded already.

    Attributes
    ----------
    layers : dict of str to SparseLinear
        The layers that evolve.
    final : dict of str to int
        How many links each ends with.
    couplings : tuple of topo.Coupling
    history : topo.HistoryWriter or None
    steps : int
        Calls of `step` so far.
    last : int
        The step of the last update; 0 if there is none.

    Raises
    ------
    ValueError
        For an unknown method, a model without sparse layers or with sharded ones (FSDP), an
        optimizer that does not hold them, numbers that are not positive integers, a density
        schedule without any update, or a history that exists.

    Notes
    -----
    Memory: in proportion to the links and one block of scores, and at most one bit for each
    possible link (for the ITOP rate). Methods that need the dense gradient (RigL, GraNet) hold one
    float32 matrix per layer in the steps of updates; methods that recall links (GMP) hold 8 bytes
    for each float32 link that was ever there and is not.

    To resume, build model, optimizer and evolver as at first (with
    ``history=topo.HistoryWriter.open(path, step=step)``), then load the states of all three; or
    load model and optimizer, then make the evolver with ``state=`` (with csr layers in a DDP
    wrapper only so: load before wrapping). Of several processes rank 0 alone opens the history.

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
        group: Any = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.method = as_method(method)
        self.every = as_integer("every", every, 1)
        self.total_steps = as_integer("total_steps", total_steps, 1)
        topo.stream(seed)  # refuses what is no integer
        self.seed = int(seed)
        self.model = model
        self.layers: dict[str, SparseLinear] = sparse_layers(model)
        self.couplings = network(model, couplings).couplings
        self.optimizer = unwrapped(optimizer)
        refuse_sharded({n: layer.parameter for n, layer in self.layers.items()})
        held = {id(p) for g in self.optimizer.param_groups for p in g["params"] if p.requires_grad}
        strange = [n for n, layer in self.layers.items() if id(layer.parameter) not in held]
        if strange:
            raise ValueError(
                f"the optimizer does not hold the weights of {', '.join(map(repr, strange))}: "
                "make the optimizer after dst.sparsify, and freeze (requires_grad=False) no sparse "
                "layer: one that is not to evolve stays dense, by `exclude`"
            )
        self._followers = tuple(followers)
        for follower in followers:
            matching(follower, self.layers)
        self.ranks = Ranks.of(group, model=model)
        with self.ranks.together():  # of rank 0 alone: soon there is one
            path = history if self.ranks.rank == 0 else None
            if isinstance(path, (str, os.PathLike)) and is_taken(Path(path)):
                topo.HistoryWriter(path, self._network())  # refuses, before anything changes
        self.steps = 0
        #: The step from which progress counts, and that of the last update.
        begin, end = (
            math.floor(share * self.total_steps + 1e-9)  # 0.29 * 100 is less than 29
            for share in (self.method.t_start, self.method.t_end)
        )
        self._first = self.every * (begin // self.every)
        self.last = self.every * (min(end, self.total_steps - 1) // self.every)
        self.final = {n: layer.final_links for n, layer in self.layers.items()}
        if state is None:
            self._begin()
        self._seen = {
            n: EverLinked(math.prod(a.shape), link_keys(a)) for n, a in self._adjacencies().items()
        }
        self._stored = {
            n: StoredWeights((layer.out_features, layer.in_features), layer.parameter.dtype)
            for n, layer in self.layers.items()
            if self.method.recalls or self.method.historical
        }
        self._warmup = (
            LinkWarmup(self.layers, self.optimizer, self.method.link_warmup)
            if self.method.link_warmup
            else None
        )
        self._frozen: set[str] = set()
        self._gradients: dict[str, DenseGradient] = {}
        self._expected: str | None = None  # digest of the topology that a state was taken with
        self._checked = False
        self.history: topo.HistoryWriter | None = None
        with self.ranks.together():
            if self.ranks.rank == 0 and history is not None:
                if isinstance(history, topo.HistoryWriter):
                    self.history = history
                else:
                    self.history = topo.HistoryWriter(history, self._network())
        if state is not None:
            self.load_state_dict(state)
        self._forget()

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
            If a layer's weights are not finite, a score that a rule needs cannot be had, or the
            topology is not that of the loaded state or the history.
        OSError
            If the history cannot be written. In any case model, optimizer and evolver are as they
            were, and `step` may be called again.
        """
        if not self._checked:
            with self.ranks.together():
                self._check()
            begun = f"{self._identity()} {self.steps} {digest(self._adjacencies())}"
            self.ranks.agree(begun.encode(), "the settings, steps and topology")
            self._checked = True
        update = None
        if self._is_due(self.steps + 1):
            update = self._update(self.steps + 1)
            logger.info("%s", update)
        self.steps += 1
        self._forget()
        return update

    def skip(self) -> None:
        """Do not count an optimizer step that was left out, after an overflow in float16, say."""
        self._forget()

    def close(self) -> None:
        """Let go of model and optimizer, where training ends before its time."""
        for layer in self.layers.values():
            layer.watch = None
        if self._warmup:
            self._warmup.close()

    def snapshot(self) -> None:
        """Record all links with their present weights in the history.

        `topo.History.at` gives them back with ``weights=True``.
        """
        if self.history is None and self.ranks.rank == 0:
            raise ValueError("there is no history to write to: pass history=path")
        if self.history is not None:
            self._check()
            weights = {n: _values(layer).numpy() for n, layer in self.layers.items()}
            self.history.keyframe(self.steps, weights)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the model's and the optimizer's own state."""
        return {
            **self._identity(),
            "steps": self.steps,
            "topology": digest(self._adjacencies()),
            "frozen": sorted(self._frozen),
            "seen": {n: seen.state() for n, seen in self._seen.items()},
            "stored": {n: stored.state_dict() for n, stored in self._stored.items()},
            "warmup": self._warmup.state_dict() if self._warmup else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; load the model's state, too.

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
        self._frozen = set(state["frozen"])
        for name, seen in self._seen.items():
            seen.load(state["seen"][name])
        for name, stored in self._stored.items():
            stored.load_state_dict(state["stored"][name])
        if self._warmup:
            self._warmup.load_state_dict(state["warmup"])
        self._expected = state["topology"]
        self._checked = False
        self._forget()

    # ---- beginning ---------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        return {
            "method": self.method.name,
            "every": self.every,
            "total_steps": self.total_steps,
            "seed": self.seed,
            "final": self.final,
            "settings": repr(
                {name: getattr(self.method, name) for name in _SETTINGS}
                | {"couplings": self.couplings}
            ),
        }

    def _begin(self) -> None:
        """Bring each layer to the number of links that the method starts with."""
        cells = {n: layer.out_features * layer.in_features for n, layer in self.layers.items()}
        counts = {n: self.method.links(k, cells[n], 0.0) for n, k in self.final.items()}
        due = range(self._first + self.every, self.last + 1, self.every)
        when = f"every={self.every} leaves {len(due)} updates in {self.total_steps} steps"
        check_updates(self.method, [self._progress(s) for s in due], counts == self.final, when)
        off = {n: k for n, k in counts.items() if k != self.layers[n].links}
        if off:
            with released(self.model, *self._followers), self.ranks.together():
                bring_to_start(self.model, off, self.seed, self.optimizer, self._followers)

    def _check(self) -> None:
        """See that the model is what the state or the history says."""
        if self._expected not in (None, digest(self._adjacencies())):
            raise ValueError(
                f"the model has not the topology that the state of step {self.steps} was taken "
                "with: build model, optimizer and evolver first, then load the states of all three"
            )
        if self.history is not None and self.history.network != self._network():
            raise ValueError(
                "the history ends with another topology than the model has: go on with it by "
                f"topo.HistoryWriter.open({str(self.history.path)!r}, step={self.steps})"
            )
        self._expected = None

    def _adjacencies(self) -> Adjacencies:
        return {n: layer.adjacency for n, layer in self.layers.items()}

    def _network(self) -> topo.Network:
        return topo.Network(self._adjacencies(), self.couplings)

    # ---- an update ---------------------------------------------------------------------------

    def _is_due(self, step: int) -> bool:
        return step % self.every == 0 and self._first < step <= self.last

    def _progress(self, step: int) -> float:
        return (step - self._first) / (self.last - self._first)

    def _forget(self) -> None:
        """Drop dense gradients, and collect anew if the next step's update needs them."""
        for gradient in self._gradients.values():
            gradient.total = None  # a loss that is still held has the rest
        self._gradients = {}
        if isinstance(self.method.regrowth.score, DenseScore) and self._is_due(self.steps + 1):
            self._gradients = {n: DenseGradient() for n in self.layers if n not in self._frozen}
        for name, layer in self.layers.items():
            layer.watch = self._gradients.get(name)

    def _update(self, step: int) -> Update:
        change = TopologyUpdate(
            self.method,
            self.layers,
            self.couplings,
            self.final,
            self._frozen,
            self._stored,
            self._gradients,
            self.ranks,
            self.seed,
            step,
            self._progress(step),
        )
        before, after = change.before, change.after
        frozen = self._frozen | {
            n for n, overlap in change.overlaps.items() if overlap > self.method.stop_overlap
        }
        seen = {n: ever.joined(change.events[n]["grown"]) for n, ever in self._seen.items()}
        rate = sum(e.count for e in seen.values()) / sum(e.cells for e in seen.values())
        update = change.record(frozen, {n: ever.rate for n, ever in seen.items()}, rate)
        changed = {
            n: after[n] for n, events in change.events.items() if any(map(len, events.values()))
        }
        lengths = any(self.layers[n].layout == "csr" for n in update.resized)
        with released(self.model, *self._followers) if lengths else nullcontext():
            with self.ranks.together():
                moves = plan(self.model, changed, self._followers)
                stored, recalled = self._recall(change)
            self._record(update, change)  # if the disk is full, the model stays as recorded
            for move in moves:
                move(self.optimizer)
        for name, weights in recalled.items():
            for layer in (self.layers[name], *(sparse_layers(f)[name] for f in self._followers)):
                flat = layer.parameter.detach().view(-1)
                # 0 for a link that was there before and kept its weight
                flat[layer.flat_positions(change.events[name]["grown"])] += weights.to(flat)
        if self._warmup:
            for name in changed:
                self._warmup.update(name, difference(after[name], before[name]))
        self._frozen, self._seen, self._stored = frozen, seen, stored
        if self.ranks.size > 1:
            self.ranks.agree(digest(self._adjacencies()).encode(), f"the topology of step {step}")
        return update

    def _recall(self, change: TopologyUpdate) -> tuple[dict[str, StoredWeights], dict[str, Tensor]]:
        """What is stored after an update, and the weights that links come back with."""
        stored, recalled = {}, {}
        for name, old in self._stored.items():
            before, after = change.before[name], change.after[name]
            weights = self.layers[name].link_values().cpu()
            stored[name] = old.updated(before, weights, after)
            rows, cols = np.divmod(change.events[name]["grown"], after.shape[1])
            recalled[name] = old.read(topo.from_links(rows, cols, after.shape))
        return stored, recalled

    def _record(self, update: Update, change: TopologyUpdate) -> None:
        """Write to the history; all ranks fail if that does."""
        with self.ranks.together():
            if self.history is not None:
                self.history.append(
                    update.step,
                    topo.Network(change.after, self.couplings),
                    change.events,
                    change.overlaps,
                    measures=update.measures(),
                )


def _values(layer: SparseLinear) -> Tensor:
    """A copy of the weights of the links, on the CPU, where numpy can read them."""
    values = layer.link_values().cpu()
    return values.float() if values.dtype == torch.bfloat16 else values.clone()
