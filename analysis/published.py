"""Figures of the papers, to stand beside those of our runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

__all__ = ["published_result", "published_results", "published_zero_shot"]

CHTS = "arXiv 2501.19107"
CHTSL = "CHTsL, 2025 (second-hand: from published notes)"
_LOW_RANK = ("cola", "sltrain", "chtsl")
_BF16 = "bf16; a later version has 18.34 at 70 % and 19.64 at 80 % in float32"


def published_results() -> pd.DataFrame:
    """Scores in the papers' tables.

    Returns
    -------
    DataFrame
        Columns measure, data, model, sparsity (of all branches; NaN for dense networks), method
        (as in ``sparsity.method``; "dense"; "chtsl", "cola" or "sltrain", which have low rank; or
        a method that is not ours), mean, std, active_neuron_rate
        (after percolation), steps (of the training), source, note. Accuracies and rates are
        shares; NaN is what was not given.

    Examples
    --------
    >>> import analysis
    >>> table = analysis.published_results()
    >>> table.query("data == 'multi30k' and method == 'chtss'")["mean"].tolist()
    [32.04, 32.79]
    """
    return pd.DataFrame([*_mlp(), *_transformer(), *_llama(), *_low_rank()])


def published_result(
    results: pd.DataFrame,
    *,
    measure: str,
    data: str,
    model: str,
    sparsity: float,
    method: str,
    steps: int,
) -> pd.Series | None:
    """The row that belongs beside a result of ours.

    Parameters
    ----------
    results : DataFrame
        From `published_results`.
    measure, data, model, sparsity, method
        Of our run (`Run.branches.key` is the method); a NaN sparsity is that of a dense network.
        A published budget with low rank is met by what comes to within half a percent of the
        dense weights: ranks are round numbers.
    steps : int
        Of our training: papers that trained for different times differ, and the nearest counts.

    Returns
    -------
    Series or None
    """
    within = 0.005 if method in _LOW_RANK else 1e-8
    near = np.isclose(results["sparsity"], sparsity, rtol=0, atol=within, equal_nan=True)
    same = pd.Series(near, index=results.index)
    for column, value in zip(
        ("measure", "data", "model", "method"), (measure, data, model, method), strict=True
    ):
        same &= results[column] == value
    found = results[same]
    if found.empty:
        return None
    return found.iloc[int(np.argmin((found["steps"] - steps).abs()))]


def published_zero_shot() -> pd.DataFrame:
    """Zero-shot accuracy (F1 for MRPC and QQP) of dense and CHTss at 70 % sparsity.

    Returns
    -------
    DataFrame
        A row per task, named as in lm-evaluation-harness; columns "dense" and "chtss", shares.
    """
    tasks = "cola mnli mrpc qnli qqp rte sst2 wnli hellaswag boolq cb copa"
    dense = "65.29 32.44 64.96 50.38 52.09 48.38 49.54 49.30 26.95 43.85 46.43 56"
    chtss = "69.13 32.72 81.05 49.37 53.82 50.54 49.08 52.11 26.97 56.79 50.00 57"
    scores = {name: _numbers(line) / 100 for name, line in (("dense", dense), ("chtss", chtss))}
    return pd.DataFrame(scores, index=pd.Index(tasks.split(), name="task"))


def _mlp() -> list[dict[str, object]]:
    return _rows(
        "test_accuracy",
        "mlp-1568x3",
        {"mnist": 187_500, "fashion-mnist": 187_500, "emnist-balanced": 352_500},
        [0.99],
        CHTS,
        {
            "dense": "98.78+-.02 90.88+-.02 87.13+-.04",
            "set": "98.14+-.02/100 89.00+-.09/100 86.31+-.08/100",
            "rigl": "98.61+-.01/29 89.91+-.07/55 86.94+-.08/28",
            "cht": "98.48+-.04/29 88.70+-.07/30 86.35+-.08/21",
            "chts": "98.76+-.05/27 90.67+-.05/73 87.82+-.04/28",
            "chts (CH3-L3p)": "98.81+-.04/20 90.93+-.03/89 87.61+-.07/24",
        },
        {"chts": "CH2-L3n"},
    )


def _transformer() -> list[dict[str, object]]:
    return _rows(
        "test_bleu",
        "transformer-512x6",
        {"multi30k": 5000, "iwslt14": 20_000, "wmt17": 80_000},
        [0.95, 0.9],
        CHTS,
        {
            "dense": "31.28 24.2 25.22",
            "set": "27.89 28.72 18.48 19.54 20.21 21.61",
            "rigl": "27.63 28.89 20.29 21.03 20.52 22.16",
            "chts": "28.12 30.35 20.55 21.60 21.14 22.68",
            "mest": "28.71 28.26 18.95 20.77 20.79 22.3",
            "gmp": "26.42 27.06 22.44 22.62 22.29 23.52",
            "granet": "30.90 31.06 23.05 22.88 22.11 23.49",
            "chts_gmp": "30.49 30.33 23.68 23.64 22.8 23.22",
            "chtss": "32.04 32.79 24.86 24.57 22.68 24.05",
        },
    )


def _llama() -> list[dict[str, object]]:
    return _rows(
        "valid_perplexity",
        "llama-130m",
        {"openwebtext": 30_000},
        [0.95, 0.9, 0.8, 0.7],
        CHTS,
        {
            "dense": "19.27",
            "set": "28.37 24.73 22.02 20.82",
            "rigl": "49.39 37.18 66.35 25.85",
            "chts": "27.72 24.24 21.70 21.15",
            "mest": "27.96 24.98 22.21 21.32",
            "gmp": "27.16 23.61 22.28 20.49",
            "granet": "61.31 26.81 29.03 22.84",
            "chts_gmp": "26.81 22.94 20.94 20.01",
            "chtss": "25.29 22.71 20.78 19.92",
        },
        {"rigl": _BF16},
    )


def _low_rank() -> list[dict[str, object]]:
    tables: dict[tuple[str, str, int], dict[str, str]] = {
        ("llama-60m", "openwebtext", 10_000): {
            "dense": "26.56",
            "chts": "33.03 29.84 28.12",
            "cola": "37.58 30.87 28.53",
            "sltrain": "33.90 29.83 27.86",
            "chtsl": "31.77 29.11 27.40",
        },
        ("llama-130m", "openwebtext", 20_000): {
            "dense": "19.46",
            "chts": "24.75 22.67 21.48",
            "cola": "27.07 23.24 21.61",
            "sltrain": "25.33 22.81 21.25",
            "chtsl": "24.07 21.87 20.65",
        },
        ("llama-60m", "c4", 10_000): {
            "dense": "33.21",
            "chts": "40.62 37.55 35.23",
            "sltrain": "41.05 37.00 34.89",
            "chtsl": "39.29 35.95 34.19",
        },
        ("llama-130m", "c4", 20_000): {
            "dense": "24.55",
            "chts": "31.00 28.69 27.46",
            "sltrain": "31.38 28.28 26.78",
            "chtsl": "30.03 27.59 26.19",
        },
    }
    return [
        row
        for (model, data, steps), methods in tables.items()
        for row in _rows("valid_perplexity", model, {data: steps}, [0.9, 0.8, 0.7], CHTSL, methods)
    ]


def _rows(
    measure: str,
    model: str,
    data: Mapping[str, int],
    sparsities: Sequence[float],
    source: str,
    methods: Mapping[str, str],
    notes: Mapping[str, str] | None = None,
) -> list[dict[str, object]]:
    """A table of a paper: columns are data sets with their steps, and for each the sparsities."""
    percent = 100 if measure.endswith("accuracy") else 1
    rows = []
    for method, line in methods.items():
        columns = product(data, [np.nan] if method == "dense" else sparsities)
        for (name, sparsity), cell in zip(columns, line.split(), strict=True):
            mean, _, rest = cell.partition("+-")
            std, _, active = rest.partition("/")
            rows.append(
                {
                    "measure": measure,
                    "data": name,
                    "model": model,
                    "sparsity": sparsity,
                    "method": method,
                    "mean": float(mean) / percent,
                    "std": float(std or np.nan) / percent,
                    "active_neuron_rate": float(active or np.nan) / 100,
                    "steps": data[name],
                    "source": source,
                    "note": (notes or {}).get(method, ""),
                }
            )
    return rows


def _numbers(line: str) -> np.ndarray:
    return np.array(line.split(), float)
