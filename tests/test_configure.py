"""Presets, YAML and the command line."""

import math
from dataclasses import asdict, fields

import pytest
import torch
import yaml

import topo
from dst.__main__ import main as dst
from dst.build import REMOVALS, Recipe
from dst.config import Config, OptimizerConfig
from dst.configure import configured, preset_among
from dst.graph import sparse_layers
from dst.methods import METHODS
from dst.presets import FAMILIES, LOW_RANK, PRESETS

SMALL = ["--optimizer.steps", "2", "--optimizer.epochs", "null", "--model.hidden", "[8]"]


def test_every_family_has_every_method_and_dense():
    low_rank = {f"{name}-{method}" for name, own in LOW_RANK.items() for method in own}
    names = {f"{name}-{method}" for name in FAMILIES for method in ("dense", *METHODS)}
    assert set(PRESETS) == names | low_rank
    for name in names:
        config = PRESETS[name]
        family, _, method = name.rpartition("-")
        assert family in FAMILIES
        assert config.sparsity.method == (None if method == "dense" else method)
        assert config.describe()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["dense", "chtss"])
def test_what_is_written_reads_back_the_same(family, method):
    reads_back(f"{family}-{method}")


@pytest.mark.parametrize(
    "preset", [f"llama-60m-c4-{method}" for method in LOW_RANK["llama-60m-c4"]]
)
def test_what_is_written_of_low_rank_reads_back_the_same(preset):
    reads_back(preset)


def reads_back(preset):
    text = yaml.safe_dump(asdict(PRESETS[preset]))
    assert configured(preset, yaml.safe_load(text)) == PRESETS[preset]


# SCIENCE section 6: batch, steps, warm-up, highest rate, interval, ramp, churn, density
PAPERS = {
    "mnist-chts": (32, None, 0, 0.025, None, 0, None, 0.01),
    "multi30k-chts": (1024, 5000, 1000, 0.25 * (512 * 1000) ** -0.5, 100, 20, None, 0.05),
    "iwslt14-chts": (10_240, 20_000, 6000, 2 * (512 * 6000) ** -0.5, 100, 20, None, 0.05),
    "wmt17-chts": (12_000, 80_000, 8000, 2 * (512 * 8000) ** -0.5, 100, 20, None, 0.05),
    "llama-60m-c4-chts": (512, 10_000, 1000, 3e-3, 100, 20, 0.1, 0.1),
    "llama-130m-openwebtext-chts": (512, 30_000, 10_000, 3e-3, 100, 20, 0.1, 0.1),
    "llama-1b-openwebtext-chts": (512, 100_000, 10_000, 4e-4, 100, 20, 0.1, 0.1),
}


@pytest.mark.parametrize("preset", PAPERS)
def test_the_papers_numbers(preset):
    config = PRESETS[preset]
    data = config.data
    batch = getattr(data, "batch_tokens", None) or data.batch_size
    optimizer, sparsity = config.optimizer, config.sparsity
    found = (
        batch, optimizer.steps, optimizer.warmup, optimizer.lr,
        sparsity.every, sparsity.ramp, sparsity.churn, sparsity.density,
    )  # fmt: skip
    assert found == pytest.approx(PAPERS[preset])


def test_a_dense_llama_has_a_rate_of_its_own_and_no_ramp():
    dense = PRESETS["llama-60m-c4-dense"]
    assert dense.optimizer.lr == 1e-3
    assert dense.sparsity.ramp == 0


def test_steps_take_the_place_of_epochs():
    assert configured("digits-set", {"optimizer.steps": 3}).optimizer.epochs is None
    config = configured("multi30k-set", {"optimizer": {"epochs": 3}})
    assert (config.optimizer.epochs, config.optimizer.steps) == (3, None)


def test_the_command_line_overrides_the_file_wherever_it_stands(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("preset: digits-set\nseed: 3\noptimizer: {lr: 0.5}\n")
    file, option = ["--config", str(tmp_path / "c.yaml")], ["--seed", "4"]
    for arguments in (file + option, option + file):
        with pytest.raises(SystemExit, match="0"):
            dst(["train", *arguments, "--print_config"])
        found = yaml.safe_load(capsys.readouterr().out)
        assert (found["preset"], found["seed"]) == ("digits-set", 4)
        assert found["optimizer"]["lr"] == 0.5


def test_rules_of_the_method_can_be_set():
    config = configured("digits-chts", {"sparsity.removal": "importance"})
    config.sparsity.percolates = False
    recipe = Recipe(config, config.task(), torch.device("cpu"))
    assert recipe.method.removal.score is REMOVALS["importance"]["score"]
    assert recipe.method.removal.sharpness == METHODS["chts"].removal.sharpness
    assert METHODS["chts"].percolates
    assert not recipe.method.percolates
    assert PRESETS["fashion-mnist-chts"].sparsity.removal == "importance"
    assert PRESETS["mnist-chts"].sparsity.removal is None


@pytest.mark.parametrize(
    ("removal", "score", "at_start", "at_end"),
    [
        ("magnitude-soft", "magnitude", 1.0, 3.0),  # delta 0.5 to 0.75: T = delta / (1 - delta)
        ("importance-soft", "importance", 1.0, 3.0),
        ("magnitude-hard", "magnitude", math.inf, math.inf),
    ],
)
def test_a_removal_rule_can_be_sharp_or_sampled(removal, score, at_start, at_end):
    config = configured("digits-set", {"sparsity.removal": removal})
    rule = Recipe(config, config.task(), torch.device("cpu")).method.removal
    assert rule.score is REMOVALS[score]["score"]
    assert rule.sharpness(0.0) == pytest.approx(at_start)
    assert rule.sharpness(1.0) == pytest.approx(at_end)


@pytest.mark.parametrize(
    ("topology", "key", "value"), [("small_world", "beta", 0.9), ("receptive_field", "r", 0.6)]
)
def test_the_start_topology_takes_its_parameter(topology, key, value):
    settings = {"sparsity.topology": topology, f"sparsity.{key}": value, "seed": 5}
    config = configured("digits-set", settings)
    model = Recipe(config, config.task(), torch.device("cpu")).model()
    (name, layer), *_ = sparse_layers(model).items()
    seed = topo.stream(5, "topology", name)
    shape = layer.adjacency.shape
    expected, usual = (
        topo.GENERATORS[topology](*shape, config.sparsity.density, seed=seed, **given)
        for given in ({key: value}, {})
    )
    assert (layer.adjacency != expected).nnz == 0
    assert (layer.adjacency != usual).nnz > 0


def test_a_parameter_of_another_topology_is_refused():
    config = configured("digits-chts", {"sparsity.topology": "scale_free", "sparsity.beta": 0.5})
    with pytest.raises(ValueError, match=r"sparsity.beta is of the topology small_world, and this"):
        Recipe(config, config.task(), torch.device("cpu")).model()
    with pytest.raises(ValueError, match=r"sparsity.r must be in \[0, 1\], not 1.5"):
        configured("digits-chts", {"sparsity.r": 1.5})


def test_two_presets_are_refused(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("preset: digits-set\n")
    assert dst(["train", "digits-chts", "--config", str(tmp_path / "c.yaml")]) == 2
    assert "two presets: digits-chts on the command line, digits-set in" in capsys.readouterr().err


def test_options_are_not_abbreviated(capsys):
    assert dst(["train", "digits-set", "--optimizer.epoch", "3"]) == 2
    assert "did you mean '--optimizer.epochs'?" in capsys.readouterr().err


def test_dotted_and_nested_keys():
    config = configured("digits-set", {"optimizer": {"lr": 0.1}, "sparsity.density": 0.5})
    assert (config.optimizer.lr, config.sparsity.density) == (0.1, 0.5)
    assert config.optimizer.epochs == PRESETS["digits-set"].optimizer.epochs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer.lrr": 1}, "did you mean 'optimizer.lr'?"),
        ({"model.hiden": [3]}, "did you mean 'model.hidden'?"),
        ({"data.batch_tokens": 3}, "unknown key 'data.batch_tokens'"),  # of another task
        ({"optimizer.epochs": None}, "set one of them"),
        ({"training.keep_checkpoints": 0}, "training.keep_checkpoints must be at least 1"),
        ({"sparsity.every": 3, "sparsity.ramp": 4}, "sparsity.ramp must be at most"),
        ({"sparsity.churn": 2}, "sparsity.churn must be in [0, 1], not 2"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError) as error:
        configured("digits-set", options)
    assert message in str(error.value)


@pytest.mark.parametrize("field", [f.name for f in fields(OptimizerConfig)])
def test_every_number_is_checked(field):
    if field in ("name", "schedule"):
        return
    with pytest.raises(ValueError, match=rf"optimizer\.{field}"):
        OptimizerConfig(**({"steps": 1} | {field: -1.0}))


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        (["digits-set"], "digits-set"),
        (["--seed", "3", "digits-set", "--out", "x"], "digits-set"),
        (["--seed=3", "digits-set"], "digits-set"),
        (["--print_config", "digits-set"], "digits-set"),
        (["--config", "there.yaml", "--seed", "3"], "digits-cht"),
        (["--config=there.yaml"], "digits-cht"),
        (["--config", "missing.yaml"], None),
        (["--resume", "runs/a"], None),
        ([], None),
    ],
)
def test_the_preset_is_found_among_the_arguments(arguments, preset, tmp_path, monkeypatch):
    (tmp_path / "there.yaml").write_text("preset: digits-cht\n")
    monkeypatch.chdir(tmp_path)
    assert preset_among(arguments) == preset


@pytest.mark.parametrize("preset", ["digits-chts", "number-words-set", "llama-9m-pydoc-rigl"])
def test_print_config_gives_a_file_that_trains_the_same(preset, tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        dst(["train", preset, "--seed", "5", "--print_config"])
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["seed"] == 5
    content = yaml.safe_load(text)
    assert content.pop("preset") == preset
    for key in ("out", "resume"):
        assert content.pop(key) is None
    config = configured(preset, content)
    assert config == type(config)(**{**vars(PRESETS[preset]), "seed": 5})


def test_help_names_units(capsys):
    with pytest.raises(SystemExit, match="0"):
        dst(["train", "llama-9m-pydoc-chts", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for piece in ("Rows per optimizer step", "Steps between topology updates", "bf16 (autocast"):
        assert piece in text


def test_a_config_of_no_task_trains_nothing():
    with pytest.raises(NotImplementedError):
        Config().task()
