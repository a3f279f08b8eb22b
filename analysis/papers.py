"""Runs as the papers' tables have them: methods down, data sets and sparsities across."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd

from analysis.methods import method_place
from analysis.published import published_result, published_results
from analysis.runs import Run
from topo.names import unknown

__all__ = ["METHOD", "find_factor", "paper_table", "run_table", "score_cells"]

METHOD = "sparsity.method"
_SETTING = ["data", "model", "sparsity"]


def run_table(runs: Iterable[Run] | Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """One row per run.

    Parameters
    ----------
    runs : iterable of Run, or groups of them from `find_runs`

    Returns
    -------
    DataFrame
        Columns

        - measure, higher_is_better, score
        - data, model, sparsity (`Run.sparsity`: of all branches; NaN for dense networks), seed
        - method: the method's name; where runs of a method on the same data, model and sparsity
          differ in other settings, those are named, too: "CHTs (topology=scale_free)"
        - key: by which published results are found ("dense", "chts", "chtsl")
        - active_neuron_rate, training_flops (relative to dense), steps
        - every setting, as text, by its dotted key ("sparsity.topology"); missing ones are NaN
    """
    rows = []
    for run in chain.from_iterable(runs.values()) if isinstance(runs, Mapping) else runs:
        settings = {key: _text(value) for key, value in run.settings.items()}
        rows.append(
            {
                "measure": run.measure,
                "higher_is_better": run.higher_is_better,
                "data": run.data,
                "model": run.model,
                "sparsity": run.sparsity,
                "method": run.method,
                "key": run.branches.key,
                "seed": run.seed,
                "score": run.score,
                "active_neuron_rate": float(run.summary["active_neuron_rate"]),
                "training_flops": float(
                    run.summary.get("training_flops_relative_to_dense", np.nan)
                ),
                "steps": int(run.metrics["step"].max()),
                **settings,
            }
        )
    table = pd.DataFrame(rows)
    table["method"] = _told_apart(table)
    return table


def paper_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds, in every cell of the papers' tables.

    Parameters
    ----------
    runs : DataFrame
        From `run_table`; all with one measure.

    Returns
    -------
    DataFrame
        A row per method, data set, model and sparsity, with

        - runs (how many), mean, std (of the score over seeds; NaN for one run),
          active_neuron_rate, training_flops, steps (means)
        - best: whether the mean is the best of the sparse methods, if there are several
        - better_than_dense: whether it is better than that of the dense network; False without one
        - published, published_std, published_active_neuron_rate, published_steps, source, note
    """
    higher = bool(runs["higher_is_better"].iloc[0])
    results = published_results()
    rows = []
    for _, group in runs.groupby(["method", *_SETTING], dropna=False, sort=False):
        first = group.iloc[0]
        steps = round(group["steps"].mean())
        beside = published_result(
            results,
            measure=first["measure"],
            data=first["data"],
            model=first["model"],
            sparsity=first["sparsity"],
            method=first["key"],
            steps=steps,
        )
        rows.append(
            {
                **{c: first[c] for c in ("method", *_SETTING)},
                "runs": len(group),
                "mean": group["score"].mean(),
                "std": group["score"].std(),
                "active_neuron_rate": group["active_neuron_rate"].mean(),
                "training_flops": group["training_flops"].mean(),
                "steps": steps,
                "published": np.nan if beside is None else beside["mean"],
                "published_std": np.nan if beside is None else beside["std"],
                "published_active_neuron_rate": (
                    np.nan if beside is None else beside["active_neuron_rate"]
                ),
                "published_steps": np.nan if beside is None else beside["steps"],
                "source": "" if beside is None else beside["source"],
                "note": "" if beside is None else beside["note"],
            }
        )
    table = pd.DataFrame(rows)
    gain = table["mean"] if higher else -table["mean"]
    sparse = table["sparsity"].notna()
    rivals = gain.where(sparse).groupby([table[c] for c in _SETTING])
    best = np.isclose(gain, rivals.transform("max").astype(float), rtol=1e-12, atol=0)
    table.insert(6, "best", sparse & best & (rivals.transform("count") > 1))
    dense = gain.where(~sparse).groupby([table["data"], table["model"]]).transform("max")
    table.insert(7, "better_than_dense", sparse & (gain > dense.fillna(np.inf)))
    place = table["method"].map(lambda name: method_place(name.split(" (")[0]))
    return table.loc[place.sort_values(kind="stable").index].reset_index(drop=True)


def score_cells(runs: pd.DataFrame, by: str = METHOD) -> pd.DataFrame:
    """Scores that can be compared: a row per setting and seed, a column per method or value.

    Parameters
    ----------
    runs : DataFrame
        From `run_table`; all with one measure.
    by : str
        ``"sparsity.method"``: a setting is a data set, a model and a sparsity, and the dense
        network of a seed stands beside every sparsity. Another setting, such as
        ``"sparsity.topology"``: all settings that differ between the sparse runs but this one.

    Returns
    -------
    DataFrame
        Means where a cell was run more than once; NaN where it was not.
    """
    if by == METHOD:
        return _by_method(runs)
    sparse = runs[runs["sparsity"].notna()]
    settings = [c for c in _settings(runs) if c != by]
    index = [c for c in settings if sparse[c].nunique(dropna=False) > 1] + ["seed"]
    return _wide(sparse, index, by)


def find_factor(runs: pd.DataFrame, name: str) -> str:
    """The dotted key of a setting, from it or from its last part.

    Raises
    ------
    ValueError
        If there is none, or there are several; the message names the nearest.
    """
    keys = _settings(runs)
    found = [key for key in keys if name in (key, key.rpartition(".")[2])]
    if len(found) != 1:
        raise ValueError(unknown(name, found or keys, "setting"))
    return found[0]


def _settings(runs: pd.DataFrame) -> list[str]:
    names = list(runs.columns)
    return names[names.index("steps") + 1 :]


def _by_method(runs: pd.DataFrame) -> pd.DataFrame:
    dense = runs["sparsity"].isna()
    scores = _wide(runs[~dense], [*_SETTING, "seed"], "method")
    alone = runs[dense]
    if scores.empty:
        return _wide(alone, ["data", "model", "seed"], "method")
    for label in reversed(alone["method"].unique()):
        means = (
            alone[alone["method"] == label].groupby(["data", "model", "seed"])["score"].mean()
        ).to_dict()
        keys = [(data, model, seed) for data, model, _, seed in scores.index]
        scores.insert(0, label, [means.get(key, np.nan) for key in keys])
    return scores


def _wide(runs: pd.DataFrame, index: Sequence[str], columns: str) -> pd.DataFrame:
    # runs may lack a setting: those without low rank have set none of it
    keys = [runs[c].fillna("none") for c in [*index, columns]]
    order = keys[-1].unique()
    if runs.empty:
        return pd.DataFrame()
    return runs.groupby(keys)["score"].mean().unstack()[list(order)]


def _told_apart(runs: pd.DataFrame) -> list[str]:
    """Names of the methods, with the settings in which runs of a cell differ."""
    settings = _settings(runs)
    labels = runs["method"].tolist()
    for method in dict.fromkeys(labels):
        own = runs[runs["method"] == method]
        cells = own.groupby(["measure", *_SETTING], dropna=False)
        differ = [c for c in settings if (cells[c].nunique(dropna=False) > 1).any()]
        if differ:
            short = [c.rpartition(".")[2] for c in differ]
            names = [s if short.count(s) == 1 else c for s, c in zip(short, differ, strict=True)]
            values = own[differ].to_numpy().tolist()
            for i, row in zip(np.flatnonzero(runs["method"] == method), values, strict=True):
                told = ", ".join(f"{n}={v}" for n, v in zip(names, row, strict=True))
                labels[i] = f"{method} ({told})"
    return labels


def _text(value: object) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
