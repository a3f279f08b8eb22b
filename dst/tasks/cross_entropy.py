"""Cross-entropy over a large vocabulary, in little memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["summed_cross_entropy"]

_BLOCK = 2**24  # logits that are in float32 at a time


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum of the cross-entropy over all targets.

    The gradient is computed along with the loss, in blocks: what is kept has the dtype of the
    logits (bfloat16 under autocast), and no more than a block is ever in float32.

    Parameters
    ----------
    logits : Tensor, shape (..., vocabulary)
    targets : Tensor of int64, shape (...)
        -100: no target.

    Returns
    -------
    Tensor
        0-dimensional, nats, float32 or float64; differentiable once.

    Examples
    --------
    >>> import torch
    >>> from dst.tasks.cross_entropy import summed_cross_entropy
    >>> loss = summed_cross_entropy(torch.zeros(2, 3, 4), torch.tensor([[0, 1, -100], [2, 3, 0]]))
    >>> round(loss.item() / 5, 4)  # log 4
    1.3863
    """
    return _CrossEntropy.apply(logits.flatten(0, -2), targets.flatten())


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        exact = torch.promote_types(logits.dtype, torch.float32)
        loss = torch.zeros((), dtype=exact, device=logits.device)
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        rows = max(1, _BLOCK // logits.shape[-1])
        for start in range(0, len(logits), rows):
            block = slice(start, start + rows)
            target = targets[block].clamp(min=0)[:, None]
            counts = (targets[block] >= 0)[:, None]
            log_p = logits[block].to(exact).log_softmax(-1)
            loss -= (log_p.gather(-1, target) * counts).sum()
            if gradient is not None:
                p = log_p.exp_()
                p.scatter_add_(-1, target, torch.full_like(target, -1, dtype=exact))
                gradient[block] = p.mul_(counts)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * above, None
