"""What a run says while it trains: the bar, its .jsonl files, TensorBoard."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from dst.run_folder import CANCELLATION, METRICS, TIMINGS
from topo.files import sync

__all__ = ["Clock", "Reporter", "Silent"]


class Silent:
    """A reporter that says nothing: that of all ranks but the first."""

    def __enter__(self) -> Silent:
        """Open nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close nothing."""

    def tick(self) -> None:
        """A step was done."""

    def log(
        self, line: Mapping[str, Any], seconds: float, items: int, ratios: Mapping[str, float]
    ) -> None:
        """A line is due."""

    def sync(self) -> None:
        """Lines are to outlive the machine."""


class Reporter(Silent):
    """Append to the files of a run, and move the bar; use it in a ``with`` statement.

    Parameters
    ----------
    out : Path
        The run directory.
    label : str
        What the bar is headed.
    unit : str
        What is counted: "samples", "tokens".
    score : str
        The measure that the bar shows.
    step, total : int
        Steps done and to be done.
    tensorboard : bool
        Write for TensorBoard, too.

    Raises
    ------
    ValueError
        If TensorBoard is asked for and not installed.
    """

    def __init__(
        self, out: Path, label: str, unit: str, score: str, step: int, total: int, tensorboard: bool
    ) -> None:
        self._unit, self._score = unit, score
        self._board = _board(out, step) if tensorboard else None
        self._out = out
        self._files: dict[str, TextIO] = {}
        self._shown: dict[str, str] = {}
        # quiet where standard error is no terminal
        self._bar = tqdm(
            total=total, initial=step, desc=label, unit="step", disable=None, leave=False
        )

    def __exit__(self, *_: object) -> None:
        """Close the files and the bar."""
        self._bar.close()
        for file in self._files.values():
            file.close()
        if self._board:
            self._board.close()

    def tick(self) -> None:
        """Move the bar by a step."""
        self._bar.update()

    def log(
        self, line: Mapping[str, Any], seconds: float, items: int, ratios: Mapping[str, float]
    ) -> None:
        """Write a line of the metrics, and beside it what time it took.

        Parameters
        ----------
        line : mapping
            With "step".
        seconds, items : float, int
            Of training so far.
        ratios : mapping of str to float
            Overlap cancellation ratio by layer; its mean is among the metrics.
        """
        speed = items / seconds
        timing = {"step": line["step"], "seconds": seconds, f"{self._unit}_per_second": speed}
        contents: dict[str, Mapping[str, Any]] = {METRICS: line, TIMINGS: timing}
        if ratios:
            mean = sum(ratios.values()) / len(ratios)
            contents[METRICS] = line = {**line, "overlap_cancellation_ratio": mean}
            contents[CANCELLATION] = {"step": line["step"], "layers": ratios}
        for name, content in contents.items():
            if name not in self._files:
                self._files[name] = (self._out / name).open("a")
            self._files[name].write(json.dumps(content) + "\n")
            self._files[name].flush()
        if self._board:
            for name, value in line.items():
                self._board.add_scalar(name, value, line["step"])
        self._shown["loss"] = f"{line['train_loss']:.3f}"
        if self._score in line:
            self._shown[self._score] = f"{line[self._score]:.4g}"
        self._shown[f"{self._unit}/s"] = f"{speed:,.0f}"
        self._bar.set_postfix(self._shown)

    def sync(self) -> None:
        """Have the lines outlive the machine."""
        for file in self._files.values():
            os.fsync(file.fileno())
        sync(self._out)  # the names of those that are new


def _board(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "training.tensorboard needs TensorBoard: pip install 'epitopo[tensorboard]'"
        ) from None
    return SummaryWriter(out / "tensorboard", purge_step=step + 1)


class Clock:
    """Seconds between laps.

    Examples
    --------
    >>> from dst.reporter import Clock
    >>> clock = Clock()
    >>> clock.lap() >= 0
    True
    """

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Since it was made, or since the last lap."""
        now = time.perf_counter()
        self._last, before = now, self._last
        return now - before
