"""Figures by structure and content: what is drawn where, in which style, into which bytes."""

import io
import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from PIL import Image

import analysis
import topo
from analysis import figures
from analysis.__main__ import main as cli
from analysis.figure_files import FIGURES, draw_figure
from analysis.figure_files.drawn_network import drawn_network
from analysis.figure_files.selection import choose_layers, pictures
from analysis.figure_files.starts import start_topologies
from analysis.figure_files.training import training_operations
from analysis.figure_files.wins import pooled_win_rates
from analysis.measures.pooled import pooled_lives
from dst.__main__ import main as dst

# styles and files


def test_the_default_style_is_the_screen():
    with figures.style():
        default = dict(rcParams)
    with figures.style("screen"):
        assert dict(rcParams) == default
    with figures.style("paper"):
        assert rcParams["font.size"] == 7
        assert rcParams["lines.linewidth"] < default["lines.linewidth"]
    with (
        pytest.raises(ValueError, match="unknown style 'papre': did you mean 'paper'"),
        figures.style("papre"),
    ):
        pass


def labelled():
    figure = Figure()
    figure.add_subplot().set(title=r"a $\alpha$", xlabel="x")
    return figure


def test_fonts_of_a_pdf_are_embedded(tmp_path):
    for look in figures.STYLES:
        with figures.style(look):
            file = figures.save(labelled(), tmp_path / f"{look}.pdf")
        assert b"/FontFile2" in file.read_bytes()
    plain = figures.save(labelled(), tmp_path / "plain.pdf").read_bytes()  # in no style
    assert b"/FontFile2" in plain
    assert b"/Type3" not in plain
    assert figures.save(labelled(), tmp_path / "again.pdf").read_bytes() == plain


def test_an_svg_needs_no_font(tmp_path):
    text = figures.save(labelled(), tmp_path / "f.svg").read_text()
    assert "<text" not in text
    assert figures.save(labelled(), tmp_path / "g.svg").read_text() == text


def test_unknown_files_are_refused(tmp_path):
    for name in ("f.doc", "f.jpg"):
        with pytest.raises(ValueError, match=rf"{name} must end in .svg, .pdf or .png"):
            figures.save(labelled(), tmp_path / name)
    assert not list(tmp_path.iterdir())


# drawing

LINES = pd.DataFrame(
    {
        "method": ["a", "a", "b", "b"],
        "step": [0, 1, 0, 1],
        "y": [1.0, 2.0, 3.0, 4.0],
        "y_std": [0.1] * 4,
    }
)
NEURONS = pd.DataFrame({"x": [0, 0, 1], "y": [0.25, 0.75, 0.5], "active": [True, False, True]})
LINKS = pd.DataFrame(
    {"x": [0, 0], "y": [0.25, 0.75], "to_x": [1, 1], "to_y": [0.5, 0.5], "active": [True, False]}
)
RATES = pd.DataFrame(
    {"cells": [4, 4, 0], "win_rate": [0.25, 0.75, np.nan]}, index=["SET", "CHTs", "RigL"]
)
RATIOS = pd.DataFrame({"block": [0, 0], "step": [0, 1], "overlap_cancellation_ratio": [0.5, 0.4]})
SPLITS = pd.DataFrame({"method": ["a"], "share": [0.5], "score": [30.0], "score_std": [np.nan]})
DRAWINGS = {
    "curves": lambda ax: figures.curves(LINES, "step", "y", ax),
    "adjacency": lambda ax: figures.adjacency(topo.as_adjacency([[1, 0]]), ax),
    "degrees": lambda ax: figures.degree_distribution(np.array([1, 2]), ax),
    "win rates": lambda ax: figures.win_rates(RATES, ax),
    "network": lambda ax: figures.layered_network(NEURONS, LINKS, ax, columns={0: "a", 1: "b"}),
    "cancellation": lambda ax: figures.cancellation(
        RATIOS, ax, colours=figures.depth_colours(1), mean=RATIOS
    ),
    "splits": lambda ax: figures.splits(SPLITS, ax),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_returns_its_axes_and_touches_no_others(name):
    ax, other = Figure().subplots(1, 2)
    assert DRAWINGS[name](ax) is ax
    assert ax.has_data()
    assert not other.has_data()
    assert ax.figure.axes == [ax, other]


def test_lines_keep_their_looks_among_others():
    ax = Figure().add_subplot()
    figures.curves(LINES[LINES["method"] == "b"], "step", "y", ax, order=["a", "x", "b"])
    (line,) = ax.lines
    assert line.get_color() == figures.COLOURS[2]
    every = pd.concat([LINES, LINES.assign(method="c")])
    figures.curves(every, "step", "y", ax)
    assert ax.lines[-1].get_linestyle() == line.get_linestyle()
    assert ax.lines[-1].get_color() == line.get_color()


def test_steps_hold_until_the_next():
    ax = Figure().add_subplot()
    figures.curves(LINES, "step", "y", ax, steps=True)
    assert {line.get_drawstyle() for line in ax.lines} == {"steps-post"}
    corners = ax.collections[0].get_paths()[0].vertices
    assert [1.0, 0.9] in corners.round(6).tolist()  # the band, too: the old value at the new step


@pytest.mark.parametrize(("shape", "cells"), [((4, 6), 96), ((8, 12), 4)])
def test_the_pixels_of_an_adjacency(shape, cells):
    matrix = topo.erdos_renyi(*shape, 0.4, seed=3)
    figure = Figure(figsize=(1.2, 0.8), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    figures.adjacency(matrix, ax, cells=cells)
    ax.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    tall, wide = min(shape[0], cells), min(shape[1], cells)
    density = matrix.toarray().reshape(tall, shape[0] // tall, wide, shape[1] // wide)
    density = density.mean((1, 3))
    rows = ((np.arange(tall) + 0.5) * 80 / tall).astype(int)
    columns = ((np.arange(wide) + 0.5) * 120 / wide).astype(int)
    darkness = 1 - drawn[np.ix_(rows, columns)].mean(2) / 255
    # as dark as dense: the same order, white for none and black for all
    assert (darkness[density == 0] == 0).all()
    assert (darkness[density == 1] == 1).all()
    order = np.argsort(density, axis=None, kind="stable")
    assert (np.diff(darkness.ravel()[order]) >= 0).all()
    assert len(np.unique(darkness.round(3))) == len(np.unique(density))


@pytest.mark.parametrize("most", [1, 2, 3, 7, 40, 64, 300, 5000, 10**6])
@pytest.mark.parametrize("least", [1, 9, 52])
def test_a_degree_axis_has_a_few_round_ticks(least, most):
    ax = Figure(figsize=(1.4, 1.4)).add_subplot()
    figures.degree_distribution(np.array([least, least * most]), ax)
    low, high = ax.get_xlim()
    ticks = [t for t in ax.get_xticks() if low <= t <= high]
    assert 1 <= len(ticks) <= 6
    if most > 2:
        assert len(ticks) >= 2


def test_small_shares_are_no_zero_percent():
    ax = Figure().add_subplot()
    figures.degree_distribution(np.repeat([1, 2], [1999, 1]), ax)
    ax.figure.draw_without_rendering()
    assert {"0.1%", "1%", "100%"} <= {text.get_text() for text in ax.get_yticklabels()}


def test_win_rates_by_hand():
    ax = DRAWINGS["win rates"](Figure().add_subplot())
    assert [bar.get_height() for bar in ax.patches] == [0.25, 0.75, 0.0]
    best = [to_hex(bar.get_facecolor()) == figures.COLOURS[2].lower() for bar in ax.patches]
    assert best == [False, True, False]
    assert [text.get_text() for text in ax.texts] == ["25", "75", "–"]
    names = [text.get_text() for text in ax.get_xticklabels()]
    assert names == ["SET\n(n = 4)", "CHTs\n(n = 4)", "RigL\n(n = 0)"]


def test_a_network_by_hand():
    ax = DRAWINGS["network"](Figure().add_subplot())
    kept, removed, neurons = ax.collections
    assert kept.get_segments()[0].tolist() == [[0, 0.25], [1, 0.5]]
    assert removed.get_segments()[0].tolist() == [[0, 0.75], [1, 0.5]]
    assert to_hex(removed.get_colors()[0]) == figures.COLOURS[5].lower()
    assert neurons.get_offsets().tolist() == [[0, 0.25], [0, 0.75], [1, 0.5]]
    black, white = to_rgba("black"), to_rgba("white")
    assert [tuple(c) for c in neurons.get_facecolors()] == [black, white, black]
    assert {tuple(c) for c in neurons.get_edgecolors()} == {black}
    bottom, top = ax.get_ylim()
    assert top < 0.25 < 0.75 < bottom  # downwards, as a matrix


# animations


def blinking(frames):
    figure = Figure(figsize=(2, 1))
    ax = figure.add_axes((0, 0, 1, 1))

    def draw(frame):
        ax.clear()
        ax.set_axis_off()
        ax.set_facecolor("white")
        ax.axvspan(0, 1, color=["black", "red", "white"][frame])
        ax.set(xlim=(0, 2), ylim=(0, 1))

    return figures.Animation(figure, draw, frames, seconds=0.2)


def test_an_animation_has_its_frames(tmp_path):
    file = figures.save_animation(blinking(3), tmp_path / "a.gif", width=100)
    with Image.open(file) as picture:
        assert (picture.n_frames, picture.size, picture.info["loop"]) == (3, (100, 50), 0)
        for frame, colour in enumerate([(0, 0, 0), (255, 0, 0), (255, 255, 255)]):
            picture.seek(frame)
            pixels = picture.convert("RGB")
            assert np.abs(np.subtract(pixels.getpixel((25, 25)), colour)).max() <= 3
            assert pixels.getpixel((75, 25)) == (255, 255, 255)  # paper is white
            assert picture.info["duration"] == (1600 if frame == 2 else 200)
    again = figures.save_animation(blinking(3), tmp_path / "new" / "b.gif", width=100)
    assert again.read_bytes() == file.read_bytes()


def test_an_animation_is_a_gif(tmp_path):
    with pytest.raises(ValueError, match=r"a.pdf must end in .gif"):
        figures.save_animation(blinking(3), tmp_path / "a.pdf")
    assert not list(tmp_path.iterdir())


# what is computed

HIDDEN = topo.Network({"fc1": [[1, 0], [1, 1]], "fc2": [[0, 1]]})  # hidden neuron 0 is not read


def test_a_drawn_network_by_hand():
    drawn = drawn_network(HIDDEN, ["fc1", "fc2"])
    assert drawn.neurons.to_numpy().tolist() == [
        [0, 0.25, True], [0, 0.75, True], [1, 0.25, False], [1, 0.75, True], [2, 0.5, True],
    ]  # fmt: skip
    assert drawn.links.to_numpy().tolist() == [
        [0, 0.25, 1, 0.25, False], [0, 0.25, 1, 0.75, True], [0, 0.75, 1, 0.75, True],
        [1, 0.75, 2, 0.5, True],
    ]  # fmt: skip
    assert list(drawn.columns.values()) == [
        "2 neurons\n100 % active", "2 neurons\n50 % active", "1 neuron\n100 % active",
    ]  # fmt: skip
    assert drawn.layers == {0.5: "fc1", 1.5: "fc2"}


def test_layers_that_share_no_neurons_stand_apart():
    apart = topo.Network(HIDDEN.layers, couplings=())
    drawn = drawn_network(apart, ["fc1", "fc2"])
    assert len(drawn.columns) == 4
    assert drawn.neurons["active"].tolist() == [True] * 4 + [False, True] + [True]
    skipped = topo.Network({"a": np.eye(3), "b": np.eye(3), "c": np.eye(3)})
    assert len(drawn_network(skipped, ["a", "c"]).columns) == 4


def test_samples_of_neurons():
    network = topo.Network({"fc": np.tril(np.ones((9, 9)))})  # input 0 and output 8 have most
    spread = drawn_network(network, ["fc"], neurons=3)
    assert len(spread.links) == 6  # of neurons 0, 4, 8 on both sides
    top = drawn_network(network, ["fc"], neurons=3, sample="top")
    assert len(top.links) == 9  # of inputs 0, 1, 2 and outputs 6, 7, 8
    with pytest.raises(ValueError, match="neurons must be at least 1, not 0"):
        drawn_network(network, ["fc"], neurons=0)
    with pytest.raises(ValueError, match="unknown sample 'most'"):
        drawn_network(network, ["fc"], sample="most")


def test_pooled_survival_by_hand():
    a = {"layer": "a", "age": [0, 5, 10], "at_risk": [4, 4, 2], "died": [0, 2, 0]}
    b = {"layer": "b", "age": [0, 10], "at_risk": [2, 2], "died": [0, 1]}
    table = pd.concat([pd.DataFrame(a), pd.DataFrame(b)]).assign(cohort="start")
    pooled = pooled_lives([table])
    pooled = pooled[pooled["cohort"] != "ages"]
    assert pooled["at_risk"].tolist() == [6, 6, 4]
    assert pooled["died"].tolist() == [0, 2, 1]
    assert pooled["survival"].tolist() == pytest.approx([1, 2 / 3, 1 / 2])


def changing(folder, start, *later):
    """A run of ten steps whose links change at given ones."""
    before = topo.Network({"fc": start})
    writer = topo.HistoryWriter(folder, before)
    for step, after in later:
        links = {name: np.asarray(m).ravel().astype(bool) for name, m in
                 (("old", before.layers["fc"].toarray()), ("new", after))}  # fmt: skip
        writer.append(
            step,
            topo.Network({"fc": after}),
            {
                "fc": {
                    "removed": np.flatnonzero(links["old"] & ~links["new"]),
                    "grown": np.flatnonzero(links["new"] & ~links["old"]),
                }
            },
        )
        before = topo.Network({"fc": after})
    history = topo.History.open(folder)
    return SimpleNamespace(history=history, metrics=pd.DataFrame({"step": [10]}))


def test_training_operations_are_the_integral_of_the_density(tmp_path):
    run = changing(tmp_path, np.ones((2, 2)), (4, [[1, 1], [0, 0]]), (8, [[1, 0], [0, 0]]))
    table = training_operations(run)
    assert table["step"].tolist() == [0, 4, 8, 10]
    assert table["density"].tolist() == [1, 0.5, 0.25, 0.25]
    assert table["flops"].tolist() == pytest.approx([0, 0.4, 0.6, 0.65])
    dense = training_operations(SimpleNamespace(history=None, metrics=run.metrics))
    assert dense["flops"].tolist() == [0, 1]


def test_win_rates_pool_scores_of_different_kinds():
    rows = [  # the best: 0.25 of accuracy in both seeds, 10.0 of perplexity
        ("a", True, "0.25", 0, 0.9), ("a", True, "0.25", 1, 0.9),
        ("a", True, "10.0", 0, 0.8), ("a", True, "10.0", 1, 0.7),
        ("p", False, "0.25", 0, 30.0), ("p", False, "10.0", 0, 20.0),
        ("p", False, "2.0", 0, 20.0),
    ]  # fmt: skip
    columns = ["measure", "higher_is_better", "beta", "seed", "score"]
    table = pd.DataFrame(rows, columns=columns)
    settings = table.pop("beta")
    table = table.assign(data="d", model="m", sparsity=0.9, method="x", steps=1, beta=settings)
    rates = pooled_win_rates(table, "beta")
    assert rates.index.tolist() == ["0.25", "2.0", "10.0"]  # as numbers
    assert rates["cells"].tolist() == [3, 1, 3]
    assert rates["wins"].tolist() == [2, 0.5, 0.5]
    with pytest.raises(analysis.RunError, match="no two runs differ in beta alone"):
        pooled_win_rates(table[table["beta"] == "2.0"], "beta")


def test_start_topologies():
    made = start_topologies(60, 0.1, beta=[0, 1], r=[0.2], seed=1)
    assert [name.split(",")[0] for name in made] == ["BSW", "BSW", "BRF", "BSF"]
    assert {layer.nnz for layer in made.values()} == {360}
    *_, free = made.values()
    for side in ("output", "input"):
        assert (np.diff(analysis.degrees(free, side)) <= 0).all()  # hubs first
        own = analysis.degrees(topo.scale_free(60, 60, 0.1, seed=1), side)
        assert sorted(own) == sorted(analysis.degrees(free, side))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["fc*", "head"], r"unknown layer 'head': .*known are fc0, fc1"),
        (["fc*"], "match 10 layers, but a figure has room for 8: name fewer, such as fc0"),
    ],
)
def test_layers_that_cannot_be_shown(patterns, message):
    with pytest.raises(ValueError, match=message):
        choose_layers([f"fc{i}" for i in range(10)], patterns)


# the command


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    base = ["--model.hidden", "[40,30]", "--optimizer.epochs", "3", "--data.batch_size", "512"]
    for method, seed in (("dense", 0), ("set", 0), ("set", 1), ("chts", 0)):
        out = str(folder / f"{method}-{seed}")
        assert dst(["train", f"digits-{method}", *base, "--seed", str(seed), "--out", out]) == 0
    return folder


SCALING = """sweep,n,density,predictor,seconds,extra_mb
over size,100,0.05,ch2_l3n,0.1,2
over size,200,0.05,ch2_l3n,0.3,5
over size,100,0.05,ch3_l3p,0.4,2
over size,200,0.05,ch3_l3p,0.9,5
"""
FEW = {"starts": {"size": 80, "beta": [0.0, 0.5], "r": [0.3]}, "animation": {"frames": 2}}
OWN_TESTS = {"cancellation", "splits"}  # of runs with low rank, in test_cancellation_figures.py


def inputs(name, runs, tmp_path):
    if name == "scaling":
        (tmp_path / "s.csv").write_text(SCALING)
        return [str(tmp_path / "s.csv")]
    if name == "animation":
        return [str(runs / "chts-0")]
    return [] if name == "starts" else [str(runs)]


def drawn(name, given, look="paper", **options):
    entry = FIGURES[name]
    with figures.style(look):
        found = entry.draw(*([] if entry.read is None else [entry.read(given)]), **options)
        figure = found if isinstance(found, Figure) else found.figure
        if figure is not found:
            found.draw(0)
        figure.draw_without_rendering()
    return figure


def words(figure):
    """All that is written, with its place."""
    texts = [text for legend in figure.legends for text in legend.texts]
    texts += [t for t in (figure._supxlabel, figure._suptitle) if t is not None]
    for ax in figure.axes:
        texts += [*ax.texts] * ax.axison + [ax._left_title, ax.title, ax._right_title]
        if not ax.axison:
            continue
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            low, high = sorted(limits)
            ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            texts += [axis.label, *(t.label1 for t in ticks)]
    shown = [t for t in texts if t.get_visible() and t.get_text().strip()]
    return [(t.get_text(), t.get_window_extent()) for t in shown]


@pytest.mark.parametrize("look", figures.STYLES)
@pytest.mark.parametrize("name", [n for n in FIGURES if n not in OWN_TESTS])
def test_no_words_overlap_or_leave_the_figure(name, look, runs, tmp_path):
    figure = drawn(name, inputs(name, runs, tmp_path), look, **FEW.get(name, {}))
    width, height = figure.bbox.size
    every = words(figure)
    for text, box in every:
        assert box.x0 > -1.5, text
        assert box.x1 < width + 1.5, text
        assert -1.5 < box.y0 < box.y1 < height + 1.5, text
    for (a, first), (b, second) in itertools.combinations(every, 2):
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        tall = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(wide, tall) < 1.5, f"{a!r} and {b!r} overlap"
    for ax in figure.axes:
        if ax.axison and ax.get_label() != "<colorbar>":
            assert ax.has_data() or ax.texts, ax.get_title(loc="left")


@pytest.mark.parametrize("name", [n for n in FIGURES if n not in OWN_TESTS])
def test_the_command_writes_every_figure(name, runs, tmp_path, capsys):
    given = inputs(name, runs, tmp_path)
    options = [str(x) for key, value in FEW.get(name, {}).items()
               for x in (f"--{key}", *np.atleast_1d(value))]  # fmt: skip
    ending = ".gif" if name == "animation" else ".pdf"
    file = tmp_path / f"f{ending}"
    capsys.readouterr()
    assert cli(["figure", name, *given, *options, "--out", str(file)]) == 0
    assert capsys.readouterr().out == f"figure: {file}\n"
    content = file.read_bytes()
    if ending == ".pdf":
        assert b"/FontFile2" in content
        assert b"/Type3" not in content
    else:
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.n_frames == 2
    if name in ("trend", "network", "animation"):
        again = draw_figure(name, given, tmp_path / f"g{ending}", options=FEW.get(name, {}))
        assert again.read_bytes() == content


def labels(ax):
    return [line.get_label() for line in ax.lines]


def test_trends_are_what_was_measured(runs):
    density, overlap, active = drawn("trend", [str(runs)]).axes
    assert labels(density) == labels(active) == ["dense", "SET", "CHTs"]
    chts = analysis.Run.open(runs / "chts-0")
    last = chts.metrics["step"].max()
    line = density.lines[2]
    network = chts.history.at(0)
    assert line.get_xdata()[-1] == last
    assert line.get_ydata()[0] == pytest.approx(network.density)
    expected = analysis.elm_overlap(chts.history).groupby("step")["elm_overlap"].mean()
    by_label = dict(zip(labels(overlap), overlap.lines, strict=True))
    np.testing.assert_allclose(by_label["CHTs"].get_ydata(), expected)
    measured = analysis.active_neurons(chts.history)["active_neuron_rate"]
    np.testing.assert_allclose(active.lines[2].get_ydata()[: len(measured)], measured)
    both = [analysis.active_neurons(analysis.Run.open(runs / f"set-{s}").history) for s in (0, 1)]
    mean = np.mean([table["active_neuron_rate"] for table in both], 0)
    np.testing.assert_allclose(active.lines[1].get_ydata()[: len(mean)], mean)
    alone = drawn("elm-overlap", [str(runs)]).axes[0]  # in the same colours, without the dense one
    assert labels(alone) == ["SET", "CHTs"]
    assert [line.get_color() for line in alone.lines] == list(figures.COLOURS[1:3])


def test_trends_of_layers(runs):
    figure = drawn("trend", [str(runs / "chts-0")], layers=["fc*"], metric=["in_degree_max"])
    history = analysis.Run.open(runs / "chts-0").history
    table = analysis.summary(history, ["in_degree_max"])
    for ax, name in zip(figure.axes, history.shapes, strict=True):
        assert ax.get_title(loc="left") == name
        own = table.loc[table["layer"] == name, "in_degree_max"]
        assert ax.lines[0].get_ydata().tolist() == own.tolist()


def test_adjacency_is_that_of_the_steps(runs):
    figure = drawn("adjacency", [str(runs / "chts-0")], layers=["fc2"], step=[0, 10**6])
    history = analysis.Run.open(runs / "chts-0").history
    for ax, step in zip(figure.axes, (0, history.steps[-1]), strict=False):
        expected = history.at(step).layers["fc2"].toarray()
        np.testing.assert_array_equal(ax.images[0].get_array(), expected)
    assert figure._supxlabel.get_text() == "1 of 2 layers."


def test_training_flops_agree_with_the_trainer(runs):
    run = analysis.Run.open(runs / "set-0")
    possible = sum(a * b for a, b in run.history.shapes.values())
    weights = possible + 30 * 10  # the head is dense
    own = training_operations(run)["flops"].iloc[-1]
    trainers = run.summary["training_flops_relative_to_dense"]
    assert (own * possible + weights - possible) / weights == pytest.approx(trainers)


def test_frames_are_the_recorded_steps(runs):
    entry = FIGURES["animation"]
    history = analysis.Run.open(runs / "chts-0").history
    animation = entry.draw(entry.read([str(runs / "chts-0")]))
    assert animation.frames == len(history.steps)
    for frame, step in enumerate(history.steps):
        animation.draw(frame)
        assert animation.figure._suptitle.get_text() == f"CHTs: step {step} of {history.steps[-1]}"
        image = animation.figure.axes[1].images[0].get_array()
        np.testing.assert_array_equal(image, history.at(step).layers["fc2"].toarray())


def test_one_run_of_several_is_named(runs):
    shown, note = pictures(analysis.find_runs([runs]), None, None)
    assert [(p.run, p.when) for p in shown] == [
        (run, when) for run in ("SET", "CHTs") for when in ("start", "end")
    ]  # fmt: skip
    assert note == "Of several runs, seed 0."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["networks", "."], "unknown figure 'networks': did you mean 'network'?"),
        (["splits", ".", "--beta", "2"], "unrecognized arguments: --beta 2; what it takes: "
         "epitopo-analysis figure splits --help"),
        (["starts", "."], "unrecognized arguments: ."),
        (["density", "."], "no finished run in ."),
        (["adjacency", "RUNS/dense-0"], "has no links that evolve, nor has any other run"),
        (["adjacency", "RUNS", "--step", "-1"], "step must be at least 0, not -1"),
        (["degrees", "RUNS", "--layers", "f1"], "unknown layer 'f1': did you mean 'fc1'"),
        (["trend", "RUNS", "--metric", "densty"], "unknown measure 'densty'"),
        (["learning", "RUNS", "--metric", "loss"], "unknown metric 'loss'"),
        (["win-rates", "RUNS", "--by", "betta"], "unknown setting 'betta'"),
        (["win-rates", "RUNS", "--by", "density"], "no two runs differ in sparsity.density alone"),
        (["animation", "RUNS"], "an animation is of one run, not of SET, CHTs: name one"),
        (["animation", "RUNS/set-0", "--out", "a.pdf"], "a.pdf must end in .gif"),
        (["animation", "RUNS/set-0", "--frames", "0"], "frames must be at least 1, not 0"),
        (["starts", "--beta", "0", "0", "0", "0", "0", "0", "0", "0"], "room for 7 values"),
        (["starts", "--density", "0"], "density"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments, message, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert cli(["figure", *(a.replace("RUNS", str(runs)) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("epitopo-analysis: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


def test_the_help_names_every_figure(capsys):
    with pytest.raises(SystemExit):
        cli(["figure", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for name, entry in FIGURES.items():
        assert f"{name} {entry.help}" in told


def test_options_of_others_are_refused():
    with pytest.raises(ValueError, match="unknown option of the figure network 'neuron': did you"):
        draw_figure("network", [], "f.pdf", options={"neuron": 3})


def test_a_dense_layer_without_updates(tmp_path):
    base = ["--model.hidden", "[30]", "--optimizer.epochs", "1", "--sparsity.density", "1.0"]
    out = str(tmp_path / "full")
    with pytest.warns(UserWarning, match="the topology will not evolve"):
        assert dst(["train", "digits-set", *base, "--data.batch_size", "512", "--out", out]) == 0
    density, overlap, active = drawn("trend", [out]).axes
    assert set(density.lines[0].get_ydata()) == set(active.lines[0].get_ydata()) == {1.0}
    assert [text.get_text() for text in overlap.texts] == ["no value"]
    assert (drawn("adjacency", [out]).axes[0].images[0].get_array() == 1).all()
    assert len(drawn("animation", [out]).axes) == 3
    assert len(drawn("degrees", [out]).axes[0].lines) == 1
    with pytest.raises(analysis.RunError, match="no topology of SET was ever updated"):
        drawn("survival", [out])


def test_shared_axes_hold_what_all_of_them_show():
    figure = Figure()
    one, other = figure.subplots(1, 2, sharex=True)
    figures.degree_distribution(np.array([1, 1, 2]), one)
    figures.degree_distribution(np.array([50, 60]), other)
    assert one.get_xlim() == other.get_xlim() == pytest.approx((1 / 1.15, 60 * 1.15))
    figures.degree_distribution(np.array([5, 6]), one)
    assert one.get_xlim() == pytest.approx((1 / 1.15, 60 * 1.15))


def test_a_style_for_the_whole_session():
    with rc_context():
        figures.use("paper")
        assert rcParams["font.size"] == figures.STYLES["paper"]["font.size"]
        with pytest.raises(ValueError, match="unknown style 'papers': did you mean 'paper'"):
            figures.use("papers")


# odd runs


def run_of(folder, *matrices, every=10):
    """A run, as far as figures of the topology need one."""
    network = topo.Network({"fc": matrices[0]})
    writer = topo.HistoryWriter(folder, network)
    for i, after in enumerate(matrices[1:], 1):
        old, new = (np.asarray(m).ravel().astype(bool) for m in (matrices[i - 1], after))
        events = {"removed": np.flatnonzero(old & ~new), "grown": np.flatnonzero(new & ~old)}
        writer.append(every * i, topo.Network({"fc": after}), {"fc": events})
    metrics = pd.DataFrame({"step": [every * len(matrices)]})
    history = topo.History.open(folder)
    branches = SimpleNamespace(dense=False, low_rank=None)
    return SimpleNamespace(history=history, metrics=metrics, seed=0, path=folder, branches=branches)


def written(draw, groups, **options):
    """Its figure, drawn; no warning may escape."""
    with figures.style("paper"):
        found = draw(groups, **options)
        if isinstance(found, figures.Animation):
            for frame in range(found.frames):
                found.draw(frame)
                found.figure.draw_without_rendering()
            return found.figure
        found.draw_without_rendering()
    return found


NOTHING = np.zeros((4, 3))
OF_TOPOLOGY = ("density", "flops", "elm-overlap", "active-neurons", "trend", "adjacency",
               "degrees", "network", "animation", "survival")  # fmt: skip


@pytest.mark.parametrize("name", OF_TOPOLOGY)
@pytest.mark.parametrize("before", [0, 1])
def test_networks_without_links_can_be_drawn(name, before, tmp_path):
    run = run_of(tmp_path / "x", NOTHING + before, NOTHING, NOTHING)
    figure = written(FIGURES[name].draw, {"SET": [run]})
    for ax in figure.axes:
        assert not ax.axison or ax.has_data() or ax.texts
        assert ax.get_yscale() == "linear" or ax.get_ylim()[1] < 2  # no impossible share


def test_survival_never_rises_over_seeds_of_different_ages(tmp_path):
    one = run_of(tmp_path / "0", [[1, 1, 0, 0]], [[0, 1, 1, 0]], [[0, 1, 0, 1]], every=10)
    two = run_of(tmp_path / "1", [[1, 1, 1, 1]], [[1, 0, 0, 0]], [[1, 0, 0, 0]], every=7)
    three = run_of(tmp_path / "2", [[1, 1, 0, 0]], [[1, 1, 0, 0]], [[1, 0, 0, 0]], every=4)
    figure = written(FIGURES["survival"].draw, {"SET": [one, two, three]})
    start, _ = figure.axes
    for ax in figure.axes:
        assert (np.diff(ax.lines[0].get_ydata()) <= 0).all()
        assert ax.get_xlim() == pytest.approx((-0.6, 20.6))
    # by hand: 8 links; at 7 three of 8 die, at 8 one of 5, at 10 one of 3 (one was censored at 8)
    ages, share = start.lines[0].get_data()
    expected = {0: 1, 7: 5 / 8, 8: 5 / 8 * 4 / 5, 10: 5 / 8 * 4 / 5 * 2 / 3}
    assert {a: s for a, s in zip(ages, share, strict=True) if a in expected} == pytest.approx(
        expected
    )
    assert "all layers and seeds together" in " ".join(figure._supxlabel.get_text().split())


def test_many_runs_are_cut_to_a_page(tmp_path):
    runs = [run_of(tmp_path / str(i), np.eye(4), np.eye(4)[::-1]) for i in range(8)]
    groups = {f"m{i}": [run] for i, run in enumerate(runs)}
    for name in ("adjacency", "degrees", "network"):
        figure = written(FIGURES[name].draw, groups)
        assert figure.get_figheight() <= figures.TALL
        note = " ".join(figure._supxlabel.get_text().split())
        *_, left_out = note.partition("Left out, to fit a page: ")
        assert left_out.startswith("m1; m2; m3; m5; m6.")


def test_footnotes_say_what_is_shown(runs):
    trend = " ".join(drawn("trend", [str(runs)])._supxlabel.get_text().split())
    assert trend.endswith("ELM overlap is the mean over layers.")
    note = " ".join(drawn("network", [str(runs)])._supxlabel.get_text().split())
    assert note.startswith("Of several runs, seed 0. At most 40 neurons")


def test_correlations_have_room(tmp_path):
    layer = topo.erdos_renyi(30, 30, 0.2, seed=0).toarray()
    run = run_of(tmp_path / "x", layer, layer)
    regular = run_of(tmp_path / "y", np.eye(30), np.eye(30))
    draw = FIGURES["trend"].draw
    figure = written(draw, {"SET": [run], "CHTs": [regular]}, metric=["assortativity"])
    low, high = figure.axes[0].get_ylim()
    (value,) = set(figure.axes[0].lines[0].get_ydata())
    assert high - low == pytest.approx(0.2)
    assert (low + high) / 2 == pytest.approx(value)
    assert "Without assortativity: CHTs." in " ".join(figure._supxlabel.get_text().split())


def test_a_network_that_never_changed_is_called_so(tmp_path):
    figure = written(FIGURES["adjacency"].draw, {"static": [run_of(tmp_path / "x", np.eye(3))]})
    assert figure.axes[0].get_ylabel().startswith("static, never updated")


def test_letters_that_the_font_lacks(tmp_path):
    figure = figures.canvas(3, 2)
    figure.add_subplot().set(title="fc.日本 é α", xlabel="𠀀")
    figures.footnote(figure, "日")
    figures.save(figure, tmp_path / "new" / "f.svg")  # whose folder is made
    assert figure.axes[0].get_title() == r"fc.\u65e5\u672c é α"
    assert figure.axes[0].get_xlabel() == r"\U00020000"
    assert figure._supxlabel.get_text() == r"\u65e5"


def test_a_table_of_something_else_is_named(tmp_path, capsys):
    file = tmp_path / "report.html"
    for content in (b"<html>\n<p>a, b, c</p>\n", b"", b"\xff\xfe,\n", b"a\n1,2,3\n"):
        file.write_bytes(content)
        assert cli(["figure", "scaling", str(file), "--out", str(tmp_path / "f.svg")]) == 2
        error = capsys.readouterr().err
        assert f"{file} is not the CSV file of `epitopo bench scaling" in error
    assert list(tmp_path.iterdir()) == [file]
