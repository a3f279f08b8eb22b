"""Runs with branches of low rank: configuration, presets, resuming, summaries, export."""

import json
import math
import re
import signal

import pytest
import torch

import dst
from dst import checkpoints
from dst.__main__ import main
from dst.build import Recipe
from dst.configure import configured
from dst.presets import FAMILIES, LOW_RANK, PRESETS
from dst.sparse_low_rank import SparseLowRank
from dst.sweep import Sweep, cells
from dst.tasks.language import Language
from dst.trained import trained

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ("chtsl", "naive_silu", "naive", "cola", "sltrain")
TINY = {
    "model.layers": 2, "model.width": 32, "model.ffn": 48, "model.heads": 2,
    "data.length": 32, "data.batch_size": 4, "data.micro_batch_size": 2,
    "data.tokenizer": "bytes", "data.valid_tokens": 200,
    "optimizer.steps": 6, "optimizer.warmup": 1, "training.evaluate_every": 3,
    "training.log_every": 1, "training.checkpoint_every": 2,
}  # fmt: skip
EVOLVING = {"sparsity.density": 0.5, "sparsity.every": 2, "sparsity.ramp": 1}


def options(method):
    if method == "cola":
        return TINY | {"sparsity.density": 0.5}
    return TINY | (EVOLVING if method != "sltrain" else {"sparsity.density": 0.5})


def train(preset, run, given):
    flat = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    return main(["train", preset, "--out", str(run), *flat])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPITOPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("the cat sat on the mat. the dog ate the hat. " * 60)
    return file


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cache, text):
    folder = tmp_path_factory.mktemp("runs")
    for method in METHODS:
        given = options(method) | {"data.train": text}
        assert train(f"llama-9m-pydoc-{method}", folder / method, given) == 0
    return folder


def summary(run):
    return json.loads((run / "summary.json").read_text())


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


# Of a block: 4 * 32 * 32 + 3 * 32 * 48 = 8,704 weights; a rank has 4 * 64 + 3 * 80 = 496.
WEIGHTS, PER_RANK = 2 * 8704, 2 * 496


@pytest.mark.parametrize(
    ("method", "density", "rank"),
    # half of 8,704 is 8.77 ranks, which is 9, a quarter 4.39
    [("chtsl", 0.25, 4), ("naive_silu", 0.25, 4), ("naive", 0.25, 4), ("cola", 0.0, 9),
     ("sltrain", 0.25, 4)],
)  # fmt: skip
def test_what_a_run_says_of_its_weights(method, density, rank, runs):
    found = summary(runs / method)
    assert found["density"] == density
    assert found["total_density"] == pytest.approx(density + rank * PER_RANK / WEIGHTS)
    recipe, model = trained(runs / method)
    head = model.lm_head.weight.numel()
    kept = found["total_density"] * WEIGHTS + head
    expected = kept / (WEIGHTS + head)
    assert found["training_flops_relative_to_dense"] == pytest.approx(expected)
    assert recipe.spectral == rank * PER_RANK
    assert sum(isinstance(m, SparseLowRank) for m in model.modules()) == (14 if density else 0)
    assert sum(isinstance(m, dst.LowRankLinear) for m in model.modules()) == 14


def test_the_cancellation_of_every_layer_is_logged(runs):
    for method in METHODS:
        run = runs / method
        metrics = lines(run / "metrics.jsonl")
        if method == "cola":
            assert not (run / "cancellation.jsonl").exists()
            assert "overlap_cancellation_ratio" not in metrics[0]
            continue
        logged = lines(run / "cancellation.jsonl")
        assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6]
        for line, other in zip(logged, metrics, strict=True):
            ratios = line["layers"]
            assert len(ratios) == 14
            assert "model.layers.1.self_attn.q_proj" in ratios
            assert all(0 <= value < 1 for value in ratios.values())
            mean = sum(ratios.values()) / 14
            assert other["overlap_cancellation_ratio"] == pytest.approx(mean)
        # B of SLTrain is 0 at first: nothing overlaps
        assert (sum(logged[0]["layers"].values()) == 0) == (method == "sltrain")


def test_alignment_changes_the_training_and_not_the_start(runs):
    aligned, free = (lines(runs / m / "metrics.jsonl") for m in ("chtsl", "naive_silu"))
    # the loss is the task's alone; the first steps' is of the same weights
    assert aligned[0]["train_loss"] == free[0]["train_loss"]
    assert aligned[-1]["train_loss"] != free[-1]["train_loss"]


@pytest.mark.parametrize("method", ["chtsl", "cola", "sltrain"])
def test_a_run_that_is_stopped_goes_on_to_the_bit(method, runs, text, tmp_path, monkeypatch):
    batches = Language.batches

    def stopping(self, step, ranks):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return batches(self, step, ranks)

    with monkeypatch.context() as patch:
        patch.setattr(Language, "batches", stopping)
        given = options(method) | {"data.train": text}
        assert train(f"llama-9m-pydoc-{method}", tmp_path / "run", given) == 130
    # lines of after the checkpoint are cut off
    if method != "cola":
        with (tmp_path / "run" / "cancellation.jsonl").open("a") as file:
            file.write('{"step": 5, "layers": {"a": 0.5}}\n')
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    whole, resumed = (
        checkpoints.latest(r / "checkpoints") for r in (runs / method, tmp_path / "run")
    )
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    for file in ("metrics.jsonl", "cancellation.jsonl"):
        if method != "cola" or file == "metrics.jsonl":
            assert (tmp_path / "run" / file).read_text() == (runs / method / file).read_text()


@pytest.mark.parametrize("method", METHODS)
def test_an_exported_model_says_the_same(method, runs, tmp_path, capfd):
    from transformers import AutoModelForCausalLM

    assert main(["export", str(runs / method), "--out", str(tmp_path / "hf")]) == 0
    activated = method in ("chtsl", "naive_silu", "cola")
    assert (tmp_path / "hf" / "modeling_low_rank.py").exists() == activated
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=activated)
    tokens = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(
            model(tokens).logits, trained(runs / method)[1](tokens).logits, rtol=1e-5, atol=1e-5
        )


def test_an_exported_model_of_ours_is_evaluated_without_its_code(runs, tmp_path, capfd):
    from dst.zero_shot import _load

    assert main(["export", str(runs / "chtsl"), "--out", str(tmp_path / "hf")]) == 0
    (tmp_path / "hf" / "modeling_low_rank.py").write_text("raise SystemExit('run')\n")
    model, _ = _load(tmp_path / "hf")
    assert type(model).__module__ == "dst.tasks.modeling_low_rank"


def test_a_translation_model_with_activated_branches_has_no_hugging_face_form(tmp_path, capsys):
    small = {
        "model.layers": 1, "model.width": 16, "model.ffn": 16, "model.heads": 2,
        "data.sentences": 100, "optimizer.steps": 6, "optimizer.warmup": 1, "sparsity.every": 2,
        "sparsity.ramp": 0, "search.beams": 1, "low_rank.rank": 2, "low_rank.alignment": 0.3,
        "low_rank.aligned": '["*_proj"]',
    }  # fmt: skip
    assert train("number-words-chts", tmp_path / "run", small) == 0
    names = lines(tmp_path / "run" / "cancellation.jsonl")[0]["layers"]
    assert any(name.endswith("fc1") for name in names)  # measured, though not aligned
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "hf")]) == 2
    assert "Hugging Face has no such Marian" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()


def test_perceptrons_have_branches_too(tmp_path, capsys):
    given = {
        "model.hidden": "[20]", "optimizer.epochs": 1, "low_rank.rank": 2,
        "low_rank.form": "linear", "sparsity.every": 10,
    }  # fmt: skip
    assert train("digits-set", tmp_path / "run", given) == 0
    assert summary(tmp_path / "run")["total_density"] == pytest.approx((64 + 2 * 84) / 1280)
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(("ratio", "branches"), [(0, [0, 12]), (1, [640, 6]), (".inf", [1280, 0])])
def test_a_budget_is_divided_from_all_low_rank_to_all_sparse(ratio, branches, tmp_path):
    given = {
        "model.hidden": "[40]", "optimizer.epochs": 1, "sparsity.density": 0.5,
        "sparsity.every": 10, "low_rank.ratio": ratio, "low_rank.alignment": 0.5,
    }  # fmt: skip
    assert train("digits-set", tmp_path / "run", given) == 0
    _, model = trained(tmp_path / "run")
    links = sum(layer.links for layer in dst.graph.sparse_layers(model).values())
    rank = sum(m.rank for m in model.modules() if isinstance(m, dst.LowRankLinear))
    assert [links, rank] == branches
    assert (tmp_path / "run" / "cancellation.jsonl").exists() == (ratio == 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low_rank.rank": 0}, "low_rank.rank must be at least 1, or null, not 0"),
        ({"low_rank.rank": 2, "low_rank.ratio": 1.0}, "set one of them, and the other to null"),
        ({"low_rank.ratio": -1}, "low_rank.ratio must be 0 or more, or null, not -1"),
        ({"low_rank.alpha": 0}, "low_rank.alpha must be positive, not 0"),
        ({"low_rank.alignment": -0.5}, "low_rank.alignment must be 0 or more, not -0.5"),
        ({"low_rank.aligned": []}, "low_rank.aligned must be a list of patterns"),
        ({"low_rank.alignment": 0.5}, "it takes two branches: set sparsity.method, and"),
        ({"sparsity.method": None, "low_rank.ratio": 1.0}, "or set the ratio to 0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        configured("digits-chts", given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low_rank.rank": 40}, "layer 'fc1': rank must be a whole number from 1 to 20"),
        ({"low_rank.rank": 2, "low_rank.form": "sliu"}, "unknown low_rank.form 'sliu'"),
        ({"low_rank.rank": 2, "low_rank.alignment": 1, "low_rank.aligned": '["*.q_proj"]'},
         "'\\*.q_proj' matches no layer of two branches"),
        ({"low_rank.ratio": 100.0, "sparsity.density": 0.05}, "a rank of .* less than one"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_have_is_refused_before_a_folder_is_made(
    given, message, tmp_path, capsys
):
    options = {"model.hidden": "[20]", "optimizer.epochs": 1} | given
    assert train("digits-set", tmp_path / "run", options) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


# presets


def test_there_is_a_preset_for_every_llama_data_set_and_method():
    assert set(LOW_RANK) == {
        "llama-9m-pydoc", "llama-9m-novels", "llama-60m-openwebtext", "llama-60m-c4",
        "llama-130m-openwebtext", "llama-130m-c4",
    }  # fmt: skip
    for name, own in LOW_RANK.items():
        assert set(own) == set(METHODS)
        assert name in FAMILIES
        for method, config in own.items():
            assert PRESETS[f"{name}-{method}"] is config


@pytest.mark.parametrize(
    ("family", "steps", "warmup", "weight", "alpha", "rank"),
    [
        ("llama-60m-openwebtext", 10_000, 1000, 0.5, 32, 16),
        ("llama-60m-c4", 10_000, 1000, 0.3, 32, 16),
        ("llama-130m-openwebtext", 20_000, 2000, 0.5, 16, 24),
        ("llama-130m-c4", 20_000, 2000, 0.5, 16, 24),
    ],
)
def test_presets_have_the_published_settings(family, steps, warmup, weight, alpha, rank):
    for method, config in LOW_RANK[family].items():
        optimizer, low_rank = config.optimizer, config.low_rank
        assert (optimizer.steps, optimizer.warmup, optimizer.lr) == (steps, warmup, 3e-3)
        assert optimizer.schedule == "cosine"
        decayed = ("adamw", 0.01) if method == "cola" else ("adam", 0.0)
        assert (optimizer.name, optimizer.weight_decay) == decayed
        assert low_rank.alignment == (weight if method == "chtsl" else 0)
        form = {"naive": "linear", "sltrain": "sltrain"}.get(method, "silu")
        assert low_rank.form == form
        if method == "sltrain":
            assert low_rank.alpha == alpha
        evolving = method in ("chtsl", "naive", "naive_silu")
        start = {"cola": None, "sltrain": "erdos_renyi"}.get(method, "receptive_field")
        expected = {"cola": None, "sltrain": "static"}.get(method, "chts")
        assert (config.sparsity.topology, config.sparsity.method) == (start, expected)
        if evolving:
            assert (config.sparsity.every, config.sparsity.ramp, config.sparsity.churn) == (
                100,
                20,
                0.1,
            )
        shape = config.model
        h, f = shape.width, shape.ffn
        blocks = torch.nn.ModuleList(
            torch.nn.Linear(i, o, device="meta") for i, o in [(h, h)] * 4 + [(h, f), (h, f), (f, h)]
        )
        density, found = dst.budget(blocks, 1 - config.sparsity.density, low_rank.ratio)
        assert (density, found) == ((0.0, 2 * rank) if method == "cola" else (0.05, rank))


def test_the_same_links_are_drawn_for_all_that_evolve(runs):
    first = [
        dst.network(Recipe(*parts).model()).layers
        for parts in (
            (r.config, r.task, r.device) for r in (trained(runs / m)[0] for m in ("chtsl", "naive"))
        )
    ]
    for name, adjacency in first[0].items():
        assert (adjacency != first[1][name]).nnz == 0


def test_numbers_with_a_point_have_one_in_every_preset():
    """Else seeds of one setting, one of the preset and one of the command line, seem to differ."""
    for name, config in PRESETS.items():
        for key in ("alpha", "alignment"):
            assert isinstance(getattr(config.low_rank, key), float), name


def test_the_alignment_is_a_mean_over_positions_in_whatever_parts(tmp_path, text):
    """Documents are padded, and parts have more or fewer tokens."""
    (tmp_path / "t.txt").write_text("\n\n".join("the cat sat"[: 3 + i % 8] for i in range(400)))
    texts = []
    for size in (1, 4):
        given = options("chtsl") | {
            "data.train": tmp_path / "t.txt", "data.rows": "documents", "low_rank.alignment": 5.0,
            "data.micro_batch_size": size, "training.precision": "float64",
            "training.log_every": 6, "training.evaluate_every": 6,
        }  # fmt: skip
        assert train("llama-9m-pydoc-chtsl", tmp_path / f"{size}", given) == 0
        (line,) = lines(tmp_path / f"{size}" / "metrics.jsonl")
        texts.append(line["train_loss"])
    assert texts[0] == pytest.approx(texts[1], rel=1e-9)


# sweeps


def test_a_sweep_over_splits_goes_from_low_rank_to_links(tmp_path):
    sweep = Sweep(tmp_path, ("llama-9m-pydoc-chtsl",), False, {}, {
        "low_rank.ratio": [0, 0.5, 1, math.inf], "seed": [0, 1],
    })  # fmt: skip
    found = cells(sweep, configured)
    assert [c.options["low_rank.ratio"] for c in found] == [
        0,
        0,
        0.5,
        0.5,
        1,
        1,
        math.inf,
        math.inf,
    ]
    assert {c.preset for c in found} == {"llama-9m-pydoc-chtsl"}


def test_a_dense_cell_of_a_sweep_has_no_low_rank(tmp_path):
    grid = {"sparsity.method": [None, "chts"], "low_rank.ratio": [0.5, 1]}
    found = cells(Sweep(tmp_path, ("llama-9m-pydoc-chtsl",), False, {}, grid), configured)
    assert [c.preset.rpartition("-")[2] for c in found] == ["dense", "chtsl", "chtsl"]
    dense = configured(found[0].preset, found[0].options)
    assert not dense.low_rank.there
    assert (dense.sparsity.method, dense.optimizer.lr) == (None, 1e-3)


@pytest.mark.parametrize(
    ("preset", "options"),
    [("cola", {}), ("cola", {"sparsity.method": None}), ("dense", {"low_rank.ratio": 0})],
)
def test_low_rank_alone_is_not_a_dense_cell(preset, options, tmp_path):
    grid = {"sparsity.density": [0.1, 0.2]}
    sweep = Sweep(tmp_path, (f"llama-9m-pydoc-{preset}",), False, options, grid)
    found = cells(sweep, configured)
    configs = [configured(c.preset, c.options) for c in found]
    assert [(c.sparsity.density, c.low_rank.ratio) for c in configs] == [(0.1, 0.0), (0.2, 0.0)]
