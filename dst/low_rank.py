r"""A linear layer of low rank, :math:`y = s \, B \, \sigma(A x) + b`, and its forms by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.special import ndtri
from torch import nn

import topo
from topo.names import find

__all__ = ["LOW_RANKS", "LowRank", "LowRankLinear", "as_low_rank"]

Array = npt.NDArray[np.float64]


def _uniforms(rows: int, columns: int, key: int) -> Array:
    """In (0, 1), each a function of the key, the row and the column."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    return topo.uniform(topo.hash_links(key, row, column)).reshape(rows, columns)


def spectral(n_out: int, n_in: int, rank: int, key: int) -> tuple[Array, Array]:
    """A and B of CoLA: N(0, (rank * (n_in + n_out)) ** -0.5), which makes B A's 1 / (n_in + n_out).

    References
    ----------
    Liu et al., "CoLA: compute-efficient pre-training of LLMs via low-rank activation", 2025.
    """
    std = (rank * (n_in + n_out)) ** -0.25
    into, out = (topo.stream(key, name) for name in "AB")
    return ndtri(_uniforms(rank, n_in, into)) * std, ndtri(_uniforms(n_out, rank, out)) * std


def zero_start(n_out: int, n_in: int, rank: int, key: int) -> tuple[Array, Array]:
    """A and B of SLTrain: Kaiming-uniform A (a = 5 ** 0.5, so +-n_in ** -0.5), B = 0."""
    bound = n_in**-0.5
    return (2 * _uniforms(rank, n_in, topo.stream(key, "A")) - 1) * bound, np.zeros((n_out, rank))


@dataclass(frozen=True)
class LowRank:
    r"""What the branch of low rank computes, and how it begins: :math:`s \, B \, \sigma(A x)`.

    Attributes
    ----------
    activation : callable or None
        :math:`\sigma`, of each of the `rank` numbers; None: the branch is linear. One function
        for all layers: not a module with parameters.
    init : callable
        ``f(n_out, n_in, rank, key)`` gives A, of shape (rank, n_in), and B, (n_out, rank).
    alpha : float or None
        s = alpha / rank; None: s = 1.

    Examples
    --------
    >>> from dataclasses import replace
    >>> import torch, dst
    >>> mine = replace(dst.LOW_RANKS["sltrain"], alpha=16)
    >>> dst.LowRankLinear(64, 32, 4, low_rank=mine).scale
    4.0
    """

    activation: Callable[[torch.Tensor], torch.Tensor] | None
    init: Callable[[int, int, int, int], tuple[Array, Array]]
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha must be positive and finite, or None, not {self.alpha!r}")


LOW_RANKS: dict[str, LowRank] = {
    "silu": LowRank(F.silu, spectral),  # CoLA, CHTsL
    "linear": LowRank(None, spectral),
    "sltrain": LowRank(None, zero_start, alpha=32.0),
}
"""Every form by name."""


class LowRankLinear(nn.Module):
    r"""Apply :math:`y = s \, B \, \sigma(A x) + b`.

    Alone it is CoLA's layer; beside a sparse layer, the other branch of a `SparseLowRank`.

    Parameters
    ----------
    in_features, out_features : int
    rank : int
        From 1 to the smaller of both.
    low_rank : str or LowRank
        A name in `LOW_RANKS`: "silu" (CoLA, CHTsL), "linear", "sltrain"; or one's own.
    bias : bool
    seed : int
        Of the initial weights.

    Attributes
    ----------
    A : Parameter, shape (rank, in_features)
    B : Parameter, shape (out_features, rank)
    bias : Parameter, shape (out_features,), or None
    scale : float
    activation : callable or None

    Examples
    --------
    >>> import torch, dst
    >>> layer = dst.LowRankLinear(64, 32, 4)
    >>> layer
    LowRankLinear(in_features=64, out_features=32, rank=4, activation=silu, bias=True)
    >>> x = torch.ones(8, 64)
    >>> branch = torch.nn.functional.silu(x @ layer.A.T) @ layer.B.T
    >>> bool(torch.allclose(layer(x), branch + layer.bias, atol=1e-6))
    True
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        low_rank: str | LowRank = "silu",
        bias: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        dtype = torch.get_default_dtype()
        self._fill(in_features, out_features, rank, as_low_rank(low_rank), seed, dtype)
        if bias:
            uniforms = _uniforms(1, out_features, topo.stream(seed, "bias"))[0]
            values = torch.from_numpy((2 * uniforms - 1) * in_features**-0.5)  # as nn.Linear
            self.bias = nn.Parameter(values.to(self.A.dtype))
        else:
            self.register_parameter("bias", None)

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, rank: int, low_rank: LowRank, seed: int
    ) -> LowRankLinear:
        """Take the place of a dense layer: its bias, device, dtype and mode."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        weight = linear.weight
        sizes = linear.in_features, linear.out_features
        layer._fill(*sizes, rank, low_rank, seed, weight.dtype)
        layer.to(weight.device).requires_grad_(weight.requires_grad)
        layer.register_parameter("bias", linear.bias)
        return layer.train(linear.training)

    def _fill(
        self, n_in: int, n_out: int, rank: int, form: LowRank, seed: int, dtype: torch.dtype
    ) -> None:
        most = min(n_in, n_out)
        whole = isinstance(rank, Integral) and not isinstance(rank, bool)
        if not whole or not 1 <= rank <= most:
            raise ValueError(
                f"rank must be a whole number from 1 to {most}, the smaller size of a "
                f"{n_out} x {n_in} layer, not {rank!r}"
            )
        self.in_features, self.out_features, self.rank = n_in, n_out, int(rank)
        self.activation = form.activation
        self.scale = 1.0 if form.alpha is None else form.alpha / rank
        a, b = (np.asarray(values) for values in form.init(n_out, n_in, rank, seed))
        if (a.shape, b.shape) != ((rank, n_in), (n_out, rank)):
            raise ValueError(
                f"init must give A and B of the shapes {(rank, n_in)} and {(n_out, rank)}, "
                f"not {a.shape} and {b.shape}"
            )
        self.A, self.B = (nn.Parameter(torch.from_numpy(w).to(dtype)) for w in (a, b))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        h = F.linear(x, self.A)
        if self.activation is not None:
            h = self.activation(h)
        if self.scale != 1.0:
            h = h * self.scale
        return F.linear(h, self.B, self.bias)

    @property
    def weight(self) -> torch.Tensor:
        """A, for whoever asks a linear layer its dtype or device."""
        return self.A

    def to_dense(self) -> torch.Tensor:
        """The weight ``scale * B A`` of shape (out_features, in_features), detached.

        Raises
        ------
        ValueError
            If the branch is not linear.
        """
        if self.activation is not None:
            raise ValueError(f"a branch with the activation {_name(self.activation)} is no matrix")
        return (self.B.detach() @ self.A.detach()) * self.scale

    def extra_repr(self) -> str:
        """What `repr` says."""
        scale = "" if self.scale == 1.0 else f"scale={self.scale:g}, "
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"activation={_name(self.activation)}, {scale}bias={self.bias is not None}"
        )


def as_low_rank(low_rank: str | LowRank) -> LowRank:
    """A form, given itself or by name."""
    return low_rank if isinstance(low_rank, LowRank) else find(LOW_RANKS, low_rank, "low_rank")


def _name(activation: Callable[..., object] | None) -> str:
    return str(getattr(activation, "__name__", activation))
