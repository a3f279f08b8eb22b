"""The gradient of all of a layer's possible weights, collected where an update needs it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["DenseGradient"]


class DenseGradient:
    """The sum of a layer's dense gradients over backward passes, float32 (float64 of float64).

    Set as `SparseLinear.watch`, it sees each forward pass; the layer's output is as before.

    Attributes
    ----------
    total : Tensor, shape (n_out, n_in), or None
        None before the first backward pass.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None

    @torch.compiler.disable  # what a compiled graph does on the side would be lost
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Watch the gradient of y, a layer's output for x."""
        return _Watch.apply(x, y, self)

    def add(self, x: Tensor, grad: Tensor) -> None:
        """Add the gradient of the weight for an input and the gradient of its output."""
        dtype = torch.promote_types(grad.dtype, torch.float32)
        rows = grad.reshape(-1, grad.shape[-1]).to(dtype).t()
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        with torch.autocast(grad.device.type, enabled=False):
            if self.total is None:
                self.total = rows @ flat
            else:
                self.total.addmm_(rows, flat)


class _Watch(torch.autograd.Function):
    """The identity on y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, into: DenseGradient) -> Tensor:
        ctx.save_for_backward(x.detach())  # torch notices if it is changed in place
        ctx.into = into
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        ctx.into.add(x, grad.detach())
        return None, grad, None
