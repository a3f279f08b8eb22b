"""Pick exactly k of a layer's links by score: `topo.select` on the CPU, its torch twin on CUDA.

The twin draws the same 64 bits for each cell as `topo.hash_links`: its int64 products wrap as
those of uint64 do, and its shifts are masked. So a layer keeps the same links on any device, but
for links whose race keys, logarithms in float64, are within rounding errors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

import topo
from topo.checks import as_integer, as_key
from topo.selection import check_scores, check_sharpness

__all__ = ["hash_links", "indices_on", "largest", "race_keys", "select", "select_on_device"]


def select(
    scores: Tensor, k: int, *, sharpness: float, key: int, adjacency: sparse.csr_array
) -> npt.NDArray[np.bool_]:
    """Select exactly k of a layer's links by score.

    Parameters
    ----------
    scores : Tensor, shape (links,)
        Not negative, not NaN; in row-major order, on the layer's device.
    k : int
    sharpness : float
        T: a sample without replacement with p ~ score ** T; ``inf``: the k largest, ties broken at
        random. A score of 0 is chosen only when the positive ones run out, uniformly.
    key : int
        From `topo.stream`: the random bits of a link are a function of (key, row, column).
    adjacency : csr_array of bool, shape (n_out, n_in)

    Returns
    -------
    array of bool, shape (links,)
        Whether each link is selected; from a GPU nothing else is copied.

    Raises
    ------
    ValueError
        As `topo.select`: for k outside 0..links, scores that are NaN or negative, or infinite
        ones to sample from, and an impossible sharpness.

    Examples
    --------
    >>> import torch, topo
    >>> from dst.selection import select
    >>> a = topo.as_adjacency([[1, 1, 0], [0, 0, 1]])
    >>> scores = torch.tensor([0.2, 0.0, 0.7])
    >>> select(scores, 2, sharpness=float("inf"), key=topo.stream(0), adjacency=a).tolist()
    [True, False, True]
    """
    scores = scores.detach()
    if scores.is_cuda:
        chosen = select_on_device(scores, k, sharpness=sharpness, key=key, adjacency=adjacency)
        return chosen.cpu().numpy()
    hashes = topo.hash_links(key, *topo.links(adjacency))
    selected = np.zeros(len(hashes), dtype=bool)
    values = scores.to("cpu").double().numpy()
    selected[topo.select(values, k, sharpness=sharpness, hashes=hashes)] = True
    return selected


def select_on_device(
    scores: Tensor, k: int, *, sharpness: float, key: int, adjacency: sparse.csr_array
) -> Tensor:
    """The torch twin of `select`: a bool tensor on the device of the scores."""
    if scores.shape != (adjacency.nnz,):
        raise ValueError(
            f"scores are one-dimensional, one for each of the {adjacency.nnz} links, not of shape "
            f"{tuple(scores.shape)}"
        )
    k = as_integer("k", k, 0, adjacency.nnz)
    check_sharpness(sharpness)
    check_scores(scores, finite=sharpness != np.inf)
    rows, cols = indices_on(scores.device, adjacency)
    keys = race_keys(scores.double(), sharpness, key, rows, cols)
    return largest(keys, k, key, rows, cols)


def indices_on(device: torch.device | str, adjacency: sparse.csr_array) -> tuple[Tensor, Tensor]:
    """Row and column of every link, int32, on a device."""
    rows, cols = (torch.tensor(index, device=device) for index in topo.links(adjacency))
    return rows, cols


def hash_links(key: int, rows: Tensor, cols: Tensor) -> Tensor:
    """The bits of `topo.hash_links` as int64; rows and columns broadcast.

    Examples
    --------
    >>> import torch, topo
    >>> from dst.selection import hash_links
    >>> twin = hash_links(topo.stream(0), torch.tensor([5, 9]), torch.tensor([0, 2]))
    >>> bool((twin.numpy().view("uint64") == topo.hash_links(topo.stream(0), [5, 9], [0, 2])).all())
    True
    """
    x = _mix(rows.long() * _signed(0x9E3779B97F4A7C15) + _signed(int(as_key(key))))
    return _mix(x + (cols.long() * _signed(0xD1B54A32D192ED03) + 1))


def _mix(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64, in place."""
    x.bitwise_xor_(_shifted(x, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
    x.bitwise_xor_(_shifted(x, 27)).mul_(_signed(0x94D049BB133111EB))
    return x.bitwise_xor_(_shifted(x, 31))


def _shifted(x: Tensor, by: int) -> Tensor:
    """``x >> by`` of unsigned integers."""
    return (x >> by).bitwise_and_(2 ** (64 - by) - 1)


def _signed(x: int) -> int:
    """The int64 with the bits of a uint64."""
    return x - 2**64 if x >= 2**63 else x


def race_keys(scores: Tensor, sharpness: float, key: int, rows: Tensor, cols: Tensor) -> Tensor:
    """What links of float64 scores are ranked by: `topo.selection.race_keys`."""
    if sharpness == np.inf:
        return scores
    luck = _shifted(hash_links(key, rows, cols), 12).double().add_(0.5).mul_(2.0**-52)
    return scores.log().mul_(sharpness).sub_(luck.log_().neg_().log_())


def largest(keys: Tensor, k: int, key: int, rows: Tensor, cols: Tensor) -> Tensor:
    """Which links have the k largest keys, as a bool tensor; equal ones are ranked by hash."""
    if k >= len(keys):
        return torch.ones_like(keys, dtype=torch.bool)
    if k == 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    cut = keys.topk(k, sorted=False).values.amin()
    chosen = keys > cut
    level = (keys == cut).nonzero().squeeze(1)
    hashes = hash_links(key, rows[level], cols[level])
    order = (hashes ^ -(2**63)).argsort(stable=True)  # as unsigned integers
    chosen[level[order[: k - int(chosen.sum())]]] = True
    return chosen
