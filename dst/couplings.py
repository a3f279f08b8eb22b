"""Which neurons the blocks of Transformers share: a table of block patterns.

A block is recognised by the names of its children, whatever class it is of, and only where those
are all that it has: anything else in it might mix neurons. Percolation is exact for what is
coupled here, so what is in doubt is left uncoupled.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import topo

__all__ = ["NEURONWISE", "blocks"]

# What acts on each neuron by itself: its output i depends on its input i alone.
NEURONWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid,
    nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Threshold, nn.PReLU,
    nn.Dropout, nn.AlphaDropout, nn.Identity, nn.BatchNorm1d,
)  # fmt: skip


@dataclass(frozen=True)
class _FeedForward:
    """The outputs of `into` are multiplied, each neuron by itself, and read by `out`."""

    into: tuple[str, ...]
    out: str
    needs: tuple[str, ...]  # further children that the block has
    may: str = ""  # a pattern of the names of those that it may have

    def couplings(
        self, block: nn.Module, prefix: str, sparse: Mapping[str, Any]
    ) -> Iterator[topo.Coupling] | None:
        if not _consists_of(block, (*self.into, self.out), self.needs, self.may):
            return None
        widths = {getattr(block, name).out_features for name in self.into}
        if widths != {getattr(block, self.out).in_features}:
            return None
        return self._couplings(prefix, sparse)

    def _couplings(self, prefix: str, sparse: Mapping[str, Any]) -> Iterator[topo.Coupling]:
        # a dense factor is never 0, so the product lives iff the sparse ones do
        outputs = tuple(prefix + n for n in self.into if prefix + n in sparse)
        inputs = tuple(prefix + n for n in (self.out,) if prefix + n in sparse)
        if outputs and len(outputs + inputs) > 1:
            yield topo.Coupling(outputs, inputs)


@dataclass(frozen=True)
class _Attention:
    """Queries and keys meet in a dot product per head; outputs read the values of their head."""

    q: str
    k: str
    v: str
    o: str
    head_dim: str  # the attribute that says it
    may: str = ""
    adds_bias: bool = False  # positions are a bias on the scores, so queries and keys stay as is

    def couplings(
        self, block: nn.Module, prefix: str, sparse: Mapping[str, Any]
    ) -> Iterator[topo.Coupling] | None:
        if not _consists_of(block, (self.q, self.k, self.v, self.o), (), self.may):
            return None
        q, k, v = (getattr(block, n).out_features for n in (self.q, self.k, self.v))
        head_dim = getattr(block, self.head_dim, None)
        if not isinstance(head_dim, int) or not head_dim or k != v or q % k or k % head_dim:
            return None
        if getattr(block, self.o).in_features != q:
            return None
        # repeat_kv of Hugging Face: head h of the queries meets head h // groups
        if getattr(block, "num_key_value_groups", 1) != q // k:
            return None
        return self._couplings(block, prefix, sparse, head_dim)

    def _couplings(
        self, block: nn.Module, prefix: str, sparse: Mapping[str, Any], head_dim: int
    ) -> Iterator[topo.Coupling]:
        q, k, v, o = (prefix + n for n in (self.q, self.k, self.v, self.o))
        rotary = False if self.adds_bias else _rotary(block)
        if q in sparse and k in sparse and rotary is not None:
            yield topo.Coupling((q, k), (), head_dim, rotary)
        if v in sparse and o in sparse:
            yield topo.Coupling((v,), (o,), head_dim)


_FAMILIES: dict[str, _FeedForward | _Attention] = {
    # with q_norm and k_norm (Qwen3, Gemma 3) only values and outputs are coupled
    "LLaMA, Mistral, Qwen, Gemma": _Attention(
        "q_proj", "k_proj", "v_proj", "o_proj", "head_dim", may="[qk]_norm|rotary_emb"
    ),
    "LLaMA, Mistral, Qwen, Gemma: gated": _FeedForward(
        ("gate_proj", "up_proj"), "down_proj", ("act_fn",)
    ),
    "BART, Marian, OPT, Whisper": _Attention("q_proj", "k_proj", "v_proj", "out_proj", "head_dim"),
    "BART, Marian, OPT, Whisper: layer": _FeedForward(
        ("fc1",),
        "fc2",
        ("self_attn", "self_attn_layer_norm", "final_layer_norm"),
        "activation_fn|encoder_attn|encoder_attn_layer_norm",
    ),
    "T5": _Attention(
        "q", "k", "v", "o", "key_value_proj_dim", "relative_attention_bias", adds_bias=True
    ),
    "T5: feed-forward": _FeedForward(("wi",), "wo", ("act", "dropout")),
    "T5 1.1: gated": _FeedForward(("wi_0", "wi_1"), "wo", ("act", "dropout")),
    "torch.nn.Transformer: layer": _FeedForward(
        ("linear1",), "linear2", ("self_attn", "norm1", "norm2"), "multihead_attn|norm3|activation"
    ),
}


def blocks(model: nn.Module, sparse: Mapping[str, Any]) -> tuple[list[topo.Coupling], set[str]]:
    """The couplings of the blocks that are known, and the names of the modules that are.

    Parameters
    ----------
    model : torch.nn.Module
    sparse : mapping by layer name
        The layers that are sparse; others are not coupled.
    """
    found: list[topo.Coupling] = []
    known: set[str] = set()
    for name, block in model.named_modules():
        prefix = f"{name}." if name else ""
        for family in _FAMILIES.values():
            couplings = family.couplings(block, prefix, sparse)
            if couplings is not None:
                found.extend(couplings)
                known.add(name)
    return found, known


def _consists_of(
    block: nn.Module, layers: tuple[str, ...], needs: tuple[str, ...], may: str
) -> bool:
    children = dict(block.named_children())
    if not set(layers + needs) <= set(children) or any(True for _ in block.parameters(False)):
        return False
    if not all(hasattr(children[n], "in_features") for n in layers):
        return False
    return all(
        name in layers + needs or isinstance(child, NEURONWISE) or re.fullmatch(may, name)
        for name, child in children.items()
    )


def _rotary(block: nn.Module) -> bool | None:
    """Whether positions rotate queries and keys, in pairs (i, i + head_dim / 2).

    None where they do something else, or queries and keys are normalised over their neurons.
    """
    if hasattr(block, "q_norm") or hasattr(block, "k_norm"):
        return None
    forward = inspect.unwrap(type(block).forward)
    code = getattr(forward, "__code__", None)
    if code is None or _partly_rotary(getattr(block, "config", None)):
        return None
    if "apply_rotary_pos_emb" in code.co_names:
        return True if _pairs_halves(forward.__globals__.get("apply_rotary_pos_emb")) else None
    words = " ".join(code.co_names + code.co_varnames)
    return None if re.search(r"rot|rope|position|relative", words) else False


def _partly_rotary(config: Any) -> bool:
    rope = getattr(config, "rope_parameters", None)
    rope = rope if isinstance(rope, dict) else {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    shares = [kind.get("partial_rotary_factor") for kind in kinds]
    shares.append(getattr(config, "partial_rotary_factor", None))
    return any(share not in (None, 1) for share in shares)


def _pairs_halves(apply: Any) -> bool:
    """Try it: see which positions of a head of four each one mixes with."""
    heads, ones = torch.eye(4).reshape(1, 1, 4, 4), torch.ones(1, 4, 4)
    try:
        queries, keys = apply(heads, heads, ones, ones)
    except Exception:  # of other arguments: not the function we know
        return False
    expected = torch.eye(4) + torch.eye(4).roll(2, dims=1)
    return all(
        x.shape == heads.shape and torch.equal((x[0, 0] != 0).float(), expected)
        for x in (queries, keys)
    )
