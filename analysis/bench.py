"""How fast the measures are: beside networkx, and of a whole history."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import topo
from analysis.measures import clustering, path_length, summary
from topo.adjacency import link_keys
from topo.parallel import thread_count

__all__ = ["bench_history", "bench_measures", "bench_text"]

Layer = tuple[int, int, float]  # n_out, n_in, density


def bench_measures(
    small: Layer = (1568, 784, 0.01), large: Layer = (4096, 4096, 0.05)
) -> pd.DataFrame:
    """Time measures of single layers, medians of repeated calls, beside networkx where it has them.

    Parameters
    ----------
    small, large : (n_out, n_in, density)
        Of random layers; networkx measures the small one.

    Returns
    -------
    DataFrame
        Columns measure, layer, seconds, networkx (seconds; NaN where it has none, or would take
        minutes), speedup.
    """
    graph = topo.to_networkx(topo.erdos_renyi(*small, seed=0))  # or says what to install
    from networkx.algorithms import bipartite

    outputs = [node for node, data in graph.nodes(data=True) if data["bipartite"] == 1]
    rivals: dict[str, Callable[[], Any]] = {
        "latapy": lambda: bipartite.latapy_clustering(graph, outputs),
        "robins_alexander": lambda: bipartite.robins_alexander_clustering(graph),
    }
    rows = []
    for shape in (small, large):
        layer = topo.erdos_renyi(*shape, seed=0)
        name = f"{shape[0]} x {shape[1]}, {100 * shape[2]:g} %"
        for kind in ("latapy", "robins_alexander", "opsahl"):
            ours = _seconds(partial(clustering, layer, kind))
            theirs = _seconds(rivals[kind]) if shape is small and kind in rivals else np.nan
            rows.append((kind, name, ours, theirs, theirs / ours))
        rows.append(("path_length", name, _seconds(partial(path_length, layer)), np.nan, np.nan))
    return pd.DataFrame(rows, columns=["measure", "layer", "seconds", "networkx", "speedup"])


def bench_history(updates: int = 100) -> float:
    """Seconds of a default summary, without cache, of the papers' MLP.

    Its three sparse layers, 784 x 1568 and twice 1568 x 1568 at 1 %, lose 30 % of their links at
    each update and gain as many.
    """
    with tempfile.TemporaryDirectory() as folder:
        history = _history(Path(folder) / "topology", updates)
        summary(topo.Network({"fc": topo.erdos_renyi(64, 64, 0.1, seed=0)}))  # compiles
        begin = time.perf_counter()
        summary(history, cache=False)
        return time.perf_counter() - begin


def _history(folder: Path, updates: int) -> topo.History:
    shapes = {"fc1": (1568, 784), "fc2": (1568, 1568), "fc3": (1568, 1568)}
    layers = {name: topo.small_world(*shape, 0.01, seed=0) for name, shape in shapes.items()}
    network = topo.Network(layers)
    writer = topo.HistoryWriter(folder, network)
    for update in range(1, updates + 1):
        events, after = {}, {}
        for name, old in network.layers.items():
            keys = link_keys(old)
            gone = topo.sample_integers(len(keys), len(keys) * 3 // 10, topo.stream(update, name))
            new_rows, new_columns = topo.sample_absent(old, len(gone), topo.stream(update, name))
            grown = new_rows.astype(np.int64) * old.shape[1] + new_columns
            events[name] = {"removed": keys[gone], "grown": grown}
            left = np.concatenate([np.delete(keys, gone), grown])
            after[name] = topo.from_links(left // old.shape[1], left % old.shape[1], old.shape)
        network = network.replace(after)
        writer.append(100 * update, network, events)
    return topo.History.open(folder)


def _seconds(function: Callable[[], Any]) -> float:
    """The median time of some calls, after one that compiles."""
    function()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 1 and len(times) < 25):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def bench_text() -> str:
    """What ``epitopo-analysis bench`` prints."""
    table = bench_measures()
    seconds = bench_history()
    text = table.to_string(index=False, na_rep="", float_format=lambda v: f"{v:.3g}")
    return (
        f"{thread_count()} threads\n{text}\n\n"
        f"default summary of 100 updates of the papers' MLP: {seconds:.1f} s"
    )
