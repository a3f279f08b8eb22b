"""Runs on two processes against runs on one; this file is also what torchrun launches."""

import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

import dst
import topo
from dst import checkpoints
from dst.config import LowRankConfig, TrainingConfig
from dst.presets import PRESETS
from dst.processes import process_group
from dst.tasks.images import Images, ImagesConfig, MLPConfig
from dst.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

RUNS = [
    (None, "csr"), ("chts", "csr"), ("chtss", "csr"), ("rigl", "masked"), ("gmp", "masked"),
    ("chtsl", "csr"),
]  # fmt: skip


@dataclass
class Stopped(ImagesConfig):
    """Digits; asked to stop at a step."""

    at: int = -1

    def task(self):
        task, batches = Images(self), Images(self).batches

        def stopping(step, ranks):
            if step == self.at and int(os.environ.get("RANK", 0)) == ranks - 1:
                signal.raise_signal(signal.SIGINT)  # on the last rank alone
            return batches(step, ranks)

        task.batches = stopping
        return task


def config(method, layout, at=-1):
    """Float64, and every batch in the same two parts: the sums are of the same order."""
    low_rank = LowRankConfig()
    if method == "chtsl":
        method, low_rank = "chts", LowRankConfig(rank=2, alignment=0.5)
    preset = PRESETS[f"digits-{method or 'dense'}"]
    sparsity = preset.sparsity
    if method:
        sparsity = replace(sparsity, density=0.3, layout=layout, every=4)
    return Stopped(
        data=replace(preset.data, batch_size=180, micro_batch_size=90),
        model=MLPConfig([20, 12]),
        sparsity=sparsity,
        low_rank=low_rank,
        optimizer=replace(preset.optimizer, epochs=2),
        training=TrainingConfig(precision="float64", checkpoint_every=5, log_every=2),
        at=at,
    )


def launched(folder):
    """What each rank does."""
    rank = distributed.get_rank()
    for method, layout in RUNS:
        train(config(method, layout), folder / f"{method}-whole", preset="p")
    for name in ("two-then-one", "two-then-two"):
        try:
            train(config("chtss", "csr", at=8), folder / name, preset="p")
        except KeyboardInterrupt as interrupt:
            (folder / f"{name}-{rank}.txt").write_text(str(interrupt))
    train(config("chtss", "csr"), folder / "two-then-two", preset="p", resume=True)
    train(config("chtss", "csr"), folder / "one-then-two", preset="p", resume=True)

    from torch.distributed.fsdp import fully_shard

    model = dst.sparsify(nn.Sequential(nn.Linear(8, 8)), 0.5, layout="masked")
    fully_shard(model[0])
    try:
        dst.Evolver(model, torch.optim.SGD(model.parameters()), "set", every=2, total_steps=8)
    except ValueError as error:
        (folder / f"sharded-{rank}.txt").write_text(str(error))


def interrupt(method, layout, at, folder):
    with pytest.raises(KeyboardInterrupt):
        train(config(method, layout, at=at), folder, preset="p")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("ranks")
    interrupt("chtss", "csr", 8, folder / "one-then-two")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, __file__, str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("alone")
    for method, layout in RUNS:
        train(config(method, layout), folder / f"{method}-whole", preset="p")
    return folder


def found(run):
    summary = json.loads((run / "summary.json").read_text())
    run_object = summary.pop("run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    model = checkpoints.latest(run / "checkpoints")["model"]
    links = topo.History.open(run).events().to_csv() if (run / "topology").exists() else ""
    return summary, lines, model, links, run_object["processes"]


def close(summary, other):
    """Sums of losses over ranks are of another order, evaluations too."""
    assert summary.keys() == other.keys()
    for key, value in summary.items():
        if isinstance(value, dict):
            close(value, other[key])
        else:
            sums = key[-4:] == "loss" or key == "overlap_cancellation_ratio"
            assert value == (pytest.approx(other[key], rel=1e-12) if sums else other[key])


@pytest.mark.parametrize("method", [method for method, _ in RUNS])
def test_two_processes_train_as_one(method, folder, alone):
    two, one = (found(f / f"{method}-whole") for f in (folder, alone))
    for name, value in one[2].items():
        assert torch.equal(value, two[2][name]), name
    assert two[3] == one[3]
    assert len(two[1]) == len(one[1])
    for line, other in zip(two[1], one[1]):
        close(line, other)
    close(two[0], one[0])
    assert (two[4], one[4]) == (2, 1)


@pytest.mark.parametrize("name", ["one-then-two", "two-then-two", "two-then-one"])
def test_a_run_goes_on_with_another_number_of_processes(name, folder, alone):
    if name == "two-then-one":
        train(config("chtss", "csr"), folder / name, preset="p", resume=True)
    one, other = found(alone / "chtss-whole"), found(folder / name)
    for key, value in one[2].items():
        assert torch.equal(value, other[2][key]), key
    assert other[3] == one[3]
    for line, expected in zip(other[1], one[1], strict=True):
        close(line, expected)


def test_a_signal_to_one_rank_stops_all(folder):
    texts = {(folder / f"two-then-one-{rank}.txt").read_text() for rank in (0, 1)}
    (text,) = texts
    assert "stopped after step 9 of 16" in text


def test_sharded_layers_are_refused_by_name(folder):
    for rank in (0, 1):
        text = (folder / f"sharded-{rank}.txt").read_text()
        assert "weights of '0' are sharded" in text
        assert "use DistributedDataParallel" in text


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    with process_group():
        launched(Path(sys.argv[1]))
