"""One self-contained HTML page about some runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import yaml

import topo
from analysis import figures
from analysis.cancellation import MEANING, cancellation_item
from analysis.forms import form
from analysis.learning_curves import learning_curves
from analysis.page import Item, html_table, page, sections
from analysis.runs import Run, by_data
from analysis.slider import MOST_BYTES
from analysis.table import compare, format_table
from analysis.topology_figures import topology_items
from topo.files import write_atomically

__all__ = ["write_report"]

Groups = Mapping[str, Sequence[Run]]


def write_report(groups: Groups, out: str | os.PathLike[str]) -> Path:
    """Write the report of some runs as one HTML file that needs nothing else.

    For every data set: the comparison table; learning curves; cancellation of the two branches of
    layers with low rank; measures of the topology over the updates; how long links live; a slider
    through the adjacency pictures and degree distributions of every step, for several runs beside
    each other; the same at the start and the end, with the power-law fit where there is one. And
    how to make it all again.

    The same runs give the same bytes. What would make the page too large is left out evenly, and
    the captions say so.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`.
    out : path
        The file; replaced as a whole if it exists.

    Returns
    -------
    Path
        The file.
    """
    file = Path(out)
    if file.is_dir():
        raise ValueError(f"{file} is a folder: --out names the HTML file")
    parts = by_data(groups)
    with figures.style():
        items = [
            (f"On {name}" if len(parts) > 1 else "", _items(part, MOST_BYTES // len(parts)))
            for name, part in parts.items()
        ]
    text = _page(parts, sections(items))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text.encode())
    return file


def _items(groups: Groups, slider_bytes: int) -> list[Item]:
    return [
        _comparison(groups),
        learning_curves(groups),
        *cancellation_item(groups),
        *topology_items(groups, slider_bytes),
    ]


_WHICH = {  # model the score is of
    "test_accuracy": "after the last epoch",
    "test_bleu": "of the model with the lowest validation loss",
    "valid_perplexity": "of the last model; lower is better",
}
_DENSE = {"samples": "the classifier stays", "tokens": "embeddings and the output layer stay"}

_LOW_RANK = (
    "Density, links and what follows from them are of the sparse branch alone; weights kept: links "
    "and low rank, of the dense layers' weights. OCR of Q, K: mean over the blocks, at the last "
    f"step that was logged, of the {MEANING}."
)


def _comparison(groups: Groups) -> Item:
    first = next(iter(groups.values()))[0]
    table = compare(groups)
    low_rank = f"{_LOW_RANK} " if "total_density" in table else ""
    several = max(len(runs) for runs in groups.values()) > 1
    notes = ["mean ± standard deviation over runs that differ in the seed"] * several
    if first.unit == "samples":
        notes.append("no epoch was picked by its test score")
    name = form(first.measure).name
    which = " ".join([name[0].upper() + name[1:], _WHICH.get(first.measure, "")]).rstrip()
    told = f" ({'; '.join(notes)})" if notes else ""
    layers = "hidden" if first.unit == "samples" else "sparse"
    return Item(
        "Table",
        "Comparison of the methods",
        f"{which}{told}. "
        f"Density, links, active neurons and overlap are of the {layers} layers, "
        f"{_DENSE[first.unit]} dense. Active neurons: share that has a link after network "
        "percolation. ELM overlap: share of regrown links that the same update had removed, mean "
        f"over layers and updates. {low_rank}Training seconds, without evaluation, and "
        f"{first.unit} per second are the only columns that differ between identical runs.",
        html_table(format_table(table)),
    )


def _page(parts: Mapping[str, Groups], body: str) -> str:
    groups = [(label, runs) for part in parts.values() for label, runs in part.items()]
    runs = [run for _, group in groups for run in group]
    machine = [r.summary["run"] for r in runs]
    versions = [m["versions"] for m in machine]
    data = _all(r.data for r in runs)
    title = f"Sparse training on {data}: {', '.join(dict.fromkeys(label for label, _ in groups))}"
    lead = [
        f"{' '.join(_about(part) for part in parts.values())} "
        f"epitopo {_all(v['epitopo'] for v in versions)}, "
        f"torch {_all(v['torch'] for v in versions)}, "
        f"Python {_all(v['python'] for v in versions)}, "
        f"{_all(m['device'].upper() for m in machine)}, "
        f"threads: {_all(str(m['threads']) for m in machine)}."
    ]
    commands = "\n".join(dict.fromkeys(m["command"] for m in machine))
    configs = "".join(
        f"<details><summary>Configuration of {escape(f'{name}: ' * (len(parts) > 1) + label)}"
        f"</summary><pre>{escape(yaml.safe_dump(group[0].config, sort_keys=False))}</pre></details>"
        for name, part in parts.items()
        for label, group in part.items()
    )
    return page(
        title=escape(title),
        lead=escape(" ".join(lead)),
        sections=body,
        commands=escape(commands),
        configs=configs,
        version=escape(topo.__version__),
    )


def _about(groups: Groups) -> str:
    """A sentence: how many runs of what on which data, and how sparse."""
    runs = [run for group in groups.values() for run in group]
    sparsities = {r.sparsity for r in runs if r.sparsity > 0}  # not those of dense ones, NaN
    sparsity = _all(f"{100 * s:.3g} %" for s in sparsities)
    hidden = {", ".join(map(str, r.config["model"].get("hidden", ()))) for r in runs}
    models = (
        f"multilayer perceptrons with hidden layers of {_all(hidden, ' or ')} neurons"
        if all(hidden)
        else _all(r.model for r in runs)
    )
    sparse = f"; the sparse ones at {sparsity} sparsity" if sparsities else ""
    return (
        f"{len(runs)} run{'s' * (len(runs) > 1)} of {models} on the data set "
        f"{_all(r.data for r in runs)}{sparse}."
    )


def _all(values: Iterable[str], between: str = ", ") -> str:
    return between.join(sorted(set(values)))
