"""The slider of a report: the topology of runs at every step, as data that the page draws."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.frames import LayerFrames, layer_frames, tile_sides
from analysis.measures.degree_counts import SIDES
from analysis.page import Item
from analysis.runs import Run
from analysis.shown import evenly, full_ink, short_names, spread

__all__ = ["MOST_BYTES", "slider_item"]

Groups = Mapping[str, Sequence[Run]]

MOST_RUNS = 12
MOST_LAYERS = 6  # of a run
MOST_FRAMES = 121  # all of 120 updates
MOST_TILES = 32_000_000  # in all frames, in memory
MOST_BYTES = 8_000_000
"""Bound of the sliders of a page, together."""


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _number(value: float) -> str:
    return f"{value:.3g}"


_SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {  # columns of the summary
    "links": ("links", _count),
    "density": ("density", _percent),
    "active_neuron_rate": ("active neurons", _percent),
    "elm_overlap": ("ELM overlap", _percent),
    "turnover": ("turnover", _percent),
    "itop_rate": ("ITOP rate", _percent),
    "in_degree_max": ("largest in-degree", _count),
    "out_degree_max": ("largest out-degree", _count),
    "clustering": ("clustering (Latapy)", _number),
}


@dataclass(frozen=True)
class _Film:
    """A run as the slider shows it."""

    name: str
    steps: list[int]  # of the frames
    updates: list[int]  # how many there had been
    layers: dict[str, LayerFrames]  # by the names that they have in all runs
    numbers: pd.DataFrame  # the summary of all recorded steps, by layer and step

    def at(self, frames: Sequence[int]) -> _Film:
        return replace(
            self,
            steps=[self.steps[i] for i in frames],
            updates=[self.updates[i] for i in frames],
            layers={name: layer.at(frames) for name, layer in self.layers.items()},
        )


def slider_item(
    groups: Groups, summaries: Mapping[Path, pd.DataFrame], most_bytes: int = MOST_BYTES
) -> list[Item]:
    """The slider through the topology of some runs; none if no run has links.

    The first run of each group comes first, then further seeds, `MOST_RUNS` in all. Of networks
    with many layers, `MOST_LAYERS` from the first to the last are shown, and of long histories
    `MOST_FRAMES` steps; fewer, where the page would grow beyond its bound.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
    summaries : mapping of Path to DataFrame
        By the runs' paths, `analysis.summary` of their histories.
    most_bytes : int
        Bound of the item's size.
    """
    runs = _in_order(groups)
    if not runs:
        return []
    chosen = dict(list(runs.items())[:MOST_RUNS])
    layers = {name: _layers(run) for name, run in chosen.items()}
    tiles = sum(_tiles(run, layers[name]) for name, run in chosen.items())
    frames = int(np.clip(MOST_TILES // tiles, 2, MOST_FRAMES))
    films = [
        _film(name, run, layers[name], summaries[run.path], frames) for name, run in chosen.items()
    ]
    most = _full_ink(films)
    while len(body := _body(films, most)) > most_bytes and frames > 2:
        frames = max(2, int(0.95 * frames * most_bytes / len(body)))
        films = [film.at(evenly(len(film.steps), frames)) for film in films]
    return [Item("Figure", "The topology, step by step", _caption(runs, films), body)]


def _in_order(groups: Groups) -> dict[str, Run]:
    """Runs with links by what they are called, the first of every group before all others."""
    found = [
        (i, f"{label}, seed {run.seed}", run)
        for label, runs in groups.items()
        for i, run in enumerate(r for r in runs if r.history is not None)
    ]
    named: dict[str, Run] = {}
    for _, name, run in sorted(found, key=lambda entry: entry[0]):
        named[name if name not in named else f"{name} ({run.path})"] = run
    return named


def _history(run: Run) -> Any:
    return run.history


def _layers(run: Run) -> list[str]:
    return spread(list(_history(run).shapes), MOST_LAYERS)


def _tiles(run: Run, layers: Sequence[str]) -> int:
    """Of one frame."""
    total = 0
    for name in layers:
        shape = _history(run).shapes[name]
        high, broad = tile_sides(shape)
        total += -(-shape[0] // high) * -(-shape[1] // broad)
    return total


def _film(name: str, run: Run, layers: Sequence[str], numbers: pd.DataFrame, frames: int) -> _Film:
    history = _history(run)
    updates = evenly(len(history.steps), frames)
    steps = [history.steps[i] for i in updates]
    frames_of = layer_frames(history, layers, steps)
    return _Film(
        name,
        steps,
        updates,
        {_plain(name): layer for name, layer in frames_of.items()},
        numbers.assign(layer=numbers["layer"].map(_plain)).set_index(["layer", "step"]),
    )


def _plain(layer: str) -> str:
    """A layer's name whether or not it has a branch of low rank beside its links."""
    return layer.removesuffix(".sparse")


def _full_ink(films: Sequence[_Film]) -> dict[str, float]:
    """The density that is drawn as full ink, by layer: the same in all runs and steps."""
    densest: dict[str, float] = {}
    for film in films:
        for name, layer in film.layers.items():
            density = max(layer.links) / (layer.shape[0] * layer.shape[1])
            densest[name] = max(density, densest.get(name, 0.0))
    return {name: full_ink(density) for name, density in densest.items()}


def _body(films: Sequence[_Film], most: Mapping[str, float]) -> str:
    short = short_names(list(most))
    options = "".join(
        f'<option value="{escape(name)}">{escape(short[name])}</option>' for name in most
    )
    # the first two, which are of different methods where there are two
    boxes = "".join(
        f'<label><input type="checkbox"{" checked" * (i < 2)}> {escape(film.name)}</label>'
        for i, film in enumerate(films)
    )
    data = json.dumps({"runs": [_as_json(film, most) for film in films]}, separators=(",", ":"))
    return _HTML.format(options=options, boxes=boxes, data=data.replace("<", "\\u003c"))


def _as_json(film: _Film, most: Mapping[str, float]) -> dict[str, Any]:
    return {
        "name": film.name,
        "steps": film.steps,
        "updates": film.updates,
        "layers": [
            {
                "name": name,
                "shape": layer.shape,
                "tiles": layer.levels.shape[1:],
                "sides": tile_sides(layer.shape),
                "most": most[name],
                # a pixel's levels over time are alike: together, they take a third of the space
                "levels": _packed(np.moveaxis(layer.levels, 0, -1)),
                "degrees": {
                    side: [counts.ravel().tolist() for counts in layer.degrees[side]]
                    for side in SIDES
                },
                "measures": _measures(film.numbers.loc[[(name, step) for step in film.steps]]),
            }
            for name, layer in film.layers.items()
        ],
    }


def _measures(numbers: pd.DataFrame) -> dict[str, list[str | None]]:
    """What is shown of the summary, written for people; what is never there is left out."""
    return {
        heading: [None if np.isnan(value) else text(value) for value in numbers[column]]
        for column, (heading, text) in _SHOWN.items()
        if column in numbers and numbers[column].notna().any()
    }


def _packed(levels: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(levels.tobytes(), 6)).decode()


def _caption(runs: Mapping[str, Run], films: Sequence[_Film]) -> str:
    left_out = []
    if len(runs) > len(films):
        left_out.append(f"{len(films)} of {len(runs)} runs, the first of each method before others")
    every = max(len(_history(run).shapes) for run in list(runs.values())[: len(films)])
    if every > MOST_LAYERS:
        left_out.append(f"{MOST_LAYERS} of {every} layers, from the first to the last")
    recorded = [len(_history(run).steps) for run in list(runs.values())[: len(films)]]
    frames = [len(film.steps) for film in films]
    if frames != recorded:
        left_out.append(
            f"{max(frames)} of up to {max(recorded)} recorded steps, evenly chosen with the first "
            "and the last"
        )
    shown = f" To keep this page small, it has {'; '.join(left_out)}." if left_out else ""
    return f"{_CAPTION}{shown} {_KEYS}"


_CAPTION = (
    "Links of a layer at a step, for the runs that are ticked. Picture: output neurons downwards, "
    "input neurons to the right; a pixel is a link, or a tile of several neurons where a side has "
    "more than 128. Its ink goes with the square root of its density, on one scale for all the "
    "runs and steps. Charts: share of the neurons with links that have at least k of them, both "
    "axes logarithmic; blue: at this step; grey, dashed: at the start. Active neurons: after "
    "percolation of the whole network. Each run is shown at its latest step that is not after the "
    "slider's."
)
_KEYS = "Keys on the slider: arrows, Home, End; Space plays and pauses."

_HTML = """<div class="slider" hidden>
<div class="controls">
<div class="line"><label>Layer <select class="layer">{options}</select></label>
<button type="button" class="play">Play</button>
<input type="range" class="step" min="0" max="0" value="0" aria-label="Step">
<output aria-live="polite"></output></div>
<fieldset><legend>Runs</legend>{boxes}</fieldset>
<div class="scale"><span>no link</span><i></i><span class="full"></span></div>
</div>
<div class="cards"></div>
<script type="application/json">{data}</script>
</div>
<noscript>
<p>The slider needs JavaScript. The figures below show the start and the end.</p>
</noscript>
"""
