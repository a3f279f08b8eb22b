"""What links are ranked by: scores of those that are there, and of those that may come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

__all__ = [
    "DenseScore",
    "LinkScore",
    "Links",
    "exact",
    "gradient_magnitude",
    "importance",
    "magnitude",
    "magnitude_and_gradient",
]


@dataclass(frozen=True)
class Links:
    """The links of one layer, as a score of them sees them.

    Attributes
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
    weights : Tensor of float64, shape (links,)
        In row-major order, on the layer's device.
    read_gradients : callable
        Gives their gradients; it is called where a score asks for `gradients`.
    """

    adjacency: sparse.csr_array
    weights: Tensor
    read_gradients: Callable[[], Tensor]

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_out, n_in)``."""
        return self.adjacency.shape

    @cached_property
    def gradients(self) -> Tensor:
        """The gradients of the weights, float64, of the optimizer step just done."""
        return self.read_gradients()

    @cached_property
    def rows(self) -> Tensor:
        """Output neuron of each link, int64."""
        degrees = torch.from_numpy(np.diff(self.adjacency.indptr).astype(np.int64))
        return torch.arange(len(degrees)).repeat_interleave(degrees).to(self.weights.device)

    @cached_property
    def cols(self) -> Tensor:
        """Input neuron of each link, int64."""
        return torch.from_numpy(self.adjacency.indices.astype(np.int64)).to(self.weights.device)


LinkScore = Callable[[Links], Tensor]
"""Gives each link a number, 0 or more, on their device: the higher, the rather it stays."""


def magnitude(links: Links) -> Tensor:
    """Weight magnitude |w| (WM): eq. (4) of CHTs with alpha = 1.

    Examples
    --------
    >>> import dst, topo, torch
    >>> adjacency = topo.as_adjacency([[1, 1], [0, 1]])
    >>> links = dst.Links(adjacency, torch.tensor([1.0, -3.0, 1.0]).double(), lambda: None)
    >>> dst.magnitude(links).tolist()
    [1.0, 3.0, 1.0]
    """
    return links.weights.abs()


def importance(alpha: float = 0.0) -> LinkScore:
    r"""Between weight magnitude and relative importance: the base of eq. (4) of CHTs.

    .. math::
        S_{ij} = \frac{|w_{ij}| / 2}{\alpha + (1 - \alpha) \sum_k |w_{ik}|}
               + \frac{|w_{ij}| / 2}{\alpha + (1 - \alpha) \sum_k |w_{kj}|}.

    The exponent :math:`\delta / (1 - \delta)` is the sharpness of a `Rule`
    (`dst.schedules.delta`).

    Parameters
    ----------
    alpha : float
        In [0, 1]. 0 is relative importance (RI): a link's shares in the weights of its two
        neurons, averaged. 1 is weight magnitude (WM).

    References
    ----------
    Zhang et al., arXiv 2501.19107 (CHTs), eq. (4); relative importance: Zhang et al. 2024 (RIA).

    Examples
    --------
    >>> import dst, topo, torch
    >>> adjacency = topo.as_adjacency([[1, 1], [0, 1]])
    >>> links = dst.Links(adjacency, torch.tensor([1.0, -3.0, 1.0]).double(), lambda: None)
    >>> dst.importance(0.0)(links).tolist()  # 1/4 and 1/1, 3/4 and 3/4, 1/1 and 1/4
    [0.625, 0.75, 0.625]
    """
    if not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha is a number in [0, 1], not {alpha!r}: importance(alpha) makes the score"
        )

    def score(links: Links) -> Tensor:
        weights = links.weights.abs()
        sizes = links.shape
        total = torch.zeros_like(weights)
        for ends, size in ((links.rows, sizes[0]), (links.cols, sizes[1])):
            of_neuron = alpha + (1 - alpha) * _sums(weights, ends, size)[ends]
            total += torch.where(of_neuron > 0, weights / 2 / of_neuron, 0.0)  # all of it 0
        return total

    return score


def magnitude_and_gradient(gamma: float = 0.01) -> LinkScore:
    r"""Magnitude and trainability, :math:`|w| + \gamma |\partial L / \partial w|` (MEST).

    References
    ----------
    Yuan et al., NeurIPS 2021 (MEST), eq. (1).

    Examples
    --------
    >>> import dst, topo, torch
    >>> two = torch.tensor([1.0, -3.0]).double()
    >>> links = dst.Links(topo.as_adjacency([[1, 1]]), two, lambda: 100 * two)
    >>> dst.magnitude_and_gradient()(links).tolist()
    [2.0, 6.0]
    """
    return lambda links: links.weights.abs() + gamma * links.gradients.abs()


@dataclass(frozen=True)
class DenseScore:
    """A score of absent links that needs the gradient of all of a layer's possible weights.

    That gradient is one float32 matrix per layer, made in the backward passes of the steps whose
    update needs it: summed over micro-batches, as ``.grad`` is, averaged over ranks, and dropped
    after the update.

    Attributes
    ----------
    name : str
    score : callable
        Of the gradient, shape (n_out, n_in); gives a tensor like it, 0 or more.
    """

    name: str
    score: Callable[[Tensor], Tensor]


gradient_magnitude = DenseScore("gradient_magnitude", torch.abs)
"""Magnitude of the dense gradient (RigL, GraNet)."""


def exact(values: Tensor) -> Tensor:
    """In float64; on the CPU where the device has none."""
    return (values if values.device.type in ("cpu", "cuda") else values.cpu()).double()


def _sums(values: Tensor, ends: Tensor, size: int) -> Tensor:
    """Sum of each neuron's values, in fixed point: the same bits in any order, on any device."""
    largest = values.new_zeros(size).scatter_reduce_(0, ends, values, "amax")
    unit = torch.where(largest > 0, largest, 1.0)
    scale = 2.0 ** (62 - len(values).bit_length())
    whole = (values / unit[ends] * scale).round().long()
    total = torch.zeros(size, dtype=torch.int64, device=values.device).index_add_(0, ends, whole)
    return total.to(values.dtype) / scale * unit
