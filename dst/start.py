"""Bring layers to the number of links that a method starts with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import nn

import topo
from dst.graph import sparse_layers
from dst.initialization import SEED_NAME, normal, swi
from dst.methods import Method
from dst.rewire import plan
from dst.scores import exact
from dst.selection import select
from dst.sparse_linear import SparseLinear
from topo.adjacency import link_keys, positions
from topo.changes import subset, union

__all__ = ["bring_to_start", "check_updates"]


def bring_to_start(
    model: nn.Module,
    counts: Mapping[str, int],
    seed: int,
    optimizer: torch.optim.Optimizer | None = None,
    followers: Sequence[nn.Module] = (),
) -> None:
    """Give layers other numbers of links, before a training begins.

    Where links are missing, uniformly random ones grow, whose weights are drawn as the layer's
    were: by SWI, or else with the mean square of those that it has. Where there are too many, the
    smallest weights go.

    Parameters
    ----------
    model : torch.nn.Module
    counts : mapping of str to int
        How many links each named layer is to have.
    seed : int
    optimizer : torch.optim.Optimizer, optional
        Whose state moves with the links.
    followers : sequence of torch.nn.Module
        Copies of the model.

    Examples
    --------
    >>> import dst, torch
    >>> from dst.start import bring_to_start
    >>> model = torch.nn.Sequential(dst.SparseLinear(20, 10, density=0.1, layout="csr"))
    >>> bring_to_start(model, {"0": 100}, seed=0)
    >>> model[0]
    SparseLinear(in_features=20, out_features=10, links=100, density=0.5, layout=csr, bias=True)
    """
    layers = sparse_layers(model)
    twins = [sparse_layers(follower) for follower in followers]
    new = {n: _with(layers[n], n, k, seed) for n, k in counts.items()}
    for name, move in zip(new, plan(model, new, followers), strict=True):
        layer, old = layers[name], layers[name].adjacency
        values = _initial(layer, new[name], topo.stream(seed, "start", SEED_NAME, name))
        move(optimizer)
        added = positions(new[name], among=old) < 0
        keys = link_keys(new[name])[added]
        for copy in (layer, *(twin[name] for twin in twins)):
            flat = copy.parameter.detach().view(-1)
            flat[copy.flat_positions(keys)] = torch.from_numpy(values[added]).to(flat)


def check_updates(method: Method, progress: Sequence[float], constant: bool, when: str) -> None:
    """Refuse updates that do not reach the final density; warn if nothing would evolve.

    Parameters
    ----------
    method : Method
    progress : sequence of float
        Of each update.
    constant : bool
        Whether the method starts with the final density.
    when : str
        For the message.
    """
    if not progress and not constant:
        raise ValueError(
            f"{method.name!r} changes the density, but {when}, so it would stay as it starts: "
            "lower `every`"
        )
    churn = [method.churn(10**6, 10**6, p) for p in (0.0, *progress)]
    if constant and churn[0] and not any(churn[1:]):
        warnings.warn(
            f"the topology will not evolve: {when}, and {method.name!r} replaces nothing at the "
            "last one; lower `every`",
            stacklevel=4,
        )


def _with(layer: SparseLinear, name: str, count: int, seed: int) -> sparse.csr_array:
    a = layer.adjacency
    if count < a.nnz:
        scores = exact(layer.link_values()).abs()
        key = topo.stream(seed, "start", "thin", name)
        return subset(a, select(scores, count, sharpness=math.inf, key=key, adjacency=a))
    key = topo.stream(seed, "start", "grow", name)
    return union(a, *topo.sample_absent(a, count - a.nnz, key))


def _initial(layer: SparseLinear, adjacency: sparse.csr_array, key: int) -> npt.NDArray[np.float64]:
    if layer.init == "swi":
        return swi(adjacency, key)
    squares = exact(layer.link_values()).square()
    return normal(adjacency, key, math.sqrt(float(squares.mean())))
