"""What a training run left on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

import topo
from analysis.forms import Form, form
from topo.names import flat

__all__ = ["METHOD_NAMES", "Run", "RunError", "by_data", "find_runs"]

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
METHOD_NAMES: dict[str | None, str] = {
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
"""Methods as the papers write them, in the order of tables."""


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
        return METHOD_NAMES.get(name, str(name))

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
        """What was set, by dotted key; the preset and the seed are not among it."""
        return {k: v for k, v in flat(self.config).items() if k not in ("preset", "seed")}

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
        tasks = _read(file, json.loads, {}, mend)
        keys = {task: dict.fromkeys(_ZERO_SHOT) for task in tasks}
        content = _read(file, json.loads, keys, mend)
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
        shared = {k: v for k, v in run.config.items() if k != "seed"}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(run)
    known = list(METHOD_NAMES.values())
    ordered = sorted(
        groups.values(),
        key=lambda g: known.index(g[0].method) if g[0].method in known else len(known),
    )
    return _labelled(ordered)


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
    return f"{100 * (1 - run.config['sparsity'].get('density', 0.0)):.4g} %"


def _path(run: Run) -> str:
    return str(run.path)


def _lines(text: str) -> pd.DataFrame:
    return pd.DataFrame([json.loads(line) for line in text.splitlines()])


def _read(
    file: Path,
    parse: Callable[[str], Any],
    keys: Mapping[str, Any],
    mend: str = "train the run again",
) -> Any:
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
        raise RunError(f"{file} is damaged ({reason}): {mend}") from None
    return content
