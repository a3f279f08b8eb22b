"""Benchmarks of the layers on this machine: paired, with ratios out of one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dst.bench_process import in_a_process
from dst.layouts import choose_layout
from dst.sparsify import linear_layers, sparsify
from dst.tasks.images import HEAD, mlp

__all__ = ["alternate", "describe", "gpu_peak", "layers", "median_seconds", "paired"]

BLOCK, DROP = 30, 5  # calls per block; the first of them meet cold caches
DENSITIES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)
LLAMA = {"60M": (512, 1376), "130M": (768, 2048), "1B": (2048, 5461)}


def layers(
    device: str = "cpu",
    *,
    densities: Sequence[float] = DENSITIES,
    batches: Sequence[int] = (32, 128),
    hidden: int = 1568,
    large: int = 16_384,
    tokens: int = 8192,
    block: int = BLOCK,
) -> None:
    """Print the time of training steps in every layout, and the memory of large layers."""
    _mlp(device, densities, batches, hidden, block)
    if device.startswith("cuda"):
        _llama(device, tokens)
    else:
        _large_layer(large)


def paired(
    first: Callable[[], Any],
    second: Callable[[], Any],
    *,
    blocks: int = 5,
    block: int = BLOCK,
    drop: int = DROP,
) -> tuple[float, float]:
    """Median seconds of two functions, timed in alternating blocks."""
    times = alternate({"a": first, "b": second}, blocks=blocks, block=block, drop=drop)
    return times["a"], times["b"]


def alternate(
    functions: Mapping[str, Callable[[], Any]],
    *,
    blocks: int = 5,
    block: int = BLOCK,
    drop: int = DROP,
) -> dict[str, float]:
    """Median seconds of each function, timed in alternating blocks."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(blocks):
        for name, function in functions.items():
            time.sleep(0.3)  # torch's threads spin for a while after their last work
            for i in range(block):
                seconds = _seconds(function)
                if i >= drop:
                    times[name].append(seconds)
    return {name: float(np.median(all_times)) for name, all_times in times.items()}


def median_seconds(function: Callable[[], Any], calls: int) -> float:
    """Median seconds of a function, after two calls that load what is loaded once."""
    return float(np.median([_seconds(function) for _ in range(calls + 2)][2:]))


def gpu_peak(function: Callable[[], Any]) -> int:
    """Bytes on the GPU at once, beyond those before the call."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _mlp(
    device: str, densities: Sequence[float], batches: Sequence[int], hidden: int, block: int
) -> None:
    print(
        f"MLP 784-{hidden}-{hidden}-{hidden}-10, a whole step of SGD with momentum and weight "
        f"decay on {describe(device)}; median milliseconds"
    )
    rivals = _rivals() if device == "cpu" else {}
    names = ["dense", "masked", "csr", *rivals]
    print(f"{'batch':>6}{'density':>9}" + "".join(f"{n:>11}" for n in names), end="")
    print(f"{'dense/csr':>11}{'masked/csr':>12}   auto")
    kept: list[nn.Module] = []  # sparselab caches by id, and fails where one is used again
    for batch in batches:
        for density in densities:
            models: dict[str, nn.Module] = {"dense": _model(hidden)}
            for layout in ("masked", "csr"):
                models[layout] = sparsify(_model(hidden), density, exclude=HEAD, layout=layout)
            for name, make in rivals.items():
                models[name] = _replaced(_model(hidden), density, make)
                kept.append(models[name])
            seconds = alternate(
                {n: _training_step(m.to(device), batch, device) for n, m in models.items()},
                block=block,
            )
            line = "".join(f"{seconds[n] * 1e3:11.2f}" for n in names)
            ratios = [seconds[n] / seconds["csr"] for n in ("dense", "masked")]
            auto, _ = choose_layout("auto", device, torch.float32, density)
            print(f"{batch:6}{density:9.0%}{line}{ratios[0]:11.1f}{ratios[1]:12.1f}   {auto}")


def _large_layer(n: int) -> None:
    dense = 4 * 4 * n * n / 1e6  # weight, gradient and Adam's two moments, in float32
    used = in_a_process(_LARGE, n)
    print(
        f"layer {n} x {n} at 1 %, csr, made, then two steps of Adam on a batch of 32: "
        f"{used['extra_mb']:.0f} MB at the peak, {used['extra_mb'] / dense:.1%} of a dense "
        f"layer's {dense:.0f} MB"
    )


_LARGE = """
import torch, dst
(n,) = arguments
def work(n=n):
    layer = dst.SparseLinear(n, n, density=0.01, layout="csr")
    optimizer = torch.optim.Adam(layer.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.ones(32, n, requires_grad=True)).square().sum().backward()
        optimizer.step()
work(100)
"""


def _llama(device: str, tokens: int) -> None:
    """Each layer alone: forward, backward and AdamW, dense and masked in bf16 autocast."""
    print(
        f"linear layers of LLaMA, a step of AdamW on {tokens} tokens, bf16 autocast (csr: "
        f"float32), on {describe(device)}; median milliseconds and peak MB"
    )
    print(f"{'model':>6}{'layer':>13}{'sparsity':>10}", end="")
    print("".join(f"{name:>10}{'MB':>8}" for name in ("dense", "masked", "csr")), end="")
    print(f"{'masked/dense':>14}{'csr/dense':>11}")
    for model, (hidden, wide) in LLAMA.items():
        for n_in, n_out in ((hidden, hidden), (hidden, wide), (wide, hidden)):
            for sparsity in (0.99, 0.95, 0.9, 0.7):
                row = _llama_layer(n_in, n_out, 1 - sparsity, tokens, device)
                ms = {name: seconds * 1e3 for name, (seconds, _) in row.items()}
                cells = "".join(f"{ms[name]:10.3f}{row[name][1] / 1e6:8.0f}" for name in row)
                print(
                    f"{model:>6}{f'{n_in} x {n_out}':>13}{sparsity:10.0%}{cells}"
                    f"{ms['masked'] / ms['dense']:14.3f}{ms['csr'] / ms['dense']:11.2f}"
                )


def _llama_layer(
    n_in: int, n_out: int, density: float, tokens: int, device: str
) -> dict[str, tuple[float, int]]:
    """Seconds and peak bytes of a step by layout, in the order dense, masked, csr."""
    steps, peaks = {}, {}
    for name in ("dense", "masked", "csr"):
        model: nn.Module = nn.Sequential(nn.Linear(n_in, n_out, bias=False, device=device))
        if name != "dense":
            model = sparsify(model, density, layout=name)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        x = torch.randn(tokens, n_in, device=device, requires_grad=True)
        grad = torch.randn(tokens, n_out, device=device)

        def step(
            model: nn.Module = model, o: Any = optimizer, x: Any = x, grad: Any = grad
        ) -> None:
            o.zero_grad()
            with torch.autocast(x.device.type, torch.bfloat16):
                y = model(x)
            y.backward(grad.to(y.dtype))
            o.step()

        if device.startswith("cuda"):
            peaks[name] = gpu_peak(step)
        steps[name] = step
    seconds = alternate(steps)
    return {name: (seconds[name], peaks.get(name, 0)) for name in steps}


def _model(hidden: int) -> nn.Sequential:
    torch.manual_seed(0)
    return mlp(784, [hidden] * 3, 10)


def _rivals() -> dict[str, Callable[[int, int, float], nn.Module]]:
    """Other libraries that are installed here."""
    try:
        from sparselab.nn import SparseLinear as Theirs
    except ImportError:
        return {}
    return {"sparselab": lambda n_in, n_out, density: Theirs(n_in, n_out, sparsity=1 - density)}


def _replaced(
    model: nn.Module, density: float, make: Callable[[int, int, float], nn.Module]
) -> nn.Module:
    for name, layer in linear_layers(model, exclude=HEAD).items():
        setattr(model, name, make(layer.in_features, layer.out_features, density))
    return model


def _training_step(model: nn.Module, batch: int, device: str) -> Callable[[], None]:
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
