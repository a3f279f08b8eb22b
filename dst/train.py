"""The training loop: from a `Config` to a scored run directory."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections import OrderedDict
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from tqdm import tqdm

import topo
from dst.config import Config
from dst.datasets import load
from dst.evolver import Evolver
from dst.graph import network, sparse_layers
from dst.methods import METHODS
from dst.sparsify import linear_layers, sparsify
from topo.files import is_taken, write_atomically
from topo.names import find

__all__ = ["claim", "evaluate", "learning_rate", "mlp", "sample_order", "train"]

HEAD = "head"


def train(
    config: Config, out: Path, *, preset: str = "", command: str = "", label: str = ""
) -> dict[str, Any]:
    """Train one model and write its run directory.

    Parameters
    ----------
    config : Config
    out : Path
        The run directory; it must not exist, or be empty.
    preset, command : str
        Recorded as they are.
    label : str
        What the progress bar is headed.

    Returns
    -------
    dict
        What ``summary.json`` holds. ``training_flops_relative_to_dense`` is the mean of the links
        over the steps; scores of links and dense gradients, of a few steps, are not counted.

    Raises
    ------
    ValueError
        If the configuration is impossible or the run directory is taken; nothing is written then.
    """
    data = load(config.data.name)
    torch.manual_seed(topo.stream(config.seed, "model"))
    model = mlp(data.train_x.shape[1], config.model.hidden, data.classes)
    possible = sum(layer.weight.numel() for layer in linear_layers(model, exclude=HEAD).values())
    weights = possible + linear_layers(model, include=HEAD)[HEAD].weight.numel()
    if config.sparsity.method is not None:
        start = find(METHODS, config.sparsity.method, "method").start
        topology = config.sparsity.topology or start.calibrated or start.topology
        sparsify(
            model,
            config.sparsity.density,
            method=config.sparsity.method,
            topology=topology,
            calibration=data.train_x if topology == "correlated" else None,
            init=config.sparsity.init,
            layout=config.sparsity.layout,
            exclude=HEAD,
            seed=config.seed,
        )
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.optimizer.lr,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )
    batches = -(-len(data.train_y) // config.data.batch_size)
    total = batches * config.optimizer.epochs
    every = config.sparsity.every or batches

    claim(out)
    resolved = asdict(config)
    if config.sparsity.method is not None:
        resolved["sparsity"] |= {
            "topology": topology,
            "init": config.sparsity.init or start.init,
            "every": every,
            "layout": "+".join(sorted({layer.layout for layer in sparse_layers(model).values()})),
        }
    (out / "config.yaml").write_text(
        yaml.safe_dump({"preset": preset, **resolved}, sort_keys=False)
    )
    evolver = None
    if config.sparsity.method is not None:
        evolver = Evolver(
            model,
            optimizer,
            config.sparsity.method,
            every=every,
            total_steps=total,
            seed=config.seed,
            history=out / "topology",
        )
        evolver.snapshot()

    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    test_x, test_y = torch.from_numpy(data.test_x), torch.from_numpy(data.test_y)
    accuracies: list[float] = []
    seconds = 0.0  # of training alone
    step = 0
    links = sum(layer.links for layer in sparse_layers(model).values()) or possible
    all_links = 0  # of all steps, for the operations that they took
    # quiet where standard error is no terminal
    bar = tqdm(total=total, desc=label or out.name, unit="step", disable=None, leave=False)
    with bar, (out / "metrics.jsonl").open("w") as metrics:
        for epoch in range(config.optimizer.epochs):
            started = time.perf_counter()
            model.train()
            loss_sum = torch.zeros(())
            for batch in sample_order(len(y), config.seed, epoch).split(config.data.batch_size):
                rate = learning_rate(config.optimizer.lr, step / total)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                all_links += links
                record = evolver.step() if evolver is not None else None
                if record is not None:
                    links = sum(layer.links for layer in record.layers.values())
                loss_sum += loss.detach() * len(batch)
                step += 1
            seconds += time.perf_counter() - started
            test_loss, accuracy = evaluate(model, test_x, test_y)
            accuracies.append(accuracy)
            line = {
                "step": step,
                "epoch": epoch + 1,
                "train_loss": loss_sum.item() / len(y),
                "test_loss": test_loss,
                "test_accuracy": accuracy,
                "learning_rate": rate,
                "seconds": seconds,
            }
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            if not np.isfinite(line["train_loss"]):
                raise ValueError(
                    f"the loss is {line['train_loss']} in epoch {epoch + 1}: "
                    f"lower optimizer.lr ({config.optimizer.lr}); what was logged is in {out}"
                )
            bar.update(batches)
            bar.set_postfix(loss=f"{line['train_loss']:.3f}", accuracy=f"{accuracy:.1%}")

    if evolver is not None:
        evolver.snapshot()
    summary = {
        "score": {"name": "test_accuracy", "final": accuracies[-1], "best": max(accuracies)},
        "density": links / possible,
        "active_neuron_rate": topo.active_neuron_rate(network(model)) if evolver else 1.0,
        "links": links,
        "steps": step,
        "training_flops_relative_to_dense": (all_links / step + weights - possible) / weights,
        "run": {
            "seconds": seconds,
            "samples_per_second": len(y) * config.optimizer.epochs / seconds,
            "peak_memory_bytes": _peak_memory(),
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "command": command,
            "versions": {
                "epitopo": topo.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        },
    }
    write_atomically(out / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    return summary


def mlp(inputs: int, hidden: list[int], classes: int) -> nn.Sequential:
    """A multilayer perceptron: layers fc1, fc2, ... with ReLU, and the classifier "head".

    Examples
    --------
    >>> from dst.train import mlp
    >>> [name for name, _ in mlp(64, [32, 32], 10).named_children()]
    ['fc1', 'relu1', 'fc2', 'relu2', 'head']
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    sizes = [inputs, *hidden]
    for i, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
        layers[f"fc{i}"] = nn.Linear(n_in, n_out)
        layers[f"relu{i}"] = nn.ReLU()
    layers[HEAD] = nn.Linear(sizes[-1], classes)
    for layer in layers.values():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(layers)


def learning_rate(initial: float, progress: float) -> float:
    """The rate at a share of the training: straight to 1 % at 90 %, then constant.

    Examples
    --------
    >>> from dst.train import learning_rate
    >>> learning_rate(0.1, 0.0), round(learning_rate(0.1, 0.9), 6)
    (0.1, 0.001)
    """
    return initial * (1 - 0.99 * min(progress / 0.9, 1.0))


def sample_order(samples: int, seed: int, epoch: int) -> torch.Tensor:
    """The order in which an epoch visits the samples, a function of the arguments alone."""
    hashes = topo.hash_links(topo.stream(seed, "epoch", epoch), np.arange(samples))
    return torch.from_numpy(np.argsort(hashes, kind="stable"))


def evaluate(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy."""
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in x.split(4096)])
    correct = (logits.argmax(1) == y).float().mean().item()
    return F.cross_entropy(logits, y).item(), correct


def claim(out: Path) -> None:
    """Make a run directory, or refuse one that holds something.

    Raises
    ------
    ValueError
        If the folder exists and is not empty.
    """
    if is_taken(out):
        raise ValueError(f"{out} exists already: give another --out, or remove it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the run folder {out}: {error.strerror}") from None


def _peak_memory() -> int | None:
    """Of the process, in bytes."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
