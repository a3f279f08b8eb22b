"""The training loop: runs that die anywhere and go on to the bit, and bad news."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import topo
from dst import checkpoints
from dst.__main__ import main as dst
from dst.build import Recipe, device_of
from dst.config import Config, OptimizerConfig, SparsityConfig, TrainingConfig
from dst.presets import PRESETS
from dst.run_folder import running
from dst.tasks import Batch, Score, Task
from dst.tasks.images import MLPConfig
from dst.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


def small(method="chts", **training):
    config = PRESETS[f"digits-{method or 'dense'}"]
    return replace(
        config,
        data=replace(config.data, batch_size=256),
        model=MLPConfig([16, 8]),
        optimizer=replace(config.optimizer, epochs=3),
        sparsity=replace(config.sparsity, density=0.2, every=3) if method else config.sparsity,
        training=TrainingConfig(checkpoint_every=4, log_every=5, **training),
    )


def result(run):
    """All that two runs of the same configuration have in common, byte for byte."""
    summary = json.loads((run / "summary.json").read_text())
    del summary["run"]
    found = {
        "metrics": (run / "metrics.jsonl").read_text(),
        "config": (run / "config.yaml").read_text(),
        "summary": summary,
        "timed": [json.loads(x)["step"] for x in (run / "timings.jsonl").read_text().splitlines()],
        "checkpoints": checkpoints.steps(run / "checkpoints"),
    }
    last = checkpoints.read(run / "checkpoints" / found["checkpoints"][-1])
    for name in ("model", "optimizer", "evolver"):
        tensors = {}
        plain = checkpoints.pack(last[name], tensors)
        found[name] = plain, {k: v.numpy().tobytes() for k, v in tensors.items()}
    if (run / "topology").is_dir():
        history = topo.History.open(run)
        updates = history.updates()
        seconds = [c for c in updates.columns if c.endswith("_seconds")]
        found["events"] = history.events().to_csv()
        found["updates"] = updates.drop(columns=seconds).to_csv()
        found["steps"] = history.steps, history.weight_steps
        for step in history.weight_steps:
            weights = history.at(step, weights=True).weights
            found[f"weights {step}"] = {n: w.data.tobytes() for n, w in weights.items()}
    return found


class Killed(BaseException):
    """What `except Exception` and clean-up for errors of the disk do not see."""


@pytest.fixture
def dies(monkeypatch):
    """Have the n-th file operation, counted from 0, be the last; -1 counts them only."""
    real = {name: getattr(os, name) for name in ("fsync", "mkdir", "unlink", "rename", "replace")}
    state = {"count": 0, "at": -1}

    def wrap(name):
        def operation(*args, **kwargs):
            state["count"] += 1
            if state["count"] - 1 == state["at"]:
                raise Killed
            if 0 <= state["at"] < state["count"]:
                raise Killed  # nothing happens after death
            return real[name](*args, **kwargs)

        return operation

    def at(number):
        state.update(count=0, at=number)
        for name in real:
            monkeypatch.setattr(os, name, wrap(name) if number is not None else real[name])
        return state

    return at


@pytest.mark.parametrize("method", ["chts", "gmp"])
def test_a_run_that_dies_at_any_file_operation_goes_on_to_the_bit(method, tmp_path, dies):
    config = small(method, weights_every=7)
    state = dies(-1)
    train(config, tmp_path / "whole", preset=f"digits-{method}")
    count = state["count"]
    dies(None)
    expected = result(tmp_path / "whole")
    assert expected["steps"][1] == [0, 7, 14, 18]
    assert count > 100
    for number in range(0, count, 11 if method == "chts" else 23):
        run = tmp_path / f"dies-{number}"
        dies(number)
        with pytest.raises(Killed):
            train(config, run, preset=f"digits-{method}")
        dies(None)
        if not (run / "config.yaml").is_file():
            train(config, run, preset=f"digits-{method}")  # nothing was begun
        else:
            train(config, run, preset=f"digits-{method}", resume=True)
        assert result(run) == expected, number
        shutil.rmtree(run)


@pytest.mark.parametrize("method", [None, "rigl", "mest"])
def test_a_run_that_dies_twice_goes_on_to_the_bit(method, tmp_path, dies):
    config = replace(small(method), optimizer=OptimizerConfig("adamw", epochs=3, clip=0.5))
    train(config, tmp_path / "whole", preset="p")
    run = tmp_path / "dies"
    dies(40)
    with pytest.raises(Killed):
        train(config, run, preset="p")
    dies(12)
    with pytest.raises(Killed):
        train(config, run, preset="p", resume=True)
    dies(None)
    train(config, run, preset="p", resume=True)
    assert result(run) == result(tmp_path / "whole")


def test_kill_9(tmp_path):
    options = ["--model.hidden", "[32,16]", "--optimizer.epochs", "6", "--data.batch_size", "16"]
    command = ["train", "digits-chtss", *options, "--training.checkpoint_every", "100"]
    run = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-m", "dst", *command, "--out", str(run)])
    while not (run / "checkpoints" / "step-00000200").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (run / "summary.json").exists()
    assert dst([*command, "--out", str(run)]) == 2  # it is not begun anew by mistake
    assert dst(["train", "--resume", str(run)]) == 0
    assert dst([*command, "--out", str(tmp_path / "whole")]) == 0
    assert result(run) == result(tmp_path / "whole")
    before = (run / "summary.json").read_text()
    assert dst(["train", "--resume", str(run)]) == 0
    assert (run / "summary.json").read_text() == before


# ---- a task of one's own -------------------------------------------------------------------------


EVENTS = {}  # what happens before which step


@pytest.fixture(autouse=True)
def nothing_happens():
    EVENTS.clear()


@dataclass
class ToyConfig(Config):
    """A line to be learnt."""

    data: dict = field(default_factory=dict)

    def task(self):
        return Toy(self)


class Toy(Task):
    unit: ClassVar[str] = "samples"
    score = Score("test_score", higher_is_better=True, selected_by="valid_loss")
    dense = ("2",)
    epoch_steps = 4

    def __init__(self, config):
        self.config = config

    def model(self):
        return nn.Sequential(nn.Linear(8, 12), nn.Dropout(0.5), nn.Linear(12, 1))

    def batches(self, step, ranks):
        EVENTS.pop(step, lambda: None)()
        x = torch.randn(12, 8, generator=torch.Generator().manual_seed(step))
        parts = x.tensor_split(2 * ranks)
        return [Batch({"x": p, "y": p.sum(1, keepdim=True)}, len(p)) for p in parts]

    def loss(self, model, batch):
        return (model(batch.inputs["x"]) - batch.inputs["y"]).square().sum()

    def evaluate(self, model, rank, ranks):
        assert not model.training
        return {"loss": abs(model[2].bias.item() - 0.02), "count": 1.0}

    def measures(self, sums):
        return {"valid_loss": sums["loss"] / sums["count"]}

    def test(self, model):
        return {"test_score": model[2].bias.item(), "test_text": "as it is"}


def toy(events=None, **training):
    EVENTS.update(events or {})
    return ToyConfig(
        SparsityConfig("set", 0.5, every=2),
        OptimizerConfig(steps=12, lr=0.05),
        TrainingConfig(evaluate_every=1, checkpoint_every=2, **training),
    )


def test_the_model_of_the_best_evaluation_is_scored(tmp_path):
    summary = train(toy(), tmp_path / "r")
    lines = [json.loads(x) for x in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["valid_loss"] for line in lines]
    best = int(np.argmin(losses))
    assert 0 < best < 11  # neither the first nor the last
    assert summary["selected"]["step"] == best + 1
    assert summary["selected"]["valid_loss"] == losses[best]
    score = summary["score"]
    assert score["value"] == score["best"] == summary["selected"]["test_score"]
    assert abs(score["value"] - 0.02) == losses[best]
    assert score["final"] == summary["measures"]["test_score"] != score["best"]
    assert abs(score["final"] - 0.02) == losses[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_go_on(number, tmp_path, capsys):
    expected = train(toy(), tmp_path / "whole")
    run = tmp_path / "r"
    with pytest.raises(KeyboardInterrupt, match=rf"after step 6 of 12; .* train --resume {run}"):
        train(toy({5: lambda: signal.raise_signal(number)}), run)
    assert checkpoints.steps(run / "checkpoints")[-1] == "step-00000006"
    assert signal.getsignal(number) is not None
    resumed = train(toy(), run, resume=True)  # dropout, too, is as it would have been
    assert {**resumed, "run": 0} == {**expected, "run": 0}
    assert result(run) == result(tmp_path / "whole")


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        train(toy({5: twice}), tmp_path / "r")
    assert checkpoints.steps(tmp_path / "r" / "checkpoints")[-1] == "step-00000004"


def test_dropout_differs_between_steps_and_seeds(tmp_path):
    losses = {}
    for seed in (0, 1):
        train(replace(toy(log_every=1), seed=seed), tmp_path / str(seed))
        lines = (tmp_path / str(seed) / "metrics.jsonl").read_text().splitlines()
        losses[seed] = [json.loads(x)["train_loss"] for x in lines]
    assert losses[0] != losses[1]
    assert len(set(losses[0])) == 12


def test_micro_batches_give_the_gradient_of_the_whole(tmp_path):
    def final(parts):
        class Parts(Toy):
            def batches(self, step, ranks):
                (whole,) = [torch.cat([b.inputs["x"] for b in super().batches(step, 1)])]
                split = whole.tensor_split(parts)
                return [Batch({"x": p, "y": p.sum(1, keepdim=True)}, len(p)) for p in split]

            def model(self):
                return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 1))

        @dataclass
        class PartsConfig(ToyConfig):
            def task(self):
                return Parts(self)

        config = PartsConfig(**vars(toy(precision="float64")))
        train(config, tmp_path / str(parts))
        saved = checkpoints.latest(tmp_path / str(parts) / "checkpoints")
        return saved["model"]

    whole, parts = final(1), final(5)
    assert all(v.dtype == torch.float64 for k, v in whole.items() if v.is_floating_point())
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], rtol=1e-12, atol=1e-14)


# ---- bad news ------------------------------------------------------------------------------------


def damage_tensors(folder):
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def damage_state(folder):
    file = folder / "state.json"
    file.write_text(file.read_text().replace("exp", "exq").replace("step", "stop"))


DAMAGES = {
    "a bit of the weights": damage_tensors,
    "a word of the state": damage_state,
    "cut off": lambda f: (f / "state.json").write_bytes((f / "state.json").read_bytes()[:100]),
    "weights are gone": lambda f: (f / "optimizer.safetensors").unlink(),
    "all is gone": lambda f: [p.unlink() for p in f.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, tmp_path, caplog):
    run, whole = tmp_path / "r", tmp_path / "whole"
    train(toy(), whole)
    with pytest.raises(KeyboardInterrupt):
        train(toy({7: lambda: signal.raise_signal(signal.SIGINT)}), run)
    last, before = (run / "checkpoints" / f"step-0000000{step}" for step in (8, 6))
    damage(last)
    with caplog.at_level(logging.WARNING):
        train(toy(), run, resume=True)
    (record,) = caplog.records
    assert str(last) in record.message
    assert f"going on from {before}" in record.message
    assert result(run) == result(whole)


def test_without_a_whole_checkpoint_nothing_is_lost(tmp_path):
    run = tmp_path / "r"
    with pytest.raises(KeyboardInterrupt):
        train(toy({7: lambda: signal.raise_signal(signal.SIGINT)}), run)
    for folder in (run / "checkpoints").glob("step-*"):
        damage_tensors(folder)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(
        checkpoints.CheckpointError,
        match=r"no checkpoint .*checksum is another.*begin anew",
    ):
        train(toy(), run, resume=True)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_checkpoint_of_another_version_is_refused_by_name(tmp_path, monkeypatch):
    run = tmp_path / "r"
    monkeypatch.setattr(checkpoints, "FORMAT", 99)
    train(toy(), run)
    monkeypatch.undo()
    (run / "summary.json").unlink()
    with pytest.raises(checkpoints.CheckpointError, match=r"of format 99 \(epitopo .* reads"):
        train(toy(), run, resume=True)


def test_a_run_of_another_version_is_refused_by_name(tmp_path, capsys):
    run = tmp_path / "r"
    train(small(), run, preset="digits-chts")
    (run / "summary.json").unlink()
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("density:", "sparsity:"))
    assert dst(["train", "--resume", str(run)]) == 2
    message = capsys.readouterr().err
    assert "of another version of epitopo" in message
    assert "sparsity" in message
    config.write_text("[1")
    assert dst(["train", "--resume", str(run)]) == 2
    assert "cannot be read as YAML" in capsys.readouterr().err
    config.unlink()
    assert dst(["train", "--resume", str(run)]) == 2
    assert "there is no run in" in capsys.readouterr().err
    assert dst(["train", "--resume", str(run), "--seed", "3"]) == 2
    assert "give no other option" in capsys.readouterr().err
    assert dst(["train"]) == 2
    assert "name a preset" in capsys.readouterr().err


def test_a_full_disk_keeps_the_checkpoints_before(tmp_path, monkeypatch):
    run, whole = tmp_path / "r", tmp_path / "whole"
    train(toy(), whole)
    import safetensors.torch

    real = safetensors.torch.save_file

    def full(tensors, file):
        if "writing" in str(file) and (run / "checkpoints" / "step-00000006").exists():
            raise OSError(28, "No space left on device")
        real(tensors, file)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"cannot write .*00008: .*No space left.*older"):
        train(toy(), run)
    assert checkpoints.steps(run / "checkpoints") == ["step-00000004", "step-00000006"]
    assert not (run / "checkpoints" / ".writing").exists()
    monkeypatch.undo()
    train(toy(), run, resume=True)
    assert result(run) == result(whole)


def test_a_loss_that_is_not_finite_names_the_layer(tmp_path):
    run = tmp_path / "r"
    config = replace(toy(), sparsity=SparsityConfig(), optimizer=OptimizerConfig(steps=50, lr=1e6))
    with pytest.raises(ValueError, match=r"the loss of step \d+ is (nan|inf): .*'[02]'.*lower"):
        train(config, run)
    kept = checkpoints.latest(run / "checkpoints")
    assert all(v.isfinite().all() for v in kept["model"].values())
    assert not (run / "summary.json").exists()


def test_weights_that_went_bad_are_neither_saved_nor_scored(tmp_path, monkeypatch):
    def spoil(self, closure=None):
        spoil.steps += 1
        real(self, closure)
        if spoil.steps == 6:  # the loss of this step was finite
            self.param_groups[0]["params"][-1].data.fill_(float("nan"))

    spoil.steps, real = 0, torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", spoil)
    with pytest.raises(ValueError, match=r"step 6 has made '2.bias' not finite"):
        train(toy(), tmp_path / "r")
    assert checkpoints.steps(tmp_path / "r" / "checkpoints") == ["step-00000002", "step-00000004"]
    monkeypatch.undo()
    train(toy(), tmp_path / "r", resume=True)
    assert "NaN" not in (tmp_path / "r" / "metrics.jsonl").read_text()


def test_other_data_are_refused(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(toy({7: lambda: signal.raise_signal(signal.SIGINT)}), tmp_path / "r")
    monkeypatch.setattr(Toy, "fingerprint", lambda self: "other")
    with pytest.raises(ValueError, match="the data are not those that the run was trained on"):
        train(toy(), tmp_path / "r", resume=True)


def test_a_damaged_checkpoint_does_not_pass_for_the_newest(tmp_path):
    run = tmp_path / "r"
    config = toy(keep_checkpoints=1)
    with pytest.raises(KeyboardInterrupt):
        train(toy({9: lambda: signal.raise_signal(signal.SIGINT)}), run)
    damage_tensors(run / "checkpoints" / "step-00000010")
    EVENTS[8] = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(config, run, resume=True)
    assert checkpoints.steps(run / "checkpoints") == ["step-00000009"]
    train(config, run, resume=True)


def test_without_a_whole_best_model_the_last_is_scored(tmp_path, caplog):
    run = tmp_path / "r"
    train(toy(), run)
    (run / "summary.json").unlink()
    damage_tensors(run / "checkpoints" / "best")
    summary = train(toy(), run, resume=True)
    assert "the last model is scored instead" in caplog.text
    assert summary["score"]["value"] == summary["score"]["final"]
    assert summary["selected"]["step"] == 12


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path):
    config = toy()
    config = replace(config, sparsity=SparsityConfig("chtss", 0.1, every=12))
    with pytest.raises(ValueError, match="leaves 0 updates"):
        train(config, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_one_process_a_run(tmp_path):
    with running(tmp_path / "r"):
        with pytest.raises(ValueError, match="another process trains"), running(tmp_path / "r"):
            pass
        with running(tmp_path / "s"):
            pass
    with running(tmp_path / "r"):
        pass


def test_devices_and_precisions_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="torch sees 0 CUDA devices here"):
        device_of("cuda:7") if not torch.cuda.is_available() else device_of("cuda:99")
    with pytest.raises(ValueError, match="auto, cpu, cuda or cuda:N, not 'gpu'"):
        device_of("gpu")
    for change, message in (
        ({"training": TrainingConfig(precision="bf61")}, "unknown precision 'bf61'"),
        ({"optimizer": OptimizerConfig("adamv", steps=1)}, "unknown optimizer 'adamv'"),
        ({"optimizer": OptimizerConfig(steps=1, schedule="cosin")}, "unknown schedule 'cosin'"),
    ):
        with pytest.raises(ValueError, match=message):
            train(replace(toy(), **change), tmp_path / "r")
        assert not (tmp_path / "r").exists()


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "bf16-pure", "float64"])
@pytest.mark.parametrize("layout", ["auto", "masked"])
def test_precisions(precision, layout, tmp_path):
    config = toy(precision=precision)
    config = replace(config, sparsity=replace(config.sparsity, layout=layout))
    train(config, tmp_path / "r")
    saved = checkpoints.latest(tmp_path / "r" / "checkpoints")["model"]
    train(replace(config, training=TrainingConfig(evaluate_every=1)), tmp_path / "float32")
    lines = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("r", "float32")]
    losses, plain = ([json.loads(x)["train_loss"] for x in text.splitlines()] for text in lines)
    assert losses != plain  # it does reckon in other numbers
    assert losses == pytest.approx(plain, rel=0.2)
    wanted = {"bf16": torch.float32, "bf16-pure": torch.bfloat16, "float64": torch.float64}
    assert saved["2.weight"].dtype == wanted[precision]


def test_the_ramp_follows_the_updates_and_churn_the_option(tmp_path):
    config = toy(log_every=1)
    config = replace(
        config,
        sparsity=replace(config.sparsity, every=4, ramp=2, churn=0.125),
        optimizer=replace(config.optimizer, schedule="constant"),
    )
    train(config, tmp_path / "r")
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(x)["learning_rate"] / 0.05 for x in lines]
    # updates after steps 4 and 8, the last; the ramps go on
    assert rates == [0, 0.5, 1, 1, 0, 0.5, 1, 1, 0, 0.5, 1, 1]
    updates = topo.History.open(tmp_path / "r").updates()
    assert updates[updates.step > 0].removed.tolist() == [6, 6]  # an eighth of 48
    recipe = Recipe(
        replace(config, sparsity=SparsityConfig("mest", 0.5, churn=0.1)),
        Toy(config),
        torch.device("cpu"),
    )
    assert recipe.method.churn(10, 7, 0.5) == 3  # a surplus is no share


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    train(toy(tensorboard=True), tmp_path / "r")
    assert len(list((tmp_path / "r" / "tensorboard").iterdir())) == 1


def test_a_compiled_model(tmp_path, monkeypatch):
    # the default backend needs a C++ compiler, and half a minute
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    for compile in (False, True):
        train(small("set", compile=compile), tmp_path / str(compile))
    plain, compiled = (result(tmp_path / name) for name in ("False", "True"))
    assert compiled["events"] == plain["events"]
    assert compiled["metrics"] == plain["metrics"]
