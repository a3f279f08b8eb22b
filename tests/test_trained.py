"""What becomes of a trained model: export and zero-shot evaluation from the command line."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from dst import checkpoints
from dst.__main__ import main as dst
from dst.tasks.images import mlp
from dst.tasks.language import Language
from dst.tasks.translation import Translation
from dst.trained import trained

pytestmark = pytest.mark.usefixtures("one_thread")

LLAMA = {
    "model.layers": 1, "model.width": 16, "model.ffn": 24, "model.heads": 2,
    "data.length": 32, "data.batch_size": 4, "data.tokenizer": "bytes",
    "data.valid_tokens": 200, "optimizer.steps": 4, "optimizer.warmup": 1, "sparsity.every": 1,
    "sparsity.ramp": 0, "training.evaluate_every": 2, "training.log_every": 1,
}  # fmt: skip
WORDS = {
    "model.layers": 1, "model.width": 16, "model.ffn": 16, "model.heads": 2,
    "data.sentences": 200, "optimizer.steps": 6, "optimizer.warmup": 2, "sparsity.every": 3,
    "sparsity.ramp": 0, "training.evaluate_every": 2, "optimizer.lr": 0.5, "search.beams": 1,
}  # fmt: skip


def train(preset, run, options):
    flat = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return dst(["train", preset, "--out", str(run), *flat])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPITOPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def llama(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("llama")
    (folder / "text.txt").write_text("the cat sat on the mat. the dog ate the hat. " * 60)
    options = LLAMA | {"data.train": folder / "text.txt"}
    assert train("llama-9m-pydoc-chts", folder / "run", options) == 0
    return folder / "run"


def test_a_language_model_is_trained_resumed_and_exported(llama, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    summary = json.loads((llama / "summary.json").read_text())
    assert summary["score"]["name"] == "valid_perplexity"
    assert summary["score"]["value"] == summary["measures"]["valid_perplexity"] > 1
    assert summary["run"]["unit"] == "tokens"
    assert dst(["export", str(llama), "--out", str(tmp_path / "hf")]) == 0
    assert dst(["export", str(llama), "--out", str(tmp_path / "hf")]) == 2
    assert "exists already: give another --out" in capsys.readouterr().err
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "hf")("the cat", return_tensors="pt")
    with torch.no_grad():
        ours = trained(llama)[1](tokens["input_ids"]).logits
        theirs = model(tokens["input_ids"]).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("preset", "options", "kind"),
    [("llama-9m-pydoc-rigl", LLAMA, Language), ("number-words-chtss", WORDS, Translation)],
)
def test_a_text_run_that_is_stopped_goes_on_to_the_bit(
    preset, options, kind, tmp_path, monkeypatch
):
    (tmp_path / "text.txt").write_text("the cat sat on the mat. the dog ate the hat. " * 60)
    if "llama" in preset:
        options = options | {"data.train": tmp_path / "text.txt"}
    options = options | {"sparsity.every": 1, "training.checkpoint_every": 1}
    assert train(preset, tmp_path / "whole", options) == 0
    batches = kind.batches

    def stopping(self, step, ranks):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return batches(self, step, ranks)

    monkeypatch.setattr(kind, "batches", stopping)
    assert train(preset, tmp_path / "r", options) == 130
    monkeypatch.undo()
    assert dst(["train", "--resume", str(tmp_path / "r")]) == 0
    whole, run = tmp_path / "whole", tmp_path / "r"
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    one, other = (checkpoints.latest(path / "checkpoints")["model"] for path in (whole, run))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    summaries = [json.loads((path / "summary.json").read_text()) for path in (whole, run)]
    assert {**summaries[0], "run": 0} == {**summaries[1], "run": 0}


def test_zero_shot_on_local_data(llama, tmp_path, capsys):
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "stsa.binary.dev").write_text("1 a joy .\n0 a bore .\n1 so good .\n")
    out = tmp_path / "scores.json"
    arguments = ["--data", str(tmp_path), "--out", str(out), "--batch_size", "2"]
    assert dst(["evaluate", str(llama), *arguments]) == 0
    scores = json.loads(out.read_text())
    assert list(scores) == ["sst2"]
    assert scores["sst2"]["n"] == 3
    assert scores["sst2"]["value"] in (0, 1 / 3, 2 / 3, 1)
    assert "sst2" in capsys.readouterr().out


def test_of_a_translation_run_the_best_model_is_exported(tmp_path):
    from transformers import MarianMTModel

    run = tmp_path / "run"
    assert train("number-words-set", run, WORDS) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["selected"]["step"] < 6  # at that rate it soon goes wrong
    assert "tok:13a" in summary["selected"]["test_bleu_signature"]
    best = checkpoints.read(run / "checkpoints" / "best")
    assert best["step"] == summary["selected"]["step"]
    assert dst(["export", str(run)]) == 0
    model = MarianMTModel.from_pretrained(run / "export")
    name = "model.decoder.embed_tokens.weight"
    assert torch.equal(model.state_dict()[name], best["model"][name])


def test_a_perceptron_is_exported_as_safetensors(tmp_path):
    run = tmp_path / "run"
    options = {"model.hidden": "[16,8]", "optimizer.epochs": 1, "data.batch_size": 256}
    assert train("digits-chts", run, options | {"sparsity.every": 2}) == 0
    assert dst(["export", str(run)]) == 0
    model = mlp(64, [16, 8], 10)
    model.load_state_dict(load_file(run / "export" / "model.safetensors"))
    recipe, sparse = trained(run)
    x = recipe.task.test_x[:9]
    torch.testing.assert_close(model(x), sparse(x))


def test_what_has_no_model(tmp_path, capsys):
    assert dst(["export", str(tmp_path)]) == 2
    assert "there is no run in" in capsys.readouterr().err
    assert dst(["evaluate", str(tmp_path), "--tasks", "sst2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
