"""How much the branches of a layer cancel each other: the overlap cancellation ratio."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dst.graph import unwrap
from dst.sparse_low_rank import in_backward, two_branches

__all__ = ["CancellationMeter", "overlap_cancellation_ratio"]

_EPS = 1e-12


def overlap_cancellation_ratio(S: Tensor, L: Tensor, eps: float = _EPS) -> Tensor:
    r"""The share of the overlap of two signals in which they are of opposite signs (OCR).

    .. math:: \mathrm{OCR} = \frac{\sum_i \min(|S_i|, |L_i|) \, [S_i L_i < 0]}
              {\sum_i \min(|S_i|, |L_i|) + \epsilon}

    Parameters
    ----------
    S, L : Tensor
        Of one shape, any.
    eps : float
        0 or more.

    Returns
    -------
    Tensor
        0-dimensional, in [0, 1), without a gradient; float64 for float64, else float32. 0 where
        the signals do not overlap.

    Raises
    ------
    ValueError
        If the shapes differ, or eps is negative.

    References
    ----------
    Zhang et al., CHTsL, 2025, "overlapping cancellation ratio".

    Examples
    --------
    Of an overlap of 1 + 2 + 1, 2 cancel:

    >>> import torch, dst
    >>> S, L = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([5.0, -4.0, -1.0])
    >>> dst.overlap_cancellation_ratio(S, L)
    tensor(0.5000)
    """
    if S.shape != L.shape:
        raise ValueError(f"S has the shape {tuple(S.shape)}, L {tuple(L.shape)}: they must be one")
    if not eps >= 0:
        raise ValueError(f"eps must be 0 or more, not {eps!r}")
    return _ratio(*_sums(S, L), eps)


@torch.no_grad()
def _sums(s: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """Of the overlap: what cancels, and all."""
    dtype = torch.promote_types(torch.promote_types(s.dtype, low.dtype), torch.float32)
    overlap = torch.minimum(s.abs(), low.abs())
    whole = overlap.sum(dtype=dtype)
    # not the sign of the product, which may underflow; that of a 0 has no weight
    return overlap.mul_(s.signbit() ^ low.signbit()).sum(dtype=dtype), whole


def _ratio(cancelled: Tensor, overlap: Tensor, eps: float) -> Tensor:
    ratio = torch.where(overlap == 0, 0.0, cancelled / (overlap + eps))  # NaN stays NaN
    # what eps alone keeps below 1 must not be rounded up to it
    return ratio.clamp(max=1 - torch.finfo(ratio.dtype).eps)


class CancellationMeter:
    """Measure the OCR of every layer while a model computes; use it in a ``with`` statement.

    Parameters
    ----------
    model : torch.nn.Module
        With layers of two branches (`SparseLowRank`), wrapped or compiled as it may be.
    include, exclude : str or sequence of str
        Patterns (fnmatch) on the layers' names.

    Notes
    -----
    Sums are kept on the device, over all passes within the statement (those that activation
    checkpointing repeats are not counted again); reading them is what waits for it.

    Examples
    --------
    >>> import torch, dst
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> _ = dst.sparsify(model, density=0.1, rank=4)
    >>> with dst.CancellationMeter(model) as meter:
    ...     _ = model(torch.randn(8, 64))
    >>> list(meter.ratios()), 0 <= meter.ratios()["0"] < 1
    (['0'], True)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        include: str | Sequence[str] = ("*",),
        exclude: str | Sequence[str] = (),
    ) -> None:
        self._layers = two_branches(unwrap(model), include, exclude)
        self._watchers = {name: partial(self._watch, name) for name in self._layers}
        self._found: dict[str, list[Tensor]] = {name: [] for name in self._layers}

    def __enter__(self) -> CancellationMeter:
        """Begin anew."""
        for name, layer in self._layers.items():
            self._found[name].clear()
            layer.watchers = (*layer.watchers, self._watchers[name])
        return self

    def __exit__(self, *_: object) -> None:
        """Look at the layers no longer."""
        for name, layer in self._layers.items():
            layer.watchers = tuple(w for w in layer.watchers if w is not self._watchers[name])

    def sums(self) -> npt.NDArray[np.float64]:
        """What cancels, and the whole overlap, of each layer: shape (layers, 2).

        Add those of several processes, and give them to `ratios`.
        """
        none = torch.full((1, 2), torch.nan)
        rows = [torch.stack(found) if found else none for found in self._found.values()]
        return torch.stack([row.cpu().double().sum(0) for row in rows]).numpy()

    def ratios(self, sums: npt.NDArray[np.float64] | None = None) -> dict[str, float]:
        """OCR by layer; 0 where the branches do not overlap, NaN where nothing has passed."""
        cancelled, overlap = torch.from_numpy(self.sums() if sums is None else sums).T
        return dict(zip(self._layers, _ratio(cancelled, overlap, _EPS).tolist(), strict=True))

    def _watch(self, name: str, s: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        if not in_backward():
            self._found[name].append(torch.stack(_sums(s, low)))
        return s, low
