# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Pick exactly k: the best, or a sample without replacement with p ~ score ** sharpness.

The sample is an exponential race (Efraimidis and Spirakis 2006; Gumbel-top-k, Kool et al. 2019)
in log space: ``sharpness * log(score) - log(-log(u))`` is computed for each candidate and the k
largest win. That is exact sequential sampling without replacement, has no limit on the number of
candidates, and |w| ** 9 does not underflow. Infinite sharpness is top-k, ties broken at random.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from topo.checks import as_bits, as_integer
from topo.compiled import njit
from topo.hashing import uniform

__all__ = [
    "check_scores",
    "check_sharpness",
    "largest",
    "level",
    "level_all",
    "race_keys",
    "select",
]


def check_scores(scores: Any, *, finite: bool) -> None:
    """Refuse scores that nothing can be selected by, in an array or in a torch tensor."""
    count = math.prod(scores.shape)
    if not count:
        return
    low, high = float(scores.min()), float(scores.max())
    if math.isnan(low):
        wrong = int((scores != scores).sum())
        raise ValueError(f"{wrong} of {count} scores are NaN: nothing to rank by")
    if low < 0:
        raise ValueError(f"scores must not be negative; the smallest is {low}")
    if finite and high == math.inf:
        wrong = int((scores == math.inf).sum())
        raise ValueError(f"scores must be finite; {wrong} of {count} are infinite")


def check_sharpness(sharpness: float) -> None:
    """Refuse what is no exponent; far larger ones than this overflow, and are top-k anyway."""
    proper = isinstance(sharpness, Real) and not isinstance(sharpness, bool)
    if not (proper and (0 < sharpness <= 1e6 or sharpness == np.inf)):
        raise ValueError(f"sharpness must be in (0, 1e6], or inf for top-k, not {sharpness!r}")


@njit(nogil=True, cache=True)
def level(score):
    """A score without its last ten bits (Veltkamp): ties are ties, whatever the order of a sum."""
    return score * 1025.0 - (score * 1025.0 - score) if score < 1e300 else score


@njit(nogil=True, cache=True)
def level_all(scores):
    """`level` of every score."""
    out = np.empty_like(scores)
    for i in range(len(scores)):
        out[i] = level(scores[i])
    return out


def race_keys(
    scores: npt.NDArray[np.float64], sharpness: float, hashes: npt.NDArray[np.uint64]
) -> npt.NDArray[np.float64]:
    """What the candidates are ranked by; -inf for a score of 0 (of finite sharpness)."""
    if np.isinf(sharpness):
        return scores
    with np.errstate(divide="ignore"):
        return sharpness * np.log(scores) - np.log(-np.log(uniform(hashes)))


def largest(
    keys: npt.NDArray[np.float64], k: int, ties: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Indices of the k largest keys, ascending; equal keys are ranked by `ties`."""
    n = len(keys)
    if k >= n:
        return np.arange(n)
    if k == 0:
        return np.empty(0, dtype=np.int64)
    cut = np.partition(keys, n - k)[n - k]
    chosen = keys > cut
    level = np.flatnonzero(keys == cut)
    chosen[level[np.argsort(ties[level], kind="stable")[: k - np.count_nonzero(chosen)]]] = True
    return np.flatnonzero(chosen)


def select(
    scores: npt.ArrayLike, k: int, *, sharpness: float, hashes: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Select exactly k of the candidates by score.

    Parameters
    ----------
    scores : array_like, shape (n,)
        Not negative, not NaN.
    k : int
    sharpness : float
        T: a sample without replacement with p ~ score ** T; ``inf``: the k largest.
        A score of 0 is chosen only when the positive ones run out, uniformly.
    hashes : array of uint64, shape (n,)
        Random bits, one per candidate (`topo.hash_links`).

    Returns
    -------
    array of int, shape (k,)
        Ascending indices.

    Raises
    ------
    ValueError
        For k outside 0..n, NaN or negative scores, sharpness outside (0, 1e6] and not inf.

    Examples
    --------
    >>> import numpy as np, topo
    >>> hashes = topo.hash_links(topo.stream(0), np.arange(3))
    >>> topo.select([0.2, 0.0, 0.7], 2, sharpness=np.inf, hashes=hashes).tolist()
    [0, 2]
    """
    given = np.asarray(scores)
    if given.dtype.kind not in "biuf":
        raise ValueError(f"scores must be numbers, not {given.dtype}")
    s, hashes = given.astype(np.float64, copy=False), as_bits("hashes", hashes)
    if s.ndim != 1 or hashes.shape != s.shape:
        raise ValueError(
            f"scores and hashes are one-dimensional and equal in length, not of shapes {s.shape} "
            f"and {hashes.shape}"
        )
    k = as_integer("k", k, 0, len(s))
    check_sharpness(sharpness)
    check_scores(s, finite=not np.isinf(sharpness))
    return largest(race_keys(s, sharpness, hashes), k, hashes)
