"""Budgets of weights: how many of them go into links, how many into low rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from dst.low_rank import LowRankLinear
from dst.patterns import choose
from dst.sparse_linear import SparseLinear
from dst.sparse_low_rank import SparseLowRank
from dst.sparsify import linear_layers
from topo.checks import as_integer

__all__ = ["budget", "rank_step", "total_density"]

MULTIPLE = 8
"""Ranks are rounded to multiples of this, as the published ones are."""


def budget(
    model: nn.Module,
    total_sparsity: float,
    ratio: float = 1.0,
    *,
    include: str | Sequence[str] = ("*",),
    exclude: str | Sequence[str] | None = None,
    multiple: int = MULTIPLE,
) -> tuple[float, int]:
    r"""Divide a budget of weights among a sparse branch and one of low rank.

    .. math:: d + r \frac{\sum_l (n^{in}_l + n^{out}_l)}{\sum_l n^{in}_l n^{out}_l} = 1 - s

    with the same density d and rank r in every layer l.

    Parameters
    ----------
    model : torch.nn.Module
        Dense, or sparse already.
    total_sparsity : float
        s: one minus the share of the dense layers' weights that both branches have, in [0, 1).
    ratio : float
        Weights of the sparse branch over those of low rank: 1 for 1:1, 1/3 for 1:3; 0: all low
        rank; ``math.inf``: all sparse.
    include, exclude : str or sequence of str
        Patterns of linear layers, as in `dst.sparsify`; excluded by default is the output
        embedding of a Hugging Face model (`get_output_embeddings`), which the papers keep dense:
        exclude it in `sparsify`, too, where it must be named ("lm_head").
    multiple : int
        The rank is rounded to the nearest multiple of this, or of a half, a quarter, ... of it
        where that would change it by more than 5 %.

    Returns
    -------
    density : float
        Of the sparse branch (not corrected for the rounding of the rank).
    rank : int

    Raises
    ------
    ValueError
        For numbers out of range, or a budget too small for one rank.

    See Also
    --------
    total_density : the inverse

    Examples
    --------
    A block of LLaMA-60M at 90 %, and at 80 % with 1:3:

    >>> import torch, dst
    >>> sizes = [(512, 512)] * 4 + [(512, 1376), (512, 1376), (1376, 512)]
    >>> model = torch.nn.ModuleList(torch.nn.Linear(*size) for size in sizes)
    >>> dst.budget(model, 0.9)
    (0.05, 16)
    >>> dst.budget(model, 0.8, ratio=1 / 3)
    (0.05, 48)
    """
    if not 0 <= total_sparsity < 1:
        raise ValueError(f"total_sparsity must be in [0, 1), not {total_sparsity!r}")
    if not ratio >= 0:
        raise ValueError(f"ratio must be 0 or more (sparse : low rank), not {ratio!r}")
    sparse_share = 1.0 if ratio == math.inf else ratio / (1 + ratio)
    total = 1 - total_sparsity
    density = round(total * sparse_share, 12)  # 0.05, not 0.04999999999999999
    if sparse_share == 1.0:
        return density, 0
    return density, rank_step(
        model, total * (1 - sparse_share), include=include, exclude=exclude, multiple=multiple
    )


def rank_step(
    model: nn.Module,
    share: float = 0.05,
    *,
    include: str | Sequence[str] = ("*",),
    exclude: str | Sequence[str] | None = None,
    multiple: int = MULTIPLE,
) -> int:
    """The rank whose weights are this share of the dense layers', as `budget` rounds it.

    Examples
    --------
    >>> import torch, dst
    >>> dst.rank_step(torch.nn.ModuleList([torch.nn.Linear(1024, 1024)]))
    26
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], not {share!r}")
    multiple = as_integer("multiple", multiple, 1)
    exact = share / _per_rank(model, include, exclude)
    while multiple > 1 and abs(round(exact / multiple) * multiple - exact) > 0.05 * exact:
        multiple //= 2
    rank = round(exact / multiple) * multiple
    if rank < 1:
        raise ValueError(
            f"a share of {share:g} of the weights is a rank of {exact:.2g} here, less than one: "
            "raise it, or leave the low rank out"
        )
    return rank


def total_density(
    model: nn.Module,
    density: float,
    rank: int,
    *,
    include: str | Sequence[str] = ("*",),
    exclude: str | Sequence[str] | None = None,
) -> float:
    """Share of the dense layers' weights that a density and a rank come to, as in `budget`.

    Examples
    --------
    >>> import torch, dst
    >>> dst.total_density(torch.nn.ModuleList([torch.nn.Linear(100, 100)]), 0.05, 2)
    0.09
    """
    return density + rank * _per_rank(model, include, exclude)


def _per_rank(
    model: nn.Module, include: str | Sequence[str], exclude: str | Sequence[str] | None
) -> float:
    sizes = [(m.in_features, m.out_features) for m in _layers(model, include, exclude).values()]
    return sum(i + o for i, o in sizes) / sum(i * o for i, o in sizes)


def _layers(
    model: nn.Module, include: str | Sequence[str], exclude: str | Sequence[str] | None
) -> dict[str, Any]:
    ours = (SparseLowRank, SparseLinear, LowRankLinear)
    made = {n: m for n, m in model.named_modules() if isinstance(m, ours)}
    if made:  # those that are sparse already, not their branches
        whole = {n: m for n, m in made.items() if not n or n.rpartition(".")[0] not in made}
        return choose(whole, include, exclude or (), "sparse or low-rank layer")
    if isinstance(model, nn.Linear):
        return choose({"": model}, include, exclude or (), "Linear layer")
    if exclude is None:
        head = getattr(model, "get_output_embeddings", lambda: None)()
        exclude = [n for n, m in model.named_modules() if head is not None and m is head]
    return linear_layers(model, include, exclude)
