"""A LLaMA some of whose layers are two branches, or of low rank, for Hugging Face's transformers.

`epitopo export` copies this file beside the weights; it needs torch and transformers alone.
"""

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

__all__ = ["LowRankLlama", "LowRankLlamaConfig"]


class LowRankLlamaConfig(LlamaConfig):
    """The configuration of a LLaMA, and which of its layers have a branch ``B silu(A x)``.

    Parameters
    ----------
    ranks : dict of str to int
        Of each such layer, by name.
    alone : list of str
        The layers that have no other branch.
    **options
        As `LlamaConfig`.
    """

    model_type = "low_rank_llama"

    def __init__(
        self,
        ranks: dict[str, int] | None = None,
        alone: list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.ranks, self.alone = ranks or {}, alone or []


class LowRankLlama(LlamaForCausalLM):
    """A LLaMA whose layers in ``config.ranks`` are ``W x + B silu(A x)``, or the latter alone."""

    config_class = LowRankLlamaConfig

    def __init__(self, config: LowRankLlamaConfig) -> None:
        super().__init__(config)
        for name, rank in config.ranks.items():
            parent, _, child = name.rpartition(".")
            dense: Any = self.get_submodule(name)
            into = nn.Linear(dense.in_features, rank, bias=False)
            out = nn.Linear(rank, dense.out_features, bias=False)
            branch = nn.Sequential(into, nn.SiLU(), out)
            whole = branch if name in config.alone else _Sum(dense, branch)
            setattr(self.get_submodule(parent), child, whole)


class _Sum(nn.Sequential):
    """The sum of what modules make of one input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[0](x) + self[1](x)
