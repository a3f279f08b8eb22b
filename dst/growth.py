"""Choose exactly k absent links to grow: `topo.grow` on the CPU, its torch twin on CUDA."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

import topo
from dst.link_scores import link_scores
from dst.selection import indices_on, largest, race_keys
from topo.absent import fill_up
from topo.checks import as_integer
from topo.selection import check_scores, check_sharpness

__all__ = ["grow", "grow_on_device"]

_BLOCK_CELLS = 2**22  # ranked at once, at some 90 bytes each


def grow(
    adjacency: sparse.csr_array,
    k: int,
    score: topo.Predictor | Tensor,
    *,
    sharpness: float,
    seed: int,
    device: torch.device | str,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Choose exactly k absent links to grow, on a layer's device.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
    k : int
        How many; from 0 to the number of absent links.
    score : topo.Predictor or Tensor, shape (n_out, n_in)
        A link predictor, or the scores themselves, finite and not negative: the magnitude of the
        dense gradient (RigL).
    sharpness : float
        T: a sample without replacement with p ~ score ** T; ``inf``: the k highest scores, ties
        broken at random. Where fewer than k absent links have a positive score, all of those grow
        and the rest is uniform over the other absent links.
    seed : int
        The result is a function of the arguments alone.
    device : torch.device or str
        Where to compute: only CUDA is used beside the CPU.

    Returns
    -------
    rows, cols : int32 arrays, shape (k,)
        In row-major order.

    Raises
    ------
    ValueError
        For an impossible k or sharpness, and for scores that are of another shape, negative, NaN
        or infinite.

    Notes
    -----
    On the CPU this is `topo.grow`. On CUDA predictors are scored by `dst.link_scores`: in float64
    for the k highest, because float32 errors would decide between equal scores, and in float32 to
    sample. A predictor of your own is scored by its CPU kernel. Memory there: what the
    scores take, and half a gigabyte.

    Examples
    --------
    >>> import torch, topo
    >>> from dst.growth import grow
    >>> a = topo.as_adjacency([[1, 1, 0], [1, 0, 0]])
    >>> gradient = torch.tensor([[9.0, 9.0, 0.1], [9.0, 0.3, 0.2]])
    >>> rows, cols = grow(a, 2, gradient, sharpness=float("inf"), seed=0, device="cpu")
    >>> rows.tolist(), cols.tolist()
    ([1, 1], [1, 2])
    """
    device = torch.device(device)
    if device.type == "cuda":
        return grow_on_device(adjacency, k, score, sharpness=sharpness, seed=seed, device=device)
    scorer: topo.Predictor | npt.NDArray = (
        score.detach().to("cpu", torch.promote_types(score.dtype, torch.float32)).numpy()
        if isinstance(score, Tensor)
        else score
    )
    return topo.grow(adjacency, k, scorer, soft=float(sharpness), seed=seed)


def grow_on_device(
    adjacency: sparse.csr_array,
    k: int,
    score: topo.Predictor | Tensor,
    *,
    sharpness: float,
    seed: int,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The torch twin of `grow`; `dtype` is that of the scores of a predictor."""
    n_out, n_in = adjacency.shape
    if not isinstance(score, Tensor) and (
        k == 0 or score.uniform or topo.PREDICTORS.get(score.name) is not score
    ):  # nothing to compute, or a predictor of one's own
        return topo.grow(adjacency, k, score, soft=float(sharpness), seed=seed)
    k = as_integer("k", k, 0, n_out * n_in - adjacency.nnz)
    check_sharpness(sharpness)
    rows, cols = indices_on(device, adjacency)
    if isinstance(score, Tensor):
        scores = score.detach().to(device)
        if scores.shape != adjacency.shape:
            raise ValueError(
                f"scores must have the layer's shape {adjacency.shape}, not {tuple(scores.shape)}"
            )
        check_scores(scores, finite=True)
    else:
        links = torch.zeros(adjacency.shape, dtype=torch.bool, device=device)
        links[rows, cols] = True
        usual = torch.float64 if sharpness == np.inf else torch.float32
        scores = link_scores(links, score.name, dtype=dtype or usual)

    key = topo.stream(seed, "grow")
    best = rows.new_empty(0, 2)
    keys = torch.empty(0, dtype=torch.float64, device=device)
    height = max(1, _BLOCK_CELLS // n_in)
    for start in range(0, n_out if k else 0, height):
        block = scores[start : start + height].to(torch.float64, copy=True)
        first, end = adjacency.indptr[[start, start + len(block)]].tolist()
        block[rows[first:end] - start, cols[first:end]] = 0
        found = block.nonzero()
        values = block[*found.T]
        found[:, 0] += start
        values = _level(values) if sharpness == np.inf else values
        values = race_keys(values, sharpness, key, *found.T)
        best, keys = torch.cat([best, found.int()]), torch.cat([keys, values])
        winners = largest(keys, k, key, *best.T)
        best, keys = best[winners], keys[winners]
    found_rows, found_cols = best.T.contiguous().cpu().numpy()
    return fill_up(adjacency, found_rows, found_cols, k, topo.stream(seed, "grow", "uniform"))


def _level(scores: Tensor) -> Tensor:
    """`topo.selection.level` of every score."""
    return torch.where(scores < 1e300, scores * 1025.0 - (scores * 1025.0 - scores), scores)
