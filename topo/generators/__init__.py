"""Topologies to start from, one per file, by name in `GENERATORS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from topo.generators.erdos_renyi import erdos_renyi
from topo.generators.small_world import small_world

__all__ = ["GENERATORS", "erdos_renyi", "small_world"]

GENERATORS: dict[str, Callable[..., Any]] = {
    "erdos_renyi": erdos_renyi,
    "small_world": small_world,
}
"""Every generator: called as ``generator(n_out, n_in, density, seed=seed)``."""
