"""One topology update of all layers, from the links before it to those after it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

import topo
from dst.dense_gradient import DenseGradient
from dst.distributed import Ranks
from dst.growth import grow
from dst.methods import Method, Rule
from dst.records import PHASES, LayerUpdate, Update
from dst.scores import DenseScore, Links, LinkScore, exact
from dst.selection import select
from dst.sparse_linear import SparseLinear
from dst.stored_weights import StoredWeights, gather
from topo.adjacency import positions
from topo.changes import common, difference, subset, union

__all__ = ["Adjacencies", "Keys", "TopologyUpdate", "digest"]

Adjacencies = dict[str, sparse.csr_array]
Keys = npt.NDArray[np.int64]


@dataclass
class TopologyUpdate:
    """The links before and after an update; nothing of the model changes here.

    All layers go through one phase before the next. Each rank computes a phase for its own layers
    and gets the others' results, so that all have the same.

    Parameters
    ----------
    method : Method
    layers : mapping of str to SparseLinear
    couplings : tuple of topo.Coupling
    final : mapping of str to int
        How many links each layer ends with.
    frozen : set of str
        Layers whose evolution has stopped.
    stored : mapping of str to StoredWeights
        Of the layers, if the method recalls links.
    gradients : mapping of str to DenseGradient
        Of the layers that evolve, if the method needs them.
    ranks : Ranks
    seed, step : int
    progress : float

    Attributes
    ----------
    before, after : dict of str to csr_array
    events : dict of str to dict of str to array of int64
        By layer: the links that were thinned, removed, percolated and grown, as
        ``row * n_in + column``.
    overlaps : dict of str to float
        ELM overlap by layer.
    seconds : dict of str to dict of str to float
        By layer and phase; NaN where another rank did it.
    """

    method: Method
    layers: Mapping[str, SparseLinear]
    couplings: tuple[topo.Coupling, ...]
    final: Mapping[str, int]
    frozen: set[str]
    stored: Mapping[str, StoredWeights]
    gradients: Mapping[str, DenseGradient]
    ranks: Ranks
    seed: int
    step: int
    progress: float
    before: Adjacencies = field(init=False)
    after: Adjacencies = field(init=False)
    events: dict[str, dict[str, Keys]] = field(init=False)
    overlaps: dict[str, float] = field(init=False)
    seconds: dict[str, dict[str, float]] = field(init=False)

    def __post_init__(self) -> None:
        self.before = {n: layer.adjacency for n, layer in self.layers.items()}
        cells = {n: math.prod(a.shape) for n, a in self.before.items()}
        self._wanted = {
            n: self.method.links(k, cells[n], self.progress) for n, k in self.final.items()
        }
        self._owners = self.ranks.owners(cells)
        self.seconds = {
            n: dict.fromkeys(PHASES, 0.0 if owner == self.ranks.rank else math.nan)
            for n, owner in self._owners.items()
        }
        self._run()

    def _run(self) -> None:
        evolving = [n for n in self.layers if n not in self.frozen]
        pool = self.before
        if self.method.recalls:
            pool = {n: self.stored[n].joined(a) for n, a in pool.items()}
        lost = self._phase("thin", pool, lambda n: self._thin(n, pool[n]))
        thinned = {n: _without(a, lost[n]) for n, a in pool.items()}
        lost = self._phase("remove", evolving, lambda n: self._remove(n, thinned[n]))
        remaining = thinned | {n: _without(thinned[n], gone) for n, gone in lost.items()}
        left = self._percolate(remaining)
        self._average_gradients()
        grown = self._phase("regrow", evolving, lambda n: self._regrow(n, left[n]))
        self.after = left | {
            n: union(left[n], *np.divmod(keys, left[n].shape[1])) for n, keys in grown.items()
        }
        self.overlaps = {
            n: (common(thinned[n], a) - left[n].nnz) / (a.nnz - left[n].nnz)
            if a.nnz > left[n].nnz
            else math.nan
            for n, a in self.after.items()
        }
        if self.method.recalls:  # of links that were not there before, those that stay grew
            thinned, remaining, left = map(self._of_old, (thinned, remaining, left))
        self.events = {
            n: {
                "thinned": difference(a, thinned[n]),
                "removed": difference(thinned[n], remaining[n]),
                "percolated": difference(remaining[n], left[n]),
                "grown": difference(self.after[n], left[n]),
            }
            for n, a in self.before.items()
        }

    def record(self, frozen: set[str], itop_rates: Mapping[str, float], itop_rate: float) -> Update:
        """What the update did."""
        layers = {
            n: LayerUpdate(
                links=self.after[n].nnz,
                **{what: len(keys) for what, keys in events.items()},
                overlap=self.overlaps[n],
                frozen=n in frozen,
                itop_rate=itop_rates[n],
                seconds=self.seconds[n],
            )
            for n, events in self.events.items()
        }
        resized = tuple(n for n, a in self.before.items() if a.nnz != self.after[n].nnz)
        active = topo.active_neuron_rate(topo.Network(self.after, self.couplings))
        return Update(self.step, layers, resized, active, itop_rate)

    def _phase(
        self, which: str, names: Iterable[str], work: Callable[[str], Keys]
    ) -> dict[str, Keys]:
        """Do one's own layers, and get the others from the ranks that do them."""
        names = list(names)
        found: dict[str, Keys] = {}
        with self.ranks.together():
            for name in names:
                if self._owners[name] == self.ranks.rank:
                    started = time.perf_counter()
                    try:
                        found[name] = work(name)
                    except ValueError as error:
                        raise ValueError(f"layer {name!r} at step {self.step}: {error}") from None
                    self.seconds[name][which] += time.perf_counter() - started
        return self.ranks.exchange(found, names, self._owners)

    def _thin(self, name: str, pool: sparse.csr_array) -> Keys:
        """Which links of the pool the density schedule takes, by their positions."""
        bad = int((~self.layers[name].link_values().isfinite()).sum())
        if bad:
            raise ValueError(
                f"{bad} weights are NaN or infinite: lower the learning rate, or find the first "
                "step whose loss is not finite"
            )
        return self._rejected(name, "thin", self.method.thinning, pool, self._wanted[name])

    def _remove(self, name: str, thinned: sparse.csr_array) -> Keys:
        """Which links the removal rule takes, by their positions among those that are left."""
        count = self.method.churn(thinned.nnz, self.final[name], self.progress)
        if not 0 <= count <= thinned.nnz:
            raise ValueError(
                f"the churn of {self.method.name!r} is {count} of {thinned.nnz} links: it must be "
                "from 0 to all of them"
            )
        return self._rejected(name, "remove", self.method.removal, thinned, thinned.nnz - count)

    def _rejected(
        self, name: str, phase: str, rule: Rule[LinkScore], links: sparse.csr_array, count: int
    ) -> Keys:
        """The positions of all links but those that a rule selects."""
        if count >= links.nnz:
            return np.empty(0, dtype=np.int64)
        kept = select(
            rule.score(self._links(name, links)),
            count,
            sharpness=rule.sharpness(self.progress),
            key=topo.stream(self.seed, self.step, name, phase),
            adjacency=links,
        )
        return np.flatnonzero(~kept)

    def _percolate(self, remaining: Adjacencies) -> Adjacencies:
        if not self.method.percolates:
            return remaining
        started = time.perf_counter()
        left = topo.percolate(topo.Network(remaining, self.couplings), fixed=self.frozen).layers
        for of_layer in self.seconds.values():
            of_layer["percolate"] = (time.perf_counter() - started) / len(left)
        return left

    def _average_gradients(self) -> None:
        if not self.gradients:
            return
        with self.ranks.together():
            if all(g.total is None for g in self.gradients.values()):
                raise ValueError(
                    f"no backward pass was seen before the update of step {self.step}, whose "
                    "regrowth needs the dense gradient: call evolver.step() once after each "
                    "optimizer step"
                )
        for name, gradient in self.gradients.items():
            if gradient.total is None:  # this pass did not reach it
                weight = self.layers[name].parameter
                dtype = torch.promote_types(weight.dtype, torch.float32)  # as the others'
                gradient.total = weight.new_zeros(self.before[name].shape, dtype=dtype)
            self.ranks.mean_on_owner(gradient.total, self._owners[name])

    def _regrow(self, name: str, left: sparse.csr_array) -> Keys:
        """Links to grow, as keys."""
        rule = self.method.regrowth
        score: topo.Predictor | Tensor
        if isinstance(rule.score, DenseScore):
            gradient = self.gradients[name].total
            assert gradient is not None  # see _average_gradients
            score = rule.score.score(gradient)
        else:
            score = rule.score
        rows, cols = grow(
            left,
            self._wanted[name] - left.nnz,
            score,
            sharpness=rule.sharpness(self.progress),
            seed=topo.stream(self.seed, self.step, name, "grow"),
            device=self.layers[name].parameter.device,
        )
        return rows.astype(np.int64) * left.shape[1] + cols

    def _links(self, name: str, chosen: sparse.csr_array) -> Links:
        """Some of the layer's links, and maybe stored ones, with their weights."""
        layer, before = self.layers[name], self.before[name]

        def chosen_of(values: Tensor) -> Tensor:
            if chosen is before:
                return values
            return gather(values, positions(chosen, among=before))

        def read_gradients() -> Tensor:
            gradients = layer.link_gradients()
            if gradients is None:
                raise ValueError(
                    "its score needs the gradients of the weights, and there are none: call "
                    "evolver.step() after optimizer.step() and before optimizer.zero_grad()"
                )
            return chosen_of(exact(gradients))

        weights = chosen_of(exact(layer.link_values()))
        if self.method.recalls:
            weights = weights + self.stored[name].read(chosen).to(weights)
        return Links(chosen, weights, read_gradients)

    def _of_old(self, stage: Adjacencies) -> Adjacencies:
        """The links of a stage that were there before."""
        return {n: subset(a, positions(a, among=self.before[n]) >= 0) for n, a in stage.items()}


def _without(a: sparse.csr_array, lost: Keys) -> sparse.csr_array:
    if not len(lost):
        return a
    kept = np.ones(a.nnz, dtype=bool)
    kept[lost] = False
    return subset(a, kept)


def digest(layers: Mapping[str, sparse.csr_array]) -> str:
    """A hash of the links of all layers."""
    found = hashlib.blake2b(digest_size=16)
    for name, a in layers.items():
        found.update(repr((name, a.shape)).encode())
        found.update(a.indptr)
        found.update(a.indices)
    return found.hexdigest()
