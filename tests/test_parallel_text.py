"""Parallel text, its tokenizers and its batches."""

import gzip
import hashlib
import itertools
import json
import lzma
import sys
import types

import numpy as np
import pytest
import torch

from dst import downloads
from dst.tasks import bpe
from dst.tasks.number_words import english, german, number_words
from dst.tasks.parallel_text import load_parallel, read_lines, read_parallel
from dst.tasks.token_batches import IGNORED, TokenBatches

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("EPITOPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EPITOPO_DATA", raising=False)


# number words


@pytest.mark.parametrize(
    ("number", "en", "de"),
    [
        (0, "zero", "null"),
        (1, "one", "eins"),
        (16, "sixteen", "sechzehn"),
        (17, "seventeen", "siebzehn"),
        (21, "twenty-one", "einundzwanzig"),
        (30, "thirty", "dreißig"),
        (66, "sixty-six", "sechsundsechzig"),
        (77, "seventy-seven", "siebenundsiebzig"),
        (100, "one hundred", "einhundert"),
        (101, "one hundred one", "einhunderteins"),
        (111, "one hundred eleven", "einhundertelf"),
        (342, "three hundred forty-two", "dreihundertzweiundvierzig"),
        (1000, "one thousand", "eintausend"),
        (1001, "one thousand one", "eintausendeins"),
        (21_000, "twenty-one thousand", "einundzwanzigtausend"),
        (101_000, "one hundred one thousand", "einhunderteintausend"),
        (
            700_012,
            "seven hundred thousand twelve",
            "siebenhunderttausendzwölf",
        ),
    ],
)
def test_number_words(number, en, de):
    assert english(number) == en
    assert german(number) == de


def test_every_number_has_words_of_its_own():
    numbers = [*range(3000), *range(0, 1_000_000, 997), 999_999]
    for words in (english, german):
        assert len({words(n) for n in numbers}) == len(set(numbers))


def test_number_words_are_split_without_overlap_whatever_the_size():
    small, large = number_words(300, 99), number_words(900, 99)
    assert {s: len(p) for s, p in large.items()} == {"train": 900, "valid": 500, "test": 500}
    assert large["train"][:300] == small["train"]
    assert (large["valid"], large["test"]) == (small["valid"], small["test"])
    sentences = [en for split in large.values() for en, _ in split]
    assert len(set(sentences)) == len(sentences)
    assert {len(en.split(" divided by ")) for en in sentences} == {1, 2, 3, 4}
    for sentences, largest in ((0, 99), (10, 98), (10, 1_000_000)):
        with pytest.raises(ValueError, match="number words"):
            number_words(sentences, largest)


# files


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("_", ".")).write_bytes(text)
    return folder


def test_lines_end_at_line_feeds_alone(tmp_path):
    content = "\ufeff one \u2028 two\r\nthree\x85 four\n five".encode()
    for name, written in {
        "a.en": content,
        "a.en.gz": gzip.compress(content),
        "a.en.xz": lzma.compress(content),
    }.items():
        (tmp_path / name).write_bytes(written)
        assert read_lines(tmp_path / name) == ["one \u2028 two", "three\x85 four", "five"]


@pytest.mark.parametrize(
    ("en", "de", "message"),
    [
        (
            "a\nb\nc\n",
            "x\ny\n",
            r"a\.en has 3 lines but .*a\.de has 2: line n of one must be the translation",
        ),
        (
            "a\nb\n\n d\n \n",
            "x\n\nz\nu\nv\n",
            r"a\.de, line 2, is empty \(3 of 5 pairs .*data\.skip_empty to true",
        ),
        ("a\n\n", "x\ny", r"a\.en, line 2, is empty \(1 of 2"),
        ("", "", r"a\.en holds no sentences"),
        (b"a\nb\xff\n", "x\ny", r"a\.en, line 2, is no UTF-8 \(byte 0xff\)"),
        ("a", gzip.compress(b"x", mtime=0)[:-4], r"a\.de, line 1, is no UTF-8"),
    ],
)
def test_bad_files_are_refused(tmp_path, en, de, message):
    write(tmp_path, a_en=en, a_de=de)
    with pytest.raises(ValueError, match=message):
        read_parallel(tmp_path / "a.en", tmp_path / "a.de")


def test_a_truncated_file_is_refused(tmp_path):
    write(tmp_path, a_en="a", a_de_gz=gzip.compress(b"x\n" * 500)[:-9])
    with pytest.raises(ValueError, match=r"a\.de\.gz is damaged .*end-of-stream"):
        read_parallel(tmp_path / "a.en", tmp_path / "a.de.gz")


def test_pairs_with_an_empty_side_may_be_left_out(tmp_path, caplog):
    write(tmp_path, a_en="a\nb\n\nd\n", a_de="x\n\nz\nu\n")
    text = read_parallel(tmp_path / "a.en", tmp_path / "a.de", skip_empty=True)
    assert (text.source, text.target) == (["a", "d"], ["x", "u"])
    assert "left out 2 of 4 pairs" in caplog.text


def folder_of_text(folder, **other):
    names = [f"{s}_{side}" for s in ("train", "valid", "test") for side in ("en", "de")]
    return write(folder, **{n: f"{n} 1\n{n} 2\n" for n in names} | other)


def test_a_folder(tmp_path):
    folder = folder_of_text(tmp_path / "own")
    load = lambda *languages, **options: load_parallel(str(folder), *languages, **options)  # noqa: E731
    splits = load("de", "en", prefixes={"test": "valid"}, sentences=1)
    assert splits["train"].source == ["train_de 1"]
    assert splits["valid"].target == ["valid_en 1", "valid_en 2"]
    assert splits["test"].target == splits["valid"].target
    with pytest.raises(ValueError, match=r"own has no file 'dev\.en' .*data\.valid.* test\.de"):
        load("en", "de", prefixes={"valid": "dev"})
    with pytest.raises(ValueError, match=r"own has no file 'train\.fr'"):
        load("fr", "de", prefixes={})


@pytest.mark.parametrize(
    ("name", "languages", "message"),
    [
        ("multi31k", ("en", "de"), "unknown .* 'multi31k': did you mean 'multi30k'.*a folder"),
        ("number-words", ("en", "fr"), "is in the languages en and de, but .*'fr'"),
        ("multi30k", ("en", "en"), "is in the languages en and de"),
        ("mnist", ("en", "de"), "unknown parallel text 'mnist'"),
    ],
)  # fmt: skip
def test_unknown_names_are_refused(name, languages, message):
    with pytest.raises(ValueError, match=message):
        load_parallel(name, *languages, prefixes={})


def test_a_registered_text(tmp_path, monkeypatch):
    names = [f"{s}.{side}" for s in ("train", "val", "flickr", "coco") for side in ("en", "de")]
    (tmp_path / "tiny").mkdir()
    for name in names:
        (tmp_path / "tiny" / f"{name}.gz").write_bytes(gzip.compress(f"{name}\n".encode()))
    entry = {
        "format": "parallel-text",
        "languages": ["en", "de"],
        "splits": {"train": "train", "valid": "val", "test": "flickr"},
        "files": {name: {} for name in names},
    }
    for module in (downloads, sys.modules["dst.tasks.parallel_text"]):
        monkeypatch.setattr(module, "registry", lambda: {"tiny": entry})
    monkeypatch.setenv("EPITOPO_DATA", str(tmp_path))
    splits = load_parallel("tiny", "en", "de", prefixes={})
    assert [splits[s].target[0] for s in splits] == ["train.de", "val.de", "flickr.de"]
    splits = load_parallel("tiny", "de", "en", prefixes={"test": "coco"})
    assert splits["test"].source == ["coco.de"]
    with pytest.raises(ValueError, match=r"data\.test: unknown split of tiny 'koko': .*'coco'"):
        load_parallel("tiny", "en", "de", prefixes={"test": "koko"})


def test_the_registered_texts_are_whole():
    known = {n: e for n, e in downloads.registry().items() if e["format"] == "parallel-text"}
    assert set(known) == {"multi30k", "tatoeba-en-de"}
    for entry in known.values():
        for prefix in entry["splits"].values():
            for language in entry["languages"]:
                file = entry["files"][f"{prefix}.{language}"]
                assert file["bytes"] > 0
                assert len(file["sha256"]) == 64


def test_a_text_of_the_hub(monkeypatch):
    asked = []

    def load_dataset(split, **arguments):
        asked.append((split, arguments))
        if split == "missing":
            raise RuntimeError("no such split")
        return {"translation": [{"en": f"{split}\n of it", "de": "x"}, {"en": "b", "de": "y"}]}

    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    splits = load_parallel("wmt17", "de", "en", prefixes={})
    assert splits["valid"].source == ["x", "y"]
    assert splits["valid"].target == ["validation of it", "b"]
    assert asked[0] == ("train", {"path": "wmt/wmt17", "name": "de-en", "revision": "main"})
    with pytest.raises(
        OSError, match=r"cannot load wmt17 \(test\) from .*no such split.*data\.name"
    ):
        load_parallel("wmt17", "de", "en", prefixes={"test": "missing"})
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'epitopo\[text\]'"):
        load_parallel("iwslt14", "en", "de", prefixes={})


# tokenizers


TEXT = [en for en, _ in number_words(300, 99)["train"]]


def test_any_text_comes_back():
    learned = bpe.train_bpe(TEXT, 300)
    assert learned.size == 300
    sentences = ["forty-two plus", "Größe 東京 🙂 a  b", "a </s> <pad> b", ""]
    tokens, bounds = learned.encode(sentences)
    assert (tokens.dtype, bounds[0], bounds[-1]) == (np.int32, 0, len(tokens))
    parts = [tokens[a:b].tolist() for a, b in itertools.pairwise(bounds)]
    assert learned.decode(parts) == sentences
    assert parts[-1] == []
    assert not {learned.pad, learned.end} & set(tokens.tolist())
    assert learned.decode([[*parts[0], learned.end, learned.pad]]) == [sentences[0]]


def test_learned_tokenizers_are_kept_and_checked(tmp_path, caplog):
    first = bpe.train_bpe(TEXT, 300)
    (file,) = (tmp_path / "cache" / "tokenizers").glob("*.json")
    content = file.read_bytes()
    changed = json.loads(content)
    changed["tokenizer"] = changed["tokenizer"].replace("plus", "plvs")
    for damaged in (content[:100], b"[]", json.dumps(changed).encode()):
        file.write_bytes(damaged)
        caplog.clear()
        again = bpe.train_bpe(TEXT, 300)
        assert again.inner.to_str() == first.inner.to_str()
        assert "is damaged, or of another text" in caplog.text
        assert file.read_bytes() == content
    caplog.clear()
    stamp = file.stat().st_mtime_ns
    bpe.train_bpe(TEXT, 300)
    assert file.stat().st_mtime_ns == stamp
    assert not caplog.text
    bpe.train_bpe(TEXT, 280)
    bpe.train_bpe(TEXT[1:], 300)
    assert len(list(file.parent.glob("*.json"))) == 3
    file.write_bytes(next(f for f in file.parent.glob("*.json") if f != file).read_bytes())
    bpe.train_bpe(TEXT, 300)
    assert file.read_bytes() == content


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError, match=r"cannot write .*set EPITOPO_CACHE to another folder"):
        bpe.train_bpe(TEXT, 300)


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(ValueError, match=r"data\.vocabulary must be at least 258 .* not 257"):
        bpe.train_bpe(TEXT, 257)


def word_level(vocabulary):
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return inner


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    file = tmp_path / "tokenizer.json"
    with pytest.raises(ValueError, match=r"data\.tokenizer: there is no file"):
        bpe.load_tokenizer(file)
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read as a tokenizer\.json"):
        bpe.load_tokenizer(file)
    marks = {"<unk>": 0, "<pad>": 1, "</s>": 2}
    word_level({"<unk>": 0, "<pad>": 1, "one": 2}).save(str(file))
    with pytest.raises(ValueError, match=r"does not fit: its vocabulary has no '</s>'"):
        bpe.load_tokenizer(file)
    word_level(marks | {"one": 9}).save(str(file))
    with pytest.raises(ValueError, match="does not fit: it has 4 tokens but the id 9"):
        bpe.load_tokenizer(file)
    word_level(marks | {"one": 3, "two": 4}).save(str(file))
    loaded = bpe.load_tokenizer(file)
    tokens, _ = loaded.encode(["one two"] * 19 + ["one", "six"])
    loaded.check(tokens, "text")
    with pytest.raises(ValueError, match=r"does not fit text: 50% of the tokens are unknown"):
        loaded.check(loaded.encode(["one six"])[0], "text")
    with pytest.raises(ValueError, match="does not fit text: it gave the id 5"):
        loaded.check(np.array([5], np.int32), "text")


# batches


def arrays(*sentences):
    tokens = np.array([t for s in sentences for t in s], np.int32)
    return tokens, np.concatenate([[0], np.cumsum([len(s) for s in sentences])])


def test_a_batch_by_hand():
    batches = TokenBatches(arrays([5, 6], [7]), arrays([3], [4, 8, 9]), 99, pad=0, end=1)
    batch = batches.part(np.array([1, 0]))
    assert batch.inputs["input_ids"].tolist() == [[7, 1, 0], [5, 6, 1]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[0, 4, 8, 9], [0, 3, 0, 0]]
    assert batch.inputs["labels"].tolist() == [[4, 8, 9, 1], [3, 1, IGNORED, IGNORED]]
    assert batch.count == 6
    assert {t.dtype for t in batch.inputs.values()} == {torch.int64}
    empty = batches.part(np.array([], np.int64))
    assert empty.count == 0
    assert empty.inputs["input_ids"].tolist() == [[1]]
    assert empty.inputs["attention_mask"].tolist() == [[1]]
    assert empty.inputs["labels"].tolist() == [[IGNORED]]


def random_batches(tokens):
    rng = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        lengths = rng.integers(1, 30, 500)
        sides.append(
            (
                rng.integers(2, 90, lengths.sum(), np.int32),
                np.concatenate([[0], np.cumsum(lengths)]),
            )
        )
    return TokenBatches(*sides, tokens, pad=0, end=1)


def test_an_epoch_has_every_sentence_once_in_batches_that_fit():
    batches = random_batches(200)
    assert sum(b.size for b in batches.sorted_batches()) == 500
    seen = {}
    for epoch in range(2):
        steps = range(epoch * len(batches), (epoch + 1) * len(batches))
        rows = [batches.rows(step, 3) for step in steps]
        assert sorted(np.concatenate(rows)) == list(range(500))
        for r in rows:
            assert batches.lengths[r].max() * len(r) <= 200
            assert all(t.numel() <= 200 for t in batches.part(r).inputs.values())
        seen[epoch] = rows
    # greedy: the next shortest sentence would not have fitted
    ascending = np.sort(batches.lengths)
    for start, stop in zip(batches.cuts[:-1], batches.cuts[1:-1]):
        assert ascending[stop] * (stop + 1 - start) > 200
    sets = [{tuple(sorted(r)) for r in rows} for rows in seen.values()]
    assert len(sets[0] & sets[1]) < len(batches) / 10  # other company
    lengths = [[batches.lengths[r].max() for r in rows] for rows in seen.values()]
    assert lengths[0] != lengths[1]  # another order
    assert lengths[0] != sorted(lengths[0])


def test_a_step_is_a_function_of_seed_and_step():
    one, other = random_batches(200), random_batches(200)
    for step in (0, 5 * len(one) + 1, 2):
        np.testing.assert_array_equal(one.rows(step, 7), other.rows(step, 7))
    assert not np.array_equal(one.rows(0, 7), one.rows(0, 8))


def test_parts_share_the_sentences():
    batches = random_batches(200)
    rows = batches.rows(4, 0)
    count = batches.part(rows).count
    for ranks, micro in ((1, None), (2, None), (3, 60), (1, 1)):
        parts = batches.parts(rows, ranks, micro)
        assert len(parts) % ranks == 0
        assert sum(p.count for p in parts) == count
        if micro:
            assert len(parts) > ranks
            for p in parts:
                assert len(p.inputs["labels"]) == 1 or p.inputs["labels"].numel() <= micro
    parts = batches.parts(rows[:1], 3, None)
    assert [p.count > 0 for p in parts] == [True, False, False]


def test_a_sentence_beyond_the_limit_is_a_batch_by_itself():
    long = arrays([2] * 10, [2], [2], [2, 2])
    batches = TokenBatches(long, long, 5, pad=0, end=1)
    assert [b.tolist() for b in batches.sorted_batches()] == [[1, 2], [3], [0]]


def test_fingerprints_tell_where_a_sentence_ends():
    text = [*TEXT[:50], "one", "two"]
    bpe.train_bpe(text, 300)
    found = bpe.train_bpe([*TEXT[:50], "one two"], 300)
    digest = hashlib.sha256(b"byte pairs, 1, 300\n")
    for line in [*TEXT[:50], "one two"]:
        digest.update(line.encode() + b"\n")
    assert digest.hexdigest()[:32] in found.name
