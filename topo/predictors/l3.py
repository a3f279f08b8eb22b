# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
r"""Counts of paths of length three, plain (CN-L3) and weighted by degree (RA-L3).

An absent link (v, u) is bridged by paths u - z1 - z2 - v (see `topo.predictors.cannistraci_hebb`):

.. math::
    CN\text{-}L3 = \sum_{paths} 1 \qquad
    RA\text{-}L3 = \sum_{paths} 1 / \sqrt{\deg(z_1) \deg(z_2)}

References
----------
Kovács et al., Network-based prediction of protein interactions, Nature Communications 2019 (there
"L3" is RA-L3); Muscoloni, Abdelhamid, Cannistraci, Local-community network automata modelling based
on length-three-paths for prediction of complex network structures in protein interactomes, food
webs and more, bioRxiv 2018 (the names).
"""

from __future__ import annotations

import numpy as np

from topo.compiled import njit
from topo.predictors._base import Floats, Layer, Predictor, Rows

__all__ = ["cn_l3", "ra_l3"]


@njit(nogil=True, cache=True)
def _path_sums(indptr, indices, t_indptr, t_indices, rows, weight_out, weight_in, out):
    n_out = len(indptr) - 1
    through = np.zeros(n_out)  # sum over the z2 that lead from v to each z1
    touched = np.empty(n_out, dtype=np.int64)
    out[:] = 0.0
    for b in range(len(rows)):
        found = 0
        for p in range(indptr[rows[b]], indptr[rows[b] + 1]):
            z2 = indices[p]
            for q in range(t_indptr[z2], t_indptr[z2 + 1]):
                z1 = t_indices[q]
                if through[z1] == 0.0:
                    touched[found] = z1
                    found += 1
                through[z1] += weight_in[z2]
        row = out[b]
        for i in range(found):
            z1 = touched[i]
            weight = through[z1] * weight_out[z1]
            through[z1] = 0.0
            for p in range(indptr[z1], indptr[z1 + 1]):
                row[indices[p]] += weight


def _score_plain(layer: Layer, rows: Rows, out: Floats) -> None:
    n_out, n_in = layer.shape
    _score(layer, rows, np.ones(n_out), np.ones(n_in), out)


def _score_by_degree(layer: Layer, rows: Rows, out: Floats) -> None:
    of_out, of_in = (np.maximum(np.diff(p), 1) for p in (layer.indptr, layer.t_indptr))
    _score(layer, rows, of_out**-0.5, of_in**-0.5, out)


def _score(layer: Layer, rows: Rows, of_out: Floats, of_in: Floats, out: Floats) -> None:
    _path_sums(*layer.arrays, rows, of_out, of_in, out)


cn_l3 = Predictor("cn_l3", _score_plain)
ra_l3 = Predictor("ra_l3", _score_by_degree)
