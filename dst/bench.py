"""Benchmarks on this machine: paired, with ratios out of one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import topo
from dst.sparsify import sparsify
from dst.train import HEAD, mlp

__all__ = ["layers", "paired", "predictors"]

BLOCK, DROP = 30, 5  # calls per block; the first of them meet cold caches


def layers(device: str = "cpu", densities: Sequence[float] = (0.01, 0.05, 0.1, 0.2)) -> None:
    """Print the time of a whole training step, csr against dense.

    The papers' MLP, 784-1568-1568-1568-10, SGD with momentum and weight decay.
    """
    print(f"MLP 784-1568-1568-1568-10, one SGD step on {_describe(device)}; median milliseconds")
    print(f"{'batch':>6}{'density':>9}{'dense':>9}{'csr':>9}{'dense/csr':>11}")
    for batch in (32, 128):
        for density in densities:
            dense, sparse = (_training_step(d, batch, device) for d in (None, density))
            a, b = paired(dense, sparse)
            print(f"{batch:6}{density:9.0%}{a * 1e3:9.2f}{b * 1e3:9.2f}{a / b:11.1f}")


def predictors(
    device: str = "cpu",
    shapes: Sequence[tuple[int, int, float]] = ((1568, 1568, 0.01), (1024, 1024, 0.05)),
) -> None:
    """Print the time of the link scores, beside CH2-L3n as dense matrix products in torch.

    Both on the CPU, whatever the device.
    """
    print(f"link scores on {_describe('cpu')}; median milliseconds")
    print(f"{'shape':>12}{'density':>9}{'predictor':>11}{'topo':>9}{'torch':>9}{'torch/topo':>12}")
    for n_out, n_in, density in shapes:
        adjacency = topo.erdos_renyi(n_out, n_in, density, seed=0)
        dense = torch.from_numpy(adjacency.toarray()).float()
        for name in ("ch2_l3n", "ch3_l3p"):
            a, b = paired(
                partial(topo.link_scores, adjacency, name),
                partial(_ch2_l3n_dense, dense),
                blocks=4,
                block=6,
                drop=1,
            )
            theirs = f"{b * 1e3:9.1f}{b / a:12.1f}" if name == "ch2_l3n" else ""
            print(f"{n_out:>7}x{n_in:<4}{density:9.0%}{name:>11}{a * 1e3:9.1f}{theirs}")


def paired(
    first: Callable[[], Any],
    second: Callable[[], Any],
    *,
    blocks: int = 5,
    block: int = BLOCK,
    drop: int = DROP,
) -> tuple[float, float]:
    """Median seconds of two functions, timed in alternating blocks."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(blocks):
        for function, seconds in zip((first, second), times, strict=True):
            for i in range(block):
                start = time.perf_counter()
                function()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if i >= drop:
                    seconds.append(time.perf_counter() - start)
    return float(np.median(times[0])), float(np.median(times[1]))


def _training_step(density: float | None, batch: int, device: str) -> Callable[[], None]:
    torch.manual_seed(0)
    model: nn.Module = mlp(784, [1568] * 3, 10)
    if density is not None:
        sparsify(model, density, exclude=HEAD)
    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    x = torch.randn(batch, 784, device=device)
    y = torch.randint(10, (batch,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def _ch2_l3n_dense(a: torch.Tensor) -> torch.Tensor:
    """CH2-L3n of an (n_out, n_in) 0/1 matrix as matrix products (arXiv 2501.19107)."""
    c_out, c_in = a @ a.T, a.T @ a
    f_out = (c_out > 0) * (c_out + 1) / (a.sum(1)[:, None] - c_out).clamp(min=1)
    f_in = (c_in > 0) * (c_in + 1) / (a.sum(0)[:, None] - c_in).clamp(min=1)
    return (f_out.T @ a + a @ f_in) * (a == 0)


def _describe(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads"
