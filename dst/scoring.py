"""How good a model is: evaluations while it trains, the best one, and the score of the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dst import checkpoints
from dst.build import Recipe
from dst.distributed import Ranks
from dst.progress import Progress
from dst.run_folder import BEST, CHECKPOINTS

logger = logging.getLogger(__name__)

__all__ = ["evaluated", "keep_best", "scored"]


def evaluated(recipe: Recipe, model: nn.Module, ranks: Ranks) -> dict[str, float]:
    """The measures of a model, each rank doing its share."""
    model.eval()
    with torch.no_grad(), recipe.autocast():
        sums = recipe.task.evaluate(model, ranks.rank, ranks.size)
    model.train()
    pooled = ranks.sum(np.array(list(sums.values()), np.float64))
    return recipe.task.measures(dict(zip(sums, pooled.tolist(), strict=True)))


def keep_best(
    recipe: Recipe,
    model: nn.Module,
    measures: Mapping[str, float],
    progress: Progress,
    out: Path,
    ranks: Ranks,
) -> None:
    """Note the best evaluation; keep its model where the score is of that."""
    score = recipe.task.score
    selected = score.selected_by
    value = measures[selected or score.name]
    sign = 1 if score.higher_is_better and not selected else -1
    if progress.best is None or sign * value > sign * progress.best:
        progress.best = value
        with ranks.together():
            if selected and ranks.rank == 0:
                state = {
                    "model": model.state_dict(),
                    "step": progress.step,
                    "data": recipe.fingerprint,
                }
                checkpoints.save(out / CHECKPOINTS / BEST, state)


def scored(
    recipe: Recipe, model: nn.Module, measures: Mapping[str, Any], progress: Progress, out: Path
) -> dict[str, Any]:
    """The part of the summary that says how good the run is."""
    score = recipe.task.score
    tested = _tested(recipe, model)
    last = {**measures, **tested}
    value, best = last[score.name], progress.best
    summary: dict[str, Any] = {"measures": last}
    if score.selected_by:
        step = progress.step
        try:
            saved = checkpoints.read(out / CHECKPOINTS / BEST)
        except checkpoints.CheckpointError as error:
            logger.warning("%s; the last model is scored instead", error)
            best = measures[score.selected_by]
        else:
            step = saved["step"]
            if step != progress.step:  # else it is the last one, whose test may take minutes
                chosen = recipe.model()
                chosen.load_state_dict(saved["model"])
                tested = _tested(recipe, chosen)
        summary["selected"] = {"step": step, score.selected_by: best, **tested}
        value = best = tested[score.name]
    return {
        "score": {
            "name": score.name,
            "value": value,
            "final": last[score.name],
            "best": best,
            "higher_is_better": score.higher_is_better,
        },
        **summary,
    }


def _tested(recipe: Recipe, model: nn.Module) -> dict[str, Any]:
    model.eval()
    with torch.no_grad(), recipe.autocast():
        return recipe.task.test(model)
