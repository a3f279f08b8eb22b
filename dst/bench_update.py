"""Topology updates of a whole Transformer: seconds, and where they go."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

import topo
from dst.bench import LLAMA, describe
from dst.evolver import Evolver
from dst.methods import METHODS, Method
from dst.records import PHASES, Update
from dst.sparsify import sparsify

__all__ = ["update"]

_UPDATES = 3  # timed, after one that compiles and loads


def update(device: str = "cpu", size: str = "130M", blocks: int = 12, density: float = 0.3) -> None:
    """Print the time of updates of all linear layers of a LLaMA, with Adam's moments.

    Parameters
    ----------
    device : str
    size : {"60M", "130M", "1B"}
    blocks : int
        Of attention and a gated feed-forward, seven layers each.
    density : float
    """
    print(
        f"one update of the {7 * blocks} layers of a LLaMA-{size} at {density:.0%} on "
        f"{describe(device)}; seconds, median of {_UPDATES}"
    )
    columns = (*PHASES, "rest", "total")
    print(f"{'method':<10}{'links':>13}" + "".join(f"{c:>11}" for c in columns))
    for method in (METHODS["set"], METHODS["rigl"], METHODS["chts"]):
        links, seconds = _timed(method, device, size, blocks, density)
        print(f"{method.name:<10}{links:>13,}" + "".join(f"{s:>11.3f}" for s in seconds))


def _timed(
    method: Method, device: str, size: str, blocks: int, density: float
) -> tuple[int, list[float]]:
    """Links, and seconds per phase, of the rest and in all."""
    hidden, inner = LLAMA[size]
    torch.manual_seed(0)
    model = nn.ModuleDict({f"block{i}": _block(hidden, inner) for i in range(blocks)}).to(device)
    sparsify(model, density, method=method, init="keep")
    optimizer = torch.optim.Adam(model.parameters())
    couplings = [c for i in range(blocks) for c in _couplings(f"block{i}.")]
    evolver = Evolver(
        model, optimizer, method, every=1, total_steps=20 * (1 + _UPDATES), couplings=couplings
    )
    runs: list[tuple[Update, float]] = []
    for _ in range(1 + _UPDATES):
        for layer in evolver.layers.values():  # a backward pass of little work
            x = torch.randn(8, layer.in_features, device=device)
            layer(x).square().mean().backward()
        optimizer.step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        started = time.perf_counter()
        record = evolver.step()
        assert record is not None
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        runs.append((record, time.perf_counter() - started))
        optimizer.zero_grad()
    rows = [
        [*record.seconds.values(), total - sum(record.seconds.values()), total]
        for record, total in runs[1:]
    ]
    links = sum(layer.links for layer in runs[-1][0].layers.values())
    return links, [statistics.median(column) for column in zip(*rows, strict=True)]


def _block(hidden: int, inner: int) -> nn.ModuleDict:
    sizes = dict.fromkeys(("q", "k", "v", "o"), (hidden, hidden))
    sizes |= {"gate": (hidden, inner), "up": (hidden, inner), "down": (inner, hidden)}
    return nn.ModuleDict({n: nn.Linear(a, b, bias=False) for n, (a, b) in sizes.items()})


def _couplings(prefix: str) -> list[topo.Coupling]:
    q, k, v, o, gate, up, down = (prefix + n for n in ("q", "k", "v", "o", "gate", "up", "down"))
    return [
        topo.Coupling((q, k), head_dim=64, rotary=True),
        topo.Coupling((v,), (o,)),
        topo.Coupling((gate, up), (down,)),
    ]
