"""Topologies to start from, one per file, by name in `GENERATORS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from topo.generators.correlated import correlated
from topo.generators.equal_partition import equal_partition
from topo.generators.erdos_renyi import erdos_renyi
from topo.generators.receptive_field import receptive_field
from topo.generators.resort import resort
from topo.generators.scale_free import scale_free
from topo.generators.small_world import small_world

__all__ = [
    "GENERATORS",
    "correlated",
    "equal_partition",
    "erdos_renyi",
    "receptive_field",
    "resort",
    "scale_free",
    "small_world",
]

GENERATORS: dict[str, Callable[..., Any]] = {
    "erdos_renyi": erdos_renyi,
    "receptive_field": receptive_field,
    "scale_free": scale_free,
    "small_world": small_world,
}
"""Every generator: called as ``generator(n_out, n_in, density, seed=seed)``.

`correlated` is not among them, for it is made from data, and neither are `equal_partition` and
`resort`, which change a layer that exists.
"""
