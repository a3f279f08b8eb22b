"""The command ``epitopo-analysis figure``: a sub-command per figure, with the options it takes."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from analysis.figure_files import FIGURES, FigureFile, draw_figure
from analysis.figure_files.drawn_network import SAMPLES
from analysis.figures import STYLES
from analysis.shown import SIDES

__all__ = ["add_figures", "write_figure"]

_OPTIONS: dict[str, dict[str, Any]] = {
    "layers": {
        "nargs": "+",
        "type": str,
        "help": "Patterns of layers' names; else a few layers, evenly spread, or all together.",
    },
    "step": {
        "nargs": "+",
        "type": int,
        "help": "Steps of training; else the start and the end, or the end alone.",
    },
    "side": {"nargs": "+", "choices": list(SIDES), "help": "Whose degrees; else both."},
    "metric": {
        "nargs": "+",
        "type": str,
        "help": "Measures, or columns of metrics.jsonl, a panel each.",
    },
    "by": {
        "nargs": "+",
        "type": str,
        "help": "Settings, such as sparsity.topology, a panel each; else the method.",
    },
    "projection": {"nargs": "+", "type": str, "help": "A panel each; else Q K V O."},
    "neurons": {"type": int, "help": "The most that a column shows; else 40."},
    "sample": {
        "choices": list(SAMPLES),
        "help": "Which neurons: evenly spread ones (so unless said), or those with most links.",
    },
    "frames": {"type": int, "help": "The most; else 60, evenly spread over the steps."},
    "size": {"type": int, "help": "Neurons on each side; else 1024."},
    "density": {"type": float, "help": "Share of the possible links, in (0, 1]; else 0.05."},
    "beta": {
        "nargs": "+",
        "type": float,
        "help": "Rewired shares of small worlds; else 0 0.25 0.5 1.",
    },
    "r": {"nargs": "+", "type": float, "help": "Randomness of receptive fields; else none."},
    "seed": {"type": int, "help": "Of the topologies; else 0."},
}


def add_figures(parser: ArgumentParser) -> None:
    """Add a sub-command per figure."""
    commands = parser.add_subcommands(dest="figure", title="figures", metavar="figure")
    for name, entry in FIGURES.items():
        commands.add_subcommand(name, _parser(name, entry), help=entry.help)


def write_figure(chosen: Namespace) -> str:
    """Draw what was asked for, and say where it is."""
    name = str(chosen.figure)
    asked = chosen[name]
    entry = FIGURES[name]
    options = {key: asked[key] for key in entry.options if asked[key] is not None}
    inputs = [] if entry.read is None else asked.inputs
    out = asked.out or name + entry.ending
    return f"figure: {draw_figure(name, inputs, out, style=asked.style, options=options)}"


def _parser(name: str, entry: FigureFile) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, description=entry.help)
    if entry.read is not None:
        parser.add_argument("inputs", nargs="+", help=entry.inputs)
    endings = ".gif" if entry.ending == ".gif" else ".svg, .pdf or .png"
    parser.add_argument("--out", help=f"File to write, {endings}; default: {name}{entry.ending}.")
    parser.add_argument(
        "--style",
        choices=list(STYLES),
        default="paper",
        help="paper: small type, thin lines, a column or a page wide; screen: larger.",
    )
    for option in entry.options:
        parser.add_argument(f"--{option}", **_OPTIONS[option])
    return parser
