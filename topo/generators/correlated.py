"""Correlated sparse topology (CSTI): links between the features that vary together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo.absent import sample_absent
from topo.adjacency import from_links, link_count
from topo.hashing import sample_integers, stream

__all__ = ["correlated"]

_BLOCK = 2**21  # numbers in a block: 16 MB
_BLOCK_ROWS = 512
_STEPS = 2**36  # correlations are compared to eleven digits: more is rounding


def correlated(
    features: npt.ArrayLike,
    n_out: int,
    density: float,
    *,
    n_in: int | None = None,
    seed: int,
) -> sparse.csr_array:
    r"""A layer made from data: the strongest correlations between the features become links.

    The matrix of scores is

    .. math:: C_{ij} = |\rho(x_i, x_j)|, \qquad C_{ii} = 0,

    Pearson's correlation over the samples, 0 for a feature that is constant. Where the layer is
    larger than the number of features, C is tiled, :math:`[C\ C; C\ C]`, and cropped to shape.
    The layer has the ``round(density * n_out * n_in)`` highest scores, ties broken at random.

    Parameters
    ----------
    features : array_like, shape (samples, features)
        What the layer sees on a calibration set, training data only. Finite, two samples at least.
    n_out : int
        Neurons on the output side.
    density : float
        Share of the possible links that exist, in (0, 1].
    n_in : int, optional
        Neurons on the input side; by default one per feature. More (or less) of them for hidden
        layers, which in the papers use the tile of the input layer.
    seed : int
        The same seed gives the same links on every machine (scores are compared to eleven digits,
        which leaves the rounding of a machine's matrix product out).

    Returns
    -------
    csr_array of bool, shape (n_out, n_in)

    Raises
    ------
    ValueError
        For features that are not a real, finite matrix of at least two samples.

    Notes
    -----
    If fewer scores than links are positive, all of those become links and the rest is uniform
    over the other cells. C is never held as a whole: its upper triangle is computed in blocks of
    rows, of which only possible winners are kept, so memory is in proportion to the links. (Only
    if more pairs of features than that are equally correlated, all these pairs are held.)

    References
    ----------
    Zhang et al., Epitopological learning and Cannistraci-Hebb network shape intelligence brain-
    inspired theory for ultra-sparse advantage in deep learning (CHT), ICLR 2024.

    Examples
    --------
    The first two features are the same, the third is neither.

    >>> import topo
    >>> topo.correlated([[0, 0, 1], [1, 1, 0], [2, 2, 3], [3, 3, 0]], 3, 2 / 9, seed=0).toarray()
    array([[False,  True, False],
           [ True, False, False],
           [False, False, False]])
    """
    x, lowest, highest = _as_features(features)
    size = x.shape[1]
    n_in = size if n_in is None else n_in
    wanted = link_count(density, n_out, n_in)
    shape = int(n_out), int(n_in)
    key = stream(seed, "correlated")

    above, level = _strongest(x, lowest, highest, wanted, shape)
    rows, cols = _copies(above, None, size, shape)
    ties = int(_counts(level, size, shape).sum())
    picked = sample_integers(ties, min(wanted - len(rows), ties), stream(key, "ties"))
    more_rows, more_cols = _copies(level, picked, size, shape)
    layer = from_links(np.append(rows, more_rows), np.append(cols, more_cols), shape)
    if layer.nnz == wanted:
        return layer
    rest_rows, rest_cols = sample_absent(layer, wanted - layer.nnz, stream(key, "rest"))
    return from_links(
        np.concatenate([rows, more_rows, rest_rows]),
        np.concatenate([cols, more_cols, rest_cols]),
        shape,
    )


def _as_features(
    features: npt.ArrayLike,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Check the features; with the lowest and the highest value of each."""
    x = np.asarray(features)
    if x.ndim != 2 or x.shape[1] < 1:
        raise ValueError(
            f"features must be of shape (samples, features), not {x.shape}: flatten each sample"
        )
    if x.dtype.kind not in "biuf":
        raise ValueError(f"features must be real numbers, not of dtype {x.dtype}")
    if len(x) < 2:
        raise ValueError(
            f"a correlation takes at least 2 samples, not {len(x)}: pass a calibration set"
        )
    with np.errstate(invalid="ignore"):
        lowest, highest = x.min(axis=0).astype(np.float64), x.max(axis=0).astype(np.float64)
    wrong = ~(np.isfinite(lowest) & np.isfinite(highest))
    if wrong.any():
        raise ValueError(
            f"features must be finite, but {int(wrong.sum())} of {x.shape[1]} hold NaN or "
            f"infinity, the first of them feature {int(np.argmax(wrong))}: clean or drop these"
        )
    return x, lowest, highest


def _strongest(
    x: npt.NDArray[Any],
    lowest: npt.NDArray[np.float64],
    highest: npt.NDArray[np.float64],
    wanted: int,
    shape: tuple[int, int],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cells of C that are surely wanted, and those level at the cut; all of them positive.

    A cell is the number ``row * size + column`` and counts as often as it is tiled.
    """
    size = x.shape[1]
    cells, scores = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    cut = 1  # what is below it is not wanted
    for start, block in _blocks(x, lowest, highest, shape):
        i, j = np.nonzero(np.triu(block, 1) >= cut)
        found = block[i, j]
        i, j = i + start, j + start
        # the mirrored cell is exactly level, whatever the matrix product rounds
        cells = np.concatenate([cells, i * size + j, j * size + i])
        scores = np.concatenate([scores, found, found])
        counts = _counts(cells, size, shape)
        if counts.sum() > 2 * wanted:
            cut = _cut(scores, counts, wanted)
            cells, scores = cells[scores >= cut], scores[scores >= cut]
    counts = _counts(cells, size, shape)
    if counts.sum() > wanted:
        cut = _cut(scores, counts, wanted)
        return np.sort(cells[scores > cut]), np.sort(cells[scores == cut])
    return cells, np.empty(0, dtype=np.int64)


def _cut(scores: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], wanted: int) -> int:
    """The largest score that at least `wanted` have or exceed."""
    order = np.argsort(-scores)
    return int(scores[order[np.searchsorted(np.cumsum(counts[order]), wanted)]])


def _blocks(
    x: npt.NDArray[Any],
    lowest: npt.NDArray[np.float64],
    highest: npt.NDArray[np.float64],
    shape: tuple[int, int],
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Rows of C as integers, from the diagonal to the right: their first index, and the block."""
    samples, size = x.shape
    chunk = max(1, _BLOCK // size)
    parts = [slice(start, start + chunk) for start in range(0, samples, chunk)]
    # in units of the largest value, for its square may overflow
    unit = np.where(lowest < highest, np.maximum(-lowest, highest), 1.0)
    mean = np.sum([(x[part] / unit).sum(axis=0) for part in parts], axis=0) / samples
    squares = np.sum([((x[part] / unit - mean) ** 2).sum(axis=0) for part in parts], axis=0)
    with np.errstate(divide="ignore"):
        shrink = np.where(lowest < highest, 1 / np.sqrt(squares), 0.0)

    rows, cols = min(size, *shape), min(size, max(shape))  # of C, or of its mirror image
    height = max(1, min(_BLOCK // size, _BLOCK_ROWS))
    for start in range(0, rows, height):
        here = slice(start, cols)
        block = np.zeros((min(height, rows - start), cols - start))
        for part in parts:
            z = x[part, here] / unit[here]
            z -= mean[here]
            z *= shrink[here]
            block += z[:, : len(block)].T @ z
        yield start, np.rint(np.abs(block) * _STEPS).astype(np.int64)


def _counts(
    cells: npt.NDArray[np.int64], size: int, shape: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """How often the tiled and cropped layer has each cell of C."""
    rows = np.maximum(shape[0] - cells // size + size - 1, 0) // size
    cols = np.maximum(shape[1] - cells % size + size - 1, 0) // size
    return np.asarray(rows * cols)


def _copies(
    cells: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.int64] | None,
    size: int,
    shape: tuple[int, int],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of the layer where the cells are; of all their copies, those `chosen`."""
    counts = _counts(cells, size, shape)
    ends = np.cumsum(counts)
    if chosen is None:
        chosen = np.arange(counts.sum())
    at = np.searchsorted(ends, chosen, side="right")
    nth = chosen - (ends - counts)[at]
    i, j = cells[at] // size, cells[at] % size
    across = (shape[1] - j + size - 1) // size
    return i + size * (nth // across), j + size * (nth % across)
