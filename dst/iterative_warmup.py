"""Ramp the learning rate up after every topology update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from topo.checks import as_integer

__all__ = ["IterativeWarmup", "unwrapped", "warmup_factor"]


def warmup_factor(t: int, every: int, steps: int = 20, last: int | None = None) -> float:
    """``min(1, (t mod every) / steps)``, and 1 from ``last + every`` on.

    Examples
    --------
    >>> from dst.iterative_warmup import warmup_factor
    >>> [warmup_factor(t, every=4, steps=2, last=4) for t in range(10)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    """
    since = t % every
    return 1.0 if last is not None and t - since > last else min(1.0, since / steps)


class IterativeWarmup(LRScheduler):
    """Multiply a schedule's learning rates by ``min(1, (t mod every) / steps)``.

    t is the number of optimizer steps done. So the rate rises from 0 over the first `steps` steps,
    and again over as many after each topology update, while new links settle. Give it to loops
    and trainers in the place of the scheduler that it wraps. It counts the optimizer's steps by
    itself: it is right with gradient accumulation, and with a schedule that is stepped once an
    epoch.

    Parameters
    ----------
    scheduler : torch.optim.lr_scheduler.LRScheduler, or torch.optim.Optimizer
        The schedule; an optimizer stands for its constant rate. Whatever else changes the rates
        has no effect.
    every : int
        Steps between updates, as in `dst.Evolver`.
    steps : int
        Steps of a ramp, at most `every`.
    last : int, optional
        The step of the last update (`Evolver.last`): its ramp is the last one. By default there is
        no last one.

    Attributes
    ----------
    scheduler : torch.optim.lr_scheduler.LRScheduler
    optimizer_steps : int
        t.

    Examples
    --------
    >>> import torch, dst
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    >>> cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    >>> warmup = IterativeWarmup(cosine, every=100, steps=4)
    >>> rates = []
    >>> for _ in range(6):
    ...     rates += warmup.get_last_lr()
    ...     optimizer.step()
    ...     warmup.step()
    >>> [round(rate, 3) for rate in rates]
    [0.0, 0.125, 0.25, 0.374, 0.498, 0.497]
    """

    def __init__(
        self,
        scheduler: LRScheduler | Optimizer,
        *,
        every: int,
        steps: int = 20,
        last: int | None = None,
    ) -> None:
        if isinstance(scheduler, Optimizer):
            scheduler = LambdaLR(unwrapped(scheduler), _constant)
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(f"{scheduler!r} is no scheduler of torch, and no optimizer")
        self.every = as_integer("every", every, 1)
        self.steps = as_integer("steps", steps, 1)
        if self.steps > self.every:
            raise ValueError(f"a ramp of {steps} steps does not end in the {every} between updates")
        self.last = None if last is None else as_integer("last", last, 0)
        self.scheduler = scheduler
        self.optimizer = unwrapped(scheduler.optimizer)
        self.optimizer_steps = 0
        self._plain = _rates(self.optimizer)
        self.optimizer.register_step_post_hook(self._count)
        self._ramp()
        self._last_lr = _copies(self.optimizer)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Step the schedule, with what it takes (the metrics of `ReduceLROnPlateau`)."""
        # many schedules compute the next rate from the present one
        _assign(self.optimizer, self._plain)
        self.scheduler.step(*args, **kwargs)
        self._plain = _rates(self.optimizer)
        self._ramp()
        self._last_lr = _copies(self.optimizer)

    def get_last_lr(self) -> list[float | torch.Tensor]:
        """The rates of all groups at the last `step`."""
        return self._last_lr

    def get_lr(self) -> list[float | torch.Tensor]:
        """The schedule's own."""
        return self.scheduler.get_lr()

    def state_dict(self) -> dict[str, Any]:
        """The count, the rates and the schedule's state."""
        return {
            "optimizer_steps": self.optimizer_steps,
            "plain": list(self._plain),
            "last_lr": list(self._last_lr),
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; the optimizer may be loaded before or after."""
        self.scheduler.load_state_dict(dict(state_dict["scheduler"]))
        self.optimizer_steps = state_dict["optimizer_steps"]
        self._plain = list(state_dict["plain"])
        self._last_lr = list(state_dict["last_lr"])
        self._ramp()

    @property
    def _step_count(self) -> int:  # accelerate reads and writes the schedule's
        return self.scheduler._step_count

    @_step_count.setter
    def _step_count(self, count: int) -> None:
        self.scheduler._step_count = count

    def __getattr__(self, name: str) -> Any:
        # OneCycleLR's total_steps, last_epoch, base_lrs, ...
        if name == "scheduler":  # copy and pickle look before it is there
            raise AttributeError(name)
        return getattr(self.scheduler, name)

    def _count(self, *_: Any) -> None:
        self.optimizer_steps += 1
        self._ramp()

    def _ramp(self) -> None:
        factor = warmup_factor(self.optimizer_steps, self.every, self.steps, self.last)
        _assign(self.optimizer, [factor * rate for rate in self._plain])


def unwrapped(optimizer: Any) -> Optimizer:
    """The torch optimizer inside accelerate's or Lightning's: hooks of those never fire."""
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def _constant(_: int) -> float:
    return 1.0


def _rates(optimizer: Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def _copies(optimizer: Optimizer) -> list[float | torch.Tensor]:
    rates = (group["lr"] for group in optimizer.param_groups)
    return [r.clone() if isinstance(r, torch.Tensor) else r for r in rates]


def _assign(optimizer: Optimizer, rates: Sequence[float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], torch.Tensor):  # compiled optimizers hold it
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
