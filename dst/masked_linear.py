"""The masked layout: a dense weight and a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import nn

import topo
from dst.sparse_linear import Carry, SparseLinear

__all__ = ["MaskedLinear"]


class MaskedLinear(SparseLinear, layout="masked"):
    """`SparseLinear` with dense kernels; for bf16, torch.compile, CUDA and high densities.

    The weight is masked in every forward pass and its gradient in every backward pass, so
    whatever an optimizer does, a weight off the links has no effect.
    """

    weight: nn.Parameter
    mask: torch.Tensor

    @property
    def parameter(self) -> nn.Parameter:
        """The dense weight."""
        return self.weight

    @property
    def adjacency(self) -> sparse.csr_array:
        """The topology, made from the mask."""
        return topo.as_adjacency(self.mask.cpu().numpy())

    @property
    def links(self) -> int:
        """How many links there are."""
        return int(self.mask.sum())

    def link_values(self) -> torch.Tensor:
        """The weights of the links in row-major order, detached, shape (links,)."""
        return self.weight.detach()[self.mask]

    def link_gradients(self) -> torch.Tensor | None:
        """The gradients of the links in row-major order, shape (links,)."""
        grad = self.weight.grad
        return None if grad is None else grad[self.mask]

    def flat_positions(self, keys: npt.NDArray[np.int64]) -> torch.Tensor:
        """Positions of links in the flat weight."""
        return torch.from_numpy(keys).to(self.weight.device)

    def _fill(self, adjacency: sparse.csr_array, values: torch.Tensor) -> None:
        self.register_buffer("mask", _mask(adjacency, values.device))
        weight = values.new_zeros(adjacency.shape)
        weight[self.mask] = values
        self.weight = nn.Parameter(weight)

    def _rewire(self, adjacency: sparse.csr_array) -> Carry:
        mask = _mask(adjacency, self.mask.device)
        new = ~(mask & self.mask)

        def carry(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.masked_fill_(new.to(tensor.device), 0)  # a product would keep NaN

        carry(self.weight.detach())
        if self.weight.grad is not None:
            carry(self.weight.grad)
        self.mask.copy_(mask)  # in place: compiled code and CUDA graphs hold it
        return carry

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # Weight and mask are loaded together, or neither.
        names = [prefix + "weight", prefix + "mask"]
        given = [name for name in names if name in state_dict]
        wrong = [name for name in given if state_dict[name].shape != self.weight.shape]
        error_msgs += [
            f"size mismatch for {name}: {tuple(state_dict[name].shape)} in the state, "
            f"{tuple(self.weight.shape)} in the layer"
            for name in wrong
        ]
        together = given == names and not wrong
        rest = {k: v for k, v in state_dict.items() if together or k not in names}
        ours = (rest, prefix, local_metadata, strict)
        super()._load_from_state_dict(*ours, missing_keys, unexpected_keys, error_msgs)
        if together:
            self.weight.detach().masked_fill_(~self.mask, 0)
        missing_keys[:] = [key for key in missing_keys if key not in given]

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        dtype = self.weight.dtype
        if kind != "meta" and torch.is_autocast_enabled(kind) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)  # which leaves float64 as it is
        return F.linear(x, _Masked.apply(self.weight, self.mask, dtype), self.bias)


class _Masked(torch.autograd.Function):
    """Mask and autocast's cast in one pass over the weight; its gradient likewise."""

    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.dtype = weight.dtype
        if dtype == weight.dtype:
            return weight * mask
        return torch.mul(weight, mask, out=torch.empty_like(weight, dtype=dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        return _Masked.apply(grad, mask, ctx.dtype), None, None


def _mask(adjacency: sparse.csr_array, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.asarray(adjacency.toarray())).to(device)
