"""Runs on a GPU: precisions, compiling, resuming."""

import json
import signal
from dataclasses import replace

import pytest
import torch

from dst import checkpoints
from dst.build import Recipe, device_of
from dst.config import TrainingConfig
from dst.presets import PRESETS
from dst.tasks.images import MLPConfig
from dst.tasks.language import LlamaShape
from dst.train import train

pytestmark = pytest.mark.gpu


def digits(method, layout="auto", **training):
    config = PRESETS[f"digits-{method}"]
    return replace(
        config,
        model=MLPConfig([64, 64]),
        sparsity=replace(config.sparsity, density=0.3, layout=layout, every=20),
        optimizer=replace(config.optimizer, epochs=3),
        training=TrainingConfig(device="cuda", checkpoint_every=20, **training),
    )


def llama(tmp_path, method="chts", **training):
    (tmp_path / "text.txt").write_text("the cat sat on the mat. the dog ate the hat. " * 400)
    config = PRESETS[f"llama-9m-pydoc-{method}"]
    return replace(
        config,
        data=replace(config.data, train=str(tmp_path / "text.txt"), tokenizer="bytes", length=64),
        model=LlamaShape(64, 128, 2, 2),
        sparsity=replace(config.sparsity, density=0.3, every=10, ramp=2),
        optimizer=replace(config.optimizer, steps=40, warmup=4),
        training=TrainingConfig(device="cuda", evaluate_every=20, log_every=10, **training),
    )


@pytest.mark.parametrize(
    ("method", "layout"), [("chts", "csr"), ("chtss", "csr"), ("rigl", "masked"), ("gmp", "masked")]
)
def test_digits_are_learnt(method, layout, tmp_path):
    summary = train(digits(method, layout), tmp_path / "r")
    assert summary["score"]["value"] > 0.8
    assert summary["run"]["device"].startswith("cuda")
    assert summary["run"]["peak_memory_bytes"] > 0


@pytest.mark.parametrize("training", [{"precision": "bf16"}, {"precision": "bf16-pure"}])
@pytest.mark.parametrize("compile", [False, True])
def test_a_llama_learns(training, compile, tmp_path):
    train(llama(tmp_path, compile=compile, **training), tmp_path / "r")
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["train_loss"] for line in lines]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("method", ["chtsl", "naive", "sltrain"])
@pytest.mark.parametrize("training", [{}, {"precision": "bf16"}, {"precision": "bf16-pure"}])
@pytest.mark.parametrize("compile", [False, True])
def test_a_llama_of_two_branches_learns(method, training, compile, tmp_path):
    train(llama(tmp_path, method, compile=compile, **training), tmp_path / "r")
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["train_loss"] for line in lines]
    assert losses[-1] < 0.8 * losses[0]
    ratios = json.loads((tmp_path / "r" / "cancellation.jsonl").read_text().splitlines()[-1])
    assert all(0 < ratio < 1 for ratio in ratios["layers"].values())


def test_dropout_begins_every_step_as_a_function_of_the_seed():
    config = digits("chts")
    recipe = Recipe(config, config.task(), device_of("cuda"))
    drawn = []
    for step in (3, 4, 3):
        recipe.reseed(step, 0)
        drawn.append(torch.rand(5, device="cuda"))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_a_run_goes_on_with_what_it_had(tmp_path, monkeypatch):
    from dst.tasks.images import Images

    batches = Images.batches

    def stopping(self, step, ranks):
        if step == 50:
            signal.raise_signal(signal.SIGINT)
        return batches(self, step, ranks)

    train(digits("chtss", "masked"), tmp_path / "whole")
    monkeypatch.setattr(Images, "batches", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(digits("chtss", "masked"), tmp_path / "r")
    monkeypatch.undo()
    train(digits("chtss", "masked"), tmp_path / "r", resume=True)
    one, other = (checkpoints.latest(tmp_path / n / "checkpoints") for n in ("whole", "r"))
    for name, value in one["model"].items():  # sums on a GPU need not have the same order
        torch.testing.assert_close(other["model"][name], value, rtol=1e-2, atol=1e-3)
