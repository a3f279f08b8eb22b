# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Uniformly random absent links, without ever listing all of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo.adjacency import as_adjacency, from_links, links
from topo.compiled import njit
from topo.hashing import sample_integers

__all__ = ["fill_up", "sample_absent"]


@njit(nogil=True, cache=True)
def _cells_of_ranks(indptr, indices, n_in, ranks):
    """The absent cells with the given ranks (ascending), counted in row-major order."""
    rows = np.empty(len(ranks), dtype=np.int32)
    cols = np.empty(len(ranks), dtype=np.int32)
    row, before = 0, 0  # absent cells in the rows above
    for i in range(len(ranks)):
        while ranks[i] - before >= n_in - (indptr[row + 1] - indptr[row]):
            before += n_in - (indptr[row + 1] - indptr[row])
            row += 1
        rank = ranks[i] - before
        # the p-th link of a row has indices[p] - p absent cells to its left
        low, high = indptr[row], indptr[row + 1]
        while low < high:
            middle = (low + high) // 2
            if indices[middle] - (middle - indptr[row]) <= rank:
                low = middle + 1
            else:
                high = middle
        rows[i] = row
        cols[i] = rank + (low - indptr[row])
    return rows, cols


def sample_absent(
    adjacency: sparse.csr_array, k: int, key: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """k distinct absent links, uniformly, in row-major order.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
    k : int
        How many; at most the number of absent links.
    key : int
        From `topo.stream`.

    Examples
    --------
    >>> import topo
    >>> a = topo.as_adjacency([[1, 0], [1, 1]])
    >>> rows, cols = topo.sample_absent(a, 1, topo.stream(0))
    >>> rows.tolist(), cols.tolist()
    ([0], [1])
    """
    a = as_adjacency(adjacency)
    n_out, n_in = a.shape
    ranks = sample_integers(n_out * n_in - a.nnz, k, key)
    rows, cols = _cells_of_ranks(a.indptr, a.indices, n_in, ranks)
    return rows, cols


def fill_up(
    adjacency: sparse.csr_array,
    rows: npt.NDArray[np.int32],
    cols: npt.NDArray[np.int32],
    k: int,
    key: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Some absent links, in row-major order, and uniformly random other ones: k in all.

    Examples
    --------
    >>> import topo
    >>> from topo.absent import fill_up
    >>> a = topo.as_adjacency([[1, 0], [0, 1]])
    >>> rows, cols = fill_up(a, [1], [0], 2, topo.stream(0))
    >>> rows.tolist(), cols.tolist()
    ([0, 1], [1, 0])
    """
    if len(rows) == k:
        return rows, cols
    old_rows, old_cols = links(adjacency)
    taken = from_links(
        np.concatenate([old_rows, rows]), np.concatenate([old_cols, cols]), adjacency.shape
    )
    more_rows, more_cols = sample_absent(taken, k - len(rows), key)
    rows, cols = np.concatenate([rows, more_rows]), np.concatenate([cols, more_cols])
    order = np.lexsort((cols, rows))
    return rows[order], cols[order]
