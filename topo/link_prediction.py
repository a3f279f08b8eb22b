# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Score a layer's absent links, and grow some of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy import sparse

from topo.absent import sample_absent
from topo.adjacency import as_adjacency, from_links, links
from topo.hashing import _U, bits, hash_links, stream, to_unit
from topo.names import find
from topo.parallel import map_threads, thread_count
from topo.predictors import PREDICTORS, Predictor
from topo.predictors._base import Layer
from topo.selection import check_sharpness, largest

__all__ = ["grow", "link_scores"]

_BLOCK_CELLS = 2**22  # of float64 scores per thread: 32 MB
_SMALL_BLOCK = 2**14  # less than this is not worth a thread


def link_scores(
    adjacency: Any,
    predictor: str | Predictor,
    *,
    rows: npt.ArrayLike | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[Any]:
    """Scores of all absent links under a link predictor.

    Parameters
    ----------
    adjacency : csr_array, or any 0/1 matrix, shape (n_out, n_in)
    predictor : str or Predictor
        A name in `PREDICTORS`: "ch3_l3p", "ch2_l3p", "ch3_l3n", "ch2_l3n", "random".
    rows : array_like of int, optional
        Output neurons to score; all by default.
    dtype : dtype
        Of the result; sums are accumulated in float64 whatever it is.

    Returns
    -------
    array, shape (n_out or len(rows), n_in)
        Higher is likelier; 0 on present links and where no path of length three leads across.

    Raises
    ------
    ValueError
        For an unknown predictor, a row out of range, or a matrix that is no adjacency.

    See Also
    --------
    grow : choose new links by these scores, without the dense result.

    Examples
    --------
    The missing corner of a 2 x 2 layer is bridged by one path, whose two inner neurons have no
    link but those of the path: each has one internal link and ``de* = 1``.

    >>> import topo
    >>> topo.link_scores([[1, 1], [1, 0]], "ch2_l3n")
    array([[0., 0.],
           [0., 4.]], dtype=float32)
    """
    a = as_adjacency(adjacency)
    scorer = _find(predictor)
    chosen = np.arange(a.shape[0]) if rows is None else _as_rows(rows, a.shape[0])
    layer = Layer.of(a)
    out = np.empty((len(chosen), a.shape[1]), dtype=dtype)

    def score(block: slice) -> None:
        part = np.empty((block.stop - block.start, a.shape[1]))
        scorer.score_rows(layer, chosen[block], part)
        _zero_links(a.indptr, a.indices, chosen[block], part)
        out[block] = part

    map_threads(score, _blocks(len(chosen), sum(a.shape)))
    return out


def grow(
    adjacency: Any,
    k: int,
    predictor: str | Predictor,
    *,
    soft: bool | float = True,
    seed: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Choose exactly k absent links to grow.

    Parameters
    ----------
    adjacency : csr_array, or any 0/1 matrix, shape (n_out, n_in)
    k : int
        How many; from 0 to the number of absent links.
    predictor : str or Predictor
        As in `link_scores`.
    soft : bool or float
        True: a sample without replacement with p proportional to the score. False: the k highest
        scores, ties broken at random. A number T: p proportional to ``score ** T``.
        Where fewer than k absent links have a positive score, all of those grow and the rest is
        uniform over the other absent links.
    seed : int
        The result is a function of the arguments alone: the same for any number of threads.

    Returns
    -------
    rows, cols : int32 arrays, shape (k,)
        In row-major order.

    Raises
    ------
    ValueError
        For an impossible k, an unknown predictor, or a matrix that is no adjacency.

    Notes
    -----
    Scores are computed in blocks of rows and the selection streams, so memory is in proportion to
    the links, k and one block per thread.

    Examples
    --------
    >>> import topo
    >>> rows, cols = topo.grow([[1, 1, 0], [1, 0, 0]], 1, "ch3_l3p", soft=False, seed=0)
    >>> rows.tolist(), cols.tolist()
    ([1], [1])
    """
    a = as_adjacency(adjacency)
    scorer = _find(predictor)
    absent = a.shape[0] * a.shape[1] - a.nnz
    if isinstance(k, bool) or not isinstance(k, Integral) or not 0 <= k <= absent:
        raise ValueError(f"k must be an integer from 0 to {absent}, the absent links, not {k!r}")
    sharpness = _sharpness(soft)
    k = int(k)
    uniform_key = stream(seed, "grow", "uniform")
    if k == 0 or scorer.uniform:
        return sample_absent(a, k, uniform_key)
    rows, cols = _best(a, k, scorer, sharpness, stream(seed, "grow"))
    if len(rows) == k:
        return rows, cols
    old_rows, old_cols = links(a)
    taken = from_links(np.concatenate([old_rows, rows]), np.concatenate([old_cols, cols]), a.shape)
    more_rows, more_cols = sample_absent(taken, k - len(rows), uniform_key)
    rows, cols = np.concatenate([rows, more_rows]), np.concatenate([cols, more_cols])
    order = np.lexsort((cols, rows))
    return rows[order], cols[order]


def _best(
    a: sparse.csr_array, k: int, scorer: Predictor, sharpness: float, key: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The k winners among the absent links of positive score, or all of them if they are fewer."""
    layer = Layer.of(a)
    n_in = a.shape[1]
    lock = threading.Lock()
    cells = np.empty(0, dtype=np.int64)
    keys = np.empty(0)
    cut = -np.inf  # k candidates at least as good are known

    def keep_best() -> None:
        nonlocal cells, keys, cut
        if len(keys) > k:
            best = largest(keys, k, hash_links(key, cells // n_in, cells % n_in))
            cells, keys = cells[best], keys[best]
        if len(keys) == k:
            cut = keys.min()

    def score(block: slice) -> None:
        nonlocal cells, keys
        rows = np.arange(block.start, block.stop)
        part = np.empty((len(rows), n_in))
        scorer.score_rows(layer, rows, part)
        _zero_links(a.indptr, a.indices, rows, part)
        if not _rank(part, rows, _U(key), sharpness):
            raise ValueError(f"the predictor {scorer.name!r} gave scores that are negative or NaN")
        ranked = part.ravel()
        at = np.flatnonzero(ranked >= max(cut, -np.finfo(np.float64).max))
        with lock:
            cells = np.concatenate([cells, at + block.start * n_in])
            keys = np.concatenate([keys, ranked[at]])
            if len(keys) > 2 * k:
                keep_best()

    map_threads(score, _blocks(a.shape[0], sum(a.shape)))
    keep_best()
    cells = np.sort(cells)
    return (cells // n_in).astype(np.int32), (cells % n_in).astype(np.int32)


@njit(nogil=True, cache=True)
def _zero_links(indptr, indices, rows, out):
    for b in range(len(rows)):
        for p in range(indptr[rows[b]], indptr[rows[b] + 1]):
            out[b, indices[p]] = 0.0


@njit(nogil=True, cache=True)
def _rank(scores, rows, key, sharpness):
    """Scores to race keys in place, -inf for a score of 0; whether all scores are proper."""
    proper = True
    for b in range(scores.shape[0]):
        for u in range(scores.shape[1]):
            s = scores[b, u]
            if not s > 0.0:
                proper &= s == 0.0
                scores[b, u] = -np.inf
            elif sharpness != np.inf:
                x = to_unit(bits(key, rows[b], u))
                scores[b, u] = sharpness * np.log(s) - np.log(-np.log(x))
    return proper


def _blocks(n_rows: int, width: int) -> Iterator[slice]:
    """Rows in blocks of bounded memory, enough of them to keep every thread busy with real work."""
    fair = -(-n_rows // (2 * thread_count()))
    size = max(1, min(_BLOCK_CELLS // width, max(fair, _SMALL_BLOCK // width)))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def _find(predictor: str | Predictor) -> Predictor:
    if isinstance(predictor, Predictor):
        return predictor
    return find(PREDICTORS, predictor, "predictor")


def _as_rows(rows: npt.ArrayLike, n_out: int) -> npt.NDArray[np.int64]:
    chosen = np.asarray(rows)
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise ValueError(f"rows must be a list of integers, not {rows!r}")
    if chosen.size and (chosen.min() < 0 or chosen.max() >= n_out):
        raise ValueError(f"rows must be in 0..{n_out - 1}, not {rows!r}")
    return np.ascontiguousarray(chosen, dtype=np.int64)


def _sharpness(soft: bool | float) -> float:
    if isinstance(soft, bool):
        return 1.0 if soft else np.inf
    if not isinstance(soft, Real):
        raise ValueError(f"soft must be True, False or an exponent, not {soft!r}")
    check_sharpness(float(soft))
    return float(soft)
