"""dst: dynamic sparse training for torch models, on top of `topo`.

`sparsify` a model, train it with any optimizer, and let an `Evolver` apply one of the `METHODS`.
"""

from importlib import metadata

import topo

__version__ = metadata.version("epitopo")

if getattr(topo, "__version__", None) != __version__:
    version = getattr(topo, "__version__", "unknown")
    raise ImportError(
        f"dst {__version__} needs its sibling topo of the same version, but Python found {topo!r} "
        f"of version {version}: rename that folder, or start Python elsewhere; if it is epitopo's "
        "own, reinstall epitopo"
    )

from dst.alignment import Alignment
from dst.budgets import budget, rank_step, total_density
from dst.cancellation import CancellationMeter, overlap_cancellation_ratio
from dst.csr_linear import CSRLinear
from dst.densify import densify
from dst.evolver import Evolver
from dst.explain import explain
from dst.graph import network
from dst.iterative_warmup import IterativeWarmup
from dst.layouts import choose_layout
from dst.link_scores import link_scores
from dst.low_rank import LOW_RANKS, LowRank, LowRankLinear
from dst.masked_linear import MaskedLinear
from dst.methods import METHODS, Method, Rule, Start
from dst.records import LayerUpdate, Update
from dst.rewire import rewire
from dst.scores import (
    DenseScore,
    Links,
    gradient_magnitude,
    importance,
    magnitude,
    magnitude_and_gradient,
)
from dst.sparse_linear import SparseLinear
from dst.sparse_low_rank import SparseLowRank
from dst.sparsify import factorize, sparsify

__all__ = [
    "LOW_RANKS",
    "METHODS",
    "Alignment",
    "CSRLinear",
    "CancellationMeter",
    "DenseScore",
    "Evolver",
    "IterativeWarmup",
    "LayerUpdate",
    "Links",
    "LowRank",
    "LowRankLinear",
    "MaskedLinear",
    "Method",
    "Rule",
    "SparseLinear",
    "SparseLowRank",
    "Start",
    "Update",
    "__version__",
    "budget",
    "choose_layout",
    "densify",
    "explain",
    "factorize",
    "gradient_magnitude",
    "importance",
    "link_scores",
    "magnitude",
    "magnitude_and_gradient",
    "network",
    "overlap_cancellation_ratio",
    "rank_step",
    "rewire",
    "sparsify",
    "total_density",
]
