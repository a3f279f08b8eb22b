"""Replace the linear layers of a model by sparse ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import nn

import topo
from dst.initialization import INITIALIZATIONS, SEED_NAME
from dst.methods import METHODS, Method
from dst.sparse_linear import SparseLinear, check_layout, make_adjacency
from topo.names import find

__all__ = ["linear_layers", "sparsify"]

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)


def sparsify(
    model: M,
    density: float | Mapping[str, float],
    *,
    topology: Any = None,
    method: str | Method | None = None,
    init: str | Callable[..., Any] | None = None,
    layout: str = "auto",
    include: str | Sequence[str] = ("*",),
    exclude: str | Sequence[str] = (),
    allocation: str = "uniform",
    calibration: Any = None,
    seed: int = 0,
) -> M:
    """Replace `torch.nn.Linear` layers by `SparseLinear` ones, in place.

    Parameters
    ----------
    model : torch.nn.Module
    density : float, or mapping of pattern to float
        Share of each layer's possible links that exist, in (0, 1].
    topology : str, matrix, callable, or mapping of pattern to one of these
        As in `SparseLinear`. Default: "small_world", or the start of `method`.
    method : str or Method, optional
        Its start (topology and initial weights) is applied where none is given here.
    init : str or callable
        Weights on the links: "swi" (N(0, 2 / (density * fan_in)), the default), "keep" (the
        model's own), or ``f(linear, adjacency, key)`` that returns one value per link.
    layout : {"auto", "csr"}
    include, exclude : str or sequence of str
        Patterns (fnmatch) on module names. Exclusion is literal, nothing is guessed: a
        classifier head stays dense only if it is named.
    allocation : {"uniform"}
        Every layer has the same density.
    calibration : None
        Inputs for a topology made from data; none of the present ones needs them.
    seed : int
        Topology and weights are a function of it and the layer's name.

    Returns
    -------
    torch.nn.Module
        The same model. Where anything is refused, it is unchanged.

    Raises
    ------
    ValueError
        For a density outside (0, 1] or too small for a layer, an unknown name, a pattern that
        matches nothing, layers that share weights, or a model that is sparse already.

    Examples
    --------
    >>> import torch, dst
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)
    ... )
    >>> dst.sparsify(model, density=0.25, exclude="2")[0]
    SparseLinear(in_features=64, out_features=256, links=4096, density=0.25, layout=csr, bias=True)
    """
    check_layout(layout)
    if allocation != "uniform":
        raise ValueError(f"allocation must be 'uniform', not {allocation!r}")
    if calibration is not None:
        raise ValueError("calibration is for topologies made from data; there is none yet")
    chosen = linear_layers(model, include, exclude)
    start = None if method is None else _as_method(method).start
    if topology is None:
        topology = start.topology if start else "small_world"
    if init is None:
        init = start.init if start else "swi"
    initialize = init if callable(init) else find(INITIALIZATIONS, init, "init")

    replacements = {}
    for name, linear in chosen.items():
        try:
            adjacency = make_adjacency(
                _for_layer(topology, name, "topology"),
                linear.out_features,
                linear.in_features,
                _for_layer(density, name, "density"),
                topo.stream(seed, "topology", name),
            )
            values = initialize(linear, adjacency, topo.stream(seed, SEED_NAME, name))
            replacements[name] = SparseLinear.from_linear(linear, adjacency, values)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
    for name, layer in replacements.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
        logger.info("%s: %s", name, layer)
    left = [n for n, m in model.named_modules() if n and isinstance(m, nn.Linear)]
    logger.info("dense: %s", ", ".join(left) or "none")
    return model


def linear_layers(
    model: nn.Module,
    include: str | Sequence[str] = ("*",),
    exclude: str | Sequence[str] = (),
) -> dict[str, nn.Linear]:
    """The `torch.nn.Linear` layers that the patterns choose, by name, in order.

    Raises
    ------
    ValueError
        If a pattern matches no linear layer, nothing is left, or a chosen layer cannot be
        replaced (shared, tied to another module, the model itself, sparse already).
    """
    everywhere = list(model.named_modules(remove_duplicate=False))
    sparse = [n for n, m in everywhere if isinstance(m, SparseLinear)]
    if sparse:
        raise ValueError(f"the model is sparse already: {', '.join(map(repr, sparse))}")
    # exactly nn.Linear: a subclass promises more than a sparse layer keeps
    linear = {n: m for n, m in everywhere if type(m) is nn.Linear}
    if "" in linear:
        raise ValueError("the model is itself one Linear layer: wrap it in torch.nn.Sequential")
    included, excluded = _patterns(include), _patterns(exclude)
    for pattern in (*included, *excluded):
        if not any(fnmatchcase(n, pattern) for n in linear):
            there_are = ", ".join(linear) or "none"
            raise ValueError(
                f"the pattern {pattern!r} matches no Linear layer; they are {there_are}"
            )
    chosen = {
        n: m
        for n, m in linear.items()
        if any(fnmatchcase(n, p) for p in included) and not any(fnmatchcase(n, p) for p in excluded)
    }
    if not chosen:
        raise ValueError("no Linear layer is left to sparsify: see include and exclude")
    users: dict[int, list[str]] = {}
    for name, module in everywhere:
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), []).append(name)
    for name, layer in chosen.items():
        if layer._parameters.get("weight") is None:
            raise ValueError(f"layer {name!r} has a parametrized weight: remove that or exclude it")
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise ValueError(f"layer {name!r} has forward hooks, which would be lost: remove them")
        sharing = users[id(layer.weight)]
        if len(sharing) > 1:
            raise ValueError(
                f"layer {name!r} shares its weight ({', '.join(sharing)}): "
                "untie the weights or exclude it"
            )
    return chosen


def _patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _for_layer(given: Any, name: str, what: str) -> Any:
    if not isinstance(given, Mapping):
        return given
    for pattern, value in given.items():
        if fnmatchcase(name, pattern):
            return value
    raise ValueError(f"no pattern of {what} matches it: {', '.join(map(repr, given))}")


def _as_method(method: str | Method) -> Method:
    return method if isinstance(method, Method) else find(METHODS, method, "method")
