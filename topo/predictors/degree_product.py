"""Links between hubs first: the product of the degrees of both ends (preferential attachment)."""

from __future__ import annotations

import numpy as np

from topo.predictors._base import Floats, Layer, Predictor, Rows

__all__ = ["degree_product"]


def _score_rows(layer: Layer, rows: Rows, out: Floats) -> None:
    np.multiply.outer(np.diff(layer.indptr)[rows], np.diff(layer.t_indptr).astype(float), out=out)


degree_product = Predictor("degree_product", _score_rows)
"""Newman, Clustering and preferential attachment in growing networks, Physical Review E 2001."""
