"""Image classification with a multilayer perceptron."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topo
from dst.config import Config, require
from dst.datasets import load
from dst.tasks.task import Batch, Score, Task

__all__ = ["Images", "ImagesConfig", "ImagesData", "MLPConfig", "mlp", "sample_order"]

HEAD = "head"


@dataclass
class ImagesData:
    """The data.

    Parameters
    ----------
    name : str
        Data set (see `epitopo data`), or a folder of idx files such as train-images-idx3-ubyte.gz.
    batch_size : int
        Samples per optimizer step.
    micro_batch_size : int or None
        Samples per forward pass and process, to save memory; null: all of a step at once.
    """

    name: str = "digits"
    batch_size: int = 32
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "data.batch_size", self.batch_size, "at least 1")
        if self.micro_batch_size is not None:
            ok = self.micro_batch_size >= 1
            require(ok, "data.micro_batch_size", self.micro_batch_size, "at least 1, or null")


@dataclass
class MLPConfig:
    """The multilayer perceptron: ReLU, Kaiming initialisation, no dropout.

    Parameters
    ----------
    hidden : list of int
        Neurons of each hidden layer.
    """

    hidden: list[int] = field(default_factory=lambda: [512, 512, 512])

    def __post_init__(self) -> None:
        ok = len(self.hidden) > 0 and min(self.hidden) >= 1
        require(ok, "model.hidden", self.hidden, "a list of positive numbers")


@dataclass
class ImagesConfig(Config):
    """Classify images with a multilayer perceptron.

    Parameters
    ----------
    data : ImagesData
        The data.
    model : MLPConfig
        The multilayer perceptron.
    """

    data: ImagesData = field(default_factory=ImagesData)
    model: MLPConfig = field(default_factory=MLPConfig)

    def task(self) -> Images:
        """Load the images."""
        return Images(self)

    def describe(self) -> str:
        """Data and hidden layers."""
        return f"{self.data.name}, hidden {'-'.join(map(str, self.model.hidden))}"


class Images(Task):
    """Images in memory; all layers but the last are sparse.

    Parameters
    ----------
    config : ImagesConfig
    """

    unit: ClassVar[str] = "samples"
    score = Score("test_accuracy", higher_is_better=True)
    dense = (HEAD,)

    def __init__(self, config: ImagesConfig) -> None:
        data = load(config.data.name)
        self.config = config
        self.classes = data.classes
        self.x, self.y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
        self.test_x, self.test_y = torch.from_numpy(data.test_x), torch.from_numpy(data.test_y)
        self.epoch_steps = -(-len(self.y) // config.data.batch_size)

    def model(self) -> nn.Module:
        """The perceptron, with Kaiming weights."""
        return mlp(self.x.shape[1], self.config.model.hidden, self.classes)

    def batches(self, step: int, ranks: int) -> list[Batch]:
        """The next samples of the epoch's order, in equal parts."""
        epoch, at = divmod(step, self.epoch_steps)
        size = self.config.data.batch_size
        order = sample_order(len(self.y), self.config.seed, epoch)[at * size : (at + 1) * size]
        passes = -(-len(order) // ((self.config.data.micro_batch_size or size) * ranks))
        return [
            Batch({"x": self.x[part], "y": self.y[part]}, len(part))
            for part in order.tensor_split(passes * ranks)
        ]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy in nats."""
        logits = model(batch.inputs["x"])
        # a sum of many terms has no digits left in bfloat16
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        return F.cross_entropy(logits, batch.inputs["y"], reduction="sum")

    def evaluate(self, model: nn.Module, rank: int, ranks: int) -> dict[str, float]:
        """Over every `ranks`-th test image."""
        like = next(model.parameters())
        loss = correct = 0.0
        x, y = self.test_x[rank::ranks], self.test_y[rank::ranks]
        for part_x, part_y in zip(x.split(4096), y.split(4096), strict=True):
            target = part_y.to(like.device)
            logits = model(part_x.to(like))
            logits = logits.float() if logits.dtype == torch.bfloat16 else logits
            loss += F.cross_entropy(logits, target, reduction="sum").item()
            correct += (logits.argmax(1) == target).sum().item()
        return {"loss": loss, "correct": correct, "count": len(y)}

    def measures(self, sums: dict[str, float]) -> dict[str, float]:
        """Mean cross-entropy (nats) and accuracy on the test images."""
        count = sums["count"]
        return {"test_loss": sums["loss"] / count, "test_accuracy": sums["correct"] / count}

    def fingerprint(self) -> str:
        """Of all images and labels."""
        digest = hashlib.sha256()
        for part in (self.x, self.y, self.test_x, self.test_y):
            digest.update(part.numpy().data)
        return digest.hexdigest()

    def calibration(self) -> Any:
        """The training images."""
        return self.x

    def export(self, model: nn.Module, folder: Path) -> None:
        """`model.safetensors` with the weights of fc1, fc2, ... and head."""
        from safetensors.torch import save_file

        save_file(
            {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors"
        )


def mlp(inputs: int, hidden: list[int], classes: int) -> nn.Sequential:
    """A multilayer perceptron: layers fc1, fc2, ... with ReLU, and the classifier "head".

    Examples
    --------
    >>> from dst.tasks.images import mlp
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


@lru_cache(maxsize=2)
def sample_order(samples: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits the samples, a function of the arguments alone."""
    hashes = topo.hash_links(topo.stream(seed, "epoch", epoch), np.arange(samples))
    return torch.from_numpy(np.argsort(hashes, kind="stable"))
