"""Where numbers went bad: which layer made the loss not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["first_bad"]


def first_bad(model: nn.Module, forward: Callable[[], Any]) -> str:
    """Say which layer holds, or is the first to give, numbers that are not finite.

    Parameters
    ----------
    model : torch.nn.Module
    forward : callable
        Runs the model on the batch at which the loss went bad.

    Returns
    -------
    str
        Such as ``"the weight of 'fc1' is not finite"``.

    Examples
    --------
    >>> import torch
    >>> from dst.divergence import first_bad
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    >>> _ = model[1].bias.data.fill_(float("nan"))
    >>> first_bad(model, lambda: model(torch.ones(1, 2)))
    "bias of '1' is not finite"
    """
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            layer, _, kind = name.rpartition(".")
            return f"{kind} of {layer!r} is not finite"
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            given = [t for t in inputs if isinstance(t, Tensor)]
            made = output if isinstance(output, (tuple, list)) else [output]
            bad = any(isinstance(t, Tensor) and not _finite(t) for t in made)
            if bad and all(map(_finite, given)):
                found.append(name)

        return hook

    leaves = [(n, m) for n, m in model.named_modules() if not any(m.children())]
    handles = [m.register_forward_hook(look(n)) for n, m in leaves]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return f"{found[0]!r} is the first layer whose output is not finite"
    return "all weights and all layers' outputs are finite"


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
