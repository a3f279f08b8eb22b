"""The command line: ``python -m dst`` and ``epitopo``."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jsonargparse import ArgumentError, ArgumentParser

from dst import (
    __version__,
    bench,
    bench_graphs,
    bench_history,
    bench_low_rank,
    bench_scores,
    bench_update,
)
from dst.config import Config
from dst.configure import (
    configured,
    explain,
    files_first,
    instantiate,
    preset_among,
    saved_config,
    trainer_parser,
)
from dst.datasets import describe, fetch, holds_images, load, registry
from dst.local_tasks import local_tasks
from dst.presets import PRESETS
from dst.processes import local_rank, process_group
from dst.run_folder import CONFIG, SUMMARY, claim, running
from dst.sweep import load_sweep, run_sweep
from dst.tasks.language import LanguageConfig
from dst.train import train
from dst.trained import export
from dst.zero_shot import evaluate
from topo.command_line import exit_status

__all__ = ["main"]

_ON_DEVICE: dict[str, Callable[[str], None]] = {
    "layers": bench.layers,
    "low-rank": bench_low_rank.low_rank,
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
    command = shlex.join(["epitopo", *arguments])
    trains = arguments[0] == "train"
    if trains:  # what is on the command line overrides the file, wherever the file is named
        arguments = files_first(arguments)
    parser, trainer = _parsers(preset_among(arguments[1:]) if trains else None)
    try:
        options = parser.parse_args(arguments)
        chosen = options[options.command]
        if trains and chosen.preset is not None:
            config = instantiate(trainer, chosen, chosen.preset)
    except ArgumentError as error:
        raise ValueError(explain(str(error), trainer if trains else parser)) from None
    except TypeError:
        raise ValueError(
            "data, model, sparsity, optimizer and training are groups of keys: "
            "sparsity: {density: 0.1}"
        ) from None
    match options.command:
        case "train" if chosen.resume is not None:
            if len(arguments) > 2 + (arguments[1] == "--resume"):
                raise ValueError("--resume takes all from the run: give no other option")
            _resume(Path(chosen.resume), command)
        case "train" if chosen.preset is None:
            raise ValueError("name a preset (epitopo presets lists them), or a run: --resume RUN")
        case "train":
            folder = Path(chosen.out or f"runs/{chosen.preset}-seed{config.seed}")
            _train(config, folder, chosen.preset, command)
        case "demo":
            _demo(Path(chosen.out), range(chosen.seeds), command)
        case "presets":
            width = max(map(len, PRESETS)) + 2
            for name, known in PRESETS.items():
                print(f"{name:{width}}{_in_a_line(known)}")
        case "data":
            _data(chosen.name)
        case "sweep":
            run_sweep(
                load_sweep(chosen.file),
                configured,
                partial(_train_cell, command),
                dry_run=chosen.dry_run,
            )
        case "export":
            out = Path(chosen.out or Path(chosen.run) / "export")
            export(Path(chosen.run), out)
            print(out)
        case "evaluate":
            _evaluate(chosen)
        case "bench":
            _bench(chosen.name, chosen.device, chosen.out)


def _resume(folder: Path, command: str) -> None:
    preset, config = saved_config(folder)
    if (folder / SUMMARY).is_file():
        print(f"{folder} is finished: nothing to do")
        return
    _train(config, folder, preset, command, resume=True)


def _train(config: Config, folder: Path, preset: str, command: str, resume: bool = False) -> None:
    first = local_rank() == 0
    with running(folder) if first else nullcontext(), process_group():
        try:
            summary = train(config, folder, preset=preset, command=command, resume=resume)
        except OSError as error:
            begun = (folder / CONFIG).is_file()
            mend = f"; to go on when that is mended: epitopo train --resume {folder}"
            raise OSError(f"{error}{mend if begun else ''}") from error
    if not summary:  # of another rank than the first
        return
    score = summary["score"]
    percent = ".2%" if "accuracy" in score["name"] else ".2f"
    print(
        f"{folder}: {score['name'].replace('_', ' ')} {score['value']:{percent}} "
        f"(best {score['best']:{percent}}), "
        f"{_kept(summary)}, {summary['links']} links, {summary['run']['seconds']:.1f} s"
    )
    print(f"look at it: epitopo-analysis report {folder}")


def _kept(summary: Mapping[str, Any]) -> str:
    density, total = summary["density"], summary["total_density"]
    active = f"active neurons {summary['active_neuron_rate']:.1%}"
    if total == density:
        return f"density {density:.2%}, {active}"
    both = f"links {density:.2%}, low rank {total - density:.2%}"
    return f"weights kept {total:.2%} ({both})" + (f", {active}" if density else "")


def _demo(out: Path, seeds: Sequence[int], command: str) -> None:
    if not seeds:
        raise ValueError("--seeds must be at least 1")
    claim(out)
    for preset in DEMO:
        for seed in seeds:
            name = f"{preset}-seed{seed}"
            config = replace(PRESETS[preset], seed=seed)
            train(config, out / name, preset=preset, command=command, label=name)


def _train_cell(
    command: str, preset: str, options: Mapping[str, Any], folder: Path, resume: bool
) -> None:
    config = saved_config(folder)[1] if resume else configured(preset, options)
    train(config, folder, preset=preset, command=command, resume=resume)


def _evaluate(chosen: Any) -> None:
    """Score a run, or an exported model."""
    folder = Path(chosen.run)
    part = f"-first-{chosen.limit}" if chosen.limit else ""
    if (folder / CONFIG).is_file():
        if not isinstance(saved_config(folder)[1], LanguageConfig):
            raise ValueError(f"{folder} is no run of a language model, which evaluate is for")
    elif not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no run, and no exported model")
    with tempfile.TemporaryDirectory() as temporary:
        tasks, include_path = chosen.tasks, chosen.include_path
        if chosen.data is not None:
            include_path = Path(temporary) / "tasks"
            known = local_tasks(chosen.data, include_path)
            tasks = ",".join(known) if tasks == "paper" else tasks
        model = folder
        if (folder / CONFIG).is_file():
            model = Path(temporary) / "model"
            export(folder, model)
        scores = evaluate(
            model,
            tasks,
            include_path=include_path,
            limit=chosen.limit,
            batch_size=chosen.batch_size,
            out=chosen.out or folder / f"zero_shot{part}.json",
        )
    for task, score in scores.items():
        spread = "" if score["stderr"] is None else f" ± {score['stderr']:.4f}"
        print(f"{task:16}{score['metric']:12}{score['value']:.4f}{spread}  n={score['n']}")


def _data(name: str | None) -> None:
    if name is None:
        for known in registry():
            print(f"{known:18}{describe(known)}")
        return
    files = fetch(name)
    print(f"{name}: {describe(name)}")
    if holds_images(name):
        data = load(name)
        counts = f"{len(data.train_y)} training and {len(data.test_y)} test images"
        print(f"{counts}, {data.classes} classes")
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


def _parsers(preset: str | None) -> tuple[ArgumentParser, ArgumentParser]:
    """The whole parser and that of ``train``, whose keys and defaults are those of the preset."""
    parser = ArgumentParser(
        prog="epitopo",
        description="Train sparse neural networks and record how their topology evolves.",
        version=__version__,
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(dest="command")
    trainer = trainer_parser(preset)
    commands.add_subcommand("train", trainer, help="Train a preset, or go on with a run.")

    demo = ArgumentParser(
        exit_on_error=False, description="Train digits three ways: dense, SET and CHTs."
    )
    demo.add_argument("--out", default="runs/demo", help="Folder of the runs.")
    demo.add_argument("--seeds", type=int, default=3, help="Runs of each method.")
    commands.add_subcommand("demo", demo, help="Train digits three ways: dense, SET and CHTs.")

    presets = ArgumentParser(
        exit_on_error=False, allow_abbrev=False, description="List the presets."
    )
    commands.add_subcommand("presets", presets, help="List the presets.")

    data = ArgumentParser(
        exit_on_error=False, allow_abbrev=False, description="List or fetch data sets."
    )
    data.add_argument("name", nargs="?", help="Data set to fetch; without it, list them.")
    commands.add_subcommand("data", data, help="List or fetch data sets.")

    text = "Train all cells of a grid; again, to go on with those that are not finished."
    sweep = ArgumentParser(exit_on_error=False, allow_abbrev=False, description=text)
    sweep.add_argument("file", help="YAML file: out, preset, options, grid (see the README).")
    sweep.add_argument("--dry-run", action="store_true", help="Say what there is to do.")
    commands.add_subcommand("sweep", sweep, help=text)

    text = "Write a run's model, dense, as a folder that Hugging Face or safetensors load."
    exporter = ArgumentParser(exit_on_error=False, allow_abbrev=False, description=text)
    exporter.add_argument("run", help="Run folder.")
    exporter.add_argument("--out", help="Folder to make; default: export in the run folder.")
    commands.add_subcommand("export", exporter, help=text)

    text = "Run lm-evaluation-harness on a language model; writes zero_shot.json to the run."
    evaluator = ArgumentParser(exit_on_error=False, allow_abbrev=False, description=text)
    evaluator.add_argument("run", help="Run folder, or an exported model.")
    evaluator.add_argument(
        "--tasks", default="paper", help="Names, separated by commas; paper: the papers' twelve."
    )
    evaluator.add_argument("--include_path", help="Folder with task files (YAML) of your own.")
    evaluator.add_argument(
        "--data", help="Folder of data sets to make tasks of (cola, rte, sst2, copa, piqa, ...)."
    )
    evaluator.add_argument(
        "--out",
        help="File; default: RUN/zero_shot.json, with a limit RUN/zero_shot-first-N.json.",
    )
    evaluator.add_argument("--limit", type=int, help="Samples of each task; default: all.")
    evaluator.add_argument("--batch_size", type=int, default=16, help="Requests at a time.")
    commands.add_subcommand("evaluate", evaluator, help=text)

    timer = ArgumentParser(
        exit_on_error=False, allow_abbrev=False, description="Time the kernels on this machine."
    )
    timer.add_argument(
        "name",
        nargs="?",
        default="all",
        choices=["all", *_ON_DEVICE, *_BENCHMARKS, *_SWEEPS],
        help="What to time; all: all but the tables of scaling and recovery.",
    )
    timer.add_argument(
        "--device", default="cpu", help="cpu or cuda: layers, low-rank, scores, update"
    )
    timer.add_argument("--out", help="CSV file for the table of scaling or recovery.")
    commands.add_subcommand("bench", timer, help="Time the kernels on this machine.")
    return parser, trainer


def _in_a_line(config: Config) -> str:
    sparsity, optimizer = config.sparsity, config.optimizer
    how = f"{sparsity.method}, density {sparsity.density:g}" if sparsity.method else "dense"
    if config.low_rank.there:
        how = _low_rank_in_words(config)
    long = f"{optimizer.steps} steps" if optimizer.steps else f"{optimizer.epochs} epochs"
    return f"{config.describe()}; {how}; {long}"


def _low_rank_in_words(config: Config) -> str:
    sparsity, low_rank = config.sparsity, config.low_rank
    size = f"rank {low_rank.rank}" if low_rank.rank else f"density {sparsity.density:g} in all"
    aligned = f", aligned ({low_rank.alignment:g})" if low_rank.alignment else ""
    beside = f"{sparsity.method} + " if sparsity.method else ""
    return f"{beside}low rank ({low_rank.form}), {size}{aligned}"


if __name__ == "__main__":
    sys.exit(main())
