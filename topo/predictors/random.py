"""No preference: every absent link scores 1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from topo.predictors._base import Layer, Predictor

__all__ = ["random"]


def _score_rows(layer: Layer, rows: npt.NDArray[np.int64], out: npt.NDArray[np.float64]) -> None:
    out[:] = 1.0


random = Predictor("random", _score_rows, uniform=True)
"""The regrowth rule of SET (Mocanu et al., Nature Communications 2018): uniform."""
