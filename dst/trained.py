"""The model of a run that was trained, and its form for other programs."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from dst import checkpoints
from dst.build import Recipe, device_of
from dst.configure import saved_config
from dst.densify import densify
from dst.run_folder import BEST, CHECKPOINTS, removed_on_error
from topo.files import is_taken

__all__ = ["export", "trained"]


def trained(run: Path) -> tuple[Recipe, nn.Module]:
    """The model of a run: of its best evaluation where the run is scored so, else the last one.

    Returns
    -------
    Recipe
        With the task.
    torch.nn.Module
        In evaluation mode.

    Raises
    ------
    ValueError
        If there is no run or no checkpoint, or it is damaged.
    """
    _, config = saved_config(run)
    folder = run / CHECKPOINTS
    best = checkpoints.is_there(folder / BEST)
    saved = checkpoints.read(folder / BEST) if best else checkpoints.latest(folder)
    if saved is None:
        raise ValueError(f"{run} has no checkpoint yet: train it (epitopo train --resume {run})")
    recipe = Recipe(config, config.task(), device_of(config.training.device))
    recipe.check_data(saved)
    model = recipe.model()
    model.load_state_dict(saved["model"])
    return recipe, model.eval()


def export(run: Path, out: Path) -> None:
    """Write the model of a run, dense, as Hugging Face or safetensors load it.

    Parameters
    ----------
    run : Path
    out : Path
        A folder that does not exist, or is empty.

    Raises
    ------
    ValueError
        If the folder holds something, or the run has no checkpoint.
    """
    if is_taken(out):
        raise ValueError(f"{out} exists already: give another --out, or remove it")
    recipe, model = trained(run)
    with removed_on_error(out):
        out.mkdir(parents=True, exist_ok=True)
        recipe.task.export(densify(model).cpu(), out)
