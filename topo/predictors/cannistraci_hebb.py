# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
r"""Cannistraci-Hebb link predictors on paths of length three (CH-L3).

An absent link (v, u) between output neuron v and input neuron u is bridged by paths
u - z1 - z2 - v: z1 an output neuron linked to u, z2 an input neuron linked to v, z1 and z2
linked to each other. The z1 and z2 on such paths are the *local community*. With

* ``di(z1) = |N(z1) & N(v)|``, its internal links (for z2: with N(u)),
* ``de*(z) = deg(z) - di(z)``, one plus its external links, u (or v) left out,

the scores are

.. math::
    CH3\text{-}L3p &= \sum_{paths} 1 / \sqrt{de^*(z_1)\, de^*(z_2)}
    &\quad CH2\text{-}L3p &= \sum_{paths}
        \sqrt{(1 + di(z_1)) (1 + di(z_2))} / \sqrt{de^*(z_1)\, de^*(z_2)} \\
    CH3\text{-}L3n &= \sum_{z} 1 / de^*(z)
    &\quad CH2\text{-}L3n &= \sum_{z} (1 + di(z)) / de^*(z)

with z over the local community. In every one a neuron weighs ``f(z) = (1 + i di(z)) / de*(z)``,
i = 1 for CH2 and 0 for CH3: the node-based scores add f, the path-based ones add sqrt(f f).

The kernels here follow the links, for layers with few of them: they work on a block of rows v and
visit the other ends in the outer loop, so that common neighbours are counted once for the block.
`topo.predictors._tiles` does the same with dense tiles. Both add in an order that depends on the
cell alone, so that any block size and either way give the same bits.

References
----------
Muscoloni, Michieli, Cannistraci, Local-ring network automata and the impact of hyperbolic geometry
in complex network link-prediction, 2018 and 2020; Zhang et al., Epitopological learning and
Cannistraci-Hebb network shape intelligence brain-inspired theory for ultra-sparse advantage in deep
learning, ICLR 2024 (CH3-L3p); Zhang et al., arXiv 2501.19107 (CH2-L3n as matrix products).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from topo.compiled import njit
from topo.predictors._base import Layer, Predictor
from topo.predictors._tiles import NodeTiles, PathTiles

__all__ = ["ch2_l3n", "ch2_l3p", "ch3_l3n", "ch3_l3p"]


@njit(nogil=True, cache=True, error_model="numpy")
def _count_common(node, indptr, indices, t_indptr, t_indices, count, touched):
    """Count the neighbours that `node` shares with every node of its side.

    `count` comes in as zeros; `touched` lists the nodes that share any. The node's own links are
    in (indptr, indices), their way back in (t_indptr, t_indices).
    """
    found = 0
    for p in range(indptr[node], indptr[node + 1]):
        between = indices[p]
        for q in range(t_indptr[between], t_indptr[between + 1]):
            other = t_indices[q]
            if count[other] == 0:
                touched[found] = other
                found += 1
            count[other] += 1
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def _block_columns(indptr, indices, n_in, rows):
    """For each input neuron, the positions in `rows` of the output neurons linked to it."""
    start = np.zeros(n_in + 1, dtype=np.int64)
    for v in rows:
        for p in range(indptr[v], indptr[v + 1]):
            start[indices[p] + 1] += 1
    start = np.cumsum(start)
    free = start[:-1].copy()
    members = np.empty(start[-1], dtype=np.int64)
    for b in range(len(rows)):
        v = rows[b]
        for p in range(indptr[v], indptr[v + 1]):
            members[free[indices[p]]] = b
            free[indices[p]] += 1
    return start, members


@njit(nogil=True, cache=True, error_model="numpy")
def _node_scores(indptr, indices, t_indptr, t_indices, rows, internal, out):
    n_out, n_in = len(indptr) - 1, len(t_indptr) - 1
    size = max(n_in, len(rows))
    count, touched = np.zeros(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    out[:] = 0.0

    start, members = _block_columns(indptr, indices, n_in, rows)
    for z1 in range(n_out):  # the z1, which share neighbours with v
        found = _count_common(z1, indptr, indices, start, members, count, touched)
        degree = indptr[z1 + 1] - indptr[z1]
        for i in range(found):
            b = touched[i]
            f = (1.0 + internal * count[b]) / max(degree - count[b], 1)
            count[b] = 0
            row = out[b]
            for p in range(indptr[z1], indptr[z1 + 1]):
                row[indices[p]] += f

    f_u = np.empty(n_in)
    for z2 in range(n_in):  # the z2, which share neighbours with u
        if start[z2] == start[z2 + 1]:
            continue
        found = _count_common(z2, t_indptr, t_indices, indptr, indices, count, touched)
        degree = t_indptr[z2 + 1] - t_indptr[z2]
        for i in range(found):
            u = touched[i]
            f_u[i] = (1.0 + internal * count[u]) / max(degree - count[u], 1)
            count[u] = 0
        for m in range(start[z2], start[z2 + 1]):
            row = out[members[m]]
            for i in range(found):
                row[touched[i]] += f_u[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _path_scores(indptr, indices, t_indptr, t_indices, rows, internal, out):
    n_out, n_in = len(indptr) - 1, len(t_indptr) - 1
    count = np.zeros(max(n_out, n_in), dtype=np.int64)
    touched = np.empty(max(n_out, n_in), dtype=np.int64)
    out[:] = 0.0

    g_v = np.zeros((len(rows), n_out))  # sqrt(f(z1)) with each v of the block
    for b in range(len(rows)):
        found = _count_common(rows[b], indptr, indices, t_indptr, t_indices, count, touched)
        for i in range(found):
            z1 = touched[i]
            degree = indptr[z1 + 1] - indptr[z1]
            g_v[b, z1] = np.sqrt((1.0 + internal * count[z1]) / max(degree - count[z1], 1))
            count[z1] = 0

    start, members = _block_columns(indptr, indices, n_in, rows)
    g_u = np.empty(n_in)
    through = np.zeros(n_in)  # sum of sqrt(f(z1)) over the paths from u to v by way of z2
    for z2 in range(n_in):
        if start[z2] == start[z2 + 1]:
            continue
        found = _count_common(z2, t_indptr, t_indices, indptr, indices, count, touched)
        degree = t_indptr[z2 + 1] - t_indptr[z2]
        for i in range(found):
            u = touched[i]
            g_u[i] = np.sqrt((1.0 + internal * count[u]) / max(degree - count[u], 1))
            count[u] = 0
        for m in range(start[z2], start[z2 + 1]):
            b = members[m]
            for p in range(t_indptr[z2], t_indptr[z2 + 1]):
                z1 = t_indices[p]
                weight = g_v[b, z1]
                for q in range(indptr[z1], indptr[z1 + 1]):
                    through[indices[q]] += weight
            row = out[b]
            for i in range(found):
                u = touched[i]
                row[u] += through[u] * g_u[i]
                through[u] = 0.0


def _predictor(name: str, kernel: object, tiles: type[NodeTiles], internal: float) -> Predictor:
    def score_rows(layer: Layer, rows: npt.NDArray[np.int64], out: npt.NDArray[np.float64]) -> None:
        kernel(*layer.arrays, rows, internal, out)  # type: ignore[operator]

    return Predictor(name, score_rows, tiles=tiles(internal))


ch3_l3p = _predictor("ch3_l3p", _path_scores, PathTiles, 0.0)
ch2_l3p = _predictor("ch2_l3p", _path_scores, PathTiles, 1.0)
ch3_l3n = _predictor("ch3_l3n", _node_scores, NodeTiles, 0.0)
ch2_l3n = _predictor("ch2_l3n", _node_scores, NodeTiles, 1.0)
