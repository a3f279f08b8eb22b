"""Benchmark of the topology's history on disk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse

import topo
from topo.adjacency import link_keys

__all__ = ["history"]

# LLaMA-60M: 8 blocks of q, k, v, o, gate, up and down
BLOCK = dict.fromkeys("qkvo", (512, 512)) | {
    "gate": (1376, 512),
    "up": (1376, 512),
    "down": (512, 1376),
}
SHAPES = {f"{block}.{name}": shape for block in range(8) for name, shape in BLOCK.items()}
DENSITY, CHURN = 0.1, 0.1


class Cost(NamedTuple):
    """Megabytes in all and at the start; median and longest seconds."""

    size: float
    start: float
    append: float
    longest_append: float
    open: float
    at: float
    longest_at: float


def history(updates: int = 100) -> None:
    """Print the size and the times of a history of LLaMA-60M, without weights and with them.

    56 layers at 10 % density; each update removes a tenth of the links and grows as many, all at
    random: real topologies compress no worse. With weights, every removed and grown link has one,
    and the start and every keyframe have all.
    """
    print(
        f"history of LLaMA-60M, {len(SHAPES)} layers at {DENSITY:.0%} density, churn {CHURN}, "
        f"{updates} updates"
    )
    print(
        f"{'weights':>7}{'MB':>8}{'MB start':>10}{'append s':>10}{'longest':>9}"
        f"{'open s':>8}{'at s':>8}{'longest':>9}"
    )
    for weighted in (False, True):
        cost = measure(updates, weighted)
        print(
            f"{'yes' if weighted else 'no':>7}{cost.size:8.1f}{cost.start:10.1f}"
            f"{cost.append:10.3f}{cost.longest_append:9.3f}"
            f"{cost.open:8.3f}{cost.at:8.3f}{cost.longest_at:9.3f}"
        )


def measure(updates: int, weighted: bool) -> Cost:
    """Write a history in a temporary folder, and read it."""
    rng = np.random.default_rng(0)
    layers = {n: topo.erdos_renyi(*s, DENSITY, seed=i) for i, (n, s) in enumerate(SHAPES.items())}
    network = _network(layers, rng if weighted else None)
    appends, ats = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "history"
        writer = topo.HistoryWriter(folder, network)
        start = _megabytes(folder)
        for step in range(1, updates + 1):
            layers, events, weights = _churn(network, rng)
            network = _network(layers, rng if weighted else None)
            began = time.perf_counter()
            writer.append(step, network, events, weights=weights)
            appends.append(time.perf_counter() - began)
        began = time.perf_counter()
        opened = topo.History.open(folder)
        opening = time.perf_counter() - began
        for step in opened.steps[:: max(1, updates // 25)]:
            began = time.perf_counter()
            opened.at(step)
            ats.append(time.perf_counter() - began)
        if opened.at(updates) != network:
            raise RuntimeError(f"the history does not end as it was written: {opened}")
        return Cost(
            _megabytes(folder),
            start,
            float(np.median(appends)),
            max(appends),
            opening,
            float(np.median(ats)),
            max(ats),
        )


def _churn(
    network: topo.Network, rng: np.random.Generator
) -> tuple[dict[str, sparse.csr_array], Mapping[str, Mapping[str, np.ndarray]], Mapping]:
    """The layers after an update, its events, and their weights where the network has any."""
    layers, events, weights = {}, {}, {}
    for name, a in network.layers.items():
        keys = link_keys(a)
        removed = np.sort(rng.choice(len(keys), round(CHURN * len(keys)), replace=False))
        left = np.delete(keys, removed)
        absent = np.ones(a.shape[0] * a.shape[1], dtype=bool)
        absent[left] = False
        grown = np.sort(rng.choice(np.flatnonzero(absent), len(removed), replace=False))
        layers[name] = topo.from_links(*np.divmod(np.append(left, grown), a.shape[1]), a.shape)
        events[name] = {"removed": keys[removed], "grown": grown}
        if network.weights is not None:
            last = network.weights[name].data[removed]
            weights[name] = {"removed": last, "grown": np.zeros(len(grown), np.float32)}
    return layers, events, weights


def _network(
    layers: Mapping[str, sparse.csr_array], rng: np.random.Generator | None
) -> topo.Network:
    """A network, with normal weights if there is a generator for them."""
    if rng is None:
        return topo.Network(layers, ())
    weights = {n: rng.normal(0, 0.02, a.nnz).astype(np.float32) for n, a in layers.items()}
    return topo.Network(layers, (), weights=weights)


def _megabytes(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
