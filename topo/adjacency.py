# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""A layer's topology: a canonical, read-only boolean ``scipy.sparse.csr_array``.

The shape is ``(n_out, n_in)``, as that of ``torch.nn.Linear.weight``: row ``v`` lists the input
neurons linked to output neuron ``v``. Canonical means sorted 32-bit indices, no duplicates, no
explicit zeros. The arrays are read-only: an update makes new ones, so a saved adjacency never
changes.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo.checks import as_integer
from topo.compiled import njit

__all__ = [
    "as_adjacency",
    "equal",
    "from_links",
    "link_count",
    "link_keys",
    "links",
    "locate",
    "positions",
    "transpose",
    "wrap_csr",
]

_INT32_MAX = np.iinfo(np.int32).max


def as_adjacency(matrix: Any) -> sparse.csr_array:
    """Turn any 0/1 matrix into a canonical adjacency.

    Parameters
    ----------
    matrix : scipy sparse matrix or array, or array_like, shape (n_out, n_in)
        Entries 0 or 1 (or bool). Explicit zeros and unsorted indices are tidied.

    Returns
    -------
    scipy.sparse.csr_array of bool
        Canonical, int32 indices, read-only arrays. An adjacency that already is one comes back
        as it is, without a copy.

    Raises
    ------
    ValueError
        If the matrix is not two-dimensional, is empty along a side, or holds a value other than
        0 and 1 (duplicate entries add up, and are refused too), or an index out of range.

    Examples
    --------
    >>> import topo
    >>> a = topo.as_adjacency([[1, 0, 1], [0, 0, 1]])
    >>> a.shape, a.nnz, a.indices.tolist()
    ((2, 3), 3, [0, 2, 2])
    """
    if _is_canonical(matrix):
        return matrix
    if sparse.issparse(matrix):
        if hasattr(matrix, "check_format"):
            matrix.check_format(full_check=True)  # scipy's kernels crash on bad indices
        coo = matrix.tocoo()
        values, shape = coo.data, coo.shape
    else:
        values = np.asarray(matrix)
        shape = values.shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"an adjacency has the shape (n_out, n_in), both at least 1; this one has {shape}"
        )
    if values.dtype.kind not in "biuf":
        raise ValueError(f"an adjacency holds 0 and 1; this one has the dtype {values.dtype}")
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        raise ValueError(
            f"an adjacency holds 0 and 1; this one holds {values[wrong][0].item()!r} "
            "(for weights, pass `weights != 0`)"
        )
    if sparse.issparse(matrix):
        rows, cols = coo.row[values != 0], coo.col[values != 0]
    else:
        rows, cols = np.nonzero(values)
    return from_links(rows, cols, (int(shape[0]), int(shape[1])))


def from_links(
    rows: npt.ArrayLike, cols: npt.ArrayLike, shape: tuple[int, int]
) -> sparse.csr_array:
    """Build the adjacency with the links ``(rows[i], cols[i])``.

    Parameters
    ----------
    rows, cols : array_like of int, shape (links,)
        Output and input neuron of each link, in any order.
    shape : (int, int)
        ``(n_out, n_in)``.

    Raises
    ------
    ValueError
        On indices out of range, a link given twice, or arrays of unequal length.

    Examples
    --------
    >>> import topo
    >>> topo.from_links([1, 0], [2, 0], (2, 3)).toarray().astype(int)
    array([[1, 0, 0],
           [0, 0, 1]])
    """
    r, c = np.asarray(rows), np.asarray(cols)
    _check_sizes(*shape)
    n_out, n_in = int(shape[0]), int(shape[1])
    if r.shape != c.shape or r.ndim != 1:
        raise ValueError(
            f"rows and cols must be one-dimensional and equal in length, not {r.shape}, {c.shape}"
        )
    for name, index, size in (("row", r, n_out), ("column", c, n_in)):
        if index.size and index.dtype.kind not in "iu":
            raise ValueError(f"{name} indices must be integers, not {index.dtype}")
        if index.size and (index.min() < 0 or index.max() >= size):
            bad = index.min() if index.min() < 0 else index.max()
            raise ValueError(f"{name} {bad} is out of range for a layer of shape {shape}")
    if r.size > _INT32_MAX or max(shape) > _INT32_MAX:
        raise ValueError(f"a layer of shape {shape} with {r.size} links exceeds 32-bit indices")
    keys = np.sort(r.astype(np.int64) * n_in + c.astype(np.int64))
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if twice.size:
        row, col = divmod(int(keys[twice[0]]), n_in)
        raise ValueError(f"the link ({row}, {col}) is given twice")
    return _from_sorted_keys(keys, shape)


def links(adjacency: sparse.csr_array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Rows and columns of all links, in row-major order.

    Examples
    --------
    >>> import topo
    >>> rows, cols = topo.links(topo.as_adjacency([[0, 1], [1, 1]]))
    >>> rows.tolist(), cols.tolist()
    ([0, 1, 1], [1, 0, 1])
    """
    a = as_adjacency(adjacency)
    return np.repeat(np.arange(a.shape[0], dtype=np.int32), np.diff(a.indptr)), a.indices


def link_keys(adjacency: sparse.csr_array) -> npt.NDArray[np.int64]:
    """Every link as one integer ``row * n_in + column``, ascending."""
    rows, cols = links(adjacency)
    return rows.astype(np.int64) * adjacency.shape[1] + cols


def locate(keys: npt.NDArray[np.int64], among: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Position of each key in the ascending array ``among``, or -1 where it is absent.

    Examples
    --------
    >>> import numpy as np
    >>> from topo.adjacency import locate
    >>> locate(np.array([3, 4, 9]), among=np.array([1, 3, 9])).tolist()
    [1, -1, 2]
    """
    at = np.searchsorted(among, keys)
    found = np.zeros(len(keys), dtype=bool)
    inside = at < len(among)
    found[inside] = among[at[inside]] == keys[inside]
    return np.where(found, at, -1)


def positions(adjacency: sparse.csr_array, among: sparse.csr_array) -> npt.NDArray[np.int64]:
    """Position of each link in the row-major order of another topology, or -1 where it is absent.

    Examples
    --------
    >>> import topo
    >>> new, old = topo.as_adjacency([[0, 1], [1, 1]]), topo.as_adjacency([[1, 0], [0, 1]])
    >>> topo.adjacency.positions(new, among=old).tolist()
    [-1, -1, 1]
    """
    return _positions(adjacency.indptr, adjacency.indices, among.indptr, among.indices)


@njit(nogil=True, cache=True)
def _positions(indptr, indices, among_indptr, among):
    out = np.full(len(indices), -1, dtype=np.int64)
    for row in range(len(indptr) - 1):
        q, end = among_indptr[row], among_indptr[row + 1]
        for p in range(indptr[row], indptr[row + 1]):
            while q < end and among[q] < indices[p]:
                q += 1
            if q < end and among[q] == indices[p]:
                out[p] = q
    return out


def equal(a: sparse.csr_array, b: sparse.csr_array) -> bool:
    """Whether two adjacencies have the same shape and links.

    Examples
    --------
    >>> import topo
    >>> a, b = topo.as_adjacency([[0, 1]]), topo.as_adjacency([[1, 0]])
    >>> topo.adjacency.equal(a, a), topo.adjacency.equal(a, b)
    (True, False)
    """
    return (
        a.shape == b.shape
        and np.array_equal(a.indptr, b.indptr)
        and np.array_equal(a.indices, b.indices)
    )


def transpose(
    adjacency: sparse.csr_array,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """CSR of the transposed layer and, per entry of it, the position in the original.

    Returns
    -------
    indptr, indices, order : int32 arrays, shapes (n_in + 1,), (links,), (links,)
        ``values[order]`` are the values in the order of the transposed layer.
    """
    indptr, indices, order = _turn(adjacency.indptr, adjacency.indices, adjacency.shape[1])
    return _frozen(indptr), _frozen(indices), _frozen(order)


@njit(nogil=True, cache=True)
def _turn(indptr, indices, n_cols):
    """Row pointers and sorted indices of the transposed matrix, and where its entries were."""
    t_indptr = np.zeros(n_cols + 1, dtype=np.int32)
    for p in range(len(indices)):
        t_indptr[indices[p] + 1] += 1
    for col in range(n_cols):
        t_indptr[col + 1] += t_indptr[col]
    free = t_indptr[:-1].copy()
    t_indices = np.empty(len(indices), dtype=np.int32)
    order = np.empty(len(indices), dtype=np.int32)
    for row in range(len(indptr) - 1):
        for p in range(indptr[row], indptr[row + 1]):
            at = free[indices[p]]
            t_indices[at] = row
            order[at] = p
            free[indices[p]] = at + 1
    return t_indptr, t_indices, order


def link_count(density: float, n_out: int, n_in: int) -> int:
    """The exact number of links of a layer: ``round(density * n_out * n_in)``.

    Raises
    ------
    ValueError
        If density is not in (0, 1], a size is not a positive integer, or the layer is too small
        to hold one link at this density.

    Examples
    --------
    >>> import topo
    >>> topo.link_count(0.05, 256, 64)
    819
    """
    _check_sizes(n_out, n_in)
    if isinstance(density, bool) or not isinstance(density, Real) or not 0 < density <= 1:
        raise ValueError(
            f"density must be in (0, 1], not {density!r} (density = 1 - sparsity: "
            "95 % sparsity is density 0.05)"
        )
    count = round(float(density) * int(n_out) * int(n_in))
    if count < 1:
        raise ValueError(
            f"density {density!r} leaves no link in a layer of {n_out} x {n_in} neurons: "
            f"use at least {1 / (n_out * n_in):.2g}, or exclude the layer"
        )
    if count > _INT32_MAX:
        raise ValueError(f"a layer of {n_out} x {n_in} with {count} links exceeds 32-bit indices")
    return count


def _check_sizes(n_out: int, n_in: int) -> None:
    for name, size in (("n_out", n_out), ("n_in", n_in)):
        if as_integer(name, size, 1) > _INT32_MAX:
            raise ValueError(f"{name} = {size} exceeds 32-bit indices")


def _is_canonical(matrix: Any) -> bool:
    return (
        isinstance(matrix, sparse.csr_array)
        and matrix.ndim == 2
        and 0 not in matrix.shape
        and matrix.dtype == bool
        and matrix.indices.dtype == matrix.indptr.dtype == np.int32
        and not (matrix.indices.flags.writeable or matrix.indptr.flags.writeable)
        and len(matrix.indptr) == matrix.shape[0] + 1
        and len(matrix.indices) == len(matrix.data) == matrix.indptr[-1]
        and bool(matrix.data.all())
        and _ascending(matrix.indptr, matrix.indices, matrix.shape[1])
    )


@njit(nogil=True, cache=True)
def _ascending(indptr, indices, n_cols):
    """Whether every row's columns ascend strictly within range; scipy's own flag can be set."""
    if indptr[0] != 0 or indptr[-1] != len(indices):
        return False
    for row in range(len(indptr) - 1):
        first, end = indptr[row], indptr[row + 1]
        if first > end or end > len(indices):
            return False
        last = -1
        for p in range(first, end):
            if not last < indices[p] < n_cols:
                return False
            last = indices[p]
    return True


def _from_sorted_keys(keys: npt.NDArray[np.int64], shape: tuple[int, int]) -> sparse.csr_array:
    n_out, n_in = shape
    indptr = np.searchsorted(keys, np.arange(n_out + 1, dtype=np.int64) * n_in).astype(np.int32)
    return wrap_csr(indptr, (keys % n_in).astype(np.int32), shape)


def wrap_csr(
    indptr: npt.NDArray[np.int32], indices: npt.NDArray[np.int32], shape: tuple[int, int]
) -> sparse.csr_array:
    """Wrap index arrays that are known to be canonical, sharing their memory."""
    data = np.ones(len(indices), dtype=bool)
    adjacency = sparse.csr_array(
        (_frozen(data), _frozen(indices), _frozen(indptr)), shape=shape, copy=False
    )
    adjacency.has_sorted_indices = True
    adjacency.has_canonical_format = True
    return adjacency


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view
