import json

import numpy as np
import pytest
import yaml

import topo
from analysis.__main__ import main as analysis
from dst.__main__ import main as dst
from dst.presets import PRESETS

SMALL = ["--model.hidden", "[24,16]", "--optimizer.epochs", "3", "--data.batch_size", "128"]


def train(folder, preset="digits-chts", *options):
    return dst(["train", preset, "--out", str(folder), *SMALL, *options])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("dense", "set", "chts"):
        for seed in (0, 1):
            assert train(folder / f"{name}-{seed}", f"digits-{name}", "--seed", str(seed)) == 0
    return folder


def test_a_run_directory(runs):
    run = runs / "chts-1"
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoints", "config.yaml", "metrics.jsonl", "summary.json", "timings.jsonl", "topology",
    ]  # fmt: skip
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["preset"] == "digits-chts"
    assert config["seed"] == 1
    assert config["model"]["hidden"] == [24, 16]
    assert (
        config["sparsity"] | {"every": 12, "layout": "csr", "method": "chts"} == config["sparsity"]
    )
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [12, 24, 36]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["score"]["final"] == metrics[-1]["test_accuracy"]
    assert summary["steps"] == 36
    assert summary["links"] == round(0.05 * 64 * 24) + round(0.05 * 24 * 16)
    assert summary["density"] == summary["links"] / (64 * 24 + 24 * 16)
    dense_share = (summary["links"] + 160) / (64 * 24 + 24 * 16 + 160)
    assert summary["training_flops_relative_to_dense"] == pytest.approx(dense_share)
    assert 0 < summary["active_neuron_rate"] <= 1
    assert summary["run"]["samples_per_second"] > 0
    history = topo.History.open(run)
    assert history.steps == [0, 12, 24]
    assert history.weight_steps == [0, 36]
    assert history.at(36, weights=True) == history.at(24)


def test_training_operations_are_those_of_the_links_that_were_there(tmp_path):
    assert train(tmp_path / "gmp", "digits-gmp") == 0
    summary = json.loads((tmp_path / "gmp" / "summary.json").read_text())
    updates = topo.History.open(tmp_path / "gmp").updates().groupby("step").links.sum()
    assert updates.index.tolist() == [12, 24]  # of 36 steps
    start = 64 * 24 // 2 + 24 * 16 // 2
    links = (start + updates[12] + updates[24]) / 3
    dense = 64 * 24 + 24 * 16 + 160
    assert summary["training_flops_relative_to_dense"] == pytest.approx((links + 160) / dense)
    assert summary["links"] == updates[24] < start / 5


def test_the_same_seed_gives_the_same_run_apart_from_what_run_holds(runs, tmp_path):
    assert train(tmp_path / "again", "digits-chts", "--seed", "1") == 0
    first, again = (
        json.loads((r / "summary.json").read_text()) for r in (runs / "chts-1", tmp_path / "again")
    )
    other = json.loads((runs / "chts-0" / "summary.json").read_text())
    assert first.pop("run") != again.pop("run")
    assert first == again != other
    a, b = topo.History.open(runs / "chts-1"), topo.History.open(tmp_path / "again")
    for step in a.steps:
        assert a.at(step) == b.at(step)
    for name, weights in a.at(36, weights=True).weights.items():
        assert np.array_equal(weights.data, b.at(36, weights=True).weights[name].data)


def test_a_yaml_file_and_the_command_line_override_the_preset(tmp_path):
    (tmp_path / "mine.yaml").write_text("optimizer: {epochs: 2, lr: 0.01}\nseed: 7\n")
    options = ["--config", str(tmp_path / "mine.yaml"), "--optimizer.lr", "0.02"]
    assert dst(["train", "digits-set", "--out", str(tmp_path / "r"), *options]) == 0
    config = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    assert config["optimizer"]["epochs"] == 2
    assert config["optimizer"]["lr"] == 0.02
    assert config["seed"] == 7
    assert config["optimizer"]["momentum"] == PRESETS["digits-set"].optimizer.momentum


def test_the_preset_may_stand_anywhere(runs, tmp_path):
    r = str(tmp_path / "r")
    assert dst(["train", "--seed", "1", "--out", r, *SMALL, "digits-chts"]) == 0
    again = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    assert again == yaml.safe_load((runs / "chts-1" / "config.yaml").read_text())


def test_a_runs_own_config_makes_it_again(runs, tmp_path):
    config = str(runs / "set-1" / "config.yaml")
    assert dst(["train", "--config", config, "--out", str(tmp_path / "r")]) == 0
    assert (tmp_path / "r" / "config.yaml").read_text() == (
        runs / "set-1" / "config.yaml"
    ).read_text()
    assert topo.History.open(tmp_path / "r").at(24) == topo.History.open(runs / "set-1").at(24)


def test_presets_and_data_are_listed(capsys):
    assert dst(["presets"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == set(PRESETS)
    assert dst(["data"]) == 0
    assert "fashion-mnist" in capsys.readouterr().out
    assert dst(["data", "digits"]) == 0
    assert "1433 training and 364 test images, 10 classes" in capsys.readouterr().out


def test_demo(tmp_path, monkeypatch, capsys):
    from dataclasses import replace

    from dst.tasks.images import MLPConfig

    for name, preset in PRESETS.items():
        if not name.startswith("digits"):
            continue
        optimizer = replace(preset.optimizer, epochs=3)
        small = replace(preset, model=MLPConfig([16, 8]), optimizer=optimizer)
        monkeypatch.setitem(PRESETS, name, small)
    assert dst(["demo", "--out", str(tmp_path / "demo"), "--seeds", "2"]) == 0
    assert len(list((tmp_path / "demo").iterdir())) == 6
    assert dst(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_table_and_report(runs, tmp_path, capsys):
    assert analysis(["table", str(runs)]) == 0
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()] == ["method", "dense", "SET", "CHTs"]
    out = tmp_path / "r.html"
    assert analysis(["report", str(runs / "chts-0"), str(runs / "set-0"), "--out", str(out)]) == 0
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert capsys.readouterr().out.rstrip().endswith(f"report: {out}")
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (["train"], "name a preset (epitopo presets lists them), or a run"),
        (["train", "digits-cths"], "unknown preset 'digits-cths': did you mean 'digits-chts'?"),
        (["train", "--seed", "1", "digits-cths"], "did you mean 'digits-chts'?"),
        (["train", "digits-dense", "--sparsity.density", "0.1"], "sparsity.method is null"),
        (["demo", "--seeds", "0"], "--seeds must be at least 1"),
        (["train", "digits-set", "--sparsity.densty", "0.1"], "did you mean '--sparsity.density'?"),
        (["train", "digits-set", "--sparsity.density", "0"], "must be in (0, 1], not 0"),
        (["train", "digits-set", "--sparsity.density", "1.5"], "must be in (0, 1], not 1.5"),
        (["train", "digits-set", "--sparsity.density", "1e-9"], "leaves no link in a layer of"),
        (["train", "digits-set", "--sparsity.method", "ste"], "did you mean 'set'?"),
        (
            ["train", "digits-set", "--sparsity.topology", "x"],
            "known are erdos_renyi, rec",
        ),
        (["train", "digits-set", "--sparsity.init", "sw"], "did you mean 'swi'?"),
        (["train", "digits-set", "--sparsity.every", "0"], "sparsity.every must be at least 1"),
        (["train", "digits-set", "--data.name", "digit"], "did you mean 'digits'?"),
        (["train", "digits-set", "--optimizer.epochs", "0"], "optimizer.epochs must be at least 1"),
        (["train", "digits-set", "--optimizer.lr", "fast"], "optimizer.lr"),
        (
            ["train", "digits-set", "--model.hidden", "[]"],
            "model.hidden must be a list of positive",
        ),
        (["train", "digits-set", "--seed", "x"], "seed"),
        (["train", "digits-set", "--config", "none.yaml"], "none.yaml"),
        (["data", "mnits"], "unknown data set 'mnits': did you mean 'mnist'?"),
        (["bench", "layers", "--device", "cuda:99"], "cuda:99"),
    ],
)
def test_bad_input_is_one_line_with_the_mend_and_status_2(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert dst(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("epitopo: error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_a_bad_key_in_a_yaml_file_is_named(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("optimizer: {epoch: 2}\n")
    assert train(tmp_path / "r", "digits-set", "--config", str(tmp_path / "c.yaml")) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "did you mean 'optimizer.epochs'?" in message
    (tmp_path / "c.yaml").write_text("sparsity: 3\n")
    assert train(tmp_path / "r", "digits-set", "--config", str(tmp_path / "c.yaml")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_a_run_folder_that_exists_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")
    assert train(tmp_path) == 2
    assert f"{tmp_path} exists already: give another --out" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_report_is_no_folder(runs, tmp_path, capsys):
    assert analysis(["report", str(runs / "set-0"), "--out", str(tmp_path)]) == 2
    assert "is a folder: --out names the HTML file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys):
    assert train(tmp_path / "r", "digits-dense", "--optimizer.lr", "1e9") == 2
    assert "lower optimizer.lr" in capsys.readouterr().err
    assert not (tmp_path / "r" / "summary.json").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "summary.json").unlink(), "no finished run in"),
        (lambda r: (r / "summary.json").write_text("{"), "summary.json is damaged"),
        (lambda r: (r / "summary.json").write_text("{}"), "it has no 'score'"),
        (lambda r: (r / "config.yaml").write_text("[]"), "config.yaml is damaged"),
        (lambda r: (r / "metrics.jsonl").write_text("x"), "metrics.jsonl is damaged"),
        (lambda r: (r / "config.yaml").write_text("[1"), "config.yaml is damaged"),
        (lambda r: (r / "topology" / "_meta.json").unlink(), "no history in"),
        (lambda r: next((r / "topology" / "events").iterdir()).write_bytes(b"x"), "is damaged"),
    ],
)
def test_a_missing_or_damaged_run(damage, message, runs, tmp_path, capsys):
    import shutil

    run = shutil.copytree(runs / "chts-0", tmp_path / "run")
    damage(run)
    out = tmp_path / "report.html"
    assert analysis(["report", str(run), "--out", str(out)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("epitopo-analysis: error: ")
    assert printed.count("\n") == 1
    assert message in printed
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reprot", "x"], "unknown command 'reprot': did you mean 'report'?"),
        (["report"], "required: report.runs"),
        (["report", "nowhere"], "no run in nowhere: no such folder"),
    ],
)
def test_bad_input_to_analysis(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert analysis(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
