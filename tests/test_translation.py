"""The translation task: model, loss, evaluation, beam search, BLEU and export."""

import itertools
import math

import pytest
import torch

import dst
from dst.densify import densify
from dst.tasks.beam_search import Marks, beam_search, length_penalty
from dst.tasks.marian import marian
from dst.tasks.task import Batch
from dst.tasks.translation import (
    SearchConfig,
    TransformerConfig,
    Translation,
    TranslationConfig,
    TranslationData,
)

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
sacrebleu = pytest.importorskip("sacrebleu")

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = TransformerConfig(layers=1, width=16, heads=2, ffn=24)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPITOPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def config(model=TINY, search=None, **data):
    settings = {"sentences": 400, "largest": 99, "vocabulary": 300, "batch_tokens": 150} | data
    return TranslationConfig(
        data=TranslationData(**settings), model=model, search=search or SearchConfig()
    )


@pytest.fixture(scope="module")
def task():
    return config().task()


@pytest.fixture
def model(task):
    torch.manual_seed(0)
    return task.model().eval()


# configuration


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        (TranslationData, {"target": "en"}, "data.target must be another language .* not 'en'"),
        (TranslationData, {"sentences": 0}, "data.sentences must be at least 1, or null, not 0"),
        (TranslationData, {"micro_batch_tokens": 0}, "data.micro_batch_tokens"),
        (TranslationData, {"max_length": 0}, "data.max_length must be at least 1"),
        (TranslationData, {"batch_tokens": 0}, "data.batch_tokens must be at least 1"),
        (TransformerConfig, {"layers": 0}, "model.layers must be at least 1"),
        (TransformerConfig, {"width": 60}, r"even, and a multiple of model.heads \(8\), not 60"),
        (TransformerConfig, {"dropout": 1.0}, r"model.dropout must be in \[0, 1\), not 1.0"),
        (SearchConfig, {"beams": 0}, "search.beams must be at least 1"),
        (SearchConfig, {"length_penalty": -1.0}, "search.length_penalty must be 0 or more"),
    ],
)
def test_impossible_settings_are_refused(part, settings, message):
    with pytest.raises(ValueError, match=message):
        part(**settings)


# data


def test_the_task_holds_all_sentences(task):
    assert task.epoch_steps == len(task.splits["train"])
    assert [len(s.lengths) for s in task.splits.values()] == [400, 500, 500]
    seen = 0
    for step in range(task.epoch_steps):
        (batch,) = task.batches(step, 1)
        seen += len(batch.inputs["labels"])
        assert batch.count == (batch.inputs["labels"] >= 0).sum()
    assert seen == 400
    tokens, ids = task.tokenizers[0], task.batches(0, 1)[0].inputs["input_ids"]
    assert set(tokens.decode(ids.tolist())) <= set(_train_sentences())


def _train_sentences():
    from dst.tasks.number_words import number_words

    return [en for en, _ in number_words(400, 99)["train"]]


def test_long_sentences_are_left_out_or_truncated(task, caplog):
    short = config(max_length=10).task()
    assert 0 < short.dropped < 400
    assert len(short.splits["train"].lengths) == 400 - short.dropped
    assert f"(train): {short.dropped} of 400 pairs left out" in caplog.text
    assert "(test): " in caplog.text
    for split in ("train", "valid", "test"):
        assert short.splits[split].lengths.max() == 11
    # the others are as they were, in their order
    kept = (task.splits["train"].lengths <= 11).nonzero()[0]
    for i, row in enumerate(kept[:20]):
        ours, theirs = short.splits["train"].part([i]), task.splits["train"].part([row])
        assert all(torch.equal(ours.inputs[n], theirs.inputs[n]) for n in ours.inputs)
    for row in (3, 77):
        ours = short.splits["test"].part([row]).inputs["input_ids"][0, :-1]
        theirs = task.splits["test"].part([row]).inputs["input_ids"][0, : len(ours)]
        assert torch.equal(ours[:10], theirs[:10])
    assert short.test_target == task.test_target
    with pytest.raises(ValueError, match=r"all 400 training pairs .* longer than data\.max_length"):
        config(max_length=1).task()


def test_one_vocabulary_for_both_languages(task):
    shared = config(shared_vocabulary=True).task()
    assert shared.tokenizers[0] is shared.tokenizers[1]
    model = shared.model()
    assert model.model.encoder.embed_tokens.weight is model.lm_head.weight
    separate = task.model()
    assert separate.model.decoder.embed_tokens.weight is separate.lm_head.weight
    assert separate.model.encoder.embed_tokens.weight is not separate.lm_head.weight


def test_a_given_tokenizer(task, tmp_path):
    file = tmp_path / "tokenizer.json"
    task.tokenizers[1].inner.save(str(file))
    given = config(tokenizer=str(file)).task()
    row = [5]
    expected = task.splits["valid"].part(row).inputs["labels"]
    assert torch.equal(given.splits["valid"].part(row).inputs["labels"], expected)
    assert given.tokenizers[0].size == task.tokenizers[1].size
    assert given.shared


# model, loss and evaluation


def test_the_model(task):
    torch.manual_seed(0)
    model = task.model()
    assert model.config.max_position_embeddings == 257
    linear = dict(model.model.named_modules())["encoder.layers.0.fc1"]
    bound = math.sqrt(6 / (16 + 24))
    assert linear.weight.abs().max() <= bound
    assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not linear.bias.any()
    embedding = model.get_input_embeddings().weight
    assert not embedding[task.marks.start].any()
    assert embedding.std().item() == pytest.approx(1 / 4, rel=0.05)
    dst.sparsify(model, 0.3, exclude=task.dense)
    assert len(dst.network(model).layers) == 6 + 10


class Fixed(torch.nn.Module):
    """Says the same of every token."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits, dtype=torch.float64))

    def forward(self, decoder_input_ids, **_):
        shape = (*decoder_input_ids.shape, -1)
        return type("Output", (), {"logits": self.logits.expand(shape)})


def test_the_loss_by_hand(task):
    # probabilities 1/2, 1/4, 1/4; the labels are 0, 1 and padding
    inputs = {"decoder_input_ids": torch.zeros(1, 3), "labels": torch.tensor([[0, 1, -100]])}
    fixed = Fixed([math.log(2), 0.0, 0.0])
    uniform = (math.log(2) + 2 * math.log(4)) / 3
    expected = 0.9 * (math.log(2) + math.log(4)) + 0.1 * 2 * uniform
    assert task.loss(fixed, Batch(inputs, 2)).item() == pytest.approx(expected)


def test_evaluation_by_hand(task):
    size = task.tokenizers[1].size
    logits = torch.zeros(size)
    logits[task.marks.end] = math.log(size)  # so its probability is size / (2 size - 1)
    sums = task.evaluate(Fixed(logits.tolist()), 0, 1)
    ends, count = 500, sum(task.splits["valid"].part(r).count for r in [range(500)])
    assert sums["count"] == count
    assert sums["correct"] == ends
    likeliest, other = math.log((2 * size - 1) / size), math.log(2 * size - 1)
    expected = (ends * likeliest + (count - ends) * other) / count
    measures = task.measures(sums)
    assert measures["valid_loss"] == pytest.approx(expected)
    assert measures["valid_perplexity"] == pytest.approx(math.exp(expected))
    assert measures["valid_accuracy"] == pytest.approx(ends / count)


def test_ranks_share_an_evaluation(task, model):
    with torch.no_grad():
        whole = task.evaluate(model, 0, 1)
        shares = [task.evaluate(model, rank, 3) for rank in range(3)]
    assert all(s["count"] for s in shares)
    for name, value in whole.items():
        assert sum(s[name] for s in shares) == pytest.approx(value, rel=1e-6)


def gradients(task, model, parts):
    model.zero_grad()
    sum(task.loss(model, part) for part in parts).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_the_parts_of_a_step_add_up_to_it(task, model):
    model = model.double()
    micro = config(micro_batch_tokens=40).task()
    expected = gradients(task, model, task.batches(3, 1))
    one_sentence = task.splits["train"].parts(task.splits["train"].rows(3, 0)[:1], 3, None)
    for parts in (task.batches(3, 2), micro.batches(3, 1), micro.batches(3, 2)):
        assert len(parts) > 1
        for name, grad in gradients(task, model, parts).items():
            torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-11)
    # a part without sentences reaches all parameters, and adds nothing
    nothing = gradients(task, model, one_sentence[1:])
    assert nothing.keys() == expected.keys()
    assert not any(grad.any() for grad in nothing.values())


@pytest.mark.parametrize("layout", ["csr", "masked", None])
def test_training_lowers_the_loss(layout):
    task = config(TransformerConfig(1, 16, 2, 24, dropout=0.0, attention_dropout=0.0)).task()
    torch.manual_seed(0)
    model = task.model().train()
    if layout:
        dst.sparsify(model, 0.3, method="chts", exclude=task.dense, layout=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.9, 0.998))
    evolver = layout and dst.Evolver(model, optimizer, "chts", every=10, total_steps=40)
    losses = []
    for step in range(40):
        (batch,) = task.batches(step, 1)
        loss = task.loss(model, batch) / batch.count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if evolver:
            evolver.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.75 * losses[0]


# beam search


def test_the_length_penalty_is_that_of_wu_et_al():
    found = length_penalty(torch.tensor([1, 7, 19]), 0.6)
    torch.testing.assert_close(found, torch.tensor([1, 2**0.6, 4**0.6]))
    assert length_penalty(torch.tensor([1, 7]), 0.0).tolist() == [1, 1]


PAD, END = 0, 1


def toy(vocabulary, seed=0):
    torch.manual_seed(seed)
    model = marian(
        vocabularies=(9, vocabulary), shared=False, pad=PAD, end=END, positions=20, layers=1,
        width=8, heads=2, ffn=8, dropout=0.1, attention_dropout=0.1,
    )  # fmt: skip
    model = model.double().eval()
    # large weights and an output layer of its own, so that outputs of many lengths occur
    for module in model.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data.mul_(3)
    model.model.decoder.embed_tokens.weight.data.mul_(0.5)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(vocabulary, 8, dtype=torch.float64))
    return model


SENTENCES = [[5, 6, 7, END], [3, END], [8, 2, 2, 4, 3, END], [4, END]]


def sources(sentences=SENTENCES):
    ids = torch.full((len(sentences), max(map(len, sentences))), PAD)
    for row, sentence in zip(ids, sentences):
        row[: len(sentence)] = torch.tensor(sentence)
    mask = torch.zeros_like(ids)
    for row, sentence in zip(mask, sentences):
        row[: len(sentence)] = 1
    return ids, mask


def log_probability(model, ids, mask, output):
    """Of an output with or without the mark of its end, without a cache."""
    start = torch.tensor([[PAD, *output[:-1]]])
    logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=start).logits
    return logits.log_softmax(-1)[0, range(len(output)), output].sum().item()


def every_output(vocabulary, longest):
    words = range(2, vocabulary)
    for length in range(longest):
        for output in itertools.product(words, repeat=length):
            yield [*output, END]
    yield from map(list, itertools.product(words, repeat=longest))


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_a_wide_beam_finds_the_best_of_all_outputs(alpha):
    model, longest = toy(5), [4, 3, 4, 1]
    ids, mask = sources()
    limits = torch.tensor(longest)
    found = beam_search(model, ids, mask, limits, Marks(PAD, END), beams=128, alpha=alpha)
    lengths = set()
    with torch.no_grad():
        for row, output in enumerate(found):
            scores = {
                tuple(o): log_probability(model, ids[[row]], mask[[row]], o)
                / ((5 + len(o)) / 6) ** alpha
                for o in every_output(5, longest[row])
            }
            best = max(scores, key=scores.__getitem__)
            assert output == [t for t in best if t != END]
            lengths.add(len(best))
    assert len(lengths) > 1


def test_one_beam_is_greedy():
    ids, mask = sources()
    lengths = set()
    for seed in range(12):
        model = toy(9, seed)
        found = beam_search(model, ids, mask, torch.full((4,), 7), Marks(PAD, END), beams=1)
        lengths |= {len(output) for output in found}
        for row, output in enumerate(found):
            greedy = [PAD]
            while len(greedy) <= 7 and greedy[-1] != END:
                with torch.no_grad():
                    logits = model(
                        input_ids=ids[[row]],
                        attention_mask=mask[[row]],
                        decoder_input_ids=torch.tensor([greedy]),
                    ).logits[0, -1]
                logits[PAD] = -torch.inf
                greedy.append(logits.argmax().item())
            assert output == [t for t in greedy[1:] if t != END]
    assert len(lengths) > 2


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_without_a_penalty_it_is_the_search_of_hugging_face(beams):
    ids, mask = sources()
    lengths = set()
    for seed in range(24):
        model = toy(9, seed)
        found = beam_search(
            model, ids, mask, torch.full((4,), 8), Marks(PAD, END), beams=beams, alpha=0.0
        )
        settings = transformers.GenerationConfig(
            num_beams=beams, max_new_tokens=8, do_sample=False,
            **({"length_penalty": 0.0, "early_stopping": True} if beams > 1 else {}),
            pad_token_id=PAD, eos_token_id=END, decoder_start_token_id=PAD,
            suppress_tokens=[PAD],
        )  # fmt: skip
        expected = model.generate(ids, attention_mask=mask, generation_config=settings)
        for ours, theirs in zip(found, expected.tolist()):
            assert ours == [t for t in theirs if t not in (PAD, END)]
            lengths.add(len(ours))
    assert len(lengths) > 2


def test_a_sentence_is_translated_the_same_in_any_company():
    model, marks = toy(9, 3), Marks(PAD, END)
    limits = torch.tensor([7, 3, 9, 1])
    together = beam_search(model, *sources(), limits, marks, beams=3)
    assert [len(o) <= limit for o, limit in zip(together, limits)] == [True] * 4
    for row, sentence in enumerate(SENTENCES):
        alone = beam_search(model, *sources([sentence]), limits[[row]], marks, beams=3)
        assert alone == [together[row]]


# test and export


def test_bleu(task, model, monkeypatch):
    found = task.test(model)
    translations = task.translate(model)
    bleu = sacrebleu.corpus_bleu(translations, [task.test_target])
    assert found["test_bleu"] == bleu.score < 20
    assert found["test_bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp")
    assert found["test_sentences"] == 500
    assert found["test_examples"][1]["translation"] == translations[1]
    # the order is that of the references
    monkeypatch.setattr(Translation, "translate", lambda self, _: list(self.test_target))
    assert task.test(model)["test_bleu"] == pytest.approx(100)


def test_translations_are_those_of_the_search(task, model):
    translations = task.translate(model)
    for row in (0, 123, 499):
        inputs = task.splits["test"].part([row]).inputs
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        longest = 2 * (mask.sum(1) - 1) + 16 + 1
        (output,) = beam_search(model, ids, mask, longest, task.marks)
        assert translations[row] == task.tokenizers[1].decode([output])[0]


@pytest.mark.parametrize(("layout", "bf16"), [("csr", False), ("masked", True)])
def test_sparse_models_translate_as_their_dense_twins(task, model, layout, bf16):
    dst.sparsify(model, 0.3, exclude=task.dense, layout=layout)
    batch = task.splits["test"].part(range(0, 500, 25)).inputs
    inputs = batch["input_ids"], batch["attention_mask"], torch.full((20,), 12), task.marks
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        sparse = beam_search(model, *inputs)
        assert sparse == beam_search(densify(model), *inputs)
    assert sum(map(len, sparse)) > 20


def test_an_export_loads_and_says_the_same(task, model, tmp_path):
    batch = task.batches(0, 1)[0].inputs
    inputs = {n: batch[n] for n in ("input_ids", "attention_mask", "decoder_input_ids")}
    task.export(densify(dst.sparsify(model, 0.3, exclude=task.dense)), tmp_path)
    loaded = transformers.MarianMTModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)
    source = transformers.AutoTokenizer.from_pretrained(tmp_path)
    target = transformers.AutoTokenizer.from_pretrained(tmp_path / "target")
    sentence = task.test_source[0]
    encoded = source([sentence], return_tensors="pt")
    expected = task.splits["test"].part([0]).inputs
    assert torch.equal(encoded["input_ids"], expected["input_ids"])
    output = loaded.generate(**encoded, num_beams=1, max_length=8)
    assert loaded.generation_config.num_beams == 2
    assert task.marks.start not in output[0, 1:-1]
    text = target.decode(output[0], skip_special_tokens=True)
    assert text.strip() == task.tokenizers[1].decode([output[0].tolist()])[0]
    source_text = source.decode(encoded["input_ids"][0], skip_special_tokens=True)
    assert source_text.strip() == sentence


def test_missing_libraries_are_named(task, model, monkeypatch):
    for library, call in {
        "transformers": task.model,
        "sacrebleu": lambda: task.test(model),
        "tokenizers": lambda: config(vocabulary=310).task(),
    }.items():
        monkeypatch.setitem(__import__("sys").modules, library, None)
        with pytest.raises(ImportError, match=rf"{library}.*pip install 'epitopo\[text\]'"):
            call()


def test_multi30k():
    import os
    from pathlib import Path

    own = os.environ.get("EPITOPO_DATA")
    if not own or not (Path(own) / "multi30k").is_dir():
        pytest.skip("set EPITOPO_DATA to a folder with multi30k")
    task = TranslationConfig(data=TranslationData("multi30k", vocabulary=2000)).task()
    assert [len(s.lengths) for s in task.splits.values()] == [29_000, 1_014, 1_000]
    assert task.dropped == 0
