import gzip
import json
import lzma
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dst
from dst.tasks import cross_entropy, language, text_sources
from dst.tasks.cross_entropy import summed_cross_entropy
from dst.tasks.language import LLAMAS, LanguageConfig, LanguageData, LlamaShape
from dst.tasks.text_sources import named, of_files, token_parts
from dst.tasks.text_tokenizer import text_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = LlamaShape(16, 32, 1, 2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPITOPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EPITOPO_DATA", raising=False)


def task_of(shape=TINY, seed=0, **data):
    options = {"length": 16, "batch_size": 8, "micro_batch_size": 4} | data
    return LanguageConfig(data=LanguageData(**options), model=shape, seed=seed).task()


def lines_of(tmp_path, *texts, name="a.jsonl"):
    (tmp_path / name).write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return str(tmp_path / name)


# --- the loss ---


def test_cross_entropy_by_hand():
    logits = torch.tensor([[1.0, 3.0], [1.0, 1.0], [5.0, 1.0]]).log().requires_grad_()
    loss = summed_cross_entropy(logits, torch.tensor([0, 1, -100]))
    assert loss.item() == pytest.approx(np.log(4) + np.log(2))
    (2 * loss).backward()
    torch.testing.assert_close(
        logits.grad, 2 * torch.tensor([[-0.75, 0.75], [0.5, -0.5], [0.0, 0.0]])
    )


@pytest.mark.parametrize("block", [1, 40, 2**24])  # one row, several, all
def test_cross_entropy_is_torchs(block, monkeypatch):
    monkeypatch.setattr(cross_entropy, "_BLOCK", block)
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 11, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (3, 5))
    targets[1, 2:] = -100
    ours = summed_cross_entropy(logits, targets)
    theirs = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_cross_entropy_of_bfloat16_keeps_bfloat16():
    torch.manual_seed(0)
    logits = torch.randn(6, 50).bfloat16().requires_grad_()
    targets = torch.randint(50, (6,))
    loss = summed_cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    (kept,) = loss.grad_fn.saved_tensors
    assert kept.dtype == torch.bfloat16
    loss.backward()
    exact = logits.detach().float().requires_grad_()
    F.cross_entropy(exact, targets, reduction="sum").backward()
    torch.testing.assert_close(logits.grad, exact.grad.bfloat16())
    with torch.no_grad():
        torch.testing.assert_close(summed_cross_entropy(logits, targets), loss)


# --- tokenizers ---

SENTENCES = ["the cat sat on the mat; ", "the dog saw the cat, ", "naïve cats sat down\n"] * 30


def test_a_trained_tokenizer_is_the_same_again_and_kept(tmp_path):
    kept = tmp_path / "kept.json"
    one = text_tokenizer("bpe:270", lambda: iter(SENTENCES), kept)
    two = text_tokenizer("bpe:270", lambda: iter(SENTENCES))
    three = text_tokenizer("bpe:270", None, kept)
    assert one.vocabulary == 270
    assert one.end_text == "<|endoftext|>"
    assert one.fingerprint == two.fingerprint == three.fingerprint
    assert one.fingerprint != text_tokenizer("bpe:269", lambda: iter(SENTENCES)).fingerprint
    text = "the cat 語 <|endoftext|> \r\n  x"  # the end's name in a text is text
    (ids,) = three.encode([text])
    assert three.end not in ids
    assert three.core.decode(ids.tolist()) == text
    assert len(one.encode(["the cat sat"])[0]) < 9


def test_a_tokenizer_of_two_files_and_one_that_adds_its_own_tokens(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    trained = text_tokenizer("bpe:300", lambda: iter(SENTENCES))
    pair = tmp_path / "gpt2"
    pair.mkdir()
    trained.core.model.save(str(pair))
    assert sorted(p.name for p in pair.iterdir()) == ["merges.txt", "vocab.json"]
    assert text_tokenizer(str(pair)).fingerprint == trained.fingerprint
    # one like T5's: it ends every text by itself, which a prompt must not
    t5 = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("▁a", -1.0), ("b", -1.0)], 0))
    t5.pre_tokenizer = pre_tokenizers.Metaspace()
    t5.post_processor = processors.TemplateProcessing("$A </s>", "$A $B </s>", [("</s>", 1)])
    t5.save(str(tmp_path / "tokenizer.json"))
    tokenizer = text_tokenizer(str(tmp_path / "tokenizer.json"))
    assert (tokenizer.end, tokenizer.vocabulary) == (1, 4)
    assert tokenizer.encode(["ab"])[0].tolist() == [2, 3]
    assert tokenizer.hugging_face(8)("ab")["input_ids"] == [2, 3]


def test_refused_tokenizers(tmp_path):
    from tokenizers import Tokenizer, models

    for name, message in (
        ("bpe:256", "bpe:N with N at least 257, not 'bpe:256'"),
        ("bpe:many", "not 'bpe:many'"),
        ("bpe:300", "is trained on text, and there is none"),
        ("./nowhere", r"there is no tokenizer \./nowhere"),
        (str(tmp_path), "holds no tokenizer: neither a tokenizer.json"),
    ):
        with pytest.raises(ValueError, match=message):
            text_tokenizer(name)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"cannot be read as a tokenizer"):
        text_tokenizer(str(tmp_path))
    Tokenizer(models.WordLevel({"a": 0}, "a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="has no token that ends a text"):
        text_tokenizer(str(tmp_path))


# --- text ---


def test_pieces_of_a_long_text_change_no_token(tmp_path, monkeypatch):
    """Pieces are cut before line ends, as byte-level tokenizers cut in any case."""
    text = "".join(f"Line {i}, the cat.\n\n  sat\n" * (i % 3) for i in range(200)).strip("\n")
    (tmp_path / "a.txt").write_text(text)
    tokenizer = text_tokenizer("bpe:300", lambda: iter(SENTENCES))
    monkeypatch.setattr(text_sources, "PIECE", 100)
    source = of_files(str(tmp_path / "a.txt"))
    pieces = list(source.text())
    assert "".join(pieces) == text
    assert len(pieces) > 30
    assert max(map(len, pieces)) <= 100
    parts = list(token_parts(source, tokenizer))
    assert np.concatenate(parts).tolist() == [*tokenizer.encode([text])[0], tokenizer.end]


def test_a_line_without_ends_is_cut_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(text_sources, "PIECE", 10)
    (tmp_path / "a.txt").write_text("x" * 35 + "\n\n\n" + "y" * 4)
    assert "".join(of_files(str(tmp_path / "a.txt")).text()) == "x" * 35 + "\n\n\nyyyy"


def test_documents_of_files(tmp_path):
    lines_of(tmp_path, "one", " ", "two\nlines")
    content = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content))
    (tmp_path / "c.jsonl.xz").write_bytes(lzma.compress(content))
    for pattern, count in (("a.jsonl", 2), ("b.jsonl.gz", 2), ("c.jsonl.xz", 2), ("*.jsonl*", 6)):
        source = of_files(str(tmp_path / pattern))
        assert ["".join(d) for d in source.documents()] == ["one", "two\nlines"] * (count // 2)
    (tmp_path / "d.txt").write_bytes(b"\xef\xbb\xbfBOM\r\nand more\r\n")
    assert list(of_files(str(tmp_path / "d.txt")).text()) == ["BOM\nand more\n"]
    assert source.key == of_files(str(tmp_path / "*.jsonl*")).key
    lines_of(tmp_path, "another")
    assert source.key != of_files(str(tmp_path / "*.jsonl*")).key


def test_truncated_documents_end_too(tmp_path, monkeypatch):
    monkeypatch.setattr(text_sources, "PIECE", 4)
    source = of_files(lines_of(tmp_path, "abcdefghij", "kl", "mnop"))
    parts = list(token_parts(source, text_tokenizer("bytes"), longest=6))
    assert np.concatenate(parts).tolist() == [*b"abcdef", 256, *b"kl", 256, *b"mnop", 256]
    assert ["".join(d) for d in source.first(2).documents()] == ["abcdefghij", "kl"]
    assert source.first(2).key != source.first(1).key != source.key


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r"a.jsonl, line 2: expected .*\"txt\""),
        ("a.jsonl", b"[1\n", "line 1: expected"),
        ("a.jsonl", b'{"text": 5}\n', "line 1: expected"),
        ("a.txt", b"fine \xff", r"a.txt is no text in UTF-8 .*0xff.*: convert it"),
        ("a.txt", b" \n\n", "a.txt holds no text"),
        ("a.txt.gz", gzip.compress(b"long text" * 99, mtime=0)[:30], r"a.txt.gz is damaged"),
        ("a.txt.xz", b"nothing of that kind", r"a.txt.xz is damaged"),
    ],
)
def test_bad_text(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(of_files(str(tmp_path / name)).text())
    with pytest.raises(ValueError, match=message):
        task_of(train=str(tmp_path / name))
    left = sorted(p.name for p in (tmp_path / "cache" / "tokens").iterdir())
    assert left == [".lock"]


def test_text_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match=r"there is no text file .*nowhere.txt"):
        task_of(train=str(tmp_path / "nowhere.txt"))
    with pytest.raises(OSError, match=r"cannot read the token file .*nowhere.bin"):
        task_of(train=str(tmp_path / "nowhere.bin"))
    with pytest.raises(ValueError, match=r"unknown data.name 'pydoc': did you mean 'pydoc-topics'"):
        task_of(name="pydoc")


def hub(monkeypatch, splits):
    """A stand-in for the library `datasets`, which notes how it is called."""
    calls = []

    def load_dataset(path, name=None, **options):
        calls.append((path, name, options))
        if isinstance(splits, Exception):
            raise splits
        return ({"text": text} for text in splits[options["split"]])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_openwebtext_holds_out_documents_by_their_hash(monkeypatch):
    texts = [f"document {i}" for i in range(2000)]
    calls = hub(monkeypatch, {"train": texts})
    train, valid = named("openwebtext")
    sides = [list(source.text()) for source in (train, valid)]
    assert sorted(sides[0] + sides[1]) == sorted(texts)
    assert 60 < len(sides[1]) < 140  # 5 %
    assert calls[0] == ("Skylion007/openwebtext", None, {"split": "train", "streaming": True})
    hub(monkeypatch, {"train": texts[::-1]})  # in another order, too
    assert sorted(named("openwebtext")[1].text()) == sorted(sides[1])


def test_c4_has_its_own_validation_and_is_read_as_far_as_needed(monkeypatch):
    read = []
    texts = (read.append(i) or f"document {i}, of C4" for i in range(10**9))
    calls = hub(monkeypatch, {"train": texts, "validation": ["held out text here"] * 50})
    task = task_of(name="c4", documents=30, valid_tokens=64, revision="abc", rows="documents")
    assert len(task.train) == 30
    assert len(read) <= 31
    assert task.valid.up_to(64) == 4
    assert calls[0] == (
        "allenai/c4", "en", {"revision": "abc", "split": "train", "streaming": True}
    )  # fmt: skip
    hub(monkeypatch, ConnectionError("no route"))
    assert len(
        task_of(name="c4", documents=30, valid_tokens=64, revision="abc", rows="documents").train
    )
    with pytest.raises(
        OSError, match=r"cannot stream c4 \(ConnectionError: no route\).*data.train"
    ):
        task_of(name="c4", documents=31)


# --- the task ---


def test_the_embedded_text_is_tokenised_once(monkeypatch):
    from pydoc_data.topics import topics

    task = task_of()
    tokens = {side: task_tokens(getattr(task, side)) for side in ("train", "valid")}
    everything = sum(len(text.encode()) + 1 for text in topics.values())
    assert 0 <= everything - sum(map(len, tokens.values())) < 2 * 17
    assert 0.05 < len(tokens["valid"]) / everything < 0.2
    pages = bytes(np.where(tokens["train"] == 256, 0, tokens["train"]).astype(np.uint8)).decode()
    assert pages.split("\0")[0] == topics[min(topics)]
    monkeypatch.setattr(language, "token_parts", None)  # would not be callable
    assert task_of().epoch_steps == task.epoch_steps


def task_tokens(rows):
    batch = rows.batch(np.arange(len(rows)))
    return np.append(batch.inputs["tokens"].numpy().ravel(), batch.inputs["targets"][-1, -1].item())


def test_batches_are_a_function_of_seed_and_step_alone(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"{i} " for i in range(600)))
    task = task_of(train=str(tmp_path / "a.txt"), valid_share=0.1)
    assert task.epoch_steps == -(-len(task.train) // 8)

    def rows(step, ranks, of=task):
        parts = of.batches(step, ranks)
        assert len(parts) % ranks == 0
        assert all(len(part.inputs["tokens"]) <= 4 for part in parts)
        for part in parts:  # an empty one has a row without targets
            assert part.count == (part.inputs["targets"] >= 0).sum()
            assert len(part.inputs["tokens"]) >= 1
        return torch.cat([part.inputs["tokens"] for part in parts if part.count])

    for ranks in (2, 3, 16):
        assert torch.equal(rows(5, 1), rows(5, ranks))
    assert len(task.batches(0, 1)) == 2
    assert len(task.batches(0, 16)) == 16  # some of them empty
    epoch = torch.cat([rows(step, 1) for step in range(task.epoch_steps)])
    assert sorted(map(tuple, epoch.tolist())) == sorted(
        map(tuple, task.train.batch(np.arange(len(task.train))).inputs["tokens"].tolist())
    )
    assert not torch.equal(rows(0, 1), rows(task.epoch_steps, 1))
    other = task_of(train=str(tmp_path / "a.txt"), valid_share=0.1, seed=1)
    assert not torch.equal(rows(0, 1), rows(0, 1, other))


def test_the_loss_is_that_of_hugging_face():
    task = task_of()
    torch.manual_seed(0)
    model = task.model().double()
    (batch, _) = task.batches(0, 1)
    row = torch.cat([batch.inputs["tokens"], batch.inputs["targets"][:, -1:]], 1)
    theirs = model(input_ids=row, labels=row).loss
    ours = task.loss(model, batch) / batch.count
    # transformers reckons its loss in float32
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_padding_counts_for_nothing(tmp_path):
    train = lines_of(tmp_path, "a longer document", "short", "x", "middle one")
    task = task_of(train=train, valid=train, rows="documents")
    torch.manual_seed(0)
    model = task.model().double()
    batch = task.train.batch(np.arange(4))
    assert batch.count == 16 + 5 + 1 + 10  # the first is cut
    alone = 0.0
    for text in (b"a longer documen", b"short", b"x", b"middle one"):
        row = torch.tensor([[*text, 256]])
        logits = model(input_ids=row[:, :-1]).logits[0]
        alone += F.cross_entropy(logits, row[0, 1:], reduction="sum").item()
    assert task.loss(model, batch).item() == pytest.approx(alone, rel=1e-12)


def test_evaluation_adds_up_over_ranks():
    task = task_of(valid_tokens=16 * 9 + 5)
    model = task.model().double().eval()
    with torch.no_grad():
        whole = task.evaluate(model, 0, 1)
        shares = [task.evaluate(model, rank, 3) for rank in range(3)]
    assert whole["count"] == 16 * 9
    assert sum(share["count"] for share in shares) == whole["count"]
    assert sum(share["loss"] for share in shares) == pytest.approx(whole["loss"], rel=1e-12)
    assert task.measures({"loss": 6.0, "count": 3}) == {
        "valid_loss": 2.0, "valid_perplexity": pytest.approx(np.exp(2.0))
    }  # fmt: skip
    assert task.measures({"loss": 1e6, "count": 1})["valid_perplexity"] == np.inf


@pytest.mark.parametrize("method", [None, "chts", "set"])
def test_the_loss_falls(method):
    task = task_of(LlamaShape(32, 64, 2, 2), batch_size=16, micro_batch_size=16)
    torch.manual_seed(0)
    model = task.model()
    if method is not None:
        dst.sparsify(model, 0.2, method=method, exclude=task.dense)
        assert len(dst.network(model).layers) == 14
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    evolver = method and dst.Evolver(model, optimizer, method, every=10, total_steps=40)
    with torch.no_grad():
        before = task.measures(task.evaluate(model.eval(), 0, 200))["valid_loss"]
    model.train()
    for step in range(40):
        (batch,) = task.batches(step, 1)
        optimizer.zero_grad()
        (task.loss(model, batch) / batch.count).backward()
        optimizer.step()
        if evolver:
            evolver.step()
    with torch.no_grad():
        after = task.measures(task.evaluate(model.eval(), 0, 200))["valid_loss"]
    assert before == pytest.approx(np.log(257), abs=0.2)
    assert after < before - 1.5


def test_an_exported_model_is_the_same(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task = task_of(tokenizer="bpe:300")
    model = dst.sparsify(task.model(), 0.5, method="set", exclude=task.dense).eval()
    (batch, _) = task.batches(0, 1)
    tokens = batch.inputs["tokens"]
    before = model(input_ids=tokens).logits
    task.export(dst.densify(model), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(loaded(input_ids=tokens).logits, before)
    assert loaded.config.max_position_embeddings == 16
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "The naïve cat's 語\n\n  end."
    assert tokenizer(text)["input_ids"] == task.tokenizer.encode([text])[0].tolist()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token_id == loaded.config.eos_token_id == task.tokenizer.end


@pytest.mark.parametrize(
    ("size", "vocabulary", "millions"),
    [("9m", 4096, 8.9), ("60m", 32100, 58.2), ("130m", 32100, 134.3), ("1b", 32100, 1339.5)],
)
def test_the_parameters_of_each_size(size, vocabulary, millions):
    shape = LLAMAS[size]
    task = task_of(LlamaShape(**(vars(shape) | {"vocabulary": vocabulary})))
    with torch.device("meta"):
        model = task.model()
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.06)
    by_hand = shape.layers * (4 * shape.width**2 + 3 * shape.width * shape.ffn + 2 * shape.width)
    assert count == by_hand + 2 * vocabulary * shape.width + shape.width
    assert model.config._attn_implementation == "sdpa"
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_a_vocabulary_that_does_not_fit():
    assert task_of(LlamaShape(16, 32, 1, 2, vocabulary=300)).model().lm_head.out_features == 300
    with pytest.raises(ValueError, match="the token 256, but the model's vocabulary has 200"):
        task_of(LlamaShape(16, 32, 1, 2, vocabulary=200))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LanguageData(rows="lines"),
            "unknown data.rows 'lines': known are contiguous, documents",
        ),
        (lambda: LanguageData(dtype="int16"), "unknown data.dtype 'int16'"),
        (lambda: LanguageData(length=0), "data.length must be at least 1, not 0"),
        (lambda: LanguageData(tokens=0), "data.tokens must be at least 1, or null, not 0"),
        (lambda: LanguageData(valid_share=1.0), r"data.valid_share must be in \(0, 1\)"),
        (lambda: LanguageData(valid="a.txt"), "data.valid is for the text of data.train"),
        (lambda: LlamaShape(width=20, heads=8), r"a multiple of 2 model.heads \(16\), not 20"),
        (lambda: LlamaShape(layers=0), "model.layers must be at least 1"),
        (lambda: LlamaShape(dropout=1.0), r"model.dropout must be in \[0, 1\)"),
        (lambda: LlamaShape(vocabulary=1), "model.vocabulary must be at least 2, or null"),
    ],
)
def test_impossible_keys(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_text_that_is_too_short(tmp_path):
    (tmp_path / "a.txt").write_text("0123456789" * 3)
    with pytest.raises(ValueError, match=r"the valid text has 2 tokens, too few for a row of .*16"):
        task_of(train=str(tmp_path / "a.txt"))
    (tmp_path / "a.bin").write_bytes(bytes(2 * 99))
    with pytest.raises(ValueError, match=r"data.documents is for text: limit a token file"):
        task_of(train=str(tmp_path / "a.bin"), documents=5)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EPITOPO_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot make the folder .*EPITOPO_CACHE"):
        task_of()


def test_importing_it_loads_no_heavy_library():
    heavy = ("transformers", "datasets", "tokenizers", "lm_eval")
    code = (
        "import sys, dst.tasks.language, dst.zero_shot, dst.local_tasks;"
        f"print(sorted(set({heavy}) & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert result.stdout.strip() == "[]"
