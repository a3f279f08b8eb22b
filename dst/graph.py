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
from dst.couplings import NEURONWISE, blocks
from dst.sparse_linear import SparseLinear

__all__ = ["network", "sparse_layers", "unwrap"]

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
        Which layers share neurons. By default this is read off the model. The blocks of LLaMA,
        Mistral, BART, Marian, T5, their likes and `torch.nn.Transformer` are known: queries and
        keys are coupled per head (in pairs where rotary embeddings mix them), values with
        outputs, the layers of a feed-forward block. Elsewhere the outputs of a sparse layer are
        coupled to the inputs of others if they reach those, and nothing else, through functions
        of each neuron (activations, dropout, batch normalisation, products of two layers as in
        gated units). Anything else between two layers - an excluded dense layer, a residual sum,
        layer normalisation - ends the coupling.

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
        If the model cannot be traced, and nothing in it is known; then no neurons are coupled.

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
        couplings, error = _couplings(unwrap(model), layers)
        if error is not None:
            warnings.warn(
                f"the model cannot be traced ({type(error).__name__}), so each of its layers "
                "evolves alone, without percolation: pass "
                "couplings=[topo.Coupling(outputs=..., inputs=...)] to declare which layers share "
                "neurons, or couplings=() to silence this",
                stacklevel=2,
            )
    return topo.Network({n: layer.adjacency for n, layer in layers.items()}, couplings)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, SparseLinear) or super().is_leaf_module(m, module_qualified_name)


def _couplings(
    model: nn.Module, layers: dict[str, SparseLinear]
) -> tuple[list[topo.Coupling], Exception | None]:
    """What is known and what can be traced; the error where that is nothing at all."""
    found, known = blocks(model, layers)
    traced: set[str] = set()
    error: Exception | None = None
    pending = [("", model)]
    while pending:  # the whole model, or else the largest parts that can be traced
        name, part = pending.pop()
        prefix = f"{name}." if name else ""
        inside = {n.removeprefix(prefix): m for n, m in layers.items() if n.startswith(prefix)}
        if len(inside) < 2 or traced.issuperset(prefix + n for n in inside):
            continue
        try:
            couplings, reached = _trace(part, inside)
        except Exception as raised:  # whatever the part's own code raises on symbolic inputs
            couplings, reached = [], set()
            error = error or raised
        found += [_renamed(c, prefix) for c in couplings]
        traced |= {prefix + n for n in reached}
        pending += [(prefix + n, child) for n, child in part.named_children()]
    # a layer with several names may be called from anywhere
    names = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    once = {n for n, layer in layers.items() if names[id(layer)] == 1}
    sound = {c for c in found if once.issuperset(c.outputs + c.inputs)}
    order = list(layers)
    return sorted(sound, key=lambda c: order.index(c.outputs[0])), (
        None if known or traced else error
    )


def _renamed(c: topo.Coupling, prefix: str) -> topo.Coupling:
    outputs, inputs = (tuple(prefix + n for n in side) for side in (c.outputs, c.inputs))
    return topo.Coupling(outputs, inputs)


def _trace(
    model: nn.Module, layers: dict[str, SparseLinear]
) -> tuple[list[topo.Coupling], set[str]]:
    """The couplings in the forward pass of a module, and the layers that it calls."""
    # a copy, whose tensors are shared: a model may keep what passes through it
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    nodes = list(_Tracer().trace(copy.deepcopy(model, tensors)).nodes)
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
    couplings = [
        topo.Coupling(tuple(n for n in layers if n in names), tuple(inputs))
        for names, inputs in readers.items()
        if not names & open_ended and all(times[n] == 1 for n in names)
    ]
    return couplings, {name for name in layers if name in calls}


def _is_neuronwise(node: fx.Node, module: nn.Module | None, sources: int) -> bool:
    target: Any = node.target
    if len(node.all_input_nodes) == 2:
        return sources == 2 and target in _PRODUCTS
    return isinstance(module, NEURONWISE) or (
        target in (_METHODS if node.op == "call_method" else _FUNCTIONS)
    )
