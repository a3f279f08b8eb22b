# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""A random layer with given degrees, on top of links that are to stay."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo.adjacency import _from_sorted_keys
from topo.compiled import njit
from topo.generators._draw import below, shuffled
from topo.hashing import _U, bits, stream

__all__ = ["layer_of_degrees"]

_TRADES = 10  # of every row with another


def layer_of_degrees(
    rows: npt.NDArray[np.int64],
    cols: npt.NDArray[np.int64],
    row_ends: npt.NDArray[np.int64],
    col_ends: npt.NDArray[np.int64],
    seed: int,
) -> sparse.csr_array:
    """Join loose ends of rows and columns at random, no link twice.

    Parameters
    ----------
    rows, cols : int64 arrays, shape (kept,)
        Links that exist already.
    row_ends, col_ends : int64 arrays, shapes (n_out,) and (n_in,), of equal sum
        Loose ends of every neuron; with its links no more than the other side has neurons.
    seed : int

    Returns
    -------
    csr_array of bool, shape (n_out, n_in)
        Every row has its links and as many more as it has ends. So has every column, if there is
        such a layer at all (Gale and Ryser); if there is none, the sum of the differences is the
        smallest possible.

    Notes
    -----
    The ends are joined at random; a link that exists already trades its column with another new
    link. Where there is little room for that (dense layers), the kept links are dealt anew with
    the others: every row takes the columns with most ends left, the longest row first, and the
    links are then shuffled by trades between pairs of rows, which keep all degrees (curveball:
    Strona et al., Nature Communications 2014; global trades: Carstens et al., 2018).

    Examples
    --------
    >>> import numpy as np
    >>> from topo.generators._degrees import layer_of_degrees
    >>> one = np.array([0])
    >>> layer_of_degrees(one, one, np.array([0, 2]), np.array([0, 2]), 0).toarray().astype(int)
    array([[0, 1],
           [1, 1]])
    """
    n_out, n_in = len(row_ends), len(col_ends)
    kept = np.bincount(rows, minlength=n_out)
    indptr = np.concatenate([[0], np.cumsum(kept + row_ends)])
    ends = np.repeat(np.arange(n_in), col_ends)[shuffled(int(col_ends.sum()), stream(seed, "ends"))]
    laid = _lay(indptr, kept, rows, cols, ends)
    if not _untangle(indptr, kept, laid, n_in, _U(stream(seed, "untangle"))):
        degrees = np.bincount(cols, minlength=n_in) + col_ends
        laid = _fill(indptr, degrees, shuffled(n_in, stream(seed, "fill")))
        for turn in range(_TRADES):
            order = shuffled(n_out, stream(seed, "pairs", turn))
            _trade(indptr, laid, order, n_in, _U(stream(seed, "trades", turn)))
    of_row = np.repeat(np.arange(n_out), np.diff(indptr))
    return _from_sorted_keys(np.sort(of_row * n_in + laid), (n_out, n_in))


@njit(nogil=True, cache=True)
def _lay(indptr, kept, rows, cols, ends):
    """Columns row by row: the kept ones first, then those of the ends."""
    laid = np.empty(indptr[-1], dtype=np.int64)
    free = indptr[:-1].copy()
    for i in range(len(rows)):
        laid[free[rows[i]]] = cols[i]
        free[rows[i]] += 1
    i = 0
    for row in range(len(kept)):
        for p in range(indptr[row] + kept[row], indptr[row + 1]):
            laid[p] = ends[i]
            i += 1
    return laid


@njit(nogil=True, cache=True)
def _untangle(indptr, kept, laid, n_in, key):
    """Trade columns between new links until no row has one twice; False: too hard."""
    n_out = len(kept)
    owner = np.empty(len(laid), dtype=np.int64)  # the new links: their rows, where they are
    place = np.empty(len(laid), dtype=np.int64)
    n_new = 0
    for row in range(n_out):
        for p in range(indptr[row] + kept[row], indptr[row + 1]):
            owner[n_new] = row
            place[n_new] = p
            n_new += 1
    seen = np.full(n_in, -1, dtype=np.int64)  # the last row that has the column
    patience = 4096 + 256 * len(laid)
    draws = 0
    for row in range(n_out):
        for p in range(indptr[row], indptr[row + 1]):
            while seen[laid[p]] == row:
                patience -= 1
                if patience < 0:
                    return False
                i = below(n_new, bits(key, draws, 0))
                draws += 1
                other, q = owner[i], place[i]
                if seen[laid[q]] == row:
                    continue
                patience -= indptr[other + 1] - indptr[other]
                if laid[p] not in laid[indptr[other] : indptr[other + 1]]:
                    laid[p], laid[q] = laid[q], laid[p]
            seen[laid[p]] = row
    return True


@njit(nogil=True, cache=True)
def _fill(indptr, degrees, order):
    """The longest row first, every row takes the columns with most ends left."""
    laid = np.empty(indptr[-1], dtype=np.int64)
    columns = order[np.argsort(-degrees[order], kind="mergesort")]
    left = -degrees[columns]  # negative, so that it ascends; it always will
    for row in np.argsort(-np.diff(indptr), kind="mergesort"):
        k = indptr[row + 1] - indptr[row]
        if k == 0:
            break
        # of the columns that equal the last one taken, those at the end are taken
        first = np.searchsorted(left, left[k - 1], side="left")
        shift = np.searchsorted(left, left[k - 1], side="right") - k
        for i in range(k):
            at = i if i < first else i + shift
            left[at] += 1
            laid[indptr[row] + i] = columns[at]
    return laid


@njit(nogil=True, cache=True)
def _trade(indptr, laid, order, n_in, key):
    """Rows meet in pairs and deal out anew the columns that only one of the two has."""
    met = np.full(n_in, -1, dtype=np.int64)
    places = np.empty(2 * n_in, dtype=np.int64)
    for pair in range(len(order) // 2):
        a, b = order[2 * pair], order[2 * pair + 1]
        for p in range(indptr[a], indptr[a + 1]):
            met[laid[p]] = 2 * pair
        n = 0
        for p in range(indptr[b], indptr[b + 1]):
            if met[laid[p]] == 2 * pair:
                met[laid[p]] = 2 * pair + 1  # both have it
            else:
                places[n] = p
                n += 1
        of_b = n
        for p in range(indptr[a], indptr[a + 1]):
            if met[laid[p]] == 2 * pair:
                places[n] = p
                n += 1
        for i in range(min(of_b, n - 1)):
            p, q = places[i], places[i + below(n - i, bits(key, pair, i))]
            laid[p], laid[q] = laid[q], laid[p]
