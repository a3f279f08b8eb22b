# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Cannistraci-Hebb scores in dense tiles, `WIDTH` columns wide.

A neuron z weighs f(z) = (1 + i di(z)) / de*(z), which depends on z and one end of the absent link
(see `topo.predictors.cannistraci_hebb`). With F_V[z1, v] and F_U[z2, u] as dense tables, the
node-based score is a product of sparse and dense matrices,

    score(v, u) = sum of F_V[z1, v] over z1 in N(u) + sum of F_U[z2, u] over z2 in N(v)

and the path-based score sums products of their square roots G,

    score(v, u) = sum over z2 in N(v) of G_U[z2, u] * (sum of G_V[z1, v] over z1 in N(z2) & N(u))

The tables are made WIDTH columns at a time: memory is in proportion to neurons x WIDTH, whatever
the layer's size.
"""

from __future__ import annotations

import numpy as np
from llvmlite.binding import get_host_cpu_features

from topo.compiled import njit
from topo.predictors._base import Floats, Layer, Rows
from topo.predictors._lanes import WIDTH, Mask, add_rows, sum_masked, sum_ones

__all__ = ["NodeTiles", "PathTiles"]

# nanoseconds, on one core of 2024: only their ratios matter
_SCATTER = 1.0  # to add to one cell, following a link
_START = 25.0  # to start a sum of WIDTH columns in registers
_ADD_ROWS, _ADD_ONES = 0.05, 0.01  # to add to one cell of it
_ADD_MASKED = 0.03 if get_host_cpu_features().get("avx512f") else 0.08  # it has masks
_WEIGH = 0.4  # f of one cell
_STORE = 0.8  # one score

_TABLE_ROWS = 2048  # of a table, half a megabyte: they are read again and again out of the cache
_SUMS = 64
_ROOTS = 2**23  # square roots that a thread keeps: 64 MB


@njit(nogil=True, cache=True, error_model="numpy")
def _weigh(indptr, indices, neurons, internal, root, masks, out):
    """f of every neuron z of a side with each of the neurons of the same side, into a table.

    `masks` becomes, for each neuron of the other side, the set of `neurons` that it links.
    """
    masks[:] = 0
    for j in range(len(neurons)):
        for p in range(indptr[neurons[j]], indptr[neurons[j] + 1]):
            masks[indices[p]] |= Mask(1) << Mask(j)
    common = np.empty(WIDTH, dtype=np.uint16)
    for z in range(len(indptr) - 1):
        sum_ones(common, 0, indices, indptr[z], indptr[z + 1], masks)
        degree = float(indptr[z + 1] - indptr[z])
        row = out[z]
        for j in range(WIDTH):
            c = float(common[j])
            f = (1.0 + internal * c) / max(degree - c, 1.0)
            row[j] = f if c > 0.0 else 0.0
        if root:
            for j in range(WIDTH):
                row[j] = np.sqrt(row[j])


@njit(nogil=True, cache=True, error_model="numpy")
def _cut_links(indptr, indices, neurons, n_across):
    """Where the links of each neuron to blocks of `_TABLE_ROWS` neurons begin and end."""
    blocks = -(-n_across // _TABLE_ROWS)
    cuts = np.empty((len(neurons), blocks + 1), dtype=np.int64)
    for i in range(len(neurons)):
        p, end = indptr[neurons[i]], indptr[neurons[i] + 1]
        for k in range(blocks):
            cuts[i, k] = p
            while p < end and indices[p] < (k + 1) * _TABLE_ROWS:
                p += 1
        cuts[i, blocks] = end
    return cuts


@njit(nogil=True, cache=True, error_model="numpy")
def _add_links(which, cuts, first, last, table, sums):
    """Add the table's rows of the links of neurons first..last to their sums."""
    for k in range(cuts.shape[1] - 1):
        for i in range(first, last):
            add_rows(sums, (i - first) * WIDTH, which, cuts[i, k], cuts[i, k + 1], table)


@njit(nogil=True, cache=True, error_model="numpy")
def _node_scores(indptr, indices, t_indptr, t_indices, rows, first, internal, out):
    n_out, n_in, n_columns = len(indptr) - 1, len(t_indptr) - 1, out.shape[1]
    masks = np.empty(max(n_out, n_in), dtype=Mask)
    cuts = _cut_links(t_indptr, t_indices, np.arange(first, first + n_columns), n_out)
    # few sums at once leave the cache to the table, many read a table of several blocks less often
    batch = n_columns if cuts.shape[1] > 2 else _SUMS
    sums = np.empty((batch, WIDTH))
    f_v = np.empty((n_out, WIDTH))
    for top in range(0, len(rows), WIDTH):
        bottom = min(top + WIDTH, len(rows))
        _weigh(indptr, indices, rows[top:bottom], internal, False, masks, f_v)
        for left in range(0, n_columns, batch):
            right = min(left + batch, n_columns)
            sums[:] = 0.0
            _add_links(t_indices, cuts, left, right, f_v, sums)
            for part in range(left, right, 8):  # a cache line of a row at once
                for b in range(top, bottom):
                    for j in range(part, min(part + 8, right)):
                        out[b, j] = sums[j - left, b - top]

    cuts = _cut_links(indptr, indices, rows, n_in)
    batch = len(rows) if cuts.shape[1] > 2 else _SUMS
    sums = np.zeros((batch, WIDTH))
    f_u = np.empty((n_in, WIDTH))
    for left in range(0, n_columns, WIDTH):
        right = min(left + WIDTH, n_columns)
        columns = np.arange(first + left, first + right)
        _weigh(t_indptr, t_indices, columns, internal, False, masks, f_u)
        for top in range(0, len(rows), batch):
            bottom = min(top + batch, len(rows))
            for b in range(top, bottom):
                for j in range(left, right):
                    sums[b - top, j - left] = out[b, j]
            _add_links(indices, cuts, top, bottom, f_u, sums)
            for b in range(top, bottom):
                for j in range(left, right):
                    out[b, j] = sums[b - top, j - left]


@njit(nogil=True, cache=True, error_model="numpy")
def _path_scores(indptr, indices, t_indptr, t_indices, rows, first, internal, out):
    n_out, n_in, n_columns = len(indptr) - 1, len(t_indptr) - 1, out.shape[1]
    masks = np.empty(max(n_out, n_in), dtype=Mask)
    table = np.empty((max(n_out, n_in), WIDTH))
    batch = min(len(rows), max(WIDTH, _ROOTS // n_out))
    g_v = np.empty((batch, n_out))
    sums = np.empty(WIDTH)
    for top in range(0, len(rows), batch):
        bottom = min(top + batch, len(rows))
        for start in range(top, bottom, WIDTH):
            end = min(start + WIDTH, bottom)
            _weigh(indptr, indices, rows[start:end], internal, True, masks, table)
            for b in range(start, end):
                for z1 in range(n_out):
                    g_v[b - top, z1] = table[z1, b - start]
        for left in range(0, n_columns, WIDTH):
            right = min(left + WIDTH, n_columns)
            columns = np.arange(first + left, first + right)
            _weigh(t_indptr, t_indices, columns, internal, True, masks, table)
            for b in range(top, bottom):
                v, weights = rows[b], g_v[b - top]
                sums[:] = 0.0
                for p in range(indptr[v], indptr[v + 1]):
                    z2 = indices[p]
                    start, end = t_indptr[z2], t_indptr[z2 + 1]
                    sum_masked(sums, 0, t_indices, start, end, masks, weights, table, z2)
                out[b, left:right] = sums[: right - left]


class NodeTiles:
    """Tiles of a node-based score: internal is 1 for CH2 and 0 for CH3."""

    def __init__(self, internal: float) -> None:
        self.internal = internal

    def faster(self, layer: Layer, rows: Rows) -> bool:
        if not _countable(layer):
            return False
        n_out, n_in = layer.shape
        wedges = layer.wedges[0][rows]
        reached = n_out * -np.expm1(-wedges / n_out)  # z1 of each row, as if wedges fell at random
        scatter = wedges.sum() + layer.wedges[1].sum() + _reaching(layer, rows)
        scatter += reached.sum() * len(layer.indices) / n_out
        tiles = len(layer.indices) * len(rows) + _chosen(layer, rows) * n_in
        return bool(_SCATTER * scatter > _ADD_ROWS * tiles + _tables(layer, rows))

    def score(self, layer: Layer, rows: Rows, first: int, out: Floats) -> None:
        _node_scores(*layer.arrays, rows, first, self.internal, out)


class PathTiles(NodeTiles):
    """Tiles of a path-based score."""

    def faster(self, layer: Layer, rows: Rows) -> bool:
        if not _countable(layer):
            return False
        wedges = layer.wedges[0][rows].sum()
        scatter = layer.walks[rows].sum() + 3 * wedges + _reaching(layer, rows)
        tiles = _ADD_MASKED * wedges + _START * _chosen(layer, rows) / WIDTH
        return bool(_SCATTER * scatter > tiles * layer.shape[1] + _tables(layer, rows))

    def score(self, layer: Layer, rows: Rows, first: int, out: Floats) -> None:
        _path_scores(*layer.arrays, rows, first, self.internal, out)


def _chosen(layer: Layer, rows: Rows) -> float:
    """Links of the rows."""
    return float(np.diff(layer.indptr)[rows].sum())


def _reaching(layer: Layer, rows: Rows) -> float:
    """Cells (u, v) that the z2 of the rows add to, as if wedges fell at random."""
    n_in = layer.shape[1]
    return _chosen(layer, rows) * n_in * float(-np.expm1(-layer.wedges[1].mean() / n_in))


def _tables(layer: Layer, rows: Rows) -> float:
    """Nanoseconds to make the tables and to store the scores."""
    n_out, n_in = layer.shape
    cells = n_in * n_in + n_out * len(rows)
    counted = len(layer.indices) * (n_in + len(rows))
    return _ADD_ONES * counted + _WEIGH * cells + _STORE * len(rows) * n_in


def _countable(layer: Layer) -> bool:
    """Whether common neighbours can be counted in 16 bits."""
    return max(np.diff(layer.indptr).max(), np.diff(layer.t_indptr).max()) < 2**16
