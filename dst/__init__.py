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
from dst.evolver import Evolver, LayerUpdate, Update
from dst.explain import explain
from dst.graph import network
from dst.layouts import choose_layout
from dst.link_scores import link_scores
from dst.masked_linear import MaskedLinear
from dst.methods import METHODS, Links, Method, Rule, Start, magnitude
from dst.rewire import rewire
from dst.sparse_linear import SparseLinear
from dst.sparsify import sparsify

__all__ = [
    "METHODS",
    "CSRLinear",
    "Evolver",
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
    "link_scores",
    "magnitude",
    "network",
    "rewire",
    "sparsify",
]
