"""The inverse of `sparsify`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from dst.explain import has_hooks
from dst.low_rank import LowRankLinear
from dst.sparse_linear import SparseLinear
from dst.sparse_low_rank import SparseLowRank
from dst.sparsify import replace

__all__ = ["Chain", "Sum", "densify"]

M = TypeVar("M", bound=nn.Module)


_OURS = (SparseLinear, LowRankLinear, SparseLowRank)


class Chain(nn.Sequential):
    """Layers one after the other in the place of one, with a weight as T5 asks for."""

    @property
    def weight(self) -> torch.Tensor:
        """That of the first, whose dtype and device are those of all."""
        first: nn.Linear = self[0]  # type: ignore[assignment]
        return first.weight


class Sum(Chain):
    """The sum of what modules make of one input.

    Examples
    --------
    >>> import torch
    >>> from dst.densify import Sum
    >>> Sum(torch.nn.Identity(), torch.nn.Identity())(torch.ones(2))
    tensor([2., 2.])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply all to x, and add."""
        first, *others = (module(x) for module in self)
        for other in others:
            first = first + other
        return first


def densify(model: M) -> M:
    """Replace every sparse and low-rank layer by plain modules of the same function, in place.

    A `SparseLinear` becomes a `torch.nn.Linear`; so do a `LowRankLinear` and a `SparseLowRank`
    whose low rank is linear. With an activation, the former becomes two of them with it in
    between, and the latter the `Sum` of that and one more.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    torch.nn.Module
        The same model. Weights are zero off the links; biases are the same parameters. An
        optimizer still holds the weights of before: make it anew.

    Raises
    ------
    ValueError
        If the model is itself such a layer, or one has hooks. Nothing is changed then.

    Examples
    --------
    >>> import torch, dst
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    >>> dst.densify(dst.sparsify(model, density=0.5))
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
    )
    >>> int((model[0].weight != 0).sum())
    6
    """
    if isinstance(model, _OURS):
        raise ValueError(
            f"the model is itself one {model._get_name()}: wrap it in torch.nn.Sequential"
        )
    everywhere = list(model.named_modules(remove_duplicate=False))
    ours = {n: m for n, m in everywhere if isinstance(m, _OURS)}
    whole = {n: m for n, m in ours.items() if n.rpartition(".")[0] not in ours}
    for name, layer in ours.items():
        if has_hooks(layer):
            raise ValueError(f"layer {name!r} has forward hooks, which would be lost: remove them")
    plain = {id(layer): _plain(layer) for layer in whole.values()}
    replace(model, {name: plain[id(layer)] for name, layer in whole.items()})
    return model


def _plain(layer: nn.Module) -> nn.Module:
    if isinstance(layer, SparseLowRank):
        if layer.low_rank.activation is None:
            made: nn.Module = _linear(layer.to_dense(), layer.bias, layer.sparse.parameter)
        else:
            sparse = _linear(layer.sparse.to_dense(), layer.bias, layer.sparse.parameter)
            made = Sum(sparse, _plain(layer.low_rank))
    elif isinstance(layer, LowRankLinear):
        if layer.activation is None:
            made = _linear(layer.to_dense(), layer.bias, layer.A)
        else:
            into = _linear(layer.A.detach().clone(), None, layer.A)
            out = _linear(layer.B.detach() * layer.scale, layer.bias, layer.B)
            made = Chain(into, _module(layer.activation), out)
    else:
        assert isinstance(layer, SparseLinear)
        made = _linear(layer.to_dense(), layer.bias, layer.parameter)
    return made.train(layer.training)


def _linear(weight: torch.Tensor, bias: nn.Parameter | None, like: nn.Parameter) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=like.requires_grad)
    linear.bias = bias  # type: ignore[assignment]
    return linear


class _Activation(nn.Module):
    """A function of one's own, as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _module(activation: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    if activation is F.silu:
        return nn.SiLU()
    return activation if isinstance(activation, nn.Module) else _Activation(activation)
