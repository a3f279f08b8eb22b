"""dst: dynamic sparse training for torch models, on top of `topo`.

`sparsify` a model, train it with any optimizer, and let an `Evolver` apply one of the `METHODS`.
"""

from importlib import metadata

import topo

__version__ = metadata.version("epitopo")

if getattr(topo, "__version__", None) != __version__:
    raise ImportError(
        f"dst {__version__} needs its sibling package topo {__version__}, but Python found topo "
        f"{getattr(topo, '__version__', 'without a version')} at {getattr(topo, '__path__', topo)}: "
        "rename that folder, or start Python elsewhere; if it is epitopo's own, reinstall epitopo"
    )

from dst.evolver import Evolver, LayerUpdate, Update  # noqa: E402
from dst.graph import network  # noqa: E402
from dst.methods import METHODS, Links, Method, Rule, Start, magnitude  # noqa: E402
from dst.sparse_linear import SparseLinear  # noqa: E402
from dst.sparsify import sparsify  # noqa: E402

__all__ = [
    "METHODS",
    "Evolver",
    "LayerUpdate",
    "Links",
    "Method",
    "Rule",
    "SparseLinear",
    "Start",
    "Update",
    "__version__",
    "magnitude",
    "network",
    "sparsify",
]
