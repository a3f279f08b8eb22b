"""One self-contained HTML page about some runs."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from scipy.sparse import csr_array

import topo
from analysis import figures
from analysis.measures import active_neurons, degrees, summary
from analysis.power_law import PowerLaw, power_law
from analysis.runs import Run
from analysis.table import compare, format_table
from topo.files import write_atomically

__all__ = ["write_report"]

Groups = Mapping[str, Sequence[Run]]
Ends = Mapping[str, tuple[topo.Network, topo.Network]]  # of each group's first run
Fits = Mapping[tuple[str, str, str], PowerLaw]  # by group, layer and side
SIDES = {"output": "links per output neuron", "input": "links per input neuron"}


@dataclass(frozen=True)
class _Item:
    """A figure or table of the page."""

    title: str
    caption: str
    body: str


def write_report(groups: Groups, out: str | os.PathLike[str]) -> Path:
    """Write the report of some runs as one HTML file that needs nothing else.

    The comparison table, learning curves, density, ELM overlap and active neuron rate over the
    updates, adjacency pictures at the start and the end, degree distributions with the power-law
    fit where there is one, and how to make it all again.

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
    ends = {
        label: (history.at(0), history.at(history.steps[-1]))
        for label, runs in groups.items()
        if (history := runs[0].history) is not None
    }
    fits = {
        (label, name, side): power_law(degrees(adjacency, side))
        for label, (_, end) in ends.items()
        for name, adjacency in end.layers.items()
        for side in SIDES
    }
    with figures.style():
        plots = [_learning(groups)]
        if ends:
            seeds = ", ".join(f"{label} seed {groups[label][0].seed}" for label in ends)
            plots += [_evolution(groups), _adjacency(ends, seeds), _degrees(ends, fits)]
    tables = [_comparison(groups)]
    if ends:
        tables.append(_fits(fits))
    page = _page(groups, tables, plots)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, page.encode())
    return file


def _comparison(groups: Groups) -> _Item:
    several = max(len(runs) for runs in groups.values()) > 1
    spread = "mean ± standard deviation over runs that differ in the seed; " if several else ""
    return _Item(
        "Comparison of the methods",
        f"Test accuracy after the last epoch ({spread}no epoch was picked by its test score). "
        "Density, links, active neurons and overlap are of the hidden layers, the classifier stays "
        "dense. Active neurons: share that has a link after network percolation. ELM overlap: "
        "share of regrown links that the same update had removed, mean over layers and updates. "
        "Training seconds, without evaluation, and samples per second are the only columns that "
        "differ between identical runs.",
        _html_table(format_table(compare(groups))),
    )


def _learning(groups: Groups) -> _Item:
    rows = [
        {"method": label, "seed": run.seed, **line}
        for label, runs in groups.items()
        for run in runs
        for line in run.metrics.to_dict("records")
    ]
    columns = ["train_loss", "test_loss", "test_accuracy"]
    data = _over_seeds(pd.DataFrame(rows), "epoch", columns)
    figure = Figure(figsize=(9.2, 2.9), layout="constrained")
    axes = figure.subplots(1, 3)
    titles = ("a  Training loss", "b  Test loss", "c  Test accuracy")
    for ax, column, title in zip(axes, columns, titles, strict=True):
        figures.curves(data, "epoch", column, ax)
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if data["epoch"].max() == 1:
            ax.set_xticks([1])
    for ax, column in zip(axes[:2], columns[:2], strict=True):
        scale = "log" if data[column].min() > 0 else "linear"
        ax.set(ylabel="cross-entropy (nats)", yscale=scale)
    final = data.groupby("method")["test_accuracy"].last()
    low = max(0.0, min(0.9, 1.0 - 4 * (1.0 - final.min())))
    cut = f" Panel c is cut off below {low:.0%}." if data["test_accuracy"].min() < low else ""
    axes[2].set(ylabel="accuracy", ylim=(low, 1.0 + 0.02 * (1.0 - low)))
    axes[2].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _legend(figure, axes[2], "lower right")
    return _Item(
        "Learning curves",
        _lines(groups) + cut,
        _svg(figure, "training loss, test loss and test accuracy over epochs"),
    )


def _evolution(groups: Groups) -> _Item:
    rows = []
    for label, runs in groups.items():
        for run in runs:
            if run.history is None:
                steps = run.metrics["step"]
                full = {"density": 1.0, "elm_overlap": np.nan, "active_neuron_rate": 1.0}
                table = pd.DataFrame([{"step": s, **full} for s in (0, steps.max())])
            else:
                layers = summary(run.history, measures=["density", "elm_overlap"])
                table = layers.groupby("step", as_index=False)[["density", "elm_overlap"]].mean()
                table = table.merge(active_neurons(run.history), on="step")
                # nothing changes between the last update and the end of training
                end = table.iloc[[-1]].assign(step=run.metrics["step"].max(), elm_overlap=np.nan)
                table = pd.concat([table, end])
            rows.append(table.assign(method=label, seed=run.seed))
    columns = ["density", "elm_overlap", "active_neuron_rate"]
    data = _over_seeds(pd.concat(rows), "step", columns)
    figure = Figure(figsize=(9.2, 2.9), layout="constrained")
    axes = figure.subplots(1, 3)
    figures.curves(data, "step", "density", axes[0])
    axes[0].set(title="a  Density", ylabel="density", yscale="log")
    lowest = data["density"].min()
    decades = range(int(np.floor(np.log10(lowest))), 1)
    ticks = [m * 10.0**e for e in decades for m in (1, 2, 5)]
    axes[0].set_yticks([t for t in ticks if lowest / 1.5 <= t <= 1])
    axes[0].set_ylim(lowest / 1.4, 1.2)
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes[0].minorticks_off()
    figures.curves(data, "step", "elm_overlap", axes[1])
    axes[1].set(title="b  ELM overlap", ylabel="regrown links just removed")
    axes[1].set_ylim(bottom=0.0)
    if data["elm_overlap"].isna().all():
        axes[1].text(0.5, 0.5, "nothing was regrown", transform=axes[1].transAxes, ha="center")
    axes[1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figures.curves(data, "step", "active_neuron_rate", axes[2])
    axes[2].set(title="c  Active neurons", ylabel="active after percolation")
    axes[2].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    for ax in axes:
        ax.set_xlabel("optimizer step")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    low, high = axes[2].get_ylim()
    axes[2].set_ylim(max(low, -0.01), min(high, 1.005))
    _legend(figure, axes[0], "best")
    return _Item(
        "The topology as it evolves",
        f"{_lines(groups)} Density and ELM overlap are means over the hidden layers, at the start "
        "and after every update; a dense network has no updates, so no overlap. Panel c counts the "
        "neurons of all hidden layers and the inputs.",
        _svg(figure, "density, ELM overlap and active neuron rate over optimizer steps"),
    )


def _adjacency(ends: Ends, seeds: str) -> _Item:
    pictures = [
        (label, when, network)
        for label, both in ends.items()
        for when, network in zip(("start", "end"), both, strict=True)
    ]
    columns = max(len(network.layers) for _, _, network in pictures)
    density = max(n.density for _, _, n in pictures)
    vmax = min(1.0, 5 * density)
    figure = Figure(figsize=(2.9 * columns + 0.6, 2.35 * len(pictures)), layout="constrained")
    axes = figure.subplots(len(pictures), columns, squeeze=False)
    for row, (label, when, network) in enumerate(pictures):
        for ax, (name, layer) in _panels(axes[row], network):
            figures.adjacency(layer, ax, vmax=vmax)
            ax.set_xlabel("input neuron")
            ax.set_title(f"{label}, {when}: {name}")
        axes[row][0].set_ylabel("output neuron")
    bar = figure.colorbar(axes[0][0].images[0], ax=axes, shrink=0.25, aspect=14, pad=0.01)
    bar.set_label("density of a tile", fontsize=8.5)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    bar.outline.set_visible(False)
    return _Item(
        "Adjacency matrices at the start and the end",
        f"Each layer's links ({seeds}) as the density of tiles of neurons; black is "
        f"{100 * vmax:.2g} % and more. The diagonal of a small-world start is its ring lattice; a "
        "correlated start repeats the correlations of the inputs, tile by tile. Stripes "
        "are neurons with more links than others: vertical ones inputs, horizontal ones outputs.",
        _svg(figure, "adjacency matrices of every sparse layer at the start and the end"),
    )


def _degrees(ends: Ends, fits: Fits) -> _Item:
    columns = max(len(end.layers) for _, end in ends.values())
    panels = [(label, side) for label in ends for side in SIDES]
    figure = Figure(figsize=(2.9 * columns + 0.6, 2.3 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), columns, squeeze=False)
    for row, (label, side) in enumerate(panels):
        start, end = ends[label]
        for ax, (name, layer) in _panels(axes[row], end):
            figures.degree_distribution(
                degrees(start.layers[name], side), ax, label="start", colour="#888888", dashes=":"
            )
            figures.degree_distribution(
                degrees(layer, side),
                ax,
                label="end",
                colour=figures.COLOURS[2],
                fit=fits[label, name, side],
            )
            ax.set_title(f"{label}: {name}")
            ax.set_xlabel(SIDES[side])
            ax.legend(loc="lower left")
        axes[row][0].set_ylabel("share with at least k")
    return _Item(
        "Degree distributions",
        "Share of active neurons with at least k links (complementary cumulative distribution), "
        "first seed, at the start and the end of training. An orange line marks a power "
        "law where the data support one; Table 2 says why there is none elsewhere.",
        _svg(figure, "degree distributions of both sides of every sparse layer"),
    )


def _panels(
    axes: Sequence[Axes], network: topo.Network
) -> Iterator[tuple[Axes, tuple[str, csr_array]]]:
    """Axes and layers side by side; what no layer needs is blank."""
    for ax in axes[len(network.layers) :]:
        ax.set_axis_off()
    yield from zip(axes, network.layers.items(), strict=False)


def _fits(fits: Fits) -> _Item:
    rows = [
        {
            "method": label,
            "layer": name,
            "side": side,
            "α": f"{fit.alpha:.2f}" if fit.fits else "–",
            "smallest degree of the tail": "–" if np.isnan(fit.xmin) else f"{fit.xmin:g}",
            "KS distance": "–" if np.isnan(fit.ks) else f"{fit.ks:.3f}",
            "neurons in the tail": str(fit.tail),
            "no fit, because": "; ".join(fit.reasons) or "(fits)",
        }
        for (label, name, side), fit in fits.items()
    ]
    return _Item(
        "Power-law fits of the final degrees",
        "Discrete maximum likelihood with the tail chosen by Kolmogorov-Smirnov distance (Clauset, "
        "Shalizi, Newman 2009), first seed. A fit counts only if the tail has 50 neurons and 10 "
        "distinct degrees, the likelihood ratio prefers neither an exponential nor a lognormal, "
        "and α is at most 4 (random graphs have tails as steep as that).",
        _html_table(pd.DataFrame(rows), text={"method", "layer", "side", "no fit, because"}),
    )


def _over_seeds(data: pd.DataFrame, x: str, columns: list[str]) -> pd.DataFrame:
    grouped = data.groupby(["method", x], sort=False)[columns]
    return grouped.mean().join(grouped.std().add_suffix("_std")).reset_index()


def _lines(groups: Groups) -> str:
    counts = {len(runs) for runs in groups.values()}
    if counts == {1}:
        return "One run of each method."
    how_many = f"{counts.pop()} runs" if len(counts) == 1 else "the runs of each method"
    return f"Mean over {how_many}, band: one standard deviation."


def _legend(figure: Figure, ax: Axes, where: Any) -> None:
    """In a panel, or below the figure where it would cover the lines."""
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) <= 4:
        ax.legend(loc=where)
        return
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.25 * -(-len(labels) // 4))
    figure.legend(handles, labels, loc="outside lower center", ncols=4)


def _svg(figure: Figure, description: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(description)}" src="data:image/svg+xml;base64,{data}">'


def _html_table(table: pd.DataFrame, text: set[str] | None = None) -> str:
    left = {"method"} if text is None else text

    def cell(tag: str, column: str, value: object) -> str:
        kind = ' class="text"' if column in left else ""
        return f"<{tag}{kind}>{escape(str(value))}</{tag}>"

    head = "".join(cell("th", c, c) for c in table.columns)
    rows = "".join(
        f"<tr>{''.join(cell('td', c, row[c]) for c in table.columns)}</tr>"
        for _, row in table.iterrows()
    )
    inner = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f"<div class='wide'><table>{inner}</table></div>"


def _page(groups: Groups, tables: list[_Item], plots: list[_Item]) -> str:
    runs = [run for group in groups.values() for run in group]
    data = _all({r.config["data"]["name"] for r in runs})
    hidden = _all({", ".join(map(str, r.config["model"]["hidden"])) for r in runs}, " or ")
    machine = [r.summary["run"] for r in runs]
    title = f"Sparse training on {data}: {', '.join(groups)}"
    densities = sorted({r.summary["density"] for r in runs if r.summary["density"] < 1})
    sparsity = _all({f"{100 * (1 - d):.3g} %" for d in densities})
    many = len(runs) > 1
    lead = (
        f"{len(runs)} run{'s' * many} of multilayer perceptrons with "
        f"hidden layers of {hidden} neurons on the data set {data}"
        + (f"; the sparse ones at {sparsity} sparsity" if densities else "")
        + f". epitopo {_all({m['versions']['epitopo'] for m in machine})}, "
        f"torch {_all({m['versions']['torch'] for m in machine})}, "
        f"Python {_all({m['versions']['python'] for m in machine})}, "
        f"{_all({m['device'].upper() for m in machine})}, "
        f"threads: {_all({str(m['threads']) for m in machine})}."
    )
    sections = [_section("Table", 1, tables[0])]
    sections += [_section("Figure", i, plot) for i, plot in enumerate(plots, start=1)]
    sections += [_section("Table", i, table) for i, table in enumerate(tables[1:], start=2)]
    commands = "\n".join(dict.fromkeys(r.summary["run"]["command"] for r in runs))
    configs = "".join(
        f"<details><summary>Configuration of {escape(label)}</summary>"
        f"<pre>{escape(yaml.safe_dump(group[0].config, sort_keys=False))}</pre></details>"
        for label, group in groups.items()
    )
    return _TEMPLATE.format(
        title=escape(title),
        lead=escape(lead),
        sections="\n".join(sections),
        commands=escape(commands),
        configs=configs,
        version=escape(topo.__version__),
    )


def _all(values: set[str], between: str = ", ") -> str:
    return between.join(sorted(values))


def _section(kind: str, number: int, item: _Item) -> str:
    caption = (
        f"<figcaption><b>{kind} {number}. {escape(item.title)}.</b> "
        f"{escape(item.caption)}</figcaption>"
    )
    inner = caption + item.body if kind == "Table" else item.body + caption
    return f"<figure>{inner}</figure>"


_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --ink: #1b1b1b; --soft: #5a5a5a; --rule: #1b1b1b; --hair: #d8d8d8; --page: #ffffff; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e8e8e8; --soft: #b0b0b0; --rule: #c8c8c8; --hair: #444; --page: #17181a; }}
}}
body {{ max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; color: var(--ink);
  background: var(--page); font: 1rem/1.55 Charter, "Bitstream Charter", Cambria, Georgia, serif; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; margin: 0 0 .6rem; }}
h2 {{ font-size: 1.15rem; margin: 2.5rem 0 .5rem; }}
p.lead {{ color: var(--soft); margin: 0 0 2rem; }}
figure {{ margin: 2.2rem 0; }}
figure img {{ display: block; width: 100%; height: auto; background: #fff; border-radius: 4px; }}
figcaption {{ font-size: .92rem; color: var(--soft); margin: .5rem 0; }}
figcaption b {{ color: var(--ink); }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; border-top: 2px solid var(--rule);
  border-bottom: 2px solid var(--rule); }}
th, td {{ padding: .35rem .6rem; text-align: right; vertical-align: top; }}
th {{ border-bottom: 1px solid var(--rule); font-weight: 600; vertical-align: bottom; }}
tbody tr + tr td {{ border-top: 1px solid var(--hair); }}
.text {{ text-align: left; }}
pre {{ font-size: .82rem; line-height: 1.4; overflow-x: auto; padding: .7rem .9rem;
  border: 1px solid var(--hair); border-radius: 4px; }}
summary {{ cursor: pointer; }}
footer {{ margin: 3rem 0 1rem; color: var(--soft); font-size: .85rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{sections}
<h2>Make it again</h2>
<pre>{commands}</pre>
{configs}
<footer>Made by epitopo {version}. This file needs no network.</footer>
</body>
</html>
"""
