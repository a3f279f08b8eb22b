"""What a training run left on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

import topo
from analysis.forms import Form, form
from analysis.methods import Branches, method_place
from analysis.run_files import RunError, damaged, parse_config, parse_lines, parse_ratios, read
from topo.names import flat

__all__ = ["Run", "RunError", "by_data", "find_runs"]

_CONFIG = {
    "preset": None,
    "seed": None,
    "data": {"name": None},
    "model": {},
    "sparsity": {"method": None},
}
_SUMMARY = {
    "score": {"name": None, "final": None},
    **dict.fromkeys(("density", "active_neuron_rate", "links")),
    "run": {
        **dict.fromkeys(("seconds", "samples_per_second", "device", "threads", "command")),
        "versions": dict.fromkeys(("epitopo", "python", "torch")),
    },
}
_METRICS = ("step", "epoch", "train_loss")
_ZERO_SHOT = ("metric", "value", "stderr", "n")
_LLAMAS = {
    (256, 8): "llama-9m",
    (512, 8): "llama-60m",
    (768, 12): "llama-130m",
    (2048, 24): "llama-1b",
}
_FAMILIES = {"test_bleu": "transformer", "valid_perplexity": "llama"}


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
    history : topo.History, or None for a run without links.
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
        config = read(folder / "config.yaml", parse_config, _CONFIG)
        summary = read(folder / "summary.json", json.loads, _SUMMARY)
        metrics = read(folder / "metrics.jsonl", parse_lines, dict.fromkeys(_METRICS))
        return cls(folder, config, summary, metrics)

    @cached_property
    def history(self) -> topo.History | None:
        """The topology over time; None for a network that is dense, or of low rank alone."""
        if self.branches.sparse is None:
            return None
        return topo.History.open(self.path / "topology")

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config["seed"])

    @property
    def branches(self) -> Branches:
        """What its layers are made of."""
        return Branches.of(self.config)

    @property
    def method(self) -> str:
        """The method's name as the papers write it."""
        return self.branches.name

    @property
    def sparsity(self) -> float:
        """1 - the share of the dense layers' weights that was set; NaN for a dense network.

        A branch of low rank counts. Where its rank was set, and not the budget of both branches,
        this is what the two came to, to three digits.
        """
        if self.branches.dense:
            return float("nan")
        low_rank = self.config.get("low_rank") or {}
        if low_rank.get("rank") is not None:
            return round(1 - self.total_density, 3)
        # a layer's own density differs by the rounding of link counts
        density = self.config["sparsity"].get("density")
        set_to = density if isinstance(density, (int, float)) else self.summary["density"]
        return round(1 - set_to, 6)

    @property
    def total_density(self) -> float:
        """Share of the dense layers' weights that links and low rank came to."""
        if self.branches.low_rank is None:  # older runs have one density
            return float(self.summary.get("total_density", self.summary["density"]))
        if "total_density" not in self.summary:
            damaged(self.path / "summary.json", "it has no 'total_density'")
        return float(self.summary["total_density"])

    @property
    def data(self) -> str:
        """The name of the data set: that of its folder or file, where it is none of ours."""
        data = self.config["data"]
        files = data.get("train") if "rows" in data else None  # of text, instead of a name
        name = Path(str(files or data["name"])).name
        languages = data.get("source", "en"), data.get("target", "de")
        return name if languages == ("en", "de") else f"{name} {'-'.join(languages)}"

    @property
    def model(self) -> str:
        """The model and its size: "mlp-1568x3", "transformer-512x6", "llama-60m"."""
        parts = self.config["model"]
        if "hidden" in parts:
            sizes = parts["hidden"]
            same = len(set(sizes)) == 1
            return "mlp-" + (f"{sizes[0]}x{len(sizes)}" if same else "-".join(map(str, sizes)))
        family = _FAMILIES.get(self.measure, "model")
        if not {"width", "layers"} <= set(parts):
            return family
        size = parts["width"], parts["layers"]
        name = f"{family}-{size[0]}x{size[1]}"
        return _LLAMAS.get(size, name) if family == "llama" else name

    @property
    def measure(self) -> str:
        """The name of the score, such as "test_accuracy"."""
        return str(self.summary["score"]["name"])

    @property
    def form(self) -> Form:
        """How the score is written."""
        return form(self.measure)

    @property
    def score(self) -> float:
        """The score that is reported: of the last model, or of that which validation chose."""
        score = self.summary["score"]
        return float(score.get("value", score["final"]))

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score is a better one."""
        return bool(self.summary["score"].get("higher_is_better", True))

    @property
    def unit(self) -> str:
        """What the run's speed counts: "samples" or "tokens"."""
        return str(self.summary["run"].get("unit", "samples"))

    @property
    def settings(self) -> dict[str, Any]:
        """What was set, by dotted key; the preset and the seed are not among it.

        Nor is what a network without low rank has set of it, which older runs lack.
        """
        return flat({k: v for k, v in self._shared.items() if k != "preset"})

    @property
    def _shared(self) -> dict[str, Any]:
        """The configuration that runs of a group share."""
        idle = {"low_rank"} if self.branches.low_rank is None else set()
        return {k: v for k, v in self.config.items() if k not in {"seed", *idle}}

    @cached_property
    def cancellation(self) -> pd.DataFrame | None:
        """How much the two branches of each layer cancel each other, at every logged step.

        Columns step, layer, overlap_cancellation_ratio (OCR: the share of the overlap of their
        outputs in which these are of opposite signs, in [0, 1)); None for a run without two
        branches.

        Raises
        ------
        RunError
            If the file is damaged.
        """
        file = self.path / "cancellation.jsonl"
        return read(file, parse_ratios) if file.is_file() else None

    @cached_property
    def zero_shot(self) -> pd.DataFrame | None:
        """Scores of `epitopo evaluate`: metric, value, stderr, n by task; None without them.

        Raises
        ------
        RunError
            If the file is damaged.
        """
        file = self.path / "zero_shot.json"
        if not file.is_file():
            return None
        mend = "evaluate the run again"
        tasks = read(file, json.loads, {}, mend)
        keys = {task: dict.fromkeys(_ZERO_SHOT) for task in tasks}
        content = read(file, json.loads, keys, mend)
        return pd.DataFrame.from_dict(content, orient="index")


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> dict[str, list[Run]]:
    """Runs in the folders and one level below, grouped by what they have in common.

    Returns
    -------
    dict of str to list of Run
        Runs that differ in the seed alone, by a label: the method's name; where several groups
        share it, with the sparsity, the preset or the folder's name, whichever tells them apart.

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
        groups.setdefault(json.dumps(run._shared, sort_keys=True), []).append(run)
    return _labelled(sorted(groups.values(), key=lambda group: method_place(group[0].method)))


def by_data(groups: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, list[Run]]]:
    """Split groups of runs by data set and score, since only the like can be compared.

    Returns
    -------
    dict of str to dict of str to list of Run
        By the name of the data set (with that of the score, where a data set has several), groups
        as those of `find_runs`.
    """
    parts: dict[tuple[str, str], list[list[Run]]] = {}
    for runs in groups.values():
        parts.setdefault((runs[0].data, runs[0].measure), []).append(list(runs))
    data = [name for name, _ in parts]
    if len(parts) == 1:
        return {data[0]: {label: list(runs) for label, runs in groups.items()}}
    return {
        name if data.count(name) == 1 else f"{name}, {form(measure).name}": _labelled(runs)
        for (name, measure), runs in parts.items()
    }


def _labelled(groups: Sequence[list[Run]]) -> dict[str, list[Run]]:
    """By the methods' names; with what tells them apart where several groups share one."""
    shared: dict[str, list[list[Run]]] = {}
    for group in groups:
        shared.setdefault(group[0].method, []).append(group)
    labels: dict[str, list[Run]] = {}
    for method, own in shared.items():
        if len(own) == 1:
            labels[method] = own[0]
            continue
        schemes = [
            [f"{method} ({tell(group[0])})" for group in own]
            for tell in (_sparsity, lambda r: r.config["preset"], lambda r: r.path.name, _path)
        ]
        unique = next(names for names in schemes if len(set(names)) == len(names))
        labels |= dict(zip(unique, own, strict=True))
    return labels


def _sparsity(run: Run) -> str:
    return f"{100 * run.sparsity:.4g} %"


def _path(run: Run) -> str:
    return str(run.path)
