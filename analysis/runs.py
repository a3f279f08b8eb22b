"""What a training run left on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

import topo

__all__ = ["Run", "RunError", "find_runs"]

_CONFIG = {
    "preset": None,
    "seed": None,
    "data": {"name": None},
    "model": {"hidden": None},
    "sparsity": {"method": None},
}
_SUMMARY = {
    "score": {"final": None},
    **dict.fromkeys(("density", "active_neuron_rate", "links")),
    "run": {
        **dict.fromkeys(("seconds", "samples_per_second", "device", "threads", "command")),
        "versions": dict.fromkeys(("epitopo", "python", "torch")),
    },
}
_METRICS = ("step", "epoch", "train_loss", "test_loss", "test_accuracy")
_DISPLAY = {  # in the order of tables
    None: "dense",
    "static": "static",
    "set": "SET",
    "rigl": "RigL",
    "mest": "MEST",
    "gmp": "GMP",
    "granet": "GraNet",
    "cht": "CHT",
    "chts": "CHTs",
    "chts_gmp": "CHTs(GMP)",
    "chtss": "CHTss",
}


class RunError(ValueError):
    """A run directory that is missing, unfinished or damaged."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    path : Path
    config : dict
        ``config.yaml``: everything that was set, resolved.
    summary : dict
        ``summary.json``: the score and what it cost.
    metrics : DataFrame
        ``metrics.jsonl``: a row per logged step.
    history : topo.History, or None for a dense run.
    """

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    metrics: pd.DataFrame

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Read a run directory.

        Raises
        ------
        RunError
            If it is missing, unfinished or damaged; the message names the file.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise RunError(f"no run in {folder}: no such folder")
        if not (folder / "summary.json").is_file():
            raise RunError(f"no finished run in {folder}: it has no summary.json")
        config = _read(folder / "config.yaml", yaml.safe_load, _CONFIG)
        summary = _read(folder / "summary.json", json.loads, _SUMMARY)
        metrics = _read(folder / "metrics.jsonl", _lines, dict.fromkeys(_METRICS))
        return cls(folder, config, summary, metrics)

    @cached_property
    def history(self) -> topo.History | None:
        """The topology over time; None for a dense run."""
        if self.config["sparsity"]["method"] is None:
            return None
        return topo.History.open(self.path / "topology")

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config["seed"])

    @property
    def method(self) -> str:
        """The method's name as the papers write it."""
        name = self.config["sparsity"]["method"]
        return _DISPLAY.get(name, str(name))


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> dict[str, list[Run]]:
    """Runs in the folders and one level below, grouped by what they have in common.

    Returns
    -------
    dict of str to list of Run
        Runs that differ in the seed alone, by a label: the method's name, with the preset where
        several groups share it.

    Raises
    ------
    RunError
        If a folder holds no run.
    """
    folders: dict[Path, Path] = {}  # each run once, however often it is named
    for path in map(Path, paths):
        below = sorted(p.parent for p in path.glob("*/summary.json"))
        folders |= {p.resolve(): p for p in (below or [path])}
    groups: dict[str, list[Run]] = {}
    for run in map(Run.open, folders.values()):
        shared = {k: v for k, v in run.config.items() if k != "seed"}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(run)
    known = list(_DISPLAY.values())
    ordered = sorted(
        groups.values(),
        key=lambda g: known.index(g[0].method) if g[0].method in known else len(known),
    )
    labels = [
        [g[0].method for g in ordered],
        [f"{g[0].method} ({g[0].config['preset']})" for g in ordered],
        [f"{g[0].method} ({g[0].path.name})" for g in ordered],
        [f"{g[0].method} ({g[0].path})" for g in ordered],
    ]
    unique = next(names for names in labels if len(set(names)) == len(names))
    return dict(zip(unique, ordered, strict=True))


def _lines(text: str) -> pd.DataFrame:
    return pd.DataFrame([json.loads(line) for line in text.splitlines()])


def _read(file: Path, parse: Callable[[str], Any], keys: Mapping[str, Any]) -> Any:
    """Parse a file and see that it holds what is read from it, nested keys included."""
    try:
        content = parse(file.read_text())
        todo = [(content, keys)]
        while todo:
            part, wanted = todo.pop()
            missing = [key for key in wanted if key not in part]
            if missing:
                raise ValueError(f"it has no {missing[0]!r}")
            todo += [(part[key], inner) for key, inner in wanted.items() if inner]
    except (OSError, ValueError, yaml.YAMLError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{file} is damaged ({reason}): train the run again") from None
    return content
