"""The alignment loss: both branches of a layer are to say the same."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dst.graph import unwrap
from dst.sparse_low_rank import in_backward, two_branches

__all__ = ["Alignment"]


class Alignment:
    r"""The alignment loss of CHTsL: :math:`\lambda \sum_l \mathrm{mean}((S_l - L_l)^2)`.

    S and L are what the sparse and the low-rank branch of a layer add up. Made once; called after
    each forward pass, it gives the loss of that pass (of all since the last call), differentiable,
    and forgets it. Beside the graph of the backward pass (one difference S - L a layer), it holds
    a number a layer.

    Parameters
    ----------
    model : torch.nn.Module
        With layers of two branches (`SparseLowRank`), wrapped or compiled as it may be.
    weight : float
        Lambda, 0 or more.
    include, exclude : str or sequence of str
        Patterns (fnmatch) on the layers' names: ``["*.q_proj", "*.k_proj"]``.
    literal : bool
        What the paper prints, :math:`\|S - L\|_F / n` over the n numbers of S, instead of the mean
        square. It vanishes with the size of the batch, so lambda must grow with it.

    Raises
    ------
    ValueError
        For a negative weight, or patterns that choose no layer.

    Notes
    -----
    Call it once per forward pass in training, before the backward pass; where gradients are
    accumulated over k passes, divide by k. Without gradients it is 0. What activation checkpointing
    computes again is not counted again (checkpointing must be the non-reentrant one).

    References
    ----------
    Zhang et al., CHTsL, 2025, "overlapping cancellation ratio" and "alignment loss".

    Examples
    --------
    >>> import torch, dst
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 10))
    >>> _ = dst.sparsify(model, density=0.1, rank=4, exclude="1")
    >>> align = dst.Alignment(model, weight=0.5)
    >>> x, y = torch.randn(8, 64), torch.randint(10, (8,))
    >>> loss = torch.nn.functional.cross_entropy(model(x), y) + align()
    >>> loss.backward()
    """

    def __init__(
        self,
        model: nn.Module,
        weight: float = 0.5,
        *,
        include: str | Sequence[str] = ("*",),
        exclude: str | Sequence[str] = (),
        literal: bool = False,
    ) -> None:
        if not weight >= 0:
            raise ValueError(f"weight must be 0 or more, not {weight!r}")
        self.weight, self.literal = weight, literal
        self._layers = two_branches(unwrap(model), include, exclude)
        self._found: dict[str, list[Tensor]] = {name: [] for name in self._layers}
        self._watchers = {name: partial(self._watch, name) for name in self._layers}
        for name, layer in self._layers.items():
            layer.watchers = (*layer.watchers, self._watchers[name])

    def __call__(self) -> Tensor:
        """The loss of the last forward pass, 0-dimensional; it is forgotten with that.

        Raises
        ------
        RuntimeError
            If a layer took part in none since the last call.
        """
        if not torch.is_grad_enabled():  # of an evaluation
            return torch.zeros(())
        idle = [name for name, found in self._found.items() if not found]
        if idle:
            raise RuntimeError(
                f"no forward pass with gradients went through {idle[0]!r} since the last call: "
                "call this once after each one, before the backward pass (checkpoint activations "
                "with use_reentrant=False)"
            )
        found = [loss for losses in self._found.values() for loss in losses]
        for losses in self._found.values():
            losses.clear()
        return self.weight * torch.stack([loss.to(found[0].device) for loss in found]).sum()

    def remove(self) -> None:
        """Look at the layers no longer."""
        for name, layer in self._layers.items():
            layer.watchers = tuple(w for w in layer.watchers if w is not self._watchers[name])
            self._found[name].clear()

    def _watch(self, name: str, s: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return s, low
        s, low, loss = _Misalignment.apply(s, low, self.literal)
        if not in_backward():
            self._found[name].append(loss)
        return s, low


class _Misalignment(torch.autograd.Function):
    """The loss of a layer, beside its inputs, unchanged.

    One difference is kept for the backward pass, in which each branch's gradient and that of the
    loss are added in one go: half the time of the same in torch's own functions.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, low: Tensor, literal: bool) -> tuple[Tensor, Tensor, Tensor]:
        difference = s - low
        n = max(difference.numel(), 1)
        # bfloat16 is too coarse to sum in
        dtype = torch.promote_types(difference.dtype, torch.float32)
        norm = torch.linalg.vector_norm(difference, dtype=dtype)
        loss, slope = norm.square() / n, torch.full_like(norm, 2 / n)
        if literal:
            loss, slope = norm / n, torch.where(norm > 0, 1 / (n * norm), 0.0)
        ctx.save_for_backward(difference, slope)
        ctx.dtypes = s.dtype, low.dtype
        return s.view_as(s), low.view_as(low), loss

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_s: Tensor, of_low: Tensor, of_loss: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        difference, slope = ctx.saved_tensors
        step = (of_loss * slope).to(difference.dtype)
        return (
            torch.addcmul(of_s.to(difference.dtype), difference, step).to(ctx.dtypes[0]),
            torch.addcmul(of_low.to(difference.dtype), difference, step, value=-1).to(
                ctx.dtypes[1]
            ),
            None,
        )
