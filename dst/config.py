"""What a training run is made of: typed, with units, saved whole in every run's config.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Config", "DataConfig", "ModelConfig", "OptimizerConfig", "SparsityConfig"]


def _require(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{key} must be {expected}, not {value!r}")


@dataclass
class DataConfig:
    """The data.

    Parameters
    ----------
    name : str
        Data set (see `epitopo data`).
    batch_size : int
        Samples per optimizer step.
    """

    name: str = "digits"
    batch_size: int = 32

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "data.batch_size", self.batch_size, "at least 1")


@dataclass
class ModelConfig:
    """The multilayer perceptron: ReLU, Kaiming initialisation, no dropout.

    Parameters
    ----------
    hidden : list of int
        Neurons of each hidden layer.
    """

    hidden: list[int] = field(default_factory=lambda: [512, 512, 512])

    def __post_init__(self) -> None:
        ok = len(self.hidden) > 0 and min(self.hidden) >= 1
        _require(ok, "model.hidden", self.hidden, "a list of positive numbers")


@dataclass
class SparsityConfig:
    """How sparse, and how the topology evolves; the classifier stays dense.

    Parameters
    ----------
    method : str or None
        Training method (`dst.METHODS`: set, rigl, chts, ...); null trains the dense network.
    density : float
        Share of the possible links of each hidden layer that exist at the end, in (0, 1].
    topology : str or None
        Start topology; null is the method's own. "correlated" is made from the training data.
    init : str or None
        Initial weights (swi, keep); null is the method's own.
    every : int or None
        Steps between topology updates; null is one epoch.
    layout : str
        How the weights are stored (auto, csr, masked).
    """

    method: str | None = None
    density: float = 1.0
    topology: str | None = None
    init: str | None = None
    every: int | None = None
    layout: str = "auto"

    def __post_init__(self) -> None:
        _require(0 < self.density <= 1, "sparsity.density", self.density, "in (0, 1]")
        if self.method is None and self.density != 1:
            raise ValueError(
                f"sparsity.density is {self.density!r} but sparsity.method is null, which trains "
                "the dense network: name a method (such as chts), or leave the density at 1"
            )
        if self.every is not None:
            _require(self.every >= 1, "sparsity.every", self.every, "at least 1")


@dataclass
class OptimizerConfig:
    """SGD with momentum; the rate falls in a straight line to 1 % of it at 90 % of the training.

    Parameters
    ----------
    epochs : int
        Passes over the training set.
    lr : float
        Learning rate at the start.
    momentum : float
        In [0, 1).
    weight_decay : float
        L2 penalty.
    """

    epochs: int = 100
    lr: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "optimizer.epochs", self.epochs, "at least 1")
        _require(self.lr > 0, "optimizer.lr", self.lr, "positive")
        _require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "in [0, 1)")
        _require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")


@dataclass
class Config:
    """A training run.

    Parameters
    ----------
    data : DataConfig
        The data.
    model : ModelConfig
        The multilayer perceptron.
    sparsity : SparsityConfig
        How sparse, and how the topology evolves.
    optimizer : OptimizerConfig
        SGD with momentum and its learning rate.
    seed : int
        Of everything random: weights, topology, order of the samples.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 0
