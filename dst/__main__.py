"""The command line: ``python -m dst`` and ``epitopo``."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jsonargparse import ArgumentError, ArgumentParser

from dst import __version__, bench, bench_graphs, bench_history, bench_scores, bench_update
from dst.config import Config
from dst.datasets import describe, fetch, load, registry
from dst.presets import PRESETS
from dst.train import claim, train
from topo.command_line import exit_status, explain_choice
from topo.names import find, unknown

__all__ = ["main"]

_ON_DEVICE: dict[str, Callable[[str], None]] = {
    "layers": bench.layers,
    "scores": bench_scores.scores,
    "update": bench_update.update,
}
_BENCHMARKS: dict[str, Callable[[], None]] = {
    "predictors": bench_graphs.predictors,
    "generators": bench_graphs.generators,
    "grow": bench_graphs.grow,
    "first-call": bench_graphs.first_call,
    "history": bench_history.history,
}
_SWEEPS: dict[str, Callable[[], pd.DataFrame]] = {
    "scaling": bench_graphs.scaling,
    "recovery": bench_graphs.recovery,
}
DEMO = ("digits-dense", "digits-set", "digits-chts")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        The exit status: 0 if all went well, 2 for input that cannot be used.
    """
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    return exit_status("epitopo", lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> None:
    parser, trainer = _parsers()
    try:
        preset = _preset(arguments)
        if preset is not None:
            trainer.set_defaults(_flat(asdict(find(PRESETS, preset, "preset"))))
        options = parser.parse_args(arguments)
        if options.command == "train" and options.train.preset != preset:  # from a YAML file
            named = find(PRESETS, options.train.preset, "preset")
            trainer.set_defaults(_flat(asdict(named)))
            options = parser.parse_args(arguments)
        chosen = options[options.command]
        built = trainer.instantiate(chosen) if options.command == "train" else {}
    except ArgumentError as error:
        raise ValueError(_explain(str(error), trainer)) from None
    except TypeError:
        raise ValueError(
            "data, model, sparsity and optimizer are groups of keys: sparsity: {density: 0.1}"
        ) from None
    command = shlex.join(["epitopo", *arguments])
    match options.command:
        case "train":
            config = Config(**{f.name: built[f.name] for f in fields(Config)})
            _train(chosen.preset, config, chosen.out, command)
        case "demo":
            _demo(Path(chosen.out), range(chosen.seeds), command)
        case "presets":
            for name, known in PRESETS.items():
                print(f"{name:24}{_in_a_line(known)}")
        case "data":
            _data(chosen.name)
        case "bench":
            _bench(chosen.name, chosen.device, chosen.out)


def _train(preset: str, config: Config, out: str | None, command: str) -> None:
    folder = Path(out or f"runs/{preset}-seed{config.seed}")
    summary = train(config, folder, preset=preset, command=command)
    score = summary["score"]
    print(
        f"{folder}: test accuracy {score['final']:.2%} (best epoch {score['best']:.2%}), "
        f"density {summary['density']:.2%}, active neurons {summary['active_neuron_rate']:.1%}, "
        f"{summary['links']} links, {summary['run']['seconds']:.1f} s"
    )
    print(f"look at it: epitopo-analysis report {folder}")


def _demo(out: Path, seeds: Sequence[int], command: str) -> None:
    if not seeds:
        raise ValueError("--seeds must be at least 1")
    claim(out)
    for preset in DEMO:
        for seed in seeds:
            name = f"{preset}-seed{seed}"
            config = replace(PRESETS[preset], seed=seed)
            train(config, out / name, preset=preset, command=command, label=name)


def _data(name: str | None) -> None:
    if name is None:
        for known in registry():
            print(f"{known:16}{describe(known)}")
        return
    files = fetch(name)
    data = load(name)
    print(f"{name}: {describe(name)}")
    print(
        f"{len(data.train_y)} training and {len(data.test_y)} test images, {data.classes} classes"
    )
    for file in files:
        print(file)


def _bench(name: str, device: str, out: str | None) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: torch sees no CUDA device here")
    for known, on_device in _ON_DEVICE.items():
        if name in (known, "all"):
            on_device(device)
    for known, benchmark in _BENCHMARKS.items():
        if name in (known, "all"):
            benchmark()
    if name in _SWEEPS:
        table = _SWEEPS[name]()
        with pd.option_context("display.width", None, "display.max_rows", None):
            print(table.to_string(index=False, float_format="{:.3g}".format))
        if out:
            table.to_csv(out, index=False)


def _preset(arguments: Sequence[str]) -> str | None:
    """The preset among the arguments of ``train``: its defaults are needed to parse the rest."""
    rest = iter(arguments[1:] if arguments[0] == "train" else ())
    for argument in rest:
        if not argument.startswith("-"):
            return argument
        if "=" not in argument and argument not in ("-h", "--help", "--print_config"):
            next(rest, None)  # the option's value
    return None


def _parsers() -> tuple[ArgumentParser, ArgumentParser]:
    """The whole parser and that of ``train``, whose defaults are to be those of the preset."""
    parser = ArgumentParser(
        prog="epitopo",
        description="Train sparse neural networks and record how their topology evolves.",
        version=__version__,
        exit_on_error=False,
    )
    commands = parser.add_subcommands(dest="command")

    trainer = ArgumentParser(exit_on_error=False, description="Train a preset.")
    trainer.add_argument("preset", help="One of `epitopo presets`.")
    trainer.add_argument("--out", help="Run folder; default: runs/PRESET-seedSEED.")
    trainer.add_argument("--config", action="config", help="YAML file with any of these options.")
    trainer.add_class_arguments(Config)
    commands.add_subcommand("train", trainer, help="Train a preset.")

    demo = ArgumentParser(
        exit_on_error=False, description="Train digits three ways: dense, SET and CHTs."
    )
    demo.add_argument("--out", default="runs/demo", help="Folder of the runs.")
    demo.add_argument("--seeds", type=int, default=3, help="Runs of each method.")
    commands.add_subcommand("demo", demo, help="Train digits three ways: dense, SET and CHTs.")

    presets = ArgumentParser(exit_on_error=False, description="List the presets.")
    commands.add_subcommand("presets", presets, help="List the presets.")

    data = ArgumentParser(exit_on_error=False, description="List or fetch data sets.")
    data.add_argument("name", nargs="?", help="Data set to fetch; without it, list them.")
    commands.add_subcommand("data", data, help="List or fetch data sets.")
    timer = ArgumentParser(exit_on_error=False, description="Time the kernels on this machine.")
    timer.add_argument(
        "name",
        nargs="?",
        default="all",
        choices=["all", *_ON_DEVICE, *_BENCHMARKS, *_SWEEPS],
        help="What to time; all: all but the tables of scaling and recovery.",
    )
    timer.add_argument("--device", default="cpu", help="cpu or cuda: layers, scores, update.")
    timer.add_argument("--out", help="CSV file for the table of scaling or recovery.")
    commands.add_subcommand("bench", timer, help="Time the kernels on this machine.")
    return parser, trainer


def _explain(message: str, trainer: ArgumentParser) -> str:
    """Add the nearest right name to the parser's complaint about a wrong one."""
    options = [o for a in trainer._actions for o in a.option_strings if o.startswith("--")]
    if match := re.search(r"unrecognized arguments: (--[^\s=]+)", message):
        return unknown(match[1], options, "option")
    if match := re.search(r"[Oo]ption '([\w.]+)' is not|does not accept .*?'([\w.]+)'", message):
        keys = [option.removeprefix("--") for option in options]
        return unknown(match[1] or match[2], keys, "key")
    return explain_choice(message)


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _in_a_line(config: Config) -> str:
    sparsity = config.sparsity
    how = f"{sparsity.method}, density {sparsity.density:g}" if sparsity.method else "dense"
    hidden = "-".join(map(str, config.model.hidden))
    return f"{how}; hidden {hidden}; {config.optimizer.epochs} epochs"


if __name__ == "__main__":
    sys.exit(main())
