"""The graph of a model: its sparse layers and which of their neurons are the same."""

from __future__ import annotations

import copy
import operator
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.optim.swa_utils import AveragedModel

import topo
from dst.sparse_linear import SparseLinear

__all__ = ["network", "sparse_layers", "unwrap"]

# What acts on each neuron by itself: its output i depends on its input i alone.
_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid,
    nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Threshold, nn.PReLU,
    nn.Dropout, nn.AlphaDropout, nn.Identity, nn.BatchNorm1d,
)  # fmt: skip
_FUNCTIONS = {
    F.relu, F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.softplus,
    F.sigmoid, F.tanh, F.hardtanh, F.hardswish, F.hardsigmoid, F.dropout, F.alpha_dropout,
    torch.relu, torch.sigmoid, torch.tanh, torch.abs, torch.square, torch.sin, torch.clamp,
}  # fmt: skip
_METHODS = {"relu", "sigmoid", "tanh", "abs", "square", "sin", "clamp", "contiguous"}
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul"}


def sparse_layers(model: nn.Module) -> dict[str, SparseLinear]:
    """The sparse layers of a model by module name, in order of definition."""
    return {n: m for n, m in unwrap(model).named_modules() if isinstance(m, SparseLinear)}


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside torch's wrappers: its layers have the same names with and without them."""
    while True:
        if hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, _WRAPPERS):
            model = model.module
        else:
            return model


def network(model: nn.Module, couplings: Iterable[topo.Coupling] | None = None) -> topo.Network:
    """The sparse layers of a model as a graph.

    Parameters
    ----------
    model : torch.nn.Module
    couplings : iterable of topo.Coupling, optional
        Which layers share neurons. By default this is read off the model: the outputs of a sparse
        layer are coupled to the inputs of others if they reach those, and nothing else, through
        functions of each neuron (activations, dropout, batch normalisation, products of two
        layers as in gated units). Anything else between two layers - an excluded dense layer, a
        residual sum, layer normalisation - ends the coupling.

    Returns
    -------
    topo.Network
        Its layers are keyed by module name.

    Raises
    ------
    ValueError
        If the model has no sparse layer.

    Warns
    -----
    UserWarning
        If the model cannot be traced; then no neurons are coupled.

    Examples
    --------
    >>> import torch, dst
    >>> nn = torch.nn
    >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 2))
    >>> dst.network(dst.sparsify(model, 0.5, exclude="3")).couplings
    (Coupling(outputs=('0',), inputs=('2',)),)
    """
    layers = sparse_layers(model)
    if not layers:
        raise ValueError("the model has no sparse layer: call dst.sparsify first")
    if couplings is None:
        couplings = _trace(unwrap(model), layers)
    return topo.Network({n: layer.adjacency for n, layer in layers.items()}, couplings)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, SparseLinear) or super().is_leaf_module(m, module_qualified_name)


def _trace(model: nn.Module, layers: dict[str, SparseLinear]) -> list[topo.Coupling]:
    if isinstance(model, SparseLinear):
        return []
    try:
        # a copy, whose tensors are shared: a model may keep what passes through it
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        nodes = list(_Tracer().trace(copy.deepcopy(model, tensors)).nodes)
    except Exception as error:  # whatever the model's own code raises on symbolic inputs
        warnings.warn(
            f"the model cannot be traced ({type(error).__name__}), so each of its layers evolves "
            "alone, without percolation: pass couplings=[topo.Coupling(outputs=..., inputs=...)] "
            "to declare which layers share neurons, or couplings=() to silence this",
            stacklevel=3,
        )
        return []
    calls = Counter(n.target for n in nodes if n.op == "call_module")
    signal: dict[fx.Node, frozenset[str]] = {}  # the layers whose outputs a node is made of
    readers: dict[frozenset[str], list[str]] = {}
    open_ended: set[str] = set()  # layers whose outputs go where we cannot follow
    for node in nodes:
        sources = [signal[a] for a in node.all_input_nodes if a in signal]
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, SparseLinear):
            name = str(node.target)
            if calls[node.target] > 1:
                open_ended.update({name}.union(*sources))
            elif sources:
                readers.setdefault(sources[0], []).append(name)
            signal[node] = frozenset({name})
        elif sources and _is_neuronwise(node, module, len(sources)):
            together = frozenset().union(*sources)
            signal[node] = together
            if len({layers[n].out_features for n in together}) > 1:  # a product that broadcasts
                open_ended.update(together)
        else:
            open_ended.update(*sources)
    times = Counter(name for names in readers for name in names)
    return [
        topo.Coupling(tuple(n for n in layers if n in names), tuple(inputs))
        for names, inputs in readers.items()
        if not names & open_ended and all(times[n] == 1 for n in names)
    ]


def _is_neuronwise(node: fx.Node, module: nn.Module | None, sources: int) -> bool:
    target: Any = node.target
    if len(node.all_input_nodes) == 2:
        return sources == 2 and target in _PRODUCTS
    return isinstance(module, _MODULES) or (
        target in (_METHODS if node.op == "call_method" else _FUNCTIONS)
    )
