"""Link predictors, one per file, by name in `PREDICTORS`."""

from __future__ import annotations

from topo.predictors._base import Predictor
from topo.predictors.cannistraci_hebb import ch2_l3n, ch2_l3p, ch3_l3n, ch3_l3p
from topo.predictors.degree_product import degree_product
from topo.predictors.l3 import cn_l3, ra_l3
from topo.predictors.random import random

__all__ = ["PREDICTORS", "Predictor"]

PREDICTORS: dict[str, Predictor] = {
    p.name: p for p in (ch3_l3p, ch2_l3p, ch3_l3n, ch2_l3n, ra_l3, cn_l3, degree_product, random)
}
"""Every link predictor, by name."""
