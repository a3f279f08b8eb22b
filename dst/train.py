"""The training loop: from a `Config` to a scored run directory, and on from a checkpoint."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import topo
from dst import checkpoints
from dst.alignment import Alignment
from dst.build import OPTIMIZERS, PRECISIONS, Recipe, device_of, make_optimizer
from dst.cancellation import CancellationMeter
from dst.config import Config, LowRankConfig
from dst.distributed import Ranks
from dst.divergence import first_bad
from dst.evolver import Evolver
from dst.graph import network, sparse_layers, unwrap
from dst.interrupts import Interrupts, interrupts
from dst.iterative_warmup import warmup_factor
from dst.learning_rates import SCHEDULES
from dst.machine import machine
from dst.processes import local_rank
from dst.progress import Due, Progress
from dst.reporter import Clock, Reporter, Silent
from dst.run_folder import (
    CHECKPOINTS,
    claim,
    refuse_taken,
    removed_on_error,
    rewind,
    write_config,
    write_summary,
)
from dst.scoring import evaluated, keep_best, scored
from dst.sparse_low_rank import SparseLowRank
from dst.tasks import Batch
from topo.names import find

__all__ = ["train"]

_MEND = (
    "Checkpoints of before, if there are, are kept; train anew with optimizer.clip, or a lower "
    "optimizer.lr"
)


def train(
    config: Config,
    out: Path,
    *,
    preset: str = "",
    command: str = "",
    label: str = "",
    resume: bool = False,
) -> dict[str, Any]:
    """Train one model and write its run directory.

    In a process group (torchrun) all ranks call it; each trains on its part of every batch.

    Parameters
    ----------
    config : Config
        To resume: that of the run.
    out : Path
        The run directory; to begin, it must not exist, or be empty.
    preset, command : str
        Recorded as they are.
    label : str
        What the progress bar is headed.
    resume : bool
        Go on from the run's last checkpoint that is whole.

    Returns
    -------
    dict
        What ``summary.json`` holds. ``training_flops_relative_to_dense`` is the mean of the links
        over the steps, of the linear layers alone; scores of links and dense gradients, of a few
        steps, are not counted.

    Raises
    ------
    ValueError
        If the configuration is impossible or the run directory is taken (nothing is written then),
        the loss is not finite, or checkpoints are there and none can be read.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM; a checkpoint was written.
    """
    ranks = Ranks.of()
    schedule = find(SCHEDULES, config.optimizer.schedule, "schedule")
    find(OPTIMIZERS, config.optimizer.name, "optimizer")
    find(PRECISIONS, config.training.precision, "precision")
    if not resume:
        refuse_taken(out)
    with ranks.together():  # one process fetches and prepares the data, then the others read it
        task = config.task() if ranks.rank == 0 else None
    task = task or config.task()
    recipe = Recipe(config, task, device_of(config.training.device, local_rank()))
    model = recipe.model()
    recipe.check(model, ranks.size)
    align, meter = _branch_watchers(model, config.low_rank)
    optimizer = make_optimizer(model, config.optimizer)
    total = recipe.total_steps()
    every = recipe.every_or_epoch(config.sparsity.every)
    evaluate_every = recipe.every_or_epoch(config.training.evaluate_every)
    log_every = recipe.every_or_epoch(config.training.log_every)
    checkpoint_every = recipe.checkpoint_every()

    saved: dict[str, Any] = {}
    with ranks.together():
        if resume:
            saved = checkpoints.latest(out / CHECKPOINTS) or {}
            recipe.check_data(saved)
    progress = Progress(**saved.get("progress", {}))
    with ranks.together():
        if ranks.rank == 0 and not resume:
            claim(out)
            write_config(out, {"preset": preset, **recipe.resolved(model)})
        if ranks.rank == 0:
            rewind(out, progress.step)
            checkpoints.drop_after(out / CHECKPOINTS, progress.step)
        else:  # the first has the sums of all
            progress.loss, progress.items = 0.0, 0
    if saved:
        model.load_state_dict(saved["model"])
    parallel = DistributedDataParallel(model) if ranks.size > 1 else model
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
    evolver, reporter = None, Silent()
    mine = out if ranks.rank == 0 and not resume else None
    with removed_on_error(mine):
        if recipe.method is not None:
            evolver = Evolver(
                parallel,
                optimizer,
                recipe.method,
                every=every,
                total_steps=total,
                seed=config.seed,
                history=_history(out, progress.step, ranks) if saved else out / "topology",
                state=saved.get("evolver"),
            )
            if not saved:
                _snapshot(evolver, ranks)
        with ranks.together():
            if ranks.rank == 0:
                reporter = Reporter(
                    out,
                    label or out.name,
                    task.unit,
                    task.score.selected_by or task.score.name,
                    progress.step,
                    total,
                    config.training.tensorboard,
                )
    saved = {}
    measures: dict[str, float] = {}
    runner = torch.compile(parallel) if config.training.compile else parallel
    links = recipe.possible if recipe.dense else _links(model)

    with reporter, interrupts() as stop:
        clock = Clock()
        while progress.step < total:
            rate = config.optimizer.lr * schedule(progress.step, total, config.optimizer.warmup)
            if evolver is not None and config.sparsity.ramp:
                rate *= warmup_factor(progress.step, every, config.sparsity.ramp)
            for group in optimizer.param_groups:
                group["lr"] = rate
            recipe.reseed(progress.step, ranks.rank)
            due = Due(progress.step + 1, total)
            logs = due(log_every) or due(evaluate_every)
            with meter if meter and logs else nullcontext():
                loss, own, items = _gradients(recipe, runner, parallel, progress.step, ranks, align)
            if config.optimizer.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
            optimizer.step()
            progress.all_links += links
            record = evolver.step() if evolver is not None else None
            if record is not None:
                links = sum(layer.links for layer in record.layers.values())
            optimizer.zero_grad()
            progress.step += 1
            progress.loss += loss
            progress.items += own
            progress.all_items += items
            reporter.tick()

            if evolver and due(config.training.weights_every) and progress.step < total:
                _snapshot(evolver, ranks)
            if logs:
                progress.seconds += clock.lap()
                line = progress.line(task.epoch_steps, rate, ranks)
                if due(evaluate_every):
                    _check_finite(model, progress.step)
                    measures = evaluated(recipe, model, ranks)
                    line |= measures
                    keep_best(recipe, model, measures, progress, out, ranks)
                ratios = meter.ratios(ranks.sum(meter.sums())) if meter else {}
                with ranks.together():
                    reporter.log(line, progress.seconds, progress.all_items, ratios)
                clock.lap()
            stopped = _asked(stop, ranks)
            if due(checkpoint_every) or stopped:
                _check_finite(model, progress.step)
                progress.seconds += clock.lap()
                progress.pool(ranks)
                with ranks.together():
                    if ranks.rank == 0:
                        reporter.sync()
                        state = {
                            "model": model.state_dict(),
                            "optimizer": optimizer.state_dict(),
                            "evolver": evolver.state_dict() if evolver else {},
                            "progress": asdict(progress),
                            "data": recipe.fingerprint,
                        }
                        folder = out / CHECKPOINTS / f"step-{progress.step:08d}"
                        checkpoints.save(folder, state)
                        checkpoints.prune(folder.parent, config.training.keep_checkpoints)
                clock.lap()
            if stopped and progress.step < total:
                raise KeyboardInterrupt(
                    f"stopped after step {progress.step} of {total}; to go on: "
                    f"epitopo train --resume {out}"
                )

    if evolver is not None:
        _snapshot(evolver, ranks)
    if not measures:  # resumed after the last step
        measures = evaluated(recipe, model, ranks)
    summary: dict[str, Any] = {}
    with ranks.together():
        if ranks.rank == 0:
            summary = {
                **scored(recipe, model, measures, progress, out),
                "density": links / recipe.possible,
                "total_density": (links + recipe.spectral) / recipe.possible,
                "active_neuron_rate": (topo.active_neuron_rate(network(model)) if evolver else 1.0),
                "links": links,
                "steps": progress.step,
                "training_flops_relative_to_dense": (
                    progress.all_links / progress.step
                    + recipe.spectral
                    + recipe.weights
                    - recipe.possible
                )
                / recipe.weights,
                "run": {
                    "seconds": progress.seconds,
                    "samples_per_second": progress.all_items / progress.seconds,
                    "unit": task.unit,
                    "processes": ranks.size,
                    "command": command,
                    **machine(recipe.device),
                },
            }
            checkpoints.prune(out / CHECKPOINTS, config.training.keep_checkpoints)
            write_summary(out, summary)
    return summary


def _gradients(
    recipe: Recipe,
    runner: Any,
    parallel: Any,
    step: int,
    ranks: Ranks,
    align: Alignment | None,
) -> tuple[float, int, int]:
    """Do the backward passes of a step: the loss and items of this rank, the items of all.

    The loss is the task's, without what the alignment adds to that which is minimised.
    """
    parts = recipe.task.batches(step, ranks.size)
    items = sum(part.count for part in parts)
    own = parts[ranks.rank :: ranks.size]
    total = torch.zeros((), dtype=torch.float64, device=recipe.device)
    everything = sum(map(_positions, parts))
    for at, part in enumerate(own, start=1):
        batch = recipe.moved(part)
        with parallel.no_sync() if ranks.size > 1 and at < len(own) else nullcontext():
            with recipe.autocast():
                loss = recipe.task.loss(runner, batch)
            whole = loss
            if align is not None:  # a mean over positions, however they are divided into parts
                whole = loss + align() * (items * _positions(part) / everything)
            # DDP takes the mean over ranks of what is to be summed
            (whole * (ranks.size / items)).backward()
        total += loss.detach()
    lost = total.item()
    if not math.isfinite(lost):
        model = unwrap(parallel)
        with recipe.autocast():
            where = first_bad(
                model, lambda: [recipe.task.loss(model, recipe.moved(p)) for p in own]
            )
        raise ValueError(
            f"the loss of step {step + 1} is {lost}: {where}. {_MEND} "
            f"(it was {recipe.config.optimizer.lr})"
        )
    return lost, sum(part.count for part in own), items


def _positions(part: Batch) -> int:
    """How many a part has, padding included; 0 for one that only stands in."""
    return next(iter(part.inputs.values())).numel() if part.count else 0


def _branch_watchers(
    model: nn.Module, config: LowRankConfig
) -> tuple[Alignment | None, CancellationMeter | None]:
    """What adds the alignment to the loss, and what measures the cancellation, where asked for."""
    if not any(isinstance(m, SparseLowRank) for m in model.modules()):
        return None, None
    weight, include, literal = config.alignment, config.aligned, config.literal
    align = Alignment(model, weight, include=include, literal=literal) if weight else None
    return align, CancellationMeter(model)


def _history(out: Path, step: int, ranks: Ranks) -> topo.HistoryWriter | None:
    """The history of a run, cut back to a step; for the first rank."""
    with ranks.together(), warnings.catch_warnings():
        warnings.simplefilter("ignore", topo.HistoryWarning)  # what was lost is written again
        return topo.HistoryWriter.open(out / "topology", step) if ranks.rank == 0 else None


def _check_finite(model: nn.Module, step: int) -> None:
    """Refuse to save or score weights that are not finite: of a gradient that was not."""
    bad = [n for n, p in model.named_parameters() if not bool(p.isfinite().all())]
    if bad:
        raise ValueError(f"step {step} has made {bad[0]!r} not finite. {_MEND}")


def _snapshot(evolver: Evolver, ranks: Ranks) -> None:
    with ranks.together():
        evolver.snapshot()


def _asked(stop: Interrupts, ranks: Ranks) -> bool:
    """Whether one of the ranks was asked to stop."""
    return bool(ranks.sum(np.array([stop.asked], np.float64))[0])


def _links(model: nn.Module) -> int:
    return sum(layer.links for layer in sparse_layers(model).values())
