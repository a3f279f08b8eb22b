import errno
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import topo
from dst.tasks import token_file
from dst.tasks.language import LanguageConfig, LanguageData, cut_tail
from dst.tasks.token_file import open_tokens, write_tokens
from dst.tasks.token_rows import ROWS, ContiguousRows, DocumentRows, shuffled


def write(path, tokens=(5, 7, 0, 6, 0), vocabulary=10, **options):
    return write_tokens(path, [np.array(tokens)], vocabulary=vocabulary, end=0, **options)


# --- the file ---


def test_the_bytes_on_disk_by_hand(tmp_path):
    info = write(tmp_path / "a.bin", (1, 258, 0), vocabulary=300, tokenizer="t", source="s")
    assert (tmp_path / "a.bin").read_bytes() == b"\x01\x00\x02\x01\x00\x00"
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "dtype": "uint16", "tokens": 3, "documents": 1, "end": 0, "highest": 258,
        "tokenizer": "t", "source": "s", "format": 1,
    }  # fmt: skip
    file = open_tokens(tmp_path / "a.bin", vocabulary=300)
    assert file.info == info
    assert isinstance(file.tokens, np.memmap)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.json"]


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    assert write(tmp_path / "a.bin", (70_000, 0), vocabulary=70_001).dtype == "uint32"
    assert (tmp_path / "a.bin").stat().st_size == 8
    # data.dtype is for files that do not say
    assert open_tokens(tmp_path / "a.bin", vocabulary=70_001).tokens.tolist() == [70_000, 0]
    assert write(tmp_path / "b.bin", (65_535,), vocabulary=65_536).dtype == "uint16"


def test_writing_stops_at_the_limit(tmp_path):
    parts = (np.array([i, 0]) for i in range(1, 9))
    info = write_tokens(tmp_path / "a.bin", parts, vocabulary=9, end=0, limit=3)
    assert info.tokens == 4
    assert next(parts).tolist() == [3, 0]  # the others are not made


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_bare_integers(tmp_path, dtype):
    np.array([5, 6, 7, 8], dtype=dtype).tofile(tmp_path / "raw.bin")
    file = open_tokens(tmp_path / "raw.bin", vocabulary=9, dtype=dtype)
    assert file.info is None
    assert file.tokens.tolist() == [5, 6, 7, 8]


def test_refused_files(tmp_path):
    path = tmp_path / "raw.bin"
    with pytest.raises(OSError, match=r"cannot read the token file .*raw.bin: No such file"):
        open_tokens(path, vocabulary=9)
    np.array([5, 6, 7, 8], dtype=np.uint32).tofile(path)
    with pytest.raises(
        ValueError, match=r"every other token of .* is 0: it holds uint32. Set data"
    ):
        open_tokens(path, vocabulary=9)
    np.array([5, 6, 7, 8], dtype=np.uint16).tofile(path)
    with pytest.raises(ValueError, match=r"holds the token 524295, but .* has 9: .*data.dtype"):
        open_tokens(path, vocabulary=9, dtype="uint32")
    with pytest.raises(ValueError, match="holds the token 8, but the model's vocabulary has 8"):
        open_tokens(path, vocabulary=8)
    path.write_bytes(b"abc")
    with pytest.raises(ValueError, match="has 3 bytes, no multiple of 2: it is truncated, or"):
        open_tokens(path, vocabulary=2**16)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="has 0 bytes"):
        open_tokens(path, vocabulary=9)
    with pytest.raises(ValueError, match=r"unknown data.dtype 'int16': did you mean 'uint16'"):
        open_tokens(path, vocabulary=9, dtype="int16")


def test_refused_with_a_json_beside(tmp_path):
    path = tmp_path / "a.bin"
    write(path, tokenizer="one")
    assert open_tokens(path, vocabulary=10, tokenizer="one").info.tokens == 5
    with pytest.raises(ValueError, match=r"another tokenizer \(fingerprint one, .* is two\)"):
        open_tokens(path, vocabulary=10, tokenizer="two")
    with pytest.raises(ValueError, match="holds the token 7, but the model's vocabulary has 7"):
        open_tokens(path, vocabulary=7)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"a.bin is truncated .*8 bytes, .* 5 tokens of 2 bytes"):
        open_tokens(path, vocabulary=10)
    beside = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(beside | {"format": 2}))
    with pytest.raises(ValueError, match=r"a.json is of format 2, this version reads 1"):
        open_tokens(path, vocabulary=10)
    (tmp_path / "a.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(ValueError, match=r"a.json is damaged"):
        open_tokens(path, vocabulary=10)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a.json is damaged"):
        open_tokens(path, vocabulary=10)


def test_nothing_half_written(tmp_path, monkeypatch):
    for tokens, message in (((5, 10), "token 10 is not in"), ((-1,), "token -1"), ((), "no text")):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "a.bin", tokens)

    def breaking():
        yield np.array([1])
        raise ConnectionResetError(errno.ECONNRESET, "the hub is gone")

    with pytest.raises(ConnectionResetError, match="the hub is gone"):
        write_tokens(tmp_path / "a.bin", breaking(), vocabulary=9, end=0)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(token_file.os, "fsync", full)
    with pytest.raises(
        OSError, match=r"cannot write tokens to .*a.bin: No space left.*EPITOPO_CACHE"
    ):
        write(tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


# --- rows ---


def test_every_token_but_the_first_is_a_target_once():
    tokens = np.arange(100, 123, dtype=np.uint16)
    rows = ContiguousRows(tokens, 5, 0)
    assert len(rows) == 4  # 22 targets
    batch = rows.batch(np.arange(4))
    assert batch.inputs["tokens"].flatten().tolist() == list(range(100, 120))
    assert batch.inputs["targets"].flatten().tolist() == list(range(101, 121))
    assert batch.count == 20
    assert batch.inputs["tokens"].dtype == torch.int64
    assert [rows.up_to(n) for n in (1, 5, 9, 10, 1000)] == [1, 1, 1, 2, 4]


@pytest.mark.parametrize("rows", ROWS.values())
def test_too_few_tokens_make_no_row(rows):
    assert len(rows(np.array([], dtype=np.uint16), 4, 0)) == 0
    assert len(ContiguousRows(np.arange(4), 4, 0)) == 0
    assert len(ContiguousRows(np.arange(5), 4, 0)) == 1


def test_documents_as_a_plain_loop_makes_them():
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 6, size=400)  # many short documents, also empty ones
    length, end = 4, 0
    expected, document = [], []
    for token in [*tokens.tolist(), end]:
        if token != end:
            document.append(token)
        elif document:
            expected.append([*document[:length], end])
            document = []
    rows = DocumentRows(tokens.astype(np.uint16), length, end)
    assert len(rows) == len(expected)
    batch = rows.batch(np.arange(len(rows)))
    for row, inputs, targets in zip(expected, batch.inputs["tokens"], batch.inputs["targets"]):
        pad = length + 1 - len(row)
        assert inputs.tolist() == row[:-1] + [end] * pad
        assert targets.tolist() == row[1:] + [-100] * pad
    assert batch.count == sum(len(row) - 1 for row in expected)
    counts = np.cumsum([len(row) - 1 for row in expected])
    assert rows.up_to(int(counts[9])) == 10
    assert rows.up_to(int(counts[9]) - 1) == 9
    assert rows.up_to(0) == 1


def test_the_tail_that_is_held_out():
    tokens = np.arange(1, 101)
    assert [len(part) for part in cut_tail(tokens, 0.05, end=0)] == [95, 5]
    tokens[96] = 0
    first, second = cut_tail(tokens, 0.05, end=0)
    assert first[-1] == 0
    assert second.tolist() == [98, 99, 100]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 64, 1000])
def test_shuffled_is_a_permutation(size):
    key = topo.stream(3, "epoch", size)
    order = shuffled(size, key, np.arange(size))
    assert sorted(order.tolist()) == list(range(size))
    assert shuffled(size, key, [size - 1]).tolist() == order[-1:].tolist()


def test_shuffled_is_random_and_needs_no_large_arrays():
    firsts = [int(shuffled(6, topo.stream(seed), [0])) for seed in range(1200)]
    counts = np.bincount(firsts, minlength=6)  # of 200 +- 13
    assert abs(counts - 200).max() < 60
    orders = [tuple(shuffled(6, topo.stream(seed), range(6)).tolist()) for seed in range(400)]
    assert len(set(orders)) > 250  # of 720; 400 draws of a fair one find 307
    far = shuffled(10**12, topo.stream(0), np.arange(512))
    assert len(set(far.tolist())) == 512
    assert 0 <= far.min() < 2e10
    assert 9.8e11 < far.max() < 10**12
    assert abs(np.corrcoef(np.arange(512), far)[0, 1]) < 0.15


# --- real files ---


def real(name):
    folder = Path(os.environ.get("EPITOPO_DATA", "/nowhere"))
    if not (folder / name).exists():
        pytest.skip(f"EPITOPO_DATA has no {name}")
    return str(folder / name)


def test_openwebtext_as_nanogpt_tokenised_it(tmp_path, monkeypatch):
    bare = real("lm-text/openwebtext-1k.gpt2.uint16.bin")
    gpt2, text = real("tokenizer-gpt2"), real("lm-text/openwebtext-1k.jsonl.xz")
    monkeypatch.setenv("EPITOPO_CACHE", str(tmp_path))
    data = LanguageData(train=text, tokenizer=gpt2, documents=100)
    LanguageConfig(data=data).task()
    (ours,) = (tmp_path / "tokens").glob("*.bin")
    mine = open_tokens(ours, vocabulary=50257)
    theirs = open_tokens(Path(bare), vocabulary=50257)
    assert mine.info.documents == 100
    assert np.array_equal(mine.tokens, theirs.tokens[: len(mine.tokens)])
    task = LanguageConfig(data=LanguageData(train=bare, tokenizer=gpt2)).task()
    assert task.epoch_steps == 9
    with pytest.raises(ValueError, match=r"the token 50256, but .* has 257"):
        LanguageConfig(data=LanguageData(train=bare)).task()


def test_novels_are_found_in_the_folder_of_texts(tmp_path, monkeypatch):
    """The same without the data: small files of the same names."""
    (tmp_path / "lm-text").mkdir()
    for side, text in (("train", "Call me Ishmael.\n" * 40), ("valid", "It was the best.\n" * 40)):
        with gzip.open(tmp_path / "lm-text" / f"novels98.{side}.txt.gz", "wt") as f:
            f.write(text)
    monkeypatch.setenv("EPITOPO_DATA", str(tmp_path))
    monkeypatch.setenv("EPITOPO_CACHE", str(tmp_path / "cache"))
    task = LanguageConfig(data=LanguageData("novels98", length=16, batch_size=4)).task()
    assert (
        bytes(task.valid.batch(np.array([0])).inputs["tokens"][0].tolist()) == b"It was the best."
    )
