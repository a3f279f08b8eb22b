# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Score a layer's absent links, and grow some of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo.absent import fill_up, sample_absent
from topo.adjacency import as_adjacency
from topo.checks import as_integer
from topo.compiled import njit
from topo.hashing import _U, bits, hash_links, stream, to_unit
from topo.names import find
from topo.parallel import map_threads, thread_count
from topo.predictors import PREDICTORS, Predictor
from topo.predictors._base import Layer
from topo.predictors._lanes import WIDTH
from topo.selection import check_scores, check_sharpness, largest, level

__all__ = ["grow", "link_scores"]

_BLOCK_CELLS = 2**22  # of float64 scores per thread: 32 MB
_TILE_CELLS = 2**25  # of all threads' tiles together, whose tables are better shared: 256 MB
_RANK_CELLS = 2**16  # ranked at once: the more often, the sooner is known what it takes to win
_LEAST_TILE = 2**20
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
        A name in `PREDICTORS`: "ch3_l3p", "ch2_l3p", "ch3_l3n", "ch2_l3n" (Cannistraci-Hebb),
        "ra_l3", "cn_l3" (paths of length three), "degree_product", "random".
    rows : array_like of int, optional
        Output neurons to score; all by default.
    dtype : dtype
        Of the result, float32 or float64; sums are accumulated in float64 whatever it is.

    Returns
    -------
    array, shape (n_out or len(rows), n_in)
        Higher is likelier; 0 on present links and where no path of length three leads across.

    Raises
    ------
    ValueError
        For an unknown predictor, a row out of range, or a matrix that is no adjacency.

    Notes
    -----
    Any number of threads gives the same bits, and any number may call. The kernels run on as many
    threads as torch uses (where it is loaded). They are compiled once per machine, which takes
    seconds, and loaded by the first call of a process.

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
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, not {np.dtype(dtype)}")
    out = np.empty((len(chosen), a.shape[1]), dtype=dtype)

    def store(rows: slice, columns: slice, scores: npt.NDArray[np.float64]) -> None:
        out[rows, columns] = scores

    _score(scorer, Layer.of(a), chosen, store)
    _zero_links(a.indptr, a.indices, chosen, out)
    return out


def grow(
    adjacency: Any,
    k: int,
    predictor: str | Predictor | npt.ArrayLike,
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
    predictor : str, Predictor or array_like, shape (n_out, n_in)
        As in `link_scores`; or the scores themselves, finite and not negative. Those of present
        links do not count.
    soft : bool or float
        True: a sample without replacement with p proportional to the score. False: the k highest
        scores, ties (equal to twelve digits) broken at random. A number T: p proportional to
        ``score ** T``.
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
        For an impossible k, an unknown predictor, scores that are negative, NaN or infinite, or
        a matrix that is no adjacency.

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

    By scores of your own, such as the magnitude of a dense gradient:

    >>> rows, cols = topo.grow([[1, 1, 0]] * 2, 1, [[9, 9, 0.1], [9, 9, 0.3]], soft=False, seed=0)
    >>> rows.tolist(), cols.tolist()
    ([1], [2])
    """
    a = as_adjacency(adjacency)
    scorer = _as_predictor(predictor, a.shape)
    absent = a.shape[0] * a.shape[1] - a.nnz
    k = as_integer("k", k, 0, absent)
    sharpness = _sharpness(soft)
    uniform_key = stream(seed, "grow", "uniform")
    if k == 0 or scorer.uniform:
        return sample_absent(a, k, uniform_key)
    rows, cols = _best(a, k, scorer, sharpness, stream(seed, "grow"))
    return fill_up(a, rows, cols, k, uniform_key)


def _best(
    a: sparse.csr_array, k: int, scorer: Predictor, sharpness: float, key: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The k winners among the absent links of positive score, or all of them if they are fewer."""
    layer = Layer.of(a)
    n_in = a.shape[1]
    lock = threading.Lock()
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = []
    waiting = 0
    cut = -np.inf  # k candidates at least as good are known

    def keep_best() -> None:
        nonlocal cut, waiting
        cells, keys = (np.concatenate(part) for part in zip(*found, strict=True))
        if len(keys) > k:
            best = largest(keys, k, hash_links(key, cells // n_in, cells % n_in))
            cells, keys = cells[best], keys[best]
        if len(keys) == k:
            cut = keys.min()
        found[:] = [(cells, keys)]
        waiting = len(keys)

    def rank(rows: slice, columns: slice, scores: npt.NDArray[np.float64]) -> None:
        nonlocal waiting
        _hide_links(layer.t_indptr, layer.t_indices, rows.start, columns.start, scores)
        for part in _slices(len(scores), max(1, _RANK_CELLS // scores.shape[1])):
            first = rows.start + part.start, columns.start
            cells = np.empty(scores[part].size, dtype=np.int64)
            keys = np.empty(cells.size)
            count = _rank(scores[part], *first, n_in, _U(key), sharpness, cut, cells, keys)
            if count < 0:
                raise ValueError(
                    f"the predictor {scorer.name!r} gave scores that are negative or NaN, or "
                    "infinite ones to sample from"
                )
            with lock:
                found.append((cells[:count].copy(), keys[:count].copy()))
                waiting += count
                if waiting > 2 * k:
                    keep_best()

    _score(scorer, layer, np.arange(a.shape[0]), rank)
    keep_best()
    cells = np.sort(found[0][0])
    return (cells // n_in).astype(np.int32), (cells % n_in).astype(np.int32)


def _score(
    predictor: Predictor,
    layer: Layer,
    rows: npt.NDArray[np.int64],
    consume: Callable[[slice, slice, npt.NDArray[np.float64]], None],
) -> None:
    """Hand the scores of the rows to `consume`, block by block, on all threads."""
    if not len(rows):
        return
    n_in = layer.shape[1]
    tiles = predictor.tiles
    if tiles is not None and tiles.faster(layer, rows):

        def score_tile(block: tuple[slice, slice]) -> None:
            down, across = block
            part = np.empty((down.stop - down.start, across.stop - across.start))
            tiles.score(layer, rows[down], across.start, part)
            consume(down, across, part)

        map_threads(score_tile, _grid(len(rows), n_in))
        return

    def score_rows(block: slice) -> None:
        part = np.empty((block.stop - block.start, n_in))
        predictor.score_rows(layer, rows[block], part)
        consume(block, slice(0, n_in), part)

    fair = -(-len(rows) // (2 * thread_count()))  # enough blocks to keep every thread busy ...
    size = max(fair, _SMALL_BLOCK // sum(layer.shape))  # ... with real work
    map_threads(score_rows, _slices(len(rows), min(size, _BLOCK_CELLS // sum(layer.shape))))


@njit(nogil=True, cache=True)
def _zero_links(indptr, indices, rows, out):
    for b in range(len(rows)):
        for p in range(indptr[rows[b]], indptr[rows[b] + 1]):
            out[b, indices[p]] = 0


@njit(nogil=True, cache=True)
def _hide_links(t_indptr, t_indices, first_row, first_col, scores):
    """Set the present links of a block of scores to 0."""
    for j in range(scores.shape[1]):
        p, end = t_indptr[first_col + j], t_indptr[first_col + j + 1]
        p += np.searchsorted(t_indices[p:end], first_row)
        while p < end and t_indices[p] < first_row + scores.shape[0]:
            scores[t_indices[p] - first_row, j] = 0.0
            p += 1


@njit(nogil=True, cache=True)
def _rank(scores, first_row, first_col, n_in, key, sharpness, cut, cells, keys):
    """Race keys of the positive scores that reach `cut`; how many, or -1 for improper scores."""
    count = 0
    # at exponent 1 a key is log(score / -log(x)), and -log(x) > 1 - x: most need no logarithm
    least = 0.0
    if sharpness == 1.0 and cut > -600.0:  # further down exp loses digits
        least = np.exp(min(cut, 700.0)) * (1.0 - 1e-9)
    for b in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            s = scores[b, j]
            if not s > 0.0:
                if s != 0.0:
                    return -1
                continue
            if sharpness == np.inf:
                rank = level(s)
            else:
                if s == np.inf:
                    return -1
                x = to_unit(bits(key, first_row + b, first_col + j))
                if s < least * (1.0 - x):
                    continue
                rank = sharpness * np.log(s) - np.log(-np.log(x))
            if rank >= cut:
                cells[count] = np.int64(first_row + b) * n_in + first_col + j
                keys[count] = rank
                count += 1
    return count


def _grid(n_rows: int, n_cols: int) -> Iterator[tuple[slice, slice]]:
    """A block of rows and columns for each thread, or several if they were too large."""
    threads = 1 if n_rows * n_cols <= _SMALL_BLOCK else thread_count()
    count = threads * -(-n_rows * n_cols // max(_TILE_CELLS, threads * _LEAST_TILE))
    # tables of the rows are made for every block across, those of the columns for every one down
    down = min(
        (d for d in range(1, count + 1) if count % d == 0),
        key=lambda d: d * n_cols + count // d * n_rows,
    )
    width = -(-n_cols * down // (count * WIDTH)) * WIDTH
    for rows in _slices(n_rows, -(-n_rows // down)):
        for columns in _slices(n_cols, width):
            yield rows, columns


def _slices(n: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _find(predictor: object) -> Predictor:
    if isinstance(predictor, Predictor):
        return predictor
    return find(PREDICTORS, predictor, "predictor")


def _as_predictor(predictor: str | Predictor | npt.ArrayLike, shape: tuple[int, int]) -> Predictor:
    """Scores as a predictor that reads them."""
    if isinstance(predictor, (str, Predictor)):
        return _find(predictor)
    scores = np.asarray(predictor)
    if scores.dtype.kind not in "biuf":
        return _find(predictor)
    if scores.shape != shape:
        raise ValueError(f"scores must have the layer's shape {shape}, not {scores.shape}")
    check_scores(scores, finite=True)

    def score_rows(_: Layer, rows: npt.NDArray[np.int64], out: npt.NDArray[np.float64]) -> None:
        out[:] = scores[rows]

    return Predictor("scores", score_rows)


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
