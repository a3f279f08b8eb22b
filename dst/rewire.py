"""Give layers a new topology while they train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from scipy import sparse
from torch import nn

import topo
from dst.graph import sparse_layers
from dst.sparse_linear import Carry, SparseLinear
from topo.adjacency import equal
from topo.names import find

__all__ = ["matching", "plan", "rewire"]


def rewire(
    model: nn.Module,
    layers: Mapping[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
    followers: Sequence[nn.Module] = (),
) -> None:
    """Give sparse layers a new topology, with as many links as it likes.

    Weights and gradients of surviving links stay, those of new links are 0; so does, and is,
    every state tensor of the optimizer that has the shape of the parameter. Parameters stay the
    same objects, whatever holds them (an optimizer, a scheduler, a group without weight decay).
    The numbers of links are final ones to an `Evolver` that is made later.

    Parameters
    ----------
    model : torch.nn.Module
    layers : mapping of str to matrix
        The new adjacency of each named layer, of shape (out_features, in_features).
    optimizer : torch.optim.Optimizer, optional
        Whose state moves with the links. LBFGS keeps flat vectors over all parameters and
        cannot follow a changed number of links.
    followers : sequence of torch.nn.Module
        Copies of the model, such as an `torch.optim.swa_utils.AveragedModel`, that get the same
        topology. A copy that is left out goes on averaging by position: weights of different
        links, unnoticed where their number is the same.

    Raises
    ------
    ValueError
        For an unknown layer, a follower that is no copy, a matrix that is no topology of its
        layer, or another number of links while something holds the parameter (a DDP wrapper, a
        weak reference). Nothing is changed then.

    Examples
    --------
    >>> import torch, dst
    >>> layer = dst.SparseLinear(3, 2, topology=[[1, 1, 0], [0, 0, 1]], layout="csr")
    >>> model = torch.nn.Sequential(layer)
    >>> values = model[0].values
    >>> dst.rewire(model, {"0": [[0, 1, 1], [1, 0, 1]]})
    >>> model[0].values is values, model[0].links, int((values == 0).sum())
    (True, 4, 2)
    """
    for move in plan(model, layers, followers):
        move(optimizer)
    for name in layers:
        layer = sparse_layers(model)[name]
        layer.final_links = layer.links


def plan(
    model: nn.Module, layers: Mapping[str, Any], followers: Sequence[nn.Module] = ()
) -> Sequence[Callable[[torch.optim.Optimizer | None], None]]:
    """Check all of what `rewire` is to do, and return what does it, layer by layer."""
    known = sparse_layers(model)
    twins = [matching(follower, known) for follower in followers]
    moves = []
    for name, matrix in layers.items():
        layer = find(known, name, "sparse layer")
        copies = [twin[name] for twin in twins]
        adjacency = topo.as_adjacency(matrix)
        try:
            for copy in (layer, *copies):
                copy.check_rewire(adjacency)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
        moves.append(partial(_move, layer, copies, adjacency))
    return moves


def _move(
    layer: SparseLinear,
    copies: Sequence[SparseLinear],
    adjacency: sparse.csr_array,
    optimizer: torch.optim.Optimizer | None,
) -> None:
    shape = layer.parameter.shape
    carry = layer.rewire(adjacency)
    if optimizer is not None:
        state = optimizer.state.get(layer.parameter, {})
        for key, value in state.items():
            state[key] = _carried(value, shape, carry)
    for copy in copies:
        copy.rewire(adjacency)


def _carried(value: Any, shape: torch.Size, carry: Carry) -> Any:
    """A value of an optimizer's state after the move; in place where it keeps its shape."""
    if isinstance(value, torch.Tensor) and value.shape == shape:
        moved = carry(value)
        return value.copy_(moved) if moved.shape == shape else moved
    if isinstance(value, dict):
        return {k: _carried(v, shape, carry) for k, v in value.items()}
    if isinstance(value, list):
        return [_carried(v, shape, carry) for v in value]
    return value


def matching(follower: nn.Module, layers: Mapping[str, Any]) -> dict[str, Any]:
    """The follower's copies of the layers.

    Raises
    ------
    ValueError
        If it has not the same layers with the same links.
    """
    own = sparse_layers(follower)
    if list(own) != list(layers) or not all(
        equal(twin.adjacency, layers[name].adjacency) for name, twin in own.items()
    ):
        raise ValueError(
            "a follower must be a copy of the model, with sparse layers of the same names and "
            f"links; this one has {', '.join(own) or 'none'}"
        )
    return own
