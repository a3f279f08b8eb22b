import base64
import re
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import analysis
import topo
from analysis import figures
from dst.__main__ import main as dst


@pytest.fixture
def history(tmp_path):
    """Two layers, two updates, solved by hand."""
    start = topo.Network({"a": [[1, 0], [1, 1]], "b": [[0, 1]]})
    middle = topo.Network({"a": [[0, 1], [1, 1]], "b": [[0, 1]]})
    end = topo.Network({"a": [[0, 1], [1, 1]], "b": [[1, 0]]})
    writer = topo.HistoryWriter(tmp_path / "h", start)
    events = {"a": {"removed": [0, 3], "grown": [1, 3]}}
    writer.append(5, middle, events, {"a": 0.5})
    writer.append(9, end, {"b": {"removed": [1], "grown": [0]}}, {"b": 0.0})
    return topo.History.open(tmp_path / "h")


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    options = ["--model.hidden", "[80,60]", "--optimizer.epochs", "4", "--data.batch_size", "256"]
    for method in ("chts", "set", "dense"):
        for seed in ("0", "1"):
            out = str(folder / f"{method}{seed}")
            assert dst(["train", f"digits-{method}", "--out", out, "--seed", seed, *options]) == 0
    return analysis.find_runs([folder])


def test_summary_by_hand(history):
    table = analysis.summary(history)
    assert table[["layer", "step"]].to_numpy().tolist() == [
        ["a", 0], ["b", 0], ["a", 5], ["b", 5], ["a", 9], ["b", 9],
    ]  # fmt: skip
    assert table["links"].tolist() == [3, 1, 3, 1, 3, 1]
    assert table["density"].tolist() == [0.75, 0.5] * 3
    # step 0: b reads hidden neuron 1 alone, so hidden neuron 0 loses its link from input 0
    assert table["active_neuron_rate"].tolist() == [3 / 4, 2 / 3, 3 / 4, 2 / 3, 2 / 4, 2 / 3]
    np.testing.assert_array_equal(table["elm_overlap"], [np.nan, np.nan, 0.5, np.nan, np.nan, 0.0])
    assert table["in_degree_max"].tolist() == [2, 1] * 3
    assert table["in_degree_mean"].tolist() == [1.5, 1.0] * 3
    assert table["out_degree_std"].tolist() == [0.5] * 6
    assert list(analysis.summary(history, measures=["density"])) == ["layer", "step", "density"]


def test_summary_of_a_network(history):
    table = analysis.summary(history.at(5), measures=["links", "active_neuron_rate"])
    assert table["layer"].tolist() == ["a", "b"]
    assert table["step"].tolist() == [0, 0]
    assert table["links"].tolist() == [3, 1]
    assert table["active_neuron_rate"].tolist() == [3 / 4, 2 / 3]


def test_elm_overlap_and_active_neurons_by_hand(history):
    overlap = analysis.elm_overlap(history)
    assert list(overlap) == ["step", "layer", "elm_overlap"]
    np.testing.assert_array_equal(overlap["elm_overlap"], [0.5, np.nan, np.nan, 0.0])
    active = analysis.active_neurons(history)
    assert active["step"].tolist() == [0, 5, 9]
    # inputs, hidden, output: 2 + 2 + 1 neurons
    assert active["active_neuron_rate"].tolist() == [4 / 5, 4 / 5, 3 / 5]


def test_recorded_active_neurons_are_not_counted_again(tmp_path):
    start, end = topo.Network({"a": [[1, 0], [0, 1]]}), topo.Network({"a": [[1, 0], [0, 0]]})
    rate = {"active_neuron_rate": 0.25}  # not the true one, to tell them apart
    writer = topo.HistoryWriter(tmp_path, start)

    def rates():
        table = analysis.active_neurons(topo.History.open(tmp_path))
        assert list(table) == ["step", "active_neuron_rate"]
        assert table.dtypes.tolist() == [np.int64, np.float64]
        return dict(zip(table["step"].tolist(), table["active_neuron_rate"].tolist(), strict=True))

    assert rates() == {0: 1.0}
    writer.append(5, end, {"a": {"removed": [3]}}, measures={"a": rate})
    assert rates() == {0: 1.0, 5: 0.25}
    writer.append(9, end, {})  # a step without it: none is taken on trust
    assert rates() == {0: 1.0, 5: 0.5, 9: 0.5}


def test_bad_arguments(history):
    with pytest.raises(ValueError, match="unknown measure 'densty': did you mean 'density'"):
        analysis.summary(history, measures=["densty"])
    with pytest.raises(ValueError, match="takes a Network or a History, not dict"):
        analysis.summary({})
    with pytest.raises(ValueError, match="side must be"):
        analysis.degrees(history.at(0).layers["a"], "left")


def test_runs_are_grouped_by_all_but_the_seed(groups):
    assert list(groups) == ["dense", "SET", "CHTs"]
    assert [[r.seed for r in runs] for runs in groups.values()] == [[0, 1]] * 3


def test_groups_of_one_method_are_told_apart(groups, tmp_path):
    import shutil

    for name, old in (("x", "density: 0.05"), ("y", "density: 0.04")):
        run = shutil.copytree(groups["SET"][0].path, tmp_path / name)
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("density: 0.05", old))
    assert list(analysis.find_runs([tmp_path])) == ["SET (95 %)", "SET (96 %)"]
    for name, old in (("x", "lr: 0.05"), ("y", "lr: 0.06")):
        config = (
            (tmp_path / name / "config.yaml").read_text().replace("density: 0.04", "density: 0.05")
        )
        (tmp_path / name / "config.yaml").write_text(config.replace("lr: 0.05", old))
    assert list(analysis.find_runs([tmp_path])) == ["SET (x)", "SET (y)"]


def test_compare_is_the_mean_over_seeds(groups):
    table = analysis.compare(groups).set_index("method")
    for label, runs in groups.items():
        scores = [r.metrics["test_accuracy"].iloc[-1] for r in runs]
        assert table.loc[label, "score"] == pytest.approx(np.mean(scores))
        assert table.loc[label, "score_std"] == pytest.approx(np.std(scores, ddof=1))
    assert np.isnan(table.loc["dense", "elm_overlap"])
    overlaps = [r.history.updates()["overlap"].mean() for r in groups["SET"]]
    assert table.loc["SET", "elm_overlap"] == pytest.approx(np.mean(overlaps))
    assert table.loc["dense", "links"] == 64 * 80 + 80 * 60
    assert table.loc["CHTs", "links"] == round(0.05 * 64 * 80) + round(0.05 * 80 * 60)
    one = analysis.format_table(analysis.compare({"SET": groups["SET"][:1]}))
    assert "±" not in one["test accuracy (%)"].item()


def pictures(page):
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    return [ET.fromstring(base64.b64decode(data)) for data in found]


@pytest.mark.parametrize(
    ("labels", "seeds", "expected"),
    [(("dense", "SET", "CHTs"), 2, 4), (("CHTs",), 1, 4), (("dense",), 2, 1)],
)
def test_the_report_is_whole_and_self_contained(groups, tmp_path, labels, seeds, expected):
    chosen = {label: groups[label][:seeds] for label in labels}
    page = analysis.write_report(chosen, tmp_path / "r.html").read_text()
    assert len(pictures(page)) == page.count("<img") == expected
    for label in labels:
        assert f'<td class="text">{label}</td>' in page
    # nothing is loaded from elsewhere, no value leaked in as it is
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    text = re.sub(r"base64,[^\"]+", "", page)
    assert "nan" not in text.lower().replace("dominant", "")
    assert "None" not in text
    numbers = re.findall(r"<b>(Table|Figure) (\d)", page)
    for kind in ("Table", "Figure"):
        own = [int(n) for k, n in numbers if k == kind]
        assert own == list(range(1, len(own) + 1))
    assert all(f'alt="{alt}' in page for alt in ("training loss",))


def test_adjacency_picture_is_the_density_of_tiles():
    ax = Figure().add_subplot()
    matrix = topo.erdos_renyi(50, 30, 0.2, seed=0)
    figures.adjacency(matrix, ax, cells=10)
    drawn = ax.images[0].get_array()
    expected = matrix.toarray().reshape(10, 5, 10, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(drawn, expected)
    figures.adjacency(matrix, ax, cells=100)
    np.testing.assert_array_equal(ax.images[-1].get_array(), matrix.toarray())


def test_adjacency_picture_of_a_layer_that_does_not_divide():
    ax = Figure().add_subplot()
    figures.adjacency(topo.as_adjacency(np.ones((7, 5))), ax, cells=3)
    np.testing.assert_array_equal(ax.images[0].get_array(), np.ones((3, 3)))


def test_degree_picture():
    ax = Figure().add_subplot()
    figures.degree_distribution(np.array([0, 1, 1, 2, 4]), ax)
    x, y = ax.lines[0].get_data()
    assert x.tolist() == [1, 2, 4]
    assert y.tolist() == [1.0, 0.5, 0.25]
    figures.degree_distribution(np.zeros(3, int), ax)  # nothing to draw, and no error


def test_curves_have_a_band():
    ax = Figure().add_subplot()
    data = pd.DataFrame(
        {
            "method": ["a", "a", "b"],
            "x": [1, 2, 1],
            "y": [1.0, 2.0, 3.0],
            "y_std": [0.1, 0.2, np.nan],
        }
    )
    figures.curves(data, "x", "y", ax)
    assert [line.get_label() for line in ax.lines] == ["a", "b"]
    assert len(ax.collections) == 2
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()


# odd runs


def check_pictures(monkeypatch):
    """See to it that every panel of every figure shows something, inside its frame."""

    def inspect(figure, description):
        figure.draw_without_rendering()
        for ax in figure.axes:
            if not ax.axison or ax.get_label() == "<colorbar>":
                continue
            shown = [bool(ax.images), bool(ax.texts)]
            for line in ax.lines:
                x, y = (np.asarray(v, float) for v in line.get_data())
                (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
                inside = (left <= x) & (x <= right) & (low <= y) & (y <= high)
                assert inside.all() or ax.get_xscale() == "linear"  # degrees are not cut off
                shown.append(inside.sum() >= (1 if line.get_marker() not in ("", "None") else 2))
            assert any(shown), f"{description}: {ax.get_title(loc='left')}"
            assert ax.get_xlabel()
        return "<img alt=''>"

    for module in ("learning_curves", "topology_figures"):
        monkeypatch.setattr(f"analysis.{module}.svg", inspect)


ODD = {
    "one epoch": ["digits-chts", "--optimizer.epochs", "1"],
    "two epochs": ["digits-set", "--optimizer.epochs", "2"],
    "one hidden layer": ["digits-chts", "--model.hidden", "[30]"],
    "density 1": ["digits-set", "--sparsity.density", "1.0"],
    "very sparse": ["digits-chts", "--sparsity.density", "0.002"],
    "static": ["digits-static"],
    "no updates": ["digits-set", "--sparsity.every", "1000"],
    "dense": ["digits-dense"],
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    base = ["--model.hidden", "[40,30]", "--optimizer.epochs", "3", "--data.batch_size", "512"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the topology will not evolve")
        for name, (preset, *options) in ODD.items():
            arguments = ["train", preset, *base, *options, "--out", str(folder / name)]
            assert dst(arguments) == 0
    return folder


@pytest.mark.parametrize("name", ODD)
def test_the_report_of_an_odd_run_has_no_empty_figure(odd, name, tmp_path, monkeypatch):
    check_pictures(monkeypatch)
    page = analysis.write_report(analysis.find_runs([odd / name]), tmp_path / "r.html").read_text()
    assert "1 run of" in page


@pytest.mark.parametrize("backwards", [False, True])
def test_a_report_of_everything_at_once(odd, backwards, tmp_path, monkeypatch):
    check_pictures(monkeypatch)
    folders = sorted(odd.iterdir(), reverse=backwards)
    groups = analysis.find_runs([*folders, odd])  # each twice
    assert sum(map(len, groups.values())) == len(ODD)
    page = analysis.write_report(groups, tmp_path / "r.html").read_text()
    assert "30 or 40, 30 neurons" in page


def test_no_group_is_lost_when_names_agree(odd, tmp_path):
    import shutil

    for parent, run in (("a", "static"), ("b", "static")):
        shutil.copytree(odd / run, tmp_path / parent / "same")
    config = tmp_path / "b" / "same" / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.05", "lr: 0.06"))
    assert len(analysis.find_runs([tmp_path / "a", tmp_path / "b"])) == 2
