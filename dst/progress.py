"""How far a run has come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dst.distributed import Ranks

__all__ = ["Due", "Progress"]


@dataclass
class Progress:
    """What a run has come to, beside its model, optimizer and topology.

    Attributes
    ----------
    step : int
        Optimizer steps done.
    loss, items : float, int
        Sums of this rank since the last line of the metrics.
    all_links : int
        Links of all steps, for the operations that they took.
    best : float or None
        The best evaluation: of the score, or of the measure that selects the model.
    seconds, all_items : float, int
        Of training alone, and what was trained on.
    """

    step: int = 0
    loss: float = 0.0
    items: int = 0
    all_links: int = 0
    best: float | None = None
    seconds: float = 0.0
    all_items: int = 0

    def pool(self, ranks: Ranks) -> None:
        """Give the sums of all ranks to the first, which saves and logs them."""
        loss, items = ranks.sum(np.array([self.loss, self.items], np.float64)).tolist()
        self.loss, self.items = (loss, int(items)) if ranks.rank == 0 else (0.0, 0)

    def line(self, epoch_steps: int, rate: float, ranks: Ranks) -> dict[str, Any]:
        """A line of the metrics; the sums begin anew."""
        self.pool(ranks)
        whole = self.step % epoch_steps == 0
        line = {
            "step": self.step,
            "epoch": self.step // epoch_steps if whole else self.step / epoch_steps,
            "train_loss": self.loss / self.items if self.items else math.nan,
            "learning_rate": rate,
        }
        self.loss, self.items = 0.0, 0
        return line


@dataclass(frozen=True)
class Due:
    """Whether something that is done every so many steps, and after the last, is due.

    Attributes
    ----------
    step, total : int
    """

    step: int
    total: int

    def __call__(self, every: int | None) -> bool:
        """Every so many steps; None: never."""
        return every is not None and (self.step % every == 0 or self.step == self.total)
