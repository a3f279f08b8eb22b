"""Replace the linear layers of a model by sparse ones, or ones of low rank, or both."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import nn

import topo
from dst.allocation import ALLOCATIONS
from dst.explain import explain, is_linear, obstacle, users
from dst.initialization import INITIALIZATIONS, SEED_NAME
from dst.layouts import LAYOUTS
from dst.low_rank import LowRank, LowRankLinear, as_low_rank
from dst.methods import Method, as_method
from dst.patterns import choose
from dst.sparse_linear import SparseLinear, make_adjacency
from dst.sparse_low_rank import SparseLowRank
from topo.names import find

__all__ = ["factorize", "linear_layers", "replace", "sparsify"]

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)

# torch's fused inference kernels read `linear1.weight` and know nothing of links: what each class
# asks before it takes them, and the answer that keeps it from that.
_FAST_PATHS: dict[type[nn.Module], tuple[str, Any]] = {
    nn.TransformerEncoderLayer: ("activation_relu_or_gelu", 0),
    nn.TransformerEncoder: ("use_nested_tensor", False),
}
_LINEAR = re.compile(r"(^|\.)linear[12]$")  # what those kernels read
_WAS = "_dense_fast_path"  # the answer of the dense module


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
    rank: int | Mapping[str, int] | None = None,
    low_rank: str | LowRank = "silu",
    seed: int = 0,
) -> M:
    """Replace `torch.nn.Linear` layers by `SparseLinear` ones, in place.

    Parameters
    ----------
    model : torch.nn.Module
    density : float, or mapping of pattern to float
        Share of the possible links that a layer ends with, in (0, 1]; the first pattern that
        matches counts. A method may start with more.
    topology : str, matrix, callable, or mapping of pattern to one of these
        As in `SparseLinear`, or "correlated": links between the features of `calibration` that
        vary together (CSTI, `topo.correlated`). Default: "small_world", or the start of `method`.
    method : str or Method, optional
        Its start (density, topology and initial weights) is applied where none is given here.
    init : str or callable
        Weights on the links: "swi" (N(0, 2 / (density * fan_in)), the default), "keep" (the
        model's own), or ``f(linear, adjacency, key)`` that returns one value per link.
    layout : {"auto", "csr", "masked"}
        How weights are stored; "auto" is the rule of `dst.choose_layout`, and `dst.explain` says
        what it chose.
    include, exclude : str or sequence of str
        Patterns (fnmatch) on module names. Exclusion is literal, nothing is guessed: a
        classifier head stays dense only if it is named.
    allocation : {"uniform", "erk"}
        Whether every layer has this density, or all together, Erdos-Renyi-kernel: layers have
        links in proportion to their neurons (`dst.allocation`).
    calibration : array_like or Tensor, shape (samples, ...), optional
        Training inputs, for topologies made from data. Methods that have one ("cht", "chts", ...)
        start with it then.
    rank : int, or mapping of pattern to int, optional
        Give layers a branch of this low rank beside the sparse one (`SparseLowRank`): all, or
        those that a pattern matches; 0: none. `density` is that of the sparse branch, and
        `dst.budget` divides a budget of weights among both.
    low_rank : str or LowRank
        What that branch computes, by name in `dst.LOW_RANKS` ("silu", "linear", "sltrain").
    seed : int
        Topology and weights are a function of it and the layer's name.

    Returns
    -------
    torch.nn.Module
        The same model. Where anything is refused, it is unchanged. The table of `dst.explain` is
        logged (logger "dst.sparsify", level INFO).

    Raises
    ------
    ValueError
        For a density outside (0, 1] or too small for a layer, an unknown name, a pattern that
        matches nothing, a layer that shares its weight, is quantised, parametrized or hooked, or
        a model that is sparse already.

    Notes
    -----
    The inner paths of `torch.nn.TransformerEncoderLayer` that read the weights of its layers
    instead of calling them are switched off where those are sparse.

    See Also
    --------
    densify : the inverse
    factorize : low rank alone
    explain : what the layers are

    Examples
    --------
    >>> import torch, dst
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)
    ... )
    >>> dst.sparsify(model, density=0.125, exclude="2")[0]
    SparseLinear(in_features=64, out_features=256, links=2048, density=0.125, layout=csr, bias=True)
    """
    find(dict.fromkeys(LAYOUTS), layout, "layout")
    form = as_low_rank(low_rank)
    allocate = find(ALLOCATIONS, allocation, "allocation")
    if isinstance(density, Mapping) and allocation != "uniform":
        raise ValueError(
            f"allocation {allocation!r} makes the layers' densities from one number, not from a "
            "mapping: give a number, or allocation='uniform'"
        )
    chosen = linear_layers(model, include, exclude)
    start = None
    if method is not None:
        method = as_method(method)
        start = method.start
    if topology is None and start is not None:
        topology = start.topology if calibration is None else start.calibrated or start.topology
    if topology is None:
        topology = "small_world"
    topologies = topology.values() if isinstance(topology, Mapping) else (topology,)
    features = None if calibration is None else _features(calibration)
    if features is not None and not any(_is_correlated(t) for t in topologies):
        raise ValueError(
            f"calibration is given, but the topology, {topology!r}, is not made from data: "
            "pass topology='correlated', or no calibration"
        )
    if init is None:
        init = start.init if start else "swi"
    initialize = init if callable(init) else find(INITIALIZATIONS, init, "init")

    for what, given in (("density", density), ("topology", topology), ("rank", rank)):
        _check_patterns(given, what, chosen)
    shapes = {n: (m.out_features, m.in_features) for n, m in chosen.items()}
    allocated = None if isinstance(density, Mapping) else allocate(shapes, density)

    replacements: dict[str, nn.Module] = {}
    for name, linear in chosen.items():
        try:
            share = allocated[name] if allocated else _for_layer(density, name, "density")
            n_out, n_in = shapes[name]
            final = topo.link_count(share, n_out, n_in)
            peak = share
            if method is not None:
                peak = method.peak_density(final, n_out * n_in)
                share = method.links(final, n_out * n_in, 0.0) / (n_out * n_in)
            wanted = _for_layer(topology, name, "topology")
            if _is_correlated(wanted):
                if features is None:
                    raise ValueError(
                        "the topology 'correlated' is made from data: pass calibration=inputs"
                    )
                wanted = partial(_correlated, features)
            key = topo.stream(seed, "topology", name)
            adjacency = make_adjacency(wanted, n_out, n_in, share, key)
            values = initialize(linear, adjacency, topo.stream(seed, SEED_NAME, name))
            layer = SparseLinear.from_linear(
                linear, adjacency, values, layout=layout, peak_density=peak
            )
            layer.final_links, layer.init = final, init if isinstance(init, str) else "given"
            replacements[name] = layer
            of_layer = _rank(rank, name)
            if of_layer != 0 or isinstance(of_layer, bool):
                replacements[name] = _with_low_rank(linear, layer, of_layer, form, seed, name)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
    replace(model, replacements)
    if logger.isEnabledFor(logging.INFO):
        logger.info("sparsified:\n%s", explain(model).to_string(index=False))
    return model


def factorize(
    model: M,
    rank: int | Mapping[str, int],
    *,
    low_rank: str | LowRank = "silu",
    include: str | Sequence[str] = ("*",),
    exclude: str | Sequence[str] = (),
    seed: int = 0,
) -> M:
    """Replace `torch.nn.Linear` layers by `LowRankLinear` ones, in place: CoLA.

    Parameters
    ----------
    model : torch.nn.Module
    rank : int, or mapping of pattern to int
    low_rank : str or LowRank
        What the layers compute, by name in `dst.LOW_RANKS`.
    include, exclude : str or sequence of str
        As in `sparsify`.
    seed : int
        The weights are a function of it and the layer's name.

    Returns
    -------
    torch.nn.Module
        The same model. Where anything is refused, it is unchanged.

    Raises
    ------
    ValueError
        As `sparsify`, and for a rank that a layer cannot have.

    Examples
    --------
    >>> import torch, dst
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 10))
    >>> dst.factorize(model, 4, exclude="1")[0]
    LowRankLinear(in_features=64, out_features=32, rank=4, activation=silu, bias=True)
    """
    form = as_low_rank(low_rank)
    chosen = linear_layers(model, include, exclude)
    _check_patterns(rank, "rank", chosen)
    replacements = {}
    for name, linear in chosen.items():
        try:
            replacements[name] = LowRankLinear.from_linear(
                linear, _for_layer(rank, name, "rank"), form, topo.stream(seed, "low rank", name)
            )
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
    replace(model, replacements)
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
    already = [n for n, m in everywhere if isinstance(m, (SparseLinear, LowRankLinear))]
    if already:
        raise ValueError(f"the model is sparse already: {', '.join(map(repr, already))}")
    linear: dict[str, Any] = {n: m for n, m in everywhere if is_linear(m)}
    if "" in linear:
        raise ValueError("the model is itself one Linear layer: wrap it in torch.nn.Sequential")
    chosen = choose(linear, include, exclude, "Linear layer")
    owners = users(model)
    for name, layer in chosen.items():
        found = obstacle(layer)
        if found:
            raise ValueError(f"layer {name!r} {': '.join(found)}")
        sharing = owners[id(layer.weight)]
        if len(sharing) > 1:
            raise ValueError(
                f"layer {name!r} shares its weight ({', '.join(sharing)}): "
                "untie the weights or exclude it"
            )
    return chosen


def replace(model: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Put other modules in the places of these names."""
    for name, module in replacements.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
    for module in model.modules():
        for kind, (switch, off) in _FAST_PATHS.items():
            if isinstance(module, kind):
                named = list(module.named_modules())
                if any(_LINEAR.search(n) and type(m) is not nn.Linear for n, m in named):
                    vars(module).setdefault(_WAS, getattr(module, switch))
                    setattr(module, switch, off)
                elif _WAS in vars(module):
                    setattr(module, switch, vars(module).pop(_WAS))


def _check_patterns(given: Any, what: str, chosen: Iterable[str]) -> None:
    for pattern in given if isinstance(given, Mapping) else ():
        if not any(fnmatchcase(n, pattern) for n in chosen):
            raise ValueError(
                f"the pattern {pattern!r} of {what} matches no chosen layer; they are "
                f"{', '.join(chosen)}"
            )


def _with_low_rank(
    linear: nn.Linear, layer: SparseLinear, rank: int, form: LowRank, seed: int, name: str
) -> SparseLowRank:
    branch = LowRankLinear.from_linear(linear, rank, form, topo.stream(seed, "low rank", name))
    branch.register_parameter("bias", None)  # it is the sparse branch's, then that of the whole
    return SparseLowRank(layer, branch).train(linear.training)


def _rank(rank: int | Mapping[str, int] | None, name: str) -> int:
    """Of a layer's branch of low rank; 0 where it has none."""
    if isinstance(rank, Mapping):
        rank = next((r for pattern, r in rank.items() if fnmatchcase(name, pattern)), None)
    return 0 if rank is None else rank


def _for_layer(given: Any, name: str, what: str) -> Any:
    if not isinstance(given, Mapping):
        return given
    for pattern, value in given.items():
        if fnmatchcase(name, pattern):
            return value
    raise ValueError(f"no pattern of {what} matches it: {', '.join(map(repr, given))}")


def _is_correlated(topology: Any) -> bool:
    return isinstance(topology, str) and topology == "correlated"


def _features(calibration: Any) -> npt.NDArray[Any]:
    """The samples as rows."""
    if isinstance(calibration, torch.Tensor):
        calibration = calibration.detach().cpu().numpy()
    samples = np.asarray(calibration)
    if samples.ndim < 2:
        raise ValueError(f"calibration is of shape (samples, features), not {samples.shape}")
    return samples.reshape(len(samples), -1)


def _correlated(
    features: npt.NDArray[Any], n_out: int, n_in: int, density: float, *, seed: int
) -> sparse.csr_array:
    return topo.correlated(features, n_out, density, n_in=n_in, seed=seed)
