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

from dst.csr_linear import CSRLinear
from dst.densify import densify
from dst.evolver import Evolver
from dst.explain import explain
from dst.graph import network
from dst.iterative_warmup import IterativeWarmup
from dst.layouts import choose_layout
from dst.link_scores import link_scores
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
from dst.sparsify import sparsify

__all__ = [
    "METHODS",
    "CSRLinear",
    "DenseScore",
    "Evolver",
    "IterativeWarmup",
    "LayerUpdate",
    "Links",
    "MaskedLinear",
    "Method",
    "Rule",
    "SparseLinear",
    "Start",
    "Update",
    "__version__",
    "choose_layout",
    "densify",
    "explain",
    "gradient_magnitude",
    "importance",
    "link_scores",
    "magnitude",
    "magnitude_and_gradient",
    "network",
    "rewire",
    "sparsify",
]
