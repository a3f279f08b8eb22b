"""What the layers of a model are, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from dst.low_rank import LowRankLinear
from dst.sparse_linear import SparseLinear

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["explain", "has_hooks", "is_linear", "obstacle", "users"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_COLUMNS = ["layer", "kind", "shape", "links", "density", "layout", "reason"]


def explain(model: nn.Module) -> pd.DataFrame:
    """Which layers of a model are sparse, in which layout, and why; which are dense, and why.

    Parameters
    ----------
    model : torch.nn.Module
        Any: before `dst.sparsify`, too, where it lists what could be chosen.

    Returns
    -------
    pandas.DataFrame
        One row per layer that has weights (vectors, such as those of a layer normalisation, are
        left out): layer, kind, shape (that of the weight: out, in), links, density,
        layout ("csr", "masked" or "dense") and reason. A module with several weights has a row
        for each, named by it.

    Examples
    --------
    >>> import torch, dst
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Linear(256, 10))
    >>> table = dst.explain(dst.sparsify(model, density=0.125, exclude="1"))
    >>> print(table.drop(columns="kind").to_string(index=False))
    layer     shape  links  density layout                                              reason
        0 (256, 64)   2048    0.125    csr auto: float32 on the CPU, peak density 0.125 <= 0.4
        1 (10, 256)   2560    1.000  dense                               nn.Linear, not chosen
    """
    import pandas as pd

    owners = users(model)
    rows: list[tuple[object, ...]] = []
    for name, module in model.named_modules():
        kind = module._get_name()
        if isinstance(module, SparseLinear):
            shape: tuple[int, ...] = (module.out_features, module.in_features)
            sparse = (module.links, module.density, module.layout, module.reason)
            rows.append((name, kind, shape, *sparse))
            continue
        weights = dict(_weights(module))
        for own, shape in weights.items():
            alone = own == "weight" or len(weights) == 1
            layer = name if alone else f"{name}.{own}".lstrip(".")
            others = [n for n in owners.get(id(module._parameters.get(own)), []) if n != name]
            reason = _why_dense(module, others)
            rows.append((layer, kind, shape, torch.Size(shape).numel(), 1.0, "dense", reason))
    return pd.DataFrame(rows, columns=_COLUMNS)


def users(model: nn.Module) -> dict[int, list[str]]:
    """The names of the modules that hold each parameter, by its id."""
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            found.setdefault(id(parameter), []).append(name)
    return found


def is_linear(module: nn.Module) -> bool:
    """Whether a pattern of `dst.sparsify` can choose a layer: nn.Linear and what imitates it."""
    if isinstance(module, nn.Linear):
        return not isinstance(module, NonDynamicallyQuantizableLinear)
    return _is_quantised(module)


def obstacle(module: nn.Module) -> tuple[str, str] | None:
    """What keeps such a layer from becoming sparse, and how to mend it; None if nothing does."""
    kind = type(module)
    out = "exclude it"
    if not isinstance(module, nn.Linear):
        return f"is a quantised {kind.__module__}.{kind.__name__}", out
    if isinstance(module, nn.LazyLinear):
        return "is a LazyLinear without a shape", "run a batch through the model first"
    weight = module._parameters.get("weight")
    if parametrize.is_parametrized(module) or weight is None:
        return "has a parametrized weight", "remove that or exclude it"
    # a subclass promises more than a sparse layer keeps
    if kind is not nn.Linear:
        return f"is a {kind.__module__}.{kind.__name__}, not a plain nn.Linear", out
    if type(weight) is not nn.Parameter:
        return f"has a weight of type {type(weight).__name__}, not a plain nn.Parameter", out
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        return f"has a quantised weight ({str(weight.dtype).removeprefix('torch.')})", out
    if has_hooks(module):
        return "has forward hooks, which would be lost", "remove them or exclude it"
    return None


def has_hooks(module: nn.Module) -> bool:
    """Whether more happens in a call of a module than its class says."""
    return any(getattr(module, hooks) for hooks in _HOOKS) or "forward" in vars(module)


def _is_quantised(module: nn.Module) -> bool:
    """Whether a module is one of the many Linear layers that are no nn.Linear and no floats."""
    if "Linear" not in type(module).__name__ or isinstance(module, SparseLinear):
        return False
    weight = getattr(module, "weight", None)
    if isinstance(weight, torch.Tensor):
        return not weight.is_floating_point()
    own = (*module._parameters.values(), *module._buffers.values())
    return callable(weight) or any(t is not None and not t.is_floating_point() for t in own)


def _weights(module: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of a module's own weights."""
    if isinstance(module, parametrize.ParametrizationList):
        return  # listed as what they make
    if is_linear(module):
        shape = getattr(module, "out_features", 0), getattr(module, "in_features", 0)
        yield "weight", shape
        return
    own = dict(module._parameters)
    if parametrize.is_parametrized(module):
        own |= {name: getattr(module, name) for name in module.parametrizations}  # type: ignore[union-attr]
    for name, tensor in own.items():
        if tensor is not None and tensor.dim() > 1:
            yield name, tuple(tensor.shape)


def _why_dense(module: nn.Module, others: list[str]) -> str:
    kind = type(module).__name__
    if isinstance(module, LowRankLinear):
        return f"low rank, {module.rank}"
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "nn.MultiheadAttention reads its weight"
    if not is_linear(module):
        detail = " (its weight is (in, out))" if kind == "Conv1D" else ""
        return f"{kind}, not nn.Linear{detail}"
    if others:
        return f"nn.Linear, shares its weight with {', '.join(others)}"
    found = obstacle(module)
    return f"not chosen: {found[0]}" if found else "nn.Linear, not chosen"
