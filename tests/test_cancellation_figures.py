"""Made-up runs of layers with two branches: their names, tables, figures and reports."""

import json
import re

import numpy as np
import pytest
import yaml
from matplotlib.colors import rgb_to_hsv

import analysis
import topo
from analysis import cancellation, figures
from analysis.__main__ import main as cli
from analysis.cancellation import Place, cancellation_item, final_cancellation, place
from analysis.methods import Branches

HALVES = {"rank": None, "ratio": 1.0, "form": "silu", "alpha": 32.0, "alignment": 0.0}
NONE = HALVES | {"ratio": None}
LLAMA = [f"model.layers.{b}.self_attn.{p}_proj" for b in range(3) for p in "qkvo"]
LLAMA += [f"model.layers.{b}.mlp.{p}_proj" for b in range(3) for p in ("gate", "up", "down")]


def make_run(
    folder,
    score=30.0,
    *,
    method="chts",
    low_rank=None,
    density=0.1,
    links=0.05,
    total=0.1,
    seed=0,
    ratios=None,
    data="openwebtext",
    settings=None,
):
    """A run of LLaMA-60M as the trainer leaves it; density is what was set, the others came out."""
    folder.mkdir(parents=True)
    config = {
        "preset": "a-preset",
        "sparsity": {"method": method, "density": density},
        "low_rank": low_rank,
        "optimizer": {"lr": 0.1},
        "seed": seed,
        "data": {"name": data, "rows": "documents"},
        "model": {"width": 512, "layers": 8},
    }
    if low_rank is None:
        del config["low_rank"]  # an older run
        total = links = density
    for key, value in (settings or {}).items():
        group, inner = key.split(".")
        config[group][inner] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    line = {"step": 20, "epoch": 1.0, "train_loss": 3.0, "valid_perplexity": score}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    if ratios is not None:
        lines = [json.dumps({"step": s, "layers": layers}) + "\n" for s, layers in ratios.items()]
        (folder / "cancellation.jsonl").write_text("".join(lines))
    if method is not None and (low_rank or NONE)["ratio"] != 0:
        layers = {"q_proj": topo.erdos_renyi(16, 16, 0.2, seed=0)}
        topo.HistoryWriter(folder / "topology", topo.Network(layers, couplings=()))
    summary = {
        "score": {"name": "valid_perplexity", "value": score, "final": score,
                  "higher_is_better": False},
        "density": links, "active_neuron_rate": 1.0, "links": 100,
        "run": {
            "seconds": 2.0, "samples_per_second": 50.0, "unit": "tokens", "device": "cpu",
            "threads": 1, "command": "epitopo train",
            "versions": {"epitopo": topo.__version__, "python": "3.11", "torch": "2"},
        },
    }  # fmt: skip
    if low_rank is not None:
        summary["total_density"] = total
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def falling(start, layers=LLAMA, steps=(10, 20)):
    """Ratios: of block b, start - b / 100, and half a tenth less at each further step."""
    return {
        step: {name: start - int(re.search(r"\d", name)[0]) / 100 - i / 20 for name in layers}
        for i, step in enumerate(steps)
    }


# names and sparsities

DENSE_60M = {"density": 1.0, "total": 1.0, "links": 1.0}
NAMES = [
    # method, low rank, name, key, sparsity
    (None, NONE, "dense", "dense", None),
    ("chts", NONE, "CHTs", "chts", 0.9),
    ("chts", HALVES | {"alignment": 0.5}, "CHTsL", "chtsl", 0.9),
    ("chts", HALVES, "CHTs + low rank, silu", "CHTs + low rank, silu", 0.9),
    ("chts", HALVES | {"form": "linear"}, "CHTs + low rank", "CHTs + low rank", 0.9),
    (None, HALVES | {"ratio": 0.0}, "CoLA", "cola", 0.9),
    ("chts", HALVES | {"ratio": 0, "alignment": 0.5}, "CoLA", "cola", 0.9),
    ("chts", HALVES | {"ratio": np.inf, "alignment": 0.5}, "CHTs", "chts", 0.9),
    (None, NONE | {"rank": 8}, "CoLA", "cola", 0.902),
    (None, NONE | {"rank": 8, "form": "linear"}, "low rank", "low rank", 0.902),
    ("static", HALVES | {"form": "sltrain"}, "SLTrain", "sltrain", 0.9),
    ("static", NONE | {"rank": 8, "form": "linear"}, "static + low rank", "static + low rank",
     0.902),
    ("rigl", HALVES | {"alignment": 0.3}, "RigL + low rank, silu, aligned",
     "RigL + low rank, silu, aligned", 0.9),
    ("mine", HALVES, "mine + low rank, silu", "mine + low rank, silu", 0.9),
]  # fmt: skip


@pytest.mark.parametrize(("method", "low_rank", "name", "key", "sparsity"), NAMES)
def test_names_and_sparsities(method, low_rank, name, key, sparsity, tmp_path):
    densities = DENSE_60M if sparsity is None else {"total": 0.0981}
    make_run(tmp_path / "r", method=method, low_rank=low_rank, **densities)
    run = analysis.Run.open(tmp_path / "r")
    assert (run.method, run.branches.key) == (name, key)
    if sparsity is None:
        assert np.isnan(run.sparsity)
    else:
        assert run.sparsity == sparsity
    linked = method is not None and low_rank["ratio"] != 0
    assert (run.history is not None) == linked


def test_the_order_of_tables(tmp_path):
    for i, (method, low_rank, *_) in enumerate(reversed(NAMES)):
        make_run(tmp_path / str(i), method=method, low_rank=low_rank)
    names = [group[0].method for group in analysis.find_runs([tmp_path]).values()]
    assert list(dict.fromkeys(names))[:7] == [
        "dense", "CHTs", "CoLA", "SLTrain", "CHTs + low rank", "CHTs + low rank, silu", "CHTsL",
    ]  # fmt: skip


def test_a_rank_without_a_total_is_damage(tmp_path):
    folder = make_run(tmp_path / "r", low_rank=NONE | {"rank": 8})
    summary = json.loads((folder / "summary.json").read_text())
    del summary["total_density"]
    (folder / "summary.json").write_text(json.dumps(summary))
    run = analysis.Run.open(folder)
    with pytest.raises(analysis.RunError, match=r"summary.json is damaged .*'total_density'"):
        assert run.sparsity
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(re.sub(r"low_rank:\n(  .*\n)*", "low_rank: 8\n", config))
    with pytest.raises(analysis.RunError, match=r"config.yaml is damaged \(low_rank is 8\)"):
        analysis.Run.open(folder)


def test_older_runs_stand_with_those_that_set_no_low_rank(tmp_path):
    make_run(tmp_path / "old", 30.0)
    make_run(tmp_path / "new", 32.0, low_rank=NONE, seed=1)
    groups = analysis.find_runs([tmp_path])
    assert {label: len(runs) for label, runs in groups.items()} == {"CHTs": 2}
    (row,) = analysis.paper_table(analysis.run_table(groups["CHTs"])).to_dict("records")
    assert (row["method"], row["mean"], row["published"]) == ("CHTs", 31.0, 33.03)
    assert not any(key.startswith("low_rank") for key in groups["CHTs"][0].settings)


def test_published_rows_come_up_beside_ours(tmp_path, capsys):
    aligned = {"form": "silu", "alignment": 0.5}
    published = {
        "chtsl": ("chts", HALVES | aligned, 31.77),
        "by-rank": ("chts", NONE | aligned | {"rank": 16}, 31.77),  # to 90.1 %
        "cola": (None, HALVES | {"ratio": 0.0}, 37.58),
        "sltrain": ("static", HALVES | {"form": "sltrain"}, 33.90),
        "naive": ("chts", HALVES, np.nan),
    }
    for name, (method, low_rank, score) in published.items():
        make_run(tmp_path / name, 30.0, method=method, low_rank=low_rank, total=0.0994)
        table = analysis.paper_table(analysis.run_table([analysis.Run.open(tmp_path / name)]))
        np.testing.assert_array_equal(table["published"], score)
        assert table["sparsity"].item() == (0.901 if name == "by-rank" else 0.9)
    # of links alone, 90.1 % is another sparsity
    make_run(tmp_path / "links", 30.0, density=0.099)
    (run,) = analysis.find_runs([tmp_path / "links"])["CHTs"]
    assert np.isnan(analysis.paper_table(analysis.run_table([run]))["published"].item())

    names = ("chtsl", "cola", "sltrain", "naive")
    assert cli(["table", *(str(tmp_path / name) for name in names), "--papers"]) == 0
    text = capsys.readouterr().out
    assert "openwebtext 90 %" in text
    for line in (r"CHTsL, published +31.77", r"CoLA, published +37.58", r"SLTrain, .* 33.90"):
        assert re.search(line, text)
    assert re.search(r"CoLA +1 ", text)  # it is among the sparse methods, not the dense


def test_runs_that_lack_a_setting_have_none_of_it(tmp_path):
    make_run(tmp_path / "chts", 30.0)
    make_run(tmp_path / "aligned", 20.0, low_rank=HALVES | {"alignment": 0.5})
    make_run(tmp_path / "cola", 10.0, method=None, low_rank=HALVES | {"ratio": 0.0})
    runs = analysis.run_table(g[0] for g in analysis.find_runs([tmp_path]).values())
    cells = analysis.score_cells(runs, "low_rank.alignment")
    assert set(cells.columns) == {"none", "0.5", "0.0"}
    assert cells.notna().sum().sum() == 3


# the ratios


def test_ratios_by_hand(tmp_path):
    ratios = {10: {"a": 0.5, "b": 0}, 20: {"a": 0.25, "b": 0.125}}
    make_run(tmp_path / "r", low_rank=HALVES, ratios=ratios)
    table = analysis.Run.open(tmp_path / "r").cancellation
    assert list(table) == ["step", "layer", "overlap_cancellation_ratio"]
    assert table.to_numpy().tolist() == [
        [10, "a", 0.5], [10, "b", 0.0], [20, "a", 0.25], [20, "b", 0.125],
    ]  # fmt: skip
    make_run(tmp_path / "without")
    assert analysis.Run.open(tmp_path / "without").cancellation is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ('{"step": 1, "layers": {"a": 0.5}', "delimiter"),
        ('{"step": 1}', "it has no 'layers'"),
        ('{"layers": {}}', "it has no 'step'"),
        ('{"step": 1, "layers": {"a": 1.5}}', "a has the ratio 1.5 at step 1"),
        ('{"step": 1, "layers": {"a": NaN}}', "a has the ratio nan at step 1"),
        ('{"step": 1, "layers": {"a": "b"}}', "not supported"),
        ('{"step": 1, "layers": [0.5]}', "has no attribute"),
        ("[1]", "it has no 'step'"),
        ("5", "not iterable"),
    ],
)
def test_damaged_ratios_are_named(text, reason, tmp_path, capsys):
    make_run(tmp_path / "r", low_rank=HALVES)
    (tmp_path / "r" / "cancellation.jsonl").write_text(text)
    run = analysis.Run.open(tmp_path / "r")
    with pytest.raises(analysis.RunError, match=r"cancellation.jsonl is damaged") as error:
        assert run.cancellation
    assert reason in str(error.value)
    assert cli(["figure", "cancellation", str(tmp_path / "r"), "--out", str(tmp_path / "f")]) == 2
    assert "cancellation.jsonl is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("model.layers.11.self_attn.o_proj", ("O", 11, "")),
        ("model.layers.2.mlp.gate_proj", ("gate", 2, "")),
        ("model.encoder.layers.4.self_attn.out_proj", ("O", 4, "encoder")),
        ("model.decoder.layers.0.encoder_attn.v_proj", ("V", 0, "decoder to encoder")),
        ("model.decoder.layers.3.fc2", ("down", 3, "decoder")),
        ("encoder.block.5.layer.0.SelfAttention.o", ("O", 5, "encoder")),
        ("decoder.block.1.layer.1.EncDecAttention.q", ("Q", 1, "decoder to encoder")),
        ("v_proj", ("V", 0, "")),
        ("fc1.0", None),
        ("classifier", None),
    ],
)
def test_places_of_layers(layer, expected):
    assert place(layer) == (None if expected is None else Place(*expected))


def test_the_table_is_the_mean_over_seeds(tmp_path):
    for seed, start in ((0, 0.5), (1, 0.25)):
        make_run(tmp_path / f"{seed}", low_rank=HALVES, seed=seed, ratios=falling(start))
    make_run(tmp_path / "chts")
    groups = analysis.find_runs([tmp_path])
    table = analysis.cancellation_table(groups)
    assert set(table["method"]) == {"CHTs + low rank, silu"}
    assert len(table) == 4 * 3 * 2
    cells = table.set_index(["projection", "block", "step"])["overlap_cancellation_ratio"]
    assert cells["K", 0, 10] == pytest.approx(0.375)
    assert cells["O", 2, 20] == pytest.approx(0.375 - 0.02 - 0.05)
    assert set(analysis.cancellation_table(groups, ["gate", "Q"])["projection"]) == {"gate", "Q"}
    with pytest.raises(ValueError, match="unknown projection 'q': known are Q, K, V, O, gate"):
        analysis.cancellation_table(groups, ["q"])
    runs = groups["CHTs + low rank, silu"]
    assert final_cancellation(runs) == pytest.approx(0.375 - 0.01 - 0.05)
    assert np.isnan(final_cancellation(groups["CHTs"]))
    (tmp_path / "1" / "cancellation.jsonl").unlink()
    with pytest.raises(analysis.RunError, match=r"1 has no cancellation.jsonl, unlike its other"):
        analysis.cancellation_table(analysis.find_runs([tmp_path]))


# their figure


@pytest.fixture
def pair(tmp_path):
    """Naive and aligned, and one without low rank."""
    make_run(tmp_path / "a", low_rank=HALVES | {"alignment": 0.5}, ratios=falling(0.3))
    make_run(tmp_path / "b", low_rank=HALVES, ratios=falling(0.5))
    make_run(tmp_path / "c")
    return tmp_path


def grid(figure):
    """Axes by row and column, without the colour bar; and that."""
    *axes, bar = figure.axes
    columns = axes[0].get_subplotspec().get_gridspec().ncols
    return [axes[i : i + columns] for i in range(0, len(axes), columns)], bar


def test_the_figure_of_the_paper(pair):
    figure = analysis.cancellation_figure(analysis.find_runs([pair]))
    rows, bar = grid(figure)
    assert [ax.get_title(loc="left") or ax.get_title() for ax in rows[0]] == ["Q", "K", "V", "O"]
    assert [row[0].get_ylabel().replace("\n", " ") for row in rows] == [
        "CHTs + low rank, silu OCR", "CHTsL OCR",
    ]  # fmt: skip
    assert {ax.get_xlabel() for ax in rows[-1]} == {"optimizer step"}
    assert bar.get_ylabel() == "block"
    assert [round(tick) for tick in bar.get_yticks()] == [0, 1, 2]
    for row, start in zip(rows, (0.5, 0.3)):
        for ax in row:
            *blocks, mean = ax.lines
            assert [line.get_label() for line in blocks] == ["block 0", "block 1", "block 2"]
            for block, line in enumerate(blocks):
                assert line.get_xdata().tolist() == [10, 20]
                assert line.get_color() == figures.depth_colours(3).to_rgba(block)
                assert line.get_ydata() == pytest.approx(start - block / 100 - np.array([0, 0.05]))
            assert mean.get_label() == "mean of the blocks"
            assert mean.get_ydata() == pytest.approx(start - 0.01 - np.array([0, 0.05]))
            assert mean.get_linewidth() > 2 * blocks[0].get_linewidth()
    first = rows[0][0]
    assert all(first.get_shared_y_axes().joined(first, ax) for row in rows for ax in row)
    assert all(first.get_shared_x_axes().joined(first, ax) for row in rows for ax in row)
    assert [text.get_text() for text in figure.legends[0].texts] == ["mean of the blocks"]


@pytest.mark.parametrize("blocks", [1, 2, 12, 32])
def test_colours_go_from_dark_to_light(blocks):
    colours = figures.depth_colours(blocks)
    rgb = colours.to_rgba(np.arange(blocks, dtype=float))[:, :3]
    lightness = rgb @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()
    assert lightness[-1] < 0.8  # still to be seen on white
    assert (rgb_to_hsv(rgb)[:, 1] > 0.2).all()


def test_other_projections_and_one_step(pair):
    groups = {"naive": [analysis.Run.open(pair / "b")]}
    (axes,), _ = grid(analysis.cancellation_figure(groups, ["gate", "K"]))
    assert [ax.get_title(loc="left") or ax.get_title() for ax in axes] == ["gate", "K"]
    make_run(pair / "one", low_rank=HALVES, ratios=falling(0.5, steps=(10,)))
    figure = analysis.cancellation_figure({"x": [analysis.Run.open(pair / "one")]})
    assert all(line.get_marker() in "oD" for line in figure.axes[0].lines)


def test_an_encoder_and_a_decoder_have_rows_of_their_own(tmp_path):
    layers = [
        f"model.{side}.layers.{b}.{attention}.{p}_proj"
        for side, attention in (
            ("encoder", "self_attn"), ("decoder", "self_attn"), ("decoder", "encoder_attn"),
        )
        for b in range(2)
        for p in ("q", "k", "v", "out")
    ]  # fmt: skip
    make_run(tmp_path / "r", low_rank=HALVES, ratios=falling(0.5, layers))
    rows, _ = grid(analysis.cancellation_figure(analysis.find_runs([tmp_path])))
    labels = [row[0].get_ylabel().replace("\n", " ") for row in rows]
    assert [label.split(", silu, ")[1] for label in labels] == [
        "encoder OCR", "decoder OCR", "decoder to encoder OCR",
    ]  # fmt: skip
    assert all(len(ax.lines) == 3 for row in rows for ax in row)


def test_what_cannot_be_drawn(pair, tmp_path):
    without = analysis.find_runs([pair / "c"])
    with pytest.raises(analysis.RunError, match="no run has what is to be drawn: a sparse and"):
        analysis.cancellation_figure(without)
    make_run(tmp_path / "mlp", low_rank=HALVES, ratios=falling(0.5, ["fc.0"]))
    with pytest.raises(analysis.RunError, match="of the projections Q, K, V, O"):
        analysis.cancellation_figure(analysis.find_runs([tmp_path / "mlp"]))
    make_run(tmp_path / "other", low_rank=HALVES, ratios=falling(0.5), data="c4")
    with pytest.raises(analysis.RunError, match=r"several data sets \(c4, openwebtext\)"):
        analysis.cancellation_figure(analysis.find_runs([pair / "a", tmp_path / "other"]))


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_the_command(ending, pair, capsys):
    file = pair / f"f.{ending}"
    command = ["figure", "cancellation", str(pair), "--out", str(file)]
    with pytest.warns(UserWarning, match="without two branches, so left out: CHTs$"):
        assert cli(command) == 0
    assert capsys.readouterr().out == f"figure: {file}\n"
    drawn = file.read_bytes()
    assert len(drawn) > 5000
    assert cli(["figure", "cancellation", str(pair / "a"), str(pair / "b"), *command[3:]]) == 0
    assert file.read_bytes() == drawn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["splitz", "a"], "unknown figure 'splitz': did you mean 'splits'?"),
        (["cancellation", "c"], "no run has what is to be drawn"),
        (["cancellation", "d"], "no run in"),
        (["cancellation", "a", "--out", "f.doc"], "must end in .svg, .pdf or .png"),
        (["scaling", "a", "b"], "the figure scaling takes one table, not 2"),
        (["splits", "a"], "one split of their weights alone"),
    ],
)
def test_bad_figures_are_one_line(arguments, message, pair, monkeypatch, capsys):
    monkeypatch.chdir(pair)
    before = sorted(pair.iterdir())
    assert cli(["figure", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("epitopo-analysis: error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert sorted(pair.iterdir()) == before


# splits

SPLITS = [  # method, ratio, links, in all, scores over seeds
    ("chts", None, 0.1, 0.1, (33.0,)),
    ("chts", 3.0, 0.075, 0.099, (31.0, 32.0)),
    ("chts", 1.0, 0.05, 0.1, (30.0, 34.0)),
    (None, 0.0, 0.0, 0.096, (40.0,)),
]


@pytest.fixture
def sweep(tmp_path):
    for method, ratio, links, total, scores in SPLITS:
        for seed, score in enumerate(scores):
            low_rank = HALVES | {"ratio": ratio, "alignment": 0.5 * bool(ratio)}
            make_run(
                tmp_path / f"{ratio}-{seed}", score, method=method, low_rank=low_rank,
                links=links, total=total, seed=seed,
            )  # fmt: skip
    return tmp_path


def test_splits_by_hand(sweep):
    table = analysis.split_table(analysis.find_runs([sweep]))
    assert table["method"].tolist() == ["CHTs", "CoLA", "CHTsL", "CHTsL"]
    assert table["share"].tolist() == [0.0, 1.0, round(24 / 99, 6), 0.5]
    assert table["score"].tolist() == [33.0, 40.0, 31.5, 32.0]
    assert table["runs"].tolist() == [1, 1, 2, 2]
    np.testing.assert_allclose(table["score_std"], [np.nan, np.nan, 0.5**0.5, 8**0.5])
    assert set(table["measure"]) == {"valid_perplexity"}


def test_the_figure_of_splits(sweep):
    (ax,) = analysis.splits_figure(analysis.find_runs([sweep])).axes
    drawn = {bar.get_label(): bar for bar in ax.containers}
    assert list(drawn) == ["CHTs", "CoLA", "CHTsL"]
    line, _, (bars,) = drawn["CHTsL"]
    assert line.get_xdata().tolist() == pytest.approx([24 / 99, 0.5], abs=1e-6)
    assert line.get_ydata().tolist() == [31.5, 32.0]
    low, high = bars.get_segments()[1][:, 1]
    assert (low, high) == pytest.approx((32 - 8**0.5, 32 + 8**0.5))
    assert not drawn["CoLA"].has_yerr
    ticks = [tick.get_text().split("\n") for tick in ax.get_xticklabels()]
    assert ticks == [
        ["0%", "10", "0"], ["24%", "7.5", "2.4"], ["50%", "5", "5"], ["100%", "0", "9.6"],
    ]  # fmt: skip
    assert ax.get_ylabel() == "validation perplexity"
    assert ax.get_title() == "openwebtext, llama-60m, 90 % sparse in all"
    labels = {text.get_text() for text in ax.get_legend().texts}
    assert labels == {"CHTs", "CoLA", "CHTsL"}


def test_lines_are_told_apart_by_what_differs_beside_the_split(sweep):
    for ratio in (3.0, 1.0):
        low_rank = HALVES | {"ratio": ratio, "alignment": 0.3}
        make_run(sweep / f"weak-{ratio}", 35.0, low_rank=low_rank, links=ratio / 100 + 0.04)
    # another way to say the same split
    make_run(
        sweep / "rank", 36.0, low_rank=NONE | {"rank": 16, "alignment": 0.3}, density=0.05,
        links=0.05, seed=1,
    )  # fmt: skip
    table = analysis.split_table(analysis.find_runs([sweep]))
    assert table["method"].unique().tolist() == [
        "CHTs", "CoLA", "CHTsL (alignment=0.5)", "CHTsL (alignment=0.3)",
    ]  # fmt: skip
    weak = table[table["method"] == "CHTsL (alignment=0.3)"]
    assert weak["share"].tolist() == [0.3, 0.5]
    assert weak["score"].tolist() == [35.0, 35.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low_rank": HALVES, "density": 0.2}, r"several total sparsities: 80 % \(\S*x\), 90 %"),
        ({"low_rank": NONE | {"rank": 64}, "total": 0.12}, r"total sparsities: 88 % \(\S*x\)"),
        ({"data": "c4"}, r"several data sets: .*c4 \(\S*x\)"),
        ({"settings": {"model.width": 768}}, r"several models: .*llama-768x8 \(\S*x\)"),
        ({"method": None, "density": 1.0}, r"x is dense: it has no budget to split"),
    ],
)
def test_splits_of_different_budgets_are_refused(options, message, sweep):
    make_run(sweep / "x", **options)
    with pytest.raises(analysis.RunError, match=message):
        analysis.split_table(analysis.find_runs([sweep]))


def test_ranks_are_round_numbers(sweep):
    make_run(sweep / "x", low_rank=NONE | {"rank": 16}, total=0.098)
    assert len(analysis.split_table(analysis.find_runs([sweep]))) == 5


def test_the_command_of_splits(sweep, capsys):
    assert cli(["figure", "splits", str(sweep), "--out", str(sweep / "s.svg")]) == 0
    assert capsys.readouterr().out.endswith("s.svg\n")
    text = (sweep / "s.svg").read_text()
    assert all(f"<!-- {word} -->" in text for word in ("CHTsL", "CoLA", "24%"))
    make_run(sweep / "x", low_rank=HALVES | {"ratio": 0.5}, links=0.033, total=0.081)
    with pytest.warns(UserWarning, match=r"the runs keep 8.1 to 10 % of the dense weights"):
        assert cli(["figure", "splits", str(sweep), "--out", str(sweep / "s.svg")]) == 0


# the table and the report


def test_the_table_tells_what_is_kept_and_what_cancels(pair, capsys):
    make_run(pair / "d", method=None, low_rank=HALVES | {"ratio": 0.0}, links=0.0, total=0.096)
    table = analysis.compare(analysis.find_runs([pair])).set_index("method")
    assert table["total_density"].to_dict() == {
        "CHTs": 0.1, "CoLA": 0.096, "CHTs + low rank, silu": 0.1, "CHTsL": 0.1,
    }  # fmt: skip
    np.testing.assert_allclose(table["cancellation"], [np.nan, np.nan, 0.44, 0.24])
    assert cli(["table", str(pair)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"density \(%\) weights kept \(%\) active .* ELM overlap OCR of Q, K ", text)
    assert re.search(r"CoLA .* 0.00 +9.60 +– +– +– ", text)
    assert re.search(r"CHTsL .* 5.00 +10.00 .* 0.240 ", text)
    assert cli(["table", str(pair / "c")]) == 0
    text = capsys.readouterr().out
    assert "kept" not in text
    assert "OCR" not in text


def test_the_report_shows_and_explains_the_ratio(pair, tmp_path):
    make_run(pair / "d", method=None, low_rank=HALVES | {"ratio": 0.0}, links=0.0, total=0.096)
    make_run(pair / "e", method=None, density=1.0)
    page = analysis.write_report(analysis.find_runs([pair]), tmp_path / "r.html").read_text()
    text = re.sub(r"base64,[^\"]+", "", page)
    assert "Cancellation of the two branches" in text
    assert text.count("overlap cancellation ratio (OCR)") == 2  # of the table and the figure
    assert 'alt="overlap cancellation ratio of every block' in text
    assert "the sparse ones at 90 % sparsity" in text
    assert "Branches of low rank are not counted." in text
    assert "nan" not in text.lower().replace("dominant", "")
    plain = analysis.write_report(analysis.find_runs([pair / "c"]), tmp_path / "c.html")
    plain = re.sub(r"base64,[^\"]+", "", plain.read_text())
    assert "cancellation" not in plain
    assert "low rank" not in plain.lower()


def test_a_report_of_low_rank_alone_has_no_topology(tmp_path):
    make_run(tmp_path / "d", method=None, low_rank=HALVES | {"ratio": 0.0}, links=0.0)
    groups = analysis.find_runs([tmp_path])
    assert cancellation_item(groups) == []
    page = analysis.write_report(groups, tmp_path / "r.html").read_text()
    assert page.count("<img") == 1  # the learning curves


def test_low_rank_alone_has_no_line_in_the_evolution(pair, monkeypatch):
    make_run(pair / "d", method=None, low_rank=HALVES | {"ratio": 0.0}, links=0.0)
    seen = []
    monkeypatch.setattr(
        "analysis.topology_figures.svg",
        lambda figure, description: seen.append([li.get_label() for li in figure.axes[0].lines]),
    )
    with figures.style():
        analysis.topology_figures.topology_items(analysis.find_runs([pair]))
    assert seen[0] == ["CHTs", "CHTs + low rank, silu", "CHTsL"]


def test_the_names_of_papers_are_those_of_published_results():
    keys = {Branches(None, "silu").key, Branches("static", "sltrain").key}
    keys.add(Branches("chts", "silu", aligned=True).key)
    table = analysis.published_results()
    assert keys == set(table.loc[table["source"].str.startswith("CHTsL"), "method"]) - {
        "dense", "chts",
    }  # fmt: skip


def test_every_projection_is_found_by_its_name():
    assert set(cancellation.PROJECTIONS.values()) == {"Q", "K", "V", "O", "gate", "up", "down"}
