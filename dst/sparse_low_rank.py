r"""A layer of two branches, one sparse and one of low rank: :math:`y = S(x) + L(x) + b`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from dst.low_rank import LowRankLinear
from dst.patterns import choose
from dst.sparse_linear import SparseLinear

__all__ = ["SparseLowRank", "Watcher", "in_backward", "two_branches"]

Watcher = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class SparseLowRank(nn.Module):
    r"""Apply :math:`y = S x + s \, B \, \sigma(A x) + b`: the layer of CHTsL and SLTrain.

    `dst.sparsify` with a rank makes these; the `Evolver` evolves the sparse branch. The branch of
    low rank feeds every neuron, so percolation has nothing to do.

    Parameters
    ----------
    sparse : SparseLinear
        Its bias becomes that of the whole.
    low_rank : LowRankLinear
        Of the same sizes, without a bias.

    Attributes
    ----------
    sparse, low_rank : the branches
    bias : Parameter, shape (out_features,), or None
    watchers : tuple of callable
        Each takes the outputs of both branches and gives them back, before they are added
        (`Alignment`, `CancellationMeter`); not copied or saved with the layer.

    Examples
    --------
    >>> import torch, dst
    >>> sparse = dst.SparseLinear(64, 32, density=0.25)
    >>> layer = dst.SparseLowRank(sparse, dst.LowRankLinear(64, 32, 4, bias=False))
    >>> layer(torch.ones(8, 64)).shape, layer.sparse.links, layer.low_rank.rank
    (torch.Size([8, 32]), 512, 4)

    References
    ----------
    Zhang et al., "Alignment-enhanced integration of connectivity and spectral sparse in dynamic
    sparse training of LLM" (CHTsL), 2025. Han et al., "SLTrain", NeurIPS 2024.
    """

    bias: nn.Parameter | None
    watchers: tuple[Watcher, ...] = ()

    def __init__(self, sparse: SparseLinear, low_rank: LowRankLinear) -> None:
        super().__init__()
        sizes = [(b.in_features, b.out_features) for b in (sparse, low_rank)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"the branches are of the sizes (in, out) {sizes[0]} and {sizes[1]}")
        if low_rank.bias is not None:
            raise ValueError("both branches have a bias: make the low-rank one with bias=False")
        self.sparse, self.low_rank = sparse, low_rank
        self.in_features, self.out_features = sizes[0]
        self.register_parameter("bias", sparse.bias)
        sparse.register_parameter("bias", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        s, low = self.sparse(x), self.low_rank(x)
        for watch in self.watchers:
            s, low = watch(s, low)
        y = s + low
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def weight(self) -> torch.Tensor:
        """That of the sparse branch, for whoever asks a linear layer its dtype or device."""
        weight: torch.Tensor = self.sparse.weight  # type: ignore[assignment]
        return weight

    def to_dense(self) -> torch.Tensor:
        """The weight of both, of shape (out_features, in_features), detached.

        Raises
        ------
        ValueError
            If the branch of low rank is not linear.
        """
        return self.sparse.to_dense() + self.low_rank.to_dense()

    def extra_repr(self) -> str:
        """What `repr` says."""
        return f"bias={self.bias is not None}"

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles have: whoever watches this layer does not watch them."""
        return {k: v for k, v in vars(self).items() if k != "watchers"}


def two_branches(
    model: nn.Module, include: str | Sequence[str] = ("*",), exclude: str | Sequence[str] = ()
) -> dict[str, SparseLowRank]:
    """The layers of two branches whose names the patterns choose, in order.

    Raises
    ------
    ValueError
        If there are none, none is left, or a pattern matches none.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, SparseLowRank)}
    if not layers:
        raise ValueError(
            "the model has no layer with a sparse and a low-rank branch: make them by "
            "dst.sparsify(model, density, rank=...)"
        )
    return choose(layers, include, exclude, "layer of two branches")


def in_backward() -> bool:
    """Whether a forward pass is the second one of activation checkpointing: seen already."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
