# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""What an update does to one layer's topology: links leave it, links join it, in linear time.

Adjacencies are canonical here, as `topo.as_adjacency` makes them; that is not checked again. Links
are counted and compared by walking the rows of both topologies side by side: nothing is sorted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo.adjacency import wrap_csr
from topo.compiled import njit

__all__ = ["common", "difference", "subset", "union"]


def subset(adjacency: sparse.csr_array, kept: npt.NDArray[np.bool_]) -> sparse.csr_array:
    """The links that are kept.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
    kept : bool array, shape (links,)
        One entry per link, in row-major order.

    Returns
    -------
    csr_array of bool, shape (n_out, n_in)
        The same object if all are kept.

    Examples
    --------
    >>> import numpy as np, topo
    >>> from topo.changes import subset
    >>> a = topo.as_adjacency([[1, 1], [0, 1]])
    >>> subset(a, np.array([True, False, True])).toarray().astype(int)
    array([[1, 0],
           [0, 1]])
    """
    keep = np.asarray(kept)
    if keep.dtype != bool or keep.shape != (adjacency.nnz,):
        raise ValueError(
            f"kept must be one bool for each of the {adjacency.nnz} links, "
            f"not {keep.dtype} of shape {keep.shape}"
        )
    left = np.count_nonzero(keep)
    if left == adjacency.nnz:
        return adjacency
    indptr, indices = _subset(adjacency.indptr, adjacency.indices, keep, left)
    return wrap_csr(indptr, indices, adjacency.shape)


def union(
    adjacency: sparse.csr_array, rows: npt.ArrayLike, cols: npt.ArrayLike
) -> sparse.csr_array:
    """Join further links, such as those of `topo.grow`.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
    rows, cols : array_like of int, shape (new links,)
        Absent links, in row-major order.

    Returns
    -------
    csr_array of bool, shape (n_out, n_in)
        The same object if there is no new link.

    Raises
    ------
    ValueError
        If a new link is present, given twice, out of order or out of range.

    Examples
    --------
    >>> import topo
    >>> from topo.changes import union
    >>> union(topo.as_adjacency([[1, 0], [0, 0]]), [0, 1], [1, 0]).toarray().astype(int)
    array([[1, 1],
           [1, 0]])
    """
    r, c = np.asarray(rows), np.asarray(cols)
    if r.shape != c.shape or r.ndim != 1:
        raise ValueError(
            f"rows and cols must be one-dimensional and equal in length, not {r.shape}, {c.shape}"
        )
    if r.size == 0:
        return adjacency
    if r.dtype.kind not in "iu" or c.dtype.kind not in "iu":
        raise ValueError(f"rows and cols must be integers, not {r.dtype}, {c.dtype}")
    if adjacency.nnz + r.size > np.iinfo(np.int32).max:
        raise ValueError(f"{adjacency.nnz} links and {r.size} new ones exceed 32-bit indices")
    r, c = r.astype(np.int64, copy=False), c.astype(np.int64, copy=False)
    indptr, indices, bad = _union(adjacency.indptr, adjacency.indices, adjacency.shape[1], r, c)
    if bad >= 0:
        raise ValueError(
            f"new links must be absent and ascend, row by row, within a layer of shape "
            f"{adjacency.shape}: ({r[bad]}, {c[bad]}), at {bad}, does not (topo.from_links takes "
            "links in any order)"
        )
    return wrap_csr(indptr, indices, adjacency.shape)


def difference(a: sparse.csr_array, b: sparse.csr_array) -> npt.NDArray[np.int64]:
    """The links of a that b lacks, each as ``row * n_in + column``, ascending.

    Parameters
    ----------
    a, b : csr_array of bool, shape (n_out, n_in)

    Examples
    --------
    >>> import topo
    >>> from topo.changes import difference
    >>> before, after = topo.as_adjacency([[1, 0], [1, 1]]), topo.as_adjacency([[1, 1], [0, 1]])
    >>> difference(before, after).tolist(), difference(after, before).tolist()
    ([2], [1])
    """
    if a.shape != b.shape:
        raise ValueError(f"topologies of one layer have one shape, not {a.shape} and {b.shape}")
    if a is b:
        return np.empty(0, dtype=np.int64)
    return _difference(a.indptr, a.indices, b.indptr, b.indices, a.shape[1])


def common(a: sparse.csr_array, b: sparse.csr_array) -> int:
    """How many links a and b share.

    Of links that `left` lost from `before`, as many came back in `after`, which contains `left`,
    as ``common(before, after) - left.nnz``.

    Parameters
    ----------
    a, b : csr_array of bool, shape (n_out, n_in)

    Examples
    --------
    >>> import topo
    >>> from topo.changes import common
    >>> common(topo.as_adjacency([[1, 0], [1, 1]]), topo.as_adjacency([[1, 1], [0, 1]]))
    2
    """
    return int(a.nnz) - len(difference(a, b))


# Which links go looks random, and processors guess such branches badly. So `_subset` and
# `_difference` write every link where the next result belongs, and step on if it is one.


@njit(nogil=True, cache=True)
def _subset(indptr, indices, keep, left):
    new_indptr = np.zeros(len(indptr), dtype=np.int32)
    out = np.empty(left + 1, dtype=np.int32)
    n = 0
    for row in range(len(indptr) - 1):
        for p in range(indptr[row], indptr[row + 1]):
            out[n] = indices[p]
            n += keep[p]
        new_indptr[row + 1] = n
    return new_indptr, out[:left]


@njit(nogil=True, cache=True)
def _union(indptr, indices, n_in, rows, cols):
    """Row pointers, indices, and the position of a new link that is not as it must be, or -1."""
    new_indptr = np.zeros(len(indptr), dtype=np.int32)
    out = np.empty(len(indices) + len(rows), dtype=np.int32)
    n = q = 0
    for row in range(len(indptr) - 1):
        p, end, last = indptr[row], indptr[row + 1], -1
        while q < len(rows) and rows[q] == row:
            new = cols[q]
            if not last < new < n_in:
                return new_indptr, out, q
            last = new
            while p < end and indices[p] < new:
                out[n] = indices[p]
                n, p = n + 1, p + 1
            if p < end and indices[p] == new:
                return new_indptr, out, q
            out[n] = new
            n, q = n + 1, q + 1
        for rest in range(p, end):
            out[n] = indices[rest]
            n += 1
        new_indptr[row + 1] = n
    return new_indptr, out, q if q < len(rows) else -1


@njit(nogil=True, cache=True)
def _difference(indptr, indices, b_indptr, b_indices, n_in):
    out = np.empty(len(indices) + 1, dtype=np.int64)
    n = 0
    for row in range(len(indptr) - 1):
        p, end, q, b_end = indptr[row], indptr[row + 1], b_indptr[row], b_indptr[row + 1]
        first = np.int64(row) * n_in
        while p < end and q < b_end:
            ours, theirs = indices[p], b_indices[q]
            out[n] = first + ours
            n += ours < theirs
            p += ours <= theirs
            q += theirs <= ours
        for rest in range(p, end):
            out[n] = first + indices[rest]
            n += 1
    return out[:n].copy()  # the rest of it would stay alive
