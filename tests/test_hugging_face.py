"""`sparsify` and `network` on tiny random models of transformers."""

import copy

import pytest
import torch
from torch import nn

import dst
import topo
from dst.densify import densify
from dst.explain import explain
from dst.graph import sparse_layers

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")

LAYOUTS = ["csr", "masked"]
DECODER = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ENCODER_DECODER = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
T5 = {
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
# family: class, configuration, further settings, and what of it is to be sparse
MODELS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", DECODER, "model.layers.*"),
    "mistral": ("MistralForCausalLM", "MistralConfig", DECODER, "model.layers.*"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", DECODER, "model.layers.*"),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", DECODER, "model.layers.*"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", DECODER, "model.layers.*"),
    "cohere": ("CohereForCausalLM", "CohereConfig", DECODER, "model.layers.*"),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", DECODER, "model.layers.*"),
    "bart": ("BartForConditionalGeneration", "BartConfig", ENCODER_DECODER, "model.*"),
    "marian": ("MarianMTModel", "MarianConfig", ENCODER_DECODER, "model.*"),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5, "*.block.*"),
    "t5-gated": (
        "T5ForConditionalGeneration",
        "T5Config",
        T5 | {"feed_forward_proj": "gated-gelu"},
        "*.block.*",
    ),
}


def build(family, **settings):
    kind, config, given, _ = MODELS[family]
    torch.manual_seed(0)
    return getattr(transformers, kind)(getattr(transformers, config)(**given | settings)).eval()


def sparse(family, density=0.2, **arguments):
    return dst.sparsify(build(family), density, include=MODELS[family][3], **arguments)


def batch(model):
    torch.manual_seed(1)
    ids = {"input_ids": torch.randint(3, 64, (2, 7))}
    if model.config.is_encoder_decoder:
        ids["decoder_input_ids"] = torch.randint(3, 64, (2, 5))
    return ids


def logits(model):
    with torch.no_grad():
        return model(**batch(model)).logits


def without_biases(model):
    """Percolation ignores the biases of hidden neurons; the norms' are of the residual stream."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "norm" not in name:
            nn.init.zeros_(parameter)
    return model


def c(outputs, inputs=(), head_dim=None, rotary=False):
    return topo.Coupling(tuple(outputs.split()), inputs and (inputs,), head_dim, rotary)


def under(prefix, couplings):
    return [
        topo.Coupling(
            tuple(prefix + n for n in x.outputs),
            tuple(prefix + n for n in x.inputs),
            x.head_dim,
            x.rotary,
        )
        for x in couplings
    ]


# couplings


QK = c("self_attn.q_proj self_attn.k_proj", head_dim=8, rotary=True)
VO = c("self_attn.v_proj", "self_attn.o_proj", head_dim=8)
GATED = c("mlp.gate_proj mlp.up_proj", "mlp.down_proj")


def fairseq(attention):
    return under(
        f"{attention}.", [c("v_proj", "out_proj", head_dim=8), c("q_proj k_proj", head_dim=8)]
    )


def t5(i, attention):
    return under(f"layer.{i}.{attention}.", [c("q k", head_dim=8), c("v", "o", head_dim=8)])


FC = [c("fc1", "fc2")]
BART = {
    "model.encoder.layers": [*fairseq("self_attn"), *FC],
    "model.decoder.layers": [*fairseq("self_attn"), *fairseq("encoder_attn"), *FC],
}


def t5_stacks(into):
    def feed_forward(i):
        return under(f"layer.{i}.DenseReluDense.", [c(into, "wo")])

    return {
        "encoder.block": [*t5(0, "SelfAttention"), *feed_forward(1)],
        "decoder.block": [
            *t5(0, "SelfAttention"),
            *t5(1, "EncDecAttention"),
            *feed_forward(2),
        ],
    }


COUPLED = {
    "llama": {"model.layers": [QK, VO, GATED]},
    "mistral": {"model.layers": [QK, VO, GATED]},
    "qwen2": {"model.layers": [QK, VO, GATED]},
    "gemma": {"model.layers": [QK, VO, GATED]},
    "qwen3": {"model.layers": [VO, GATED]},  # q_norm and k_norm
    "cohere": {"model.layers": [VO, GATED]},  # rotates neighbours
    "stablelm": {"model.layers": [VO, GATED]},  # rotates a part of each head
    "bart": BART,
    "marian": BART,
    "t5": t5_stacks("wi"),
    "t5-gated": t5_stacks("wi_0 wi_1"),
}


@pytest.mark.parametrize("family", MODELS)
def test_couplings(family):
    expected = [
        coupling
        for stack, block in COUPLED[family].items()
        for i in range(2)
        for coupling in under(f"{stack}.{i}.", block)
    ]
    found = dst.network(sparse(family)).couplings
    assert set(found) == set(expected)
    assert len(found) == len(expected)


@pytest.mark.parametrize("family", MODELS)
def test_percolation_never_changes_the_function(family):
    coupled, losers = set(), set()
    for density in (0.02, 0.03, 0.06):
        model = without_biases(build(family))
        dst.sparsify(
            model, density, include=MODELS[family][3], topology="erdos_renyi", layout="masked"
        )
        before, network = logits(model), dst.network(model)
        left = topo.percolate(network)
        for name, layer in sparse_layers(model).items():
            layer.weight.data.mul_(torch.from_numpy(left.layers[name].toarray()))
        torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)
        coupled |= {kind(n) for x in network.couplings for n in x.outputs + x.inputs}
        losers |= {kind(n) for n, a in left.layers.items() if a.nnz < network.layers[n].nnz}
        for layer in sparse_layers(model).values():
            layer.weight.data.zero_()
        assert (logits(model) - before).abs().max() > 1e-3  # what is left matters
    assert losers == coupled  # no kind of block is spared


def kind(name):
    return name.rpartition(".")[2]


def test_only_what_is_sparse_on_both_sides_is_coupled():
    def couplings(*include):
        names = [f"model.layers.0.{n}" for n in include]
        return list(dst.network(dst.sparsify(build("llama"), 0.2, include=names)).couplings)

    first = "model.layers.0."
    assert couplings("self_attn.q_proj", "self_attn.v_proj") == []
    assert couplings("self_attn.?_proj") == under(first, [QK, VO])
    # a dense factor is never 0: the product is, iff the sparse one is
    assert couplings("mlp.gate_proj", "mlp.down_proj") == under(
        first, [c("mlp.gate_proj", "mlp.down_proj")]
    )
    assert couplings("mlp.gate_proj", "mlp.up_proj") == under(
        first, [c("mlp.gate_proj mlp.up_proj")]
    )
    assert couplings("mlp.up_proj", "self_attn.o_proj") == []


def test_a_model_with_known_blocks_and_parts_that_can_be_traced():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = build("llama").model
            self.head = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))

        def forward(self, ids):
            return self.head(self.body(ids).last_hidden_state[:, -1])

    model = dst.sparsify(Classifier(), 0.2)
    blocks = [x for i in range(2) for x in under(f"body.layers.{i}.", [QK, VO, GATED])]
    assert list(dst.network(model).couplings) == [*blocks, c("head.0", "head.2")]


def test_a_changed_block_is_not_taken_for_the_known_one():
    model = build("llama")
    for layer in model.model.layers:
        layer.mlp.sub_norm = nn.LayerNorm(48)  # as BitNet has it: mixes the neurons
        layer.self_attn.sub_norm = nn.LayerNorm(32)
    dst.sparsify(model, 0.2, include="model.layers.*")
    assert not [x for x in dst.network(model).couplings if "attn" in x.outputs[0]]


# what sparsify does


def test_explain_lists_every_layer_of_a_llama():
    model = sparse("llama", 0.05)
    table = explain(model).set_index("layer")
    assert table.layout.value_counts().to_dict() == {"csr": 14, "dense": 2}
    assert table.loc["model.embed_tokens"].kind == "Embedding"
    assert table.loc["lm_head"].reason == "nn.Linear, not chosen"
    assert table.loc["model.layers.1.mlp.down_proj"]["shape"] == (32, 48)


def test_conv1d_stays_dense_and_explain_says_so():
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2
    )
    model = dst.sparsify(transformers.GPT2ForTokenClassification(config), 0.5)
    table = explain(model).set_index("layer")
    assert list(sparse_layers(model)) == ["classifier"]
    row = table.loc["transformer.h.0.mlp.c_fc"]
    assert (row["shape"], row.layout) == ((8, 32), "dense")
    assert row.reason == "Conv1D, not nn.Linear (its weight is (in, out))"


@pytest.mark.parametrize(("family", "head"), [("gemma", "lm_head"), ("t5", "lm_head")])
def test_a_head_tied_to_the_embedding_is_refused(family, head):
    model = build(family, tie_word_embeddings=True)
    with pytest.raises(ValueError, match=rf"'{head}' shares its weight \(.*untie .* or exclude it"):
        dst.sparsify(model, 0.2)
    assert not sparse_layers(model)
    dst.sparsify(model, 0.2, exclude=head)
    assert "shares its weight with" in explain(model).set_index("layer").loc[head].reason


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", ["llama", "mistral", "bart", "marian", "t5", "t5-gated"])
def test_keep_is_the_dense_model_masked(family, layout):
    model = sparse(family, 0.3, init="keep", layout=layout)
    masked = build(family)
    for name, layer in sparse_layers(model).items():
        mask = torch.from_numpy(layer.adjacency.toarray())
        masked.get_submodule(name).weight.data.mul_(mask)
    expected = logits(masked)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(densify(model)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", ["llama", "bart", "marian", "t5"])
def test_trains_and_its_state_goes_round(family, layout):
    model = sparse(family, layout=layout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = {n: layer.link_values().clone() for n, layer in sparse_layers(model).items()}
    losses = []
    for _ in range(3):
        torch.manual_seed(3)  # the same dropout
        inputs = batch(model)
        labels = inputs.get("decoder_input_ids", inputs["input_ids"])
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    for name, layer in sparse_layers(model).items():
        assert not torch.equal(layer.link_values(), before[name])
    other = sparse(family, layout=layout, seed=1)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert dst.network(other) == dst.network(model)
    assert torch.equal(logits(other), logits(model.eval()))


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [("csr", torch.float32), ("masked", torch.float32), ("masked", torch.bfloat16)],
)
@pytest.mark.parametrize("family", ["llama", "mistral", "t5", "marian"])
def test_generates(family, layout, dtype):
    model = sparse(family, layout=layout).to(dtype)
    settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1, "pad_token_id": 0}
    inputs = {"input_ids": batch(model)["input_ids"]}
    tokens = model.generate(**inputs, attention_mask=torch.ones(2, 7, dtype=int), **settings)
    again = densify(model).generate(
        **inputs, attention_mask=torch.ones(2, 7, dtype=int), **settings
    )
    assert tokens.shape[1] > 1
    assert torch.equal(tokens, again)
