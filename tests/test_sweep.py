"""Sweeps: which cells a file has, and that each is trained once, whatever happens."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dst import sweep as module
from dst.configure import configured as dst_configured
from dst.sweep import SweepError, cells, load_sweep, run_sweep

GRID = """
out: {out}
preset: digits-chts
options: {{optimizer: {{epochs: 2}}, data.batch_size: 512}}
grid:
  sparsity.method: [null, set]
  sparsity.density: [0.1, 0.05]
  seed: [0, 1]
"""


@functools.cache
def _configured(preset, options):
    return dst_configured(preset, json.loads(options))


def configured(preset, options):
    """The real one, remembered: parsing takes a while."""
    return _configured(preset, json.dumps(options))


def sweep_of(folder, text=GRID):
    file = folder / "mine.yaml"
    file.write_text(text.format(out=folder / "runs"))
    return load_sweep(file)


def names(sweep):
    return [cell.name for cell in cells(sweep, configured)]


def finish(folder, value=0.5):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("")
    score = {"name": "test_accuracy", "value": value}
    (folder / "summary.json").write_text(json.dumps({"score": score}))


class Trainer:
    """A train_cell that notes its calls; `bad` maps cells to what they raise."""

    def __init__(self, bad=()):
        self.calls, self.bad = [], dict(bad)

    def __call__(self, preset, options, folder, resume):
        self.calls.append((folder.name, resume))
        if folder.name in self.bad:
            folder.mkdir(exist_ok=True)
            (folder / "config.yaml").write_text("")
            raise self.bad[folder.name]
        finish(folder)


def run(sweep, trainer, **options):
    told = []
    try:
        outcomes = run_sweep(sweep, configured, trainer, tell=told.append, **options)
    except SweepError as error:
        return told, error
    return told, outcomes


def test_the_cells_of_a_grid_by_hand(tmp_path):
    found = cells(sweep_of(tmp_path), configured)
    assert [cell.name for cell in found] == [
        "method-dense_seed-0",
        "method-dense_seed-1",  # once, not once per density
        "method-set_density-0.1_seed-0",
        "method-set_density-0.1_seed-1",
        "method-set_density-0.05_seed-0",
        "method-set_density-0.05_seed-1",
    ]
    dense, sparse = found[0], found[-1]
    assert dense.folder == tmp_path / "runs" / dense.name
    assert sparse.options == {
        "optimizer.epochs": 2, "data.batch_size": 512,
        "sparsity.method": "set", "sparsity.density": 0.05, "seed": 1,
    }  # fmt: skip
    assert sparse.settings["optimizer"]["epochs"] == 2
    assert sparse.settings["sparsity"]["layout"] == "csr"  # of the preset
    assert sparse.settings["preset"] == "digits-chts"
    # nothing that the preset or the file says of sparsity is left in a dense cell
    plain = configured("digits-dense", {}).sparsity
    assert configured(dense.preset, dense.options).sparsity == plain


def test_names_do_not_depend_on_the_order_of_the_keys_or_on_other_cells(tmp_path):
    one = sweep_of(tmp_path)
    other = """
    out: {out}
    preset: digits-chts
    grid:
      seed: [5, 1, 0]
      sparsity: {{density: [0.2, 0.05, 0.1], method: [set, null, rigl]}}
      """
    assert set(names(one)) < set(names(sweep_of(tmp_path, other)))


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("model.hidden", [[24, 16], [24]], ["hidden-24-16", "hidden-24"]),
        ("sparsity.topology", ["small_world", None], ["topology-small_world", "topology-none"]),
        ("optimizer.lr", [0.05, 1e-5], ["lr-0.05", "lr-1e-05"]),
        ("training.compile", [True, False], ["compile-true", "compile-false"]),
        ("seed", 3, ["seed-3"]),  # one value needs no list
    ],
)
def test_names_are_readable(key, values, expected, tmp_path):
    text = f"out: {tmp_path}\npreset: digits-set\ngrid: {json.dumps({key: values})}"
    (tmp_path / "s.yaml").write_text(text)
    assert names(load_sweep(tmp_path / "s.yaml")) == expected


def test_values_that_no_file_name_can_hold_are_told_apart():
    texts = ["/a/B", "/a/b", "a b", "a:b", "..", ".", "", "é", "x" * 300, "x" * 301, "a\x00b"]
    safe = [module._name({"data.file": text, "seed": 0}, "") for text in texts]
    assert len({name.casefold() for name in safe}) == len(texts)
    for name in safe:
        assert name.isascii()
        assert name.isprintable()
        assert len(name) < 100
        assert not set(name) & set('/\\:*?"<>| ')
    many = {f"data.key{i}": "x" * 50 for i in range(9)}
    assert len(module._name(many, "")) == 200
    # two keys with the same last part keep their first ones
    both = module._name({"data.name": "a", "optimizer.name": "b"}, "p")
    assert both == "p_data.name-a_optimizer.name-b"


def test_a_list_of_presets_names_the_cells(tmp_path):
    text = "out: {out}\npresets: [digits-dense, digits-set]\ngrid: {{sparsity.density: [0.1, 0.2]}}"
    sweep = sweep_of(tmp_path, text)
    assert names(sweep) == ["digits-dense", "digits-set_density-0.1", "digits-set_density-0.2"]


def test_the_folder_is_named_after_the_file(tmp_path):
    (tmp_path / "mnist.yaml").write_text("preset: digits-set\ngrid: {seed: [0]}")
    assert load_sweep(tmp_path / "mnist.yaml").out == Path("runs/mnist")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "cannot be read as YAML"),
        ("3", "must be a mapping with the keys out, preset"),
        ("preset: digits-set\ngird: {seed: [0]}", "unknown key 'gird': did you mean 'grid'"),
        ("grid: {seed: [0]}", "either preset or presets"),
        ("preset: a\npresets: [b]\ngrid: {seed: [0]}", "either preset or presets"),
        ("presets: []\ngrid: {seed: [0]}", "presets a list of names"),
        ("preset: digits-set", "its grid is empty"),
        ("preset: digits-set\ngrid: [seed]", "grid must be a mapping"),
        ("preset: digits-set\ngrid: {seed: []}", "seed has no values"),
        ("out: [1]\npreset: digits-set\ngrid: {seed: [0]}", "out must be a folder"),
        ("preset: digits-set\noptions: {seed: 1}\ngrid: {seed: [0]}", "both in options and in"),
        ("preset: digits-ste\ngrid: {seed: [0]}", "did you mean 'digits-set'?"),
        ("preset: digits-set\ngrid: {sparsity.densty: [0.1]}", "did you mean 'sparsity.density'?"),
        ("preset: digits-set\ngrid: {sparsity.density: [0.1, 2]}", "must be in (0, 1], not 2"),
        ("preset: digits-set\noptions: {optimizer.epoch: 3}\ngrid: {seed: [0]}", "optimizer.epo"),
        ("preset: digits-set\ngrid: {seed: [0, 0]}", "the cell seed-0 twice"),
        ("preset: digits-set\ngrid: {sparsity.churn: [0, 0.0]}", "have the same settings"),
    ],
)
def test_a_bad_sweep_is_refused_before_anything_is_trained(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(text)
    trainer = Trainer()
    with pytest.raises(ValueError) as caught:
        run_sweep(load_sweep("s.yaml"), configured, trainer)
    assert message in str(caught.value)
    assert not trainer.calls
    assert [p.name for p in tmp_path.iterdir()] == ["s.yaml"]


def test_finished_cells_are_left_and_unfinished_ones_resumed(tmp_path):
    sweep = sweep_of(tmp_path)
    names_of = names(sweep)
    broken = Trainer({names_of[1]: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):  # Ctrl-C, or a kill
        run_sweep(sweep, configured, broken, tell=lambda line: None)
    assert broken.calls == [(names_of[0], False), (names_of[1], False)]
    trainer = Trainer()
    told, outcomes = run(sweep, trainer)
    assert trainer.calls == [(names_of[1], True), *((name, False) for name in names_of[2:])]
    assert [o.status for o in outcomes] == ["finished before", *["trained"] * 5]
    assert told[0] == "1/6 method-dense_seed-0: finished before, test accuracy 50.00%"
    assert told[5] == "6/6 method-set_density-0.05_seed-1: trained, test accuracy 50.00%"
    again = Trainer()
    run(sweep, again)
    assert not again.calls


def test_a_failing_cell_does_not_stop_the_others(tmp_path):
    sweep = sweep_of(tmp_path)
    bad = names(sweep)[2]
    trainer = Trainer({bad: ValueError("the loss\nis nan")})
    told, error = run(sweep, trainer)
    assert len(trainer.calls) == 6
    assert told[2] == f"3/6 {bad}: failed, the loss is nan"
    assert f"1 of 6 cells failed: {bad}" in str(error)
    record = tmp_path / "runs" / ".sweep" / f"{bad}.failed"
    assert record.read_text() == "the loss is nan\n"
    better = Trainer()
    _, outcomes = run(sweep, better)  # it is tried again
    assert better.calls == [(bad, True)]
    assert [o.status for o in outcomes].count("finished before") == 5
    assert not record.exists()


def test_other_settings_for_the_same_cell_are_refused_by_name(tmp_path):
    run(sweep_of(tmp_path), Trainer())
    changed = GRID.replace("epochs: 2", "epochs: 3")
    trainer = Trainer()
    with pytest.raises(ValueError, match=r"dense_seed-0 was trained with optimizer.epochs 2, not"):
        run(sweep_of(tmp_path, changed), trainer)
    more = GRID.replace("[0, 1]", "[0, 1, 2]")
    _, outcomes = run(sweep_of(tmp_path, more), trainer)
    assert len(outcomes) == 9
    assert [name[-6:] for name, _ in trainer.calls] == ["seed-2"] * 3


def test_an_unfinished_cell_does_not_go_on_with_other_settings(tmp_path):
    name = names(sweep_of(tmp_path))[0]
    run(sweep_of(tmp_path), Trainer({name: ValueError("x")}))
    with pytest.raises(ValueError, match=r"optimizer\.epochs 2, not 4"):
        run(sweep_of(tmp_path, GRID.replace("epochs: 2", "epochs: 4")), Trainer())


def test_settings_that_came_with_a_new_version_do_not_matter(tmp_path):
    sweep = sweep_of(tmp_path)
    run(sweep, Trainer())
    for file in (tmp_path / "runs" / ".sweep").glob("*.json"):
        saved = json.loads(file.read_text())
        del saved["training"]["tensorboard"]
        file.write_text(json.dumps(saved))
    _, outcomes = run(sweep, Trainer())
    assert {o.status for o in outcomes} == {"finished before"}


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    sweep = sweep_of(tmp_path)
    folder = tmp_path / "runs" / names(sweep)[3]
    folder.mkdir(parents=True)
    (folder / "precious.txt").write_text("mine")
    trainer = Trainer()
    with pytest.raises(ValueError, match="is there, and not of this sweep"):
        run(sweep, trainer)
    assert not trainer.calls
    (tmp_path / "runs" / "x").write_text("")
    blocked = sweep_of(tmp_path, GRID.replace("{out}", "{out}/x"))
    with pytest.raises(ValueError, match="cannot make the folder"):
        run(blocked, trainer)


def test_a_dry_run_does_nothing(tmp_path):
    sweep = sweep_of(tmp_path)
    finish(tmp_path / "elsewhere")
    told, outcomes = run(sweep, Trainer(), dry_run=True)
    assert told[0] == "1/6 method-dense_seed-0: new"
    assert outcomes == []
    assert not (tmp_path / "runs").exists()


def test_torchrun_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start it without torchrun"):
        run(sweep_of(tmp_path), Trainer())


def test_two_sweeps_at_once_share_the_cells(tmp_path):
    sweep = sweep_of(tmp_path)
    first, second = Trainer(), Trainer()
    inside, go_on = threading.Event(), threading.Event()

    def slow(*arguments):
        inside.set()
        assert go_on.wait(20)
        first(*arguments)

    thread = threading.Thread(target=run, args=(sweep, slow))
    thread.start()
    assert inside.wait(20)  # the first has begun its first cell
    told, outcomes = run(sweep, second)
    go_on.set()
    thread.join(20)
    assert [o.status for o in outcomes] == ["busy", *["trained"] * 5]
    assert f"busy, by process {os.getpid()} on " in told[0]
    done = [name for name, _ in (*first.calls, *second.calls)]
    assert sorted(done) == sorted(names(sweep))


CHILD = """
import sys, time
from pathlib import Path
from dst.configure import configured
from dst.sweep import load_sweep, run_sweep

def train(preset, options, folder, resume):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    print("training", flush=True)
    time.sleep(60)

run_sweep(load_sweep(sys.argv[1]), configured, train)
"""


def test_the_cell_of_a_killed_sweep_is_free_again(tmp_path):
    sweep = sweep_of(tmp_path)
    command = [sys.executable, "-c", CHILD, str(tmp_path / "mine.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"training\n"
    told, outcomes = run(sweep, Trainer())
    assert outcomes[0].status == "busy"
    assert f"by process {process.pid} on " in told[0]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    trainer = Trainer()
    run(sweep, trainer)
    assert trainer.calls == [(names(sweep)[0], True)]


def test_a_summary_that_cannot_be_read_is_said(tmp_path):
    sweep = sweep_of(tmp_path)

    def careless(preset, options, folder, resume):
        finish(folder)
        (folder / "summary.json").write_text("{")

    told, _ = run(sweep, careless)
    assert told[0].endswith("trained, but its summary.json cannot be read")
