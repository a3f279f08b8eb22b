"""Benchmarks on this machine: paired, with ratios out of one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dst.sparsify import sparsify
from dst.train import HEAD, mlp

__all__ = ["describe", "layers", "paired"]

BLOCK, DROP = 30, 5  # calls per block; the first of them meet cold caches


def layers(device: str = "cpu", densities: Sequence[float] = (0.01, 0.05, 0.1, 0.2)) -> None:
    """Print the time of a whole training step, csr against dense.

    The papers' MLP, 784-1568-1568-1568-10, SGD with momentum and weight decay.
    """
    print(f"MLP 784-1568-1568-1568-10, one SGD step on {describe(device)}; median milliseconds")
    print(f"{'batch':>6}{'density':>9}{'dense':>9}{'csr':>9}{'dense/csr':>11}")
    for batch in (32, 128):
        for density in densities:
            dense, sparse = (_training_step(d, batch, device) for d in (None, density))
            a, b = paired(dense, sparse)
            print(f"{batch:6}{density:9.0%}{a * 1e3:9.2f}{b * 1e3:9.2f}{a / b:11.1f}")


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
            time.sleep(0.3)  # torch's threads spin for a while after their last work
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


def describe(device: str) -> str:
    """What a benchmark runs on, in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads"
