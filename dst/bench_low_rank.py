"""Training steps of layers of two branches: what the low rank, its loss and its measure cost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

from dst.alignment import Alignment
from dst.bench import LLAMA, alternate, describe, gpu_peak
from dst.budgets import budget
from dst.cancellation import CancellationMeter
from dst.sparsify import factorize, sparsify

__all__ = ["low_rank"]

_SPARSITY = 0.9


def low_rank(
    device: str = "cpu", *, shape: tuple[int, int] = LLAMA["60M"], tokens: int = 0
) -> None:
    """Print the time of forward and backward passes under one budget of weights.

    Parameters
    ----------
    device : str
    shape : tuple of int
        Width of a LLaMA and of its feed-forward blocks: a chain of layers of a block's sizes.
    tokens : int
        Of a batch; 0: 2,048, on a GPU 16,384.
    """
    cuda = torch.device(device).type == "cuda"
    tokens = tokens or (16_384 if cuda else 2048)
    steps = {
        name: _step(name, shape, tokens, device)
        for name in ("dense", "sparse", "CoLA", "two branches", "aligned", "aligned, measured")
    }
    print(
        f"a block of {shape[0]}/{shape[1]}, {tokens:,} tokens, {_SPARSITY:.0%} sparse, on "
        f"{describe(device)}: forward and backward, medians"
    )
    print(f"{'layers':<20}{'ms':>9}{'of dense':>10}" + f"{'peak MB':>10}" * cuda)
    times = alternate(steps, blocks=5, block=8, drop=2)
    for name, step in steps.items():
        memory = f"{gpu_peak(step) / 1e6:>10.0f}" if cuda else ""
        print(f"{name:<20}{times[name] * 1e3:9.1f}{times[name] / times['dense']:>10.2f}{memory}")


def _step(name: str, shape: tuple[int, int], tokens: int, device: str) -> Callable[[], None]:
    width, ffn = shape
    torch.manual_seed(0)
    sizes = [(width, width)] * 4 + [(width, ffn), (ffn, width), (width, ffn)]
    model = nn.Sequential(*(nn.Linear(*size, bias=False) for size in sizes)).to(device)
    density, rank = budget(model, _SPARSITY)
    both = partial(sparsify, model, density, rank=rank)
    make: dict[str, Callable[[], object]] = {
        "sparse": lambda: sparsify(model, 1 - _SPARSITY),
        "CoLA": lambda: factorize(model, 2 * rank),
        "two branches": both,
        "aligned": both,
        "aligned, measured": both,
    }
    make.get(name, lambda: None)()
    align = Alignment(model) if "aligned" in name else None
    meter = CancellationMeter(model) if "measured" in name else None
    x = torch.randn(tokens, width, device=device)

    def step() -> None:
        with meter or nullcontext():
            loss = model(x).square().mean()
        if align is not None:
            loss = loss + align()
        loss.backward()
        model.zero_grad()

    return step
