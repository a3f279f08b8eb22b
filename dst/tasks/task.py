"""What the training loop asks of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

__all__ = ["Batch", "Score", "Task"]


@dataclass(frozen=True)
class Batch:
    """A part of the samples of an optimizer step: what one forward pass takes.

    Attributes
    ----------
    inputs : dict of str to Tensor
        On the CPU; the loop brings them to the device.
    count : int
        Of how many items (samples, target tokens without padding) `Task.loss` is the sum.
    """

    inputs: dict[str, Tensor]
    count: int


@dataclass(frozen=True)
class Score:
    """The figure that a run is judged by.

    Attributes
    ----------
    name : str
        A measure of `Task.measures` or `Task.test`, such as "test_accuracy".
    higher_is_better : bool
    selected_by : str
        The measure whose lowest evaluation picks the model that is scored ("valid_loss"); empty:
        the last model is.
    """

    name: str
    higher_is_better: bool
    selected_by: str = ""


class Task(ABC):
    """Data, model and score of an experiment; made from a `Config` (`Config.task`).

    Everything is a function of the configuration: a batch of (seed, step) alone, so that a run
    resumes exactly and any number of processes sees the same samples.

    Attributes
    ----------
    unit : str
        What `Batch.count` counts: "samples" or "tokens".
    score : Score
    dense : tuple of str
        Patterns of the linear layers that stay dense, such as the classifier.
    epoch_steps : int
        Optimizer steps in one pass over the training data.
    """

    unit: ClassVar[str]
    score: Score
    dense: tuple[str, ...] = ()
    epoch_steps: int

    @abstractmethod
    def model(self) -> nn.Module:
        """A new dense model; torch's generator is seeded by the caller."""

    @abstractmethod
    def batches(self, step: int, ranks: int) -> list[Batch]:
        """All samples of an optimizer step (from 0), in parts that fit into memory.

        Their number is a multiple of `ranks`; a part may be empty. Rank r takes every
        `ranks`-th from the r-th.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The sum of the loss over the items of a batch: 0-dimensional, differentiable."""

    @abstractmethod
    def evaluate(self, model: nn.Module, rank: int, ranks: int) -> dict[str, float]:
        """Sums over this rank's share of the samples that the model is evaluated on.

        The model is in evaluation mode, no gradients are recorded. The inputs go to the device of
        the model's parameters.
        """

    @abstractmethod
    def measures(self, sums: dict[str, float]) -> dict[str, float]:
        """What `metrics.jsonl` says of an evaluation, from the sums over all ranks."""

    def fingerprint(self) -> str:
        """A hash of the data as the model sees them: a run goes on with the same alone."""
        return ""

    def test(self, model: nn.Module) -> dict[str, Any]:
        """What `summary.json` says of a trained model beside that: scores that take long (BLEU)."""
        return {}

    def calibration(self) -> Any:
        """Inputs of the first layer that the topology "correlated" is made of, or None."""
        return None

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write a dense model into a folder as others can load it.

        Raises
        ------
        ValueError
            If the task has no such form.
        """
        raise ValueError(f"{type(self).__name__} cannot be exported")
