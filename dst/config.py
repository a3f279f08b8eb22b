"""What a training run is made of: typed, with units, saved whole in every run's config.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field

from dst.tasks.task import Task

__all__ = [
    "Config",
    "LowRankConfig",
    "OptimizerConfig",
    "SparsityConfig",
    "TrainingConfig",
    "require",
]


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Refuse the value of a key.

    Raises
    ------
    ValueError
        Unless the condition holds.
    """
    if not condition:
        raise ValueError(f"{key} must be {expected}, not {value!r}")


def _positive_or_null(key: str, value: int | None) -> None:
    if value is not None:
        require(value >= 1, key, value, "at least 1, or null")


@dataclass
class SparsityConfig:
    """How sparse, and how the topology evolves; embeddings and the classifier stay dense.

    Parameters
    ----------
    method : str or None
        Training method (`dst.METHODS`: set, rigl, chts, ...); null trains the dense network.
    density : float
        Share of the possible links of each sparse layer that exist at the end, in (0, 1]; where
        low_rank.ratio is set, share of the dense layers' weights in both branches.
    topology : str or None
        Start topology; null is the method's own. "correlated" is made from the training data.
    init : str or None
        Initial weights (swi, keep, uniform); null is the method's own.
    every : int or None
        Steps between topology updates; null is one epoch.
    churn : float or None
        Share of the links that the first update replaces, in [0, 1]; null is the method's own.
    removal : str or None
        Score of the links that stay (magnitude, importance: relative, of the neurons' links), with
        -soft to sample by it and -hard to take the highest (magnitude-soft, ...); null is the
        method's own.
    percolates : bool or None
        Whether links of inactive neurons go; null is the method's own.
    ramp : int
        Steps over which the learning rate rises anew at the start and after every update; 0: none.
    layout : str
        How the weights are stored (auto, csr, masked).
    beta : float or None
        Share of rewired links, in [0, 1], of the topology small_world; null: 0.25.
    r : float or None
        Blur of the fields, in [0, 1], of the topology receptive_field; null: 0.1.
    """

    method: str | None = None
    density: float = 1.0
    topology: str | None = None
    init: str | None = None
    every: int | None = None
    churn: float | None = None
    removal: str | None = None
    percolates: bool | None = None
    ramp: int = 0
    layout: str = "auto"
    beta: float | None = None
    r: float | None = None

    def __post_init__(self) -> None:
        require(0 < self.density <= 1, "sparsity.density", self.density, "in (0, 1]")
        _positive_or_null("sparsity.every", self.every)
        if self.churn is not None:
            require(0 <= self.churn <= 1, "sparsity.churn", self.churn, "in [0, 1]")
        for key in ("beta", "r"):
            if (value := getattr(self, key)) is not None:
                require(0 <= value <= 1, f"sparsity.{key}", value, "in [0, 1]")
        require(self.ramp >= 0, "sparsity.ramp", self.ramp, "0 or more")
        if self.every is not None:
            most = f"at most sparsity.every ({self.every})"
            require(self.ramp <= self.every, "sparsity.ramp", self.ramp, most)


@dataclass
class LowRankConfig:
    """A branch of low rank in every sparse layer, or instead of it (method null: CoLA).

    Parameters
    ----------
    rank : int or None
        Rank of the branch; null: none, or as `ratio` says.
    ratio : float or None
        Weights of the sparse branch over those of low rank: sparsity.density is divided so
        (1: halves; 0: all low rank; .inf: all sparse); null: as `rank` says.
    form : str
        What the branch computes (silu: B silu(A x); linear: B A x; sltrain: (alpha / rank) B A x,
        from B = 0).
    alpha : float
        Of the form sltrain.
    alignment : float
        Weight (lambda) of the alignment loss: the mean square of the difference of both branches,
        padding included, summed over layers; 0: none. Not comparable with the papers' lambdas,
        which are of the loss that `literal` gives.
    aligned : list of str
        Patterns of the layers that are aligned, as '["*.q_proj", "*.k_proj"]'.
    literal : bool
        The alignment loss as printed in the paper: norm over number, instead of mean square.
    """

    rank: int | None = None
    ratio: float | None = None
    form: str = "silu"
    alpha: float = 32.0
    alignment: float = 0.0
    aligned: list[str] = field(default_factory=lambda: ["*"])
    literal: bool = False

    def __post_init__(self) -> None:
        _positive_or_null("low_rank.rank", self.rank)
        if self.ratio is not None:
            require(self.ratio >= 0, "low_rank.ratio", self.ratio, "0 or more, or null")
            if self.rank is not None:
                raise ValueError(
                    f"low_rank.rank is {self.rank!r} and low_rank.ratio is {self.ratio!r}: set one "
                    "of them, and the other to null"
                )
        require(self.alpha > 0, "low_rank.alpha", self.alpha, "positive")
        require(self.alignment >= 0, "low_rank.alignment", self.alignment, "0 or more")
        require(len(self.aligned) > 0, "low_rank.aligned", self.aligned, "a list of patterns")

    @property
    def there(self) -> bool:
        """Whether there is such a branch."""
        return self.rank is not None or self.ratio is not None


@dataclass
class OptimizerConfig:
    """The optimizer and its learning rate.

    Parameters
    ----------
    name : str
        Optimizer (sgd, adam, adamw).
    epochs : int or None
        Passes over the training data; null: as `steps` says.
    steps : int or None
        Optimizer steps of the whole training; null: as `epochs` says.
    lr : float
        Learning rate at its highest.
    schedule : str
        How the rate changes: linear (to 1 % of it at 90 % of the training), noam (up in a straight
        line, then as 1 / sqrt(step)), cosine (up, then down to 10 %), constant.
    warmup : int
        Steps until the rate is at its highest (noam, cosine).
    momentum : float
        In [0, 1) (sgd).
    beta1 : float
        Decay of the mean of gradients, in [0, 1) (adam, adamw).
    beta2 : float
        Decay of the mean of their squares, in [0, 1) (adam, adamw).
    eps : float
        Added to the root of that mean (adam, adamw).
    weight_decay : float
        L2 penalty (sgd, adam); decoupled decay per step and rate (adamw).
    clip : float or None
        Largest norm of the gradient; null: no clipping.
    """

    name: str = "sgd"
    epochs: int | None = None
    steps: int | None = None
    lr: float = 0.025
    schedule: str = "linear"
    warmup: int = 0
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"optimizer.epochs is {self.epochs!r} and optimizer.steps is {self.steps!r}: set "
                "one of them, and the other to null"
            )
        _positive_or_null("optimizer.epochs", self.epochs)
        _positive_or_null("optimizer.steps", self.steps)
        require(self.lr > 0, "optimizer.lr", self.lr, "positive")
        require(self.warmup >= 0, "optimizer.warmup", self.warmup, "0 or more")
        for key in ("momentum", "beta1", "beta2"):
            require(
                0 <= getattr(self, key) < 1, f"optimizer.{key}", getattr(self, key), "in [0, 1)"
            )
        require(self.eps > 0, "optimizer.eps", self.eps, "positive")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")
        if self.clip is not None:
            require(self.clip > 0, "optimizer.clip", self.clip, "positive, or null")


@dataclass
class TrainingConfig:
    """The loop: where it runs, what it logs and keeps.

    Parameters
    ----------
    device : str
        Where to train (auto, cpu, cuda, cuda:1); auto: a GPU if there is one.
    precision : str
        Arithmetic: float32, float64, bf16 (autocast, weights and moments in float32), or bf16-pure
        (weights and moments, too).
    compile : bool
        Compile the model (torch.compile).
    log_every : int or None
        Steps between lines of metrics.jsonl; null: one epoch.
    evaluate_every : int or None
        Steps between evaluations; null: one epoch. The last step is evaluated in any case.
    checkpoint_every : int or None
        Steps between checkpoints; null: a tenth of the training.
    keep_checkpoints : int
        How many are kept.
    weights_every : int or None
        Steps between records of all weights in the topology's history; null: start and end alone.
    tensorboard : bool
        Write the metrics for TensorBoard, too, into the run's folder tensorboard.
    """

    device: str = "auto"
    precision: str = "float32"
    compile: bool = False
    log_every: int | None = None
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2
    weights_every: int | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for key in ("log_every", "evaluate_every", "checkpoint_every", "weights_every"):
            _positive_or_null(f"training.{key}", getattr(self, key))
        keep = self.keep_checkpoints
        require(keep >= 1, "training.keep_checkpoints", keep, "at least 1")


@dataclass
class Config:
    """A training run; each task has a subclass with its data and model.

    Parameters
    ----------
    sparsity : SparsityConfig
        How sparse, and how the topology evolves.
    optimizer : OptimizerConfig
        The optimizer and its learning rate.
    training : TrainingConfig
        The loop: where it runs, what it logs and keeps.
    seed : int
        Of everything random: weights, topology, order of the samples, dropout.
    low_rank : LowRankConfig
        A branch of low rank in every sparse layer, or instead of it.
    """

    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(epochs=1))
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0
    low_rank: LowRankConfig = field(default_factory=LowRankConfig)

    def __post_init__(self) -> None:
        sparsity, low_rank = self.sparsity, self.low_rank
        if sparsity.method is None and low_rank.ratio is None and sparsity.density != 1:
            raise ValueError(
                f"sparsity.density is {sparsity.density!r} but sparsity.method is null, which "
                "trains without sparse layers: name a method (such as chts), or leave the density "
                "at 1"
            )
        if sparsity.method is None and low_rank.ratio:
            raise ValueError(
                f"low_rank.ratio is {low_rank.ratio!r} but sparsity.method is null: name a method "
                "(such as chts) for the sparse branch, or set the ratio to 0 (low rank alone)"
            )
        if low_rank.alignment and (sparsity.method is None or not low_rank.there):
            raise ValueError(
                f"low_rank.alignment is {low_rank.alignment!r}, but it takes two branches: set "
                "sparsity.method, and low_rank.rank or low_rank.ratio; or this to 0"
            )

    def task(self) -> Task:
        """What is trained.

        Raises
        ------
        ValueError
            If the data cannot be used.
        """
        raise NotImplementedError

    def describe(self) -> str:
        """Data and model, in a few words."""
        raise NotImplementedError
