"""The inverse of `sparsify`."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from dst.explain import has_hooks
from dst.sparse_linear import SparseLinear
from dst.sparsify import replace

__all__ = ["densify"]

M = TypeVar("M", bound=nn.Module)


def densify(model: M) -> M:
    """Replace every `SparseLinear` by the `torch.nn.Linear` of the same function, in place.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    torch.nn.Module
        The same model. Weights are zero off the links; biases are the same parameters. An
        optimizer still holds the sparse layers' weights: make it anew.

    Raises
    ------
    ValueError
        If the model is itself a sparse layer, or one has hooks. Nothing is changed then.

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
    if isinstance(model, SparseLinear):
        raise ValueError("the model is itself one SparseLinear: wrap it in torch.nn.Sequential")
    sparse = {
        n: m for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, SparseLinear)
    }
    for name, layer in sparse.items():
        if has_hooks(layer):
            raise ValueError(f"layer {name!r} has forward hooks, which would be lost: remove them")
    dense = {id(layer): _dense(layer) for layer in sparse.values()}
    replace(model, {name: dense[id(layer)] for name, layer in sparse.items()})
    return model


def _dense(layer: SparseLinear) -> nn.Linear:
    linear = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    linear.weight = nn.Parameter(layer.to_dense(), requires_grad=layer.parameter.requires_grad)
    linear.bias = layer.bias  # type: ignore[assignment]
    return linear.train(layer.training)
