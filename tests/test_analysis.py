import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import analysis
import topo
from analysis import figures
from dst.__main__ import main as dst


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    options = ["--model.hidden", "[80,60]", "--optimizer.epochs", "4", "--data.batch_size", "256"]
    for method in ("chts", "set", "dense"):
        for seed in ("0", "1"):
            out = str(folder / f"{method}{seed}")
            assert dst(["train", f"digits-{method}", "--out", out, "--seed", seed, *options]) == 0
    return analysis.find_runs([folder])


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
