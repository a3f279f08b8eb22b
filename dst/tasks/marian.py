"""Hugging Face's Marian Transformer: made from sizes, and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dst.tasks.bpe import END, PAD, Tokenizer

__all__ = ["export_marian", "marian"]


def marian(
    *,
    vocabularies: tuple[int, int],
    shared: bool,
    pad: int,
    end: int,
    positions: int,
    layers: int,
    width: int,
    heads: int,
    ffn: int,
    dropout: float,
    attention_dropout: float,
) -> nn.Module:
    """A `MarianMTModel`: the Transformer of Vaswani et al. 2017.

    Linear layers have Glorot's uniform weights and no bias at first. Embeddings are normal with
    deviation 1 / sqrt(width), and multiplied by sqrt(width) where they are read; the decoder's is
    also the output layer.

    Parameters
    ----------
    vocabularies : tuple of int
        Tokens of the source and of the target.
    shared : bool
        One embedding for both.
    pad, end : int
        Ids of the marks; the decoder starts from `pad`.
    positions : int
        Tokens of the longest sentence, with the mark of its end.
    layers, width, heads, ffn : int
        Sizes; as many layers in the encoder as in the decoder.
    dropout, attention_dropout : float

    Returns
    -------
    torch.nn.Module
    """
    library = _library()
    config = library.MarianConfig(
        vocab_size=vocabularies[0],
        decoder_vocab_size=vocabularies[1],
        share_encoder_decoder_embeddings=shared,
        max_position_embeddings=positions,
        encoder_layers=layers,
        decoder_layers=layers,
        d_model=width,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=ffn,
        decoder_ffn_dim=ffn,
        activation_function="relu",
        dropout=dropout,
        attention_dropout=attention_dropout,
        scale_embedding=True,
        pad_token_id=pad,
        eos_token_id=end,
        decoder_start_token_id=pad,
        forced_eos_token_id=None,
    )
    model: Any = library.MarianMTModel(config)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and name != "lm_head":
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding) and module.weight.requires_grad:
                nn.init.normal_(module.weight, std=width**-0.5)
                module.weight[pad] = 0
    return model


def export_marian(
    model: Any, folder: Path, tokenizers: tuple[Tokenizer, Tokenizer], *, beams: int, longest: int
) -> None:
    """Save a `MarianMTModel` with its tokenizers and the settings of `generate`.

    Parameters
    ----------
    model : transformers.MarianMTModel
        Dense.
    folder : Path
    tokenizers : tuple of Tokenizer
        Of the source, saved in the folder, and of the target, saved in its folder "target".
    beams : int
    longest : int
        Tokens of a sentence at most.

    Raises
    ------
    ValueError
        If a layer is no longer one matrix.
    """
    library = _library()
    odd = [name for name, module in model.named_modules() if isinstance(module, nn.Sequential)]
    if odd:
        raise ValueError(
            f"{odd[0]!r} has an activation between factors of low rank: Hugging Face has no such "
            "Marian; one that is trained with low_rank.form linear or sltrain has"
        )
    model.generation_config.update(
        num_beams=beams,
        max_length=longest + 1,
        early_stopping=beams > 1,
        bad_words_ids=[[tokenizers[1].pad]],
    )
    model.save_pretrained(folder)
    for tokenizer, place in zip(tokenizers, (folder, folder / "target"), strict=True):
        inner = type(tokenizer.inner).from_str(tokenizer.inner.to_str())
        inner.post_processor = _ends(tokenizer.end)
        library.PreTrainedTokenizerFast(
            tokenizer_object=inner, pad_token=PAD, eos_token=END, model_max_length=longest + 1
        ).save_pretrained(place)


def _ends(end: int) -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])


def _library() -> Any:
    try:
        import transformers
    except ImportError:
        raise ImportError(
            "translation needs the library `transformers`: pip install 'epitopo[text]'"
        ) from None
    return transformers
