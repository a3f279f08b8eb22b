"""Read the files of a run, or say which one is damaged and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import yaml

__all__ = [
    "RunError",
    "damaged",
    "parse_config",
    "parse_lines",
    "parse_ratios",
    "read",
]

_MEND = "train the run again"


class RunError(ValueError):
    """A run directory that is missing, unfinished, damaged, or not what is asked for."""


def read(
    file: Path,
    parse: Callable[[str], Any],
    keys: Mapping[str, Any] | None = None,
    mend: str = _MEND,
) -> Any:
    """Parse a file and see that it holds what is read from it.

    Parameters
    ----------
    file : Path
    parse : callable
        Of its text.
    keys : mapping, optional
        What must be in it, nested keys included; a key of which nothing is asked maps to None.
    mend : str
        What to do about a damaged file.

    Raises
    ------
    RunError
        If it is damaged; the message names the file.
    """
    try:
        content = parse(file.read_text())
        _require(content, keys or {})
    except (OSError, ValueError, yaml.YAMLError, TypeError, AttributeError) as error:
        damaged(file, " ".join(str(error).split()), mend)
    return content


def damaged(file: Path, reason: str, mend: str = _MEND) -> NoReturn:
    """Say that a file is damaged.

    Raises
    ------
    RunError
        Always.
    """
    raise RunError(f"{file} is damaged ({reason}): {mend}") from None


def parse_config(text: str) -> Any:
    """``config.yaml``; low rank, which older runs lack, is a mapping where there is any."""
    content = yaml.safe_load(text)
    low_rank = content.get("low_rank")
    if not isinstance(low_rank, dict | None):
        raise ValueError(f"low_rank is {low_rank!r}")
    return content


def parse_lines(text: str) -> pd.DataFrame:
    """A row per line of JSON."""
    return pd.DataFrame([json.loads(line) for line in text.splitlines()])


def parse_ratios(text: str) -> pd.DataFrame:
    """``cancellation.jsonl``: a row per step and layer."""
    rows = []
    for line in map(json.loads, text.splitlines()):
        _require(line, {"step": None, "layers": None})
        for layer, ratio in line["layers"].items():
            if not 0 <= ratio <= 1:
                raise ValueError(f"{layer} has the ratio {ratio!r} at step {line['step']}")
            rows.append((int(line["step"]), layer, float(ratio)))
    if not rows:
        raise ValueError("it is empty")
    return pd.DataFrame(rows, columns=["step", "layer", "overlap_cancellation_ratio"])


def _require(content: Any, keys: Mapping[str, Any]) -> None:
    todo = [(content, keys)]
    while todo:
        part, wanted = todo.pop()
        missing = [key for key in wanted if key not in part]
        if missing:
            raise ValueError(f"it has no {missing[0]!r}")
        todo += [(part[key], inner) for key, inner in wanted.items() if inner]
