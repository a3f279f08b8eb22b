"""From a `Config` to a model, its optimizer and its method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import topo
from dst.budgets import budget
from dst.config import Config, OptimizerConfig
from dst.downloads import registry
from dst.graph import sparse_layers
from dst.low_rank import LOW_RANKS, LowRank, LowRankLinear
from dst.methods import Method, as_method
from dst.schedules import Schedule, Share, constant, delta, steady
from dst.scores import LinkScore, importance, magnitude
from dst.sparsify import factorize, linear_layers, sparsify
from dst.tasks import Batch, Task
from topo.names import find

__all__ = ["OPTIMIZERS", "PRECISIONS", "Precision", "Recipe", "device_of", "make_optimizer"]


@dataclass(frozen=True)
class Precision:
    """In what numbers a model is kept, and computes.

    Attributes
    ----------
    weights : torch.dtype
        Of weights, gradients and moments.
    autocast : bool
        Whether products are of bfloat16.
    """

    weights: torch.dtype
    autocast: bool = False


_STAYING: dict[str, LinkScore] = {"magnitude": magnitude, "importance": importance(alpha=0.0)}
_SELECTIONS: dict[str, dict[str, Schedule]] = {
    "": {},
    "-soft": {"sharpness": delta(0.5, 0.75)},
    "-hard": {"sharpness": constant(math.inf)},
}
REMOVALS: dict[str, dict[str, Any]] = {
    score + how: {"score": _STAYING[score], **_SELECTIONS[how]}
    for score in _STAYING
    for how in _SELECTIONS
}
"""What a removal rule is changed to, by the name in `dst.config.SparsityConfig`."""

_OPTIONS = {"beta": "small_world", "r": "receptive_field"}  # of which topology

PRECISIONS = {
    "float32": Precision(torch.float32),
    "float64": Precision(torch.float64),
    "bf16": Precision(torch.float32, autocast=True),
    "bf16-pure": Precision(torch.bfloat16),
}
"""By the name in `dst.config.TrainingConfig`."""


@dataclass
class Recipe:
    """How the model of a run is made; more than once, for the best checkpoint.

    Parameters
    ----------
    config : Config
    task : Task
    device : torch.device

    Attributes
    ----------
    method : Method or None
    weights : int
        Of all linear layers of the dense model; known once a model was made.
    possible : int
        Of those that are sparse, or would be with a method.
    spectral : int
        Of the branches of low rank; known once a model was made.
    """

    config: Config
    task: Task
    device: torch.device
    weights: int = field(default=0, init=False)
    possible: int = field(default=0, init=False)
    spectral: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.method: Method | None = None
        sparsity = self.config.sparsity
        if sparsity.method is None or self.config.low_rank.ratio == 0:
            return
        method = as_method(sparsity.method)
        if sparsity.churn is not None and isinstance(method.churn, Share):
            method = replace(method, churn=method.churn.starting_at(sparsity.churn))
        if sparsity.removal is not None:
            changes = find(REMOVALS, sparsity.removal, "removal")
            method = replace(method, removal=replace(method.removal, **changes))
        if sparsity.percolates is not None:
            method = replace(method, percolates=sparsity.percolates)
        self.method = method

    @property
    def precision(self) -> Precision:
        """In what numbers it computes."""
        return find(PRECISIONS, self.config.training.precision, "precision")

    @property
    def topology(self) -> str | None:
        """What the sparse layers start as; None where there are none."""
        if self.method is None:
            return None
        start = self.method.start
        calibrated = start.calibrated if self.task.calibration() is not None else None
        return self.config.sparsity.topology or calibrated or start.topology

    @property
    def _generator(self) -> Any:
        """The topology by name, or with what was set of it."""
        sparsity, name = self.config.sparsity, self.topology
        options = {key: getattr(sparsity, key) for key in _OPTIONS}
        given = {key: value for key, value in options.items() if value is not None}
        for key in given:
            if name != _OPTIONS[key]:
                raise ValueError(
                    f"sparsity.{key} is of the topology {_OPTIONS[key]}, and this run starts from "
                    f"{name}: set sparsity.topology to {_OPTIONS[key]}, or leave {key} out"
                )
        return partial(topo.GENERATORS[str(name)], **given) if given else name

    def model(self) -> nn.Module:
        """A new model, the same every time, with sparse layers if there is a method."""
        torch.manual_seed(topo.stream(self.config.seed, "model"))
        model = self.task.model().to(self.device, self.precision.weights)
        sparse = linear_layers(model, exclude=self.task.dense)
        linear = (m for m in model.modules() if isinstance(m, nn.Linear))
        self.weights = sum(layer.weight.numel() for layer in linear)
        self.possible = sum(layer.weight.numel() for layer in sparse.values())
        sparsity = self.config.sparsity
        density, rank = self._branches(model)
        if self.method is not None:
            sparsify(
                model,
                density,
                rank=rank,
                low_rank=self._form,
                method=self.method,
                topology=self._generator,
                calibration=self.task.calibration() if self.topology == "correlated" else None,
                init=sparsity.init,
                layout=sparsity.layout,
                exclude=self.task.dense,
                seed=self.config.seed,
            )
        elif rank is not None:
            exclude, seed = self.task.dense, self.config.seed
            factorize(model, rank, low_rank=self._form, exclude=exclude, seed=seed)
        branches = (m for m in model.modules() if isinstance(m, LowRankLinear))
        self.spectral = sum(m.A.numel() + m.B.numel() for m in branches)
        return model

    def _branches(self, model: nn.Module) -> tuple[float, int | None]:
        """The density of the sparse branch and the rank of the other, of a dense model."""
        density, low_rank = self.config.sparsity.density, self.config.low_rank
        if low_rank.ratio is None:
            return density, low_rank.rank
        density, rank = budget(model, 1 - density, low_rank.ratio, exclude=self.task.dense)
        return density, rank or None

    @property
    def _form(self) -> LowRank:
        form = find(LOW_RANKS, self.config.low_rank.form, "low_rank.form")
        return form if form.alpha is None else replace(form, alpha=self.config.low_rank.alpha)

    @property
    def dense(self) -> bool:
        """Whether all of the model is."""
        return self.method is None and not self.config.low_rank.there

    @cached_property
    def fingerprint(self) -> str:
        """Of the data."""
        return self.task.fingerprint()

    def check_data(self, saved: Mapping[str, Any]) -> None:
        """Refuse a checkpoint that was trained on other data.

        Raises
        ------
        ValueError
            If the data, or the tokens that they are cut into, have changed.
        """
        if saved and saved["data"] != self.fingerprint:
            raise ValueError(
                "the data are not those that the run was trained on (or are cut into other "
                "tokens): bring them back, or train anew"
            )

    def check(self, model: nn.Module, ranks: int) -> None:
        """Refuse what would fail at the first update of the topology.

        Raises
        ------
        ValueError
            For csr layers in a compiled DDP model that change their lengths.
        """
        csr = any(layer.layout == "csr" for layer in sparse_layers(model).values())
        changes = self.method is not None and self.method.density is not steady
        if self.config.training.compile and ranks > 1 and csr and changes:
            raise ValueError(
                "torch.compile over several processes holds on to the links' weights, and "
                f"{self.config.sparsity.method!r} changes their number: set sparsity.layout to "
                "masked, or training.compile to false"
            )

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which products have the run's precision."""
        if not self.precision.autocast:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def reseed(self, step: int, rank: int) -> None:
        """Have torch's generators, of dropout, begin a step as a function of the seed."""
        seed = topo.stream(self.config.seed, "dropout", step, rank)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 0.1 ms
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def moved(self, batch: Batch) -> Batch:
        """The batch on the device, real numbers in the precision of the weights."""
        inputs = {
            name: value.to(
                self.device, self.precision.weights if value.is_floating_point() else None
            )
            for name, value in batch.inputs.items()
        }
        return Batch(inputs, batch.count)

    def total_steps(self) -> int:
        """Optimizer steps of the training."""
        optimizer = self.config.optimizer
        return optimizer.steps or (optimizer.epochs or 0) * self.task.epoch_steps

    def every_or_epoch(self, every: int | None) -> int:
        """Steps between what is done every so many steps; None: every epoch."""
        return every or self.task.epoch_steps

    def checkpoint_every(self) -> int:
        """Steps between checkpoints."""
        return self.config.training.checkpoint_every or -(-self.total_steps() // 10)

    def resolved(self, model: nn.Module) -> dict[str, Any]:
        """The configuration with everything that was left to choose."""
        resolved = asdict(self.config)
        for key, value in resolved["data"].items():  # it may be resumed from another folder
            if isinstance(value, str) and value not in registry() and Path(value).exists():
                resolved["data"][key] = str(Path(value).absolute())
        resolved["training"] |= {
            "log_every": self.every_or_epoch(self.config.training.log_every),
            "evaluate_every": self.every_or_epoch(self.config.training.evaluate_every),
            "checkpoint_every": self.checkpoint_every(),
        }
        if self.method is not None:
            layouts = {layer.layout for layer in sparse_layers(model).values()}
            resolved["sparsity"] |= {
                "topology": self.topology,
                "init": self.config.sparsity.init or self.method.start.init,
                "every": self.every_or_epoch(self.config.sparsity.every),
                "layout": layouts.pop() if len(layouts) == 1 else "auto",
            }
        return resolved


def _sgd(parameters: Any, options: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters, options.lr, momentum=options.momentum, weight_decay=options.weight_decay
    )


def _adam(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    def make(parameters: Any, options: OptimizerConfig) -> torch.optim.Optimizer:
        return kind(  # type: ignore[call-arg]
            parameters,
            lr=options.lr,
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            weight_decay=options.weight_decay,
            fused=True,  # twice as fast on the CPU
        )

    return make


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam(torch.optim.Adam),
    "adamw": _adam(torch.optim.AdamW),
}
"""By the name in `dst.config.OptimizerConfig`."""


def make_optimizer(model: nn.Module, options: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of all parameters that are trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return find(OPTIMIZERS, options.name, "optimizer")(trained, options)


def device_of(name: str, local_rank: int = 0) -> torch.device:
    """The device that a name means here; "auto" is a GPU if there is one.

    Parameters
    ----------
    name : str
        "auto", "cpu", "cuda", "cuda:1".
    local_rank : int
        Which of the processes on this machine asks: each gets a GPU of its own.

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"training.device is auto, cpu, cuda or cuda:N, not {name!r}") from None
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", local_rank)
        if device.index >= torch.cuda.device_count():
            raise ValueError(
                f"training.device {str(device)!r}: torch sees {torch.cuda.device_count()} CUDA "
                "devices here; use cpu or auto"
            )
    return device
