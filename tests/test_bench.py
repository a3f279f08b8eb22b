"""The benchmarks run, and what they compare with is right."""

import numpy as np
import pandas as pd
import pytest

import analysis
import topo
from analysis import bench as measure_bench
from analysis import draw_scaling
from analysis.__main__ import main as analyse
from dst import bench, bench_graphs, bench_history, bench_low_rank, bench_scores
from dst.__main__ import main


def test_the_rivals_compute_the_same_scores():
    a = topo.erdos_renyi(40, 50, 0.15, seed=0)
    products = bench_graphs._ch2_l3n_dense(bench_graphs._dense(a)).numpy()
    np.testing.assert_allclose(products, topo.link_scores(a, "ch2_l3n"), rtol=1e-5)
    loop = bench_graphs._ch3_l3p_loop(a)
    expected = topo.link_scores(a, "ch3_l3p", dtype=np.float64)
    np.testing.assert_allclose(loop, expected, rtol=1e-12)


def test_tables_are_printed(capsys, monkeypatch):
    bench_graphs.predictors([(40, 30, 0.1)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[2:]] == ["ch2_l3n", "ch3_l3p"]
    assert [line.split(maxsplit=6)[6] for line in lines[2:]] == ["torch products", "numba loop"]
    bench_graphs.generators(64)
    printed = capsys.readouterr().out
    assert "64 x 64, 205 links" in printed
    assert all(printed.count(name) == 3 for name in topo.GENERATORS)
    monkeypatch.setattr(bench_history, "SHAPES", {"fc": (64, 32)})
    bench_history.history(3)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["no", "yes"]


@pytest.mark.parametrize("name", ["ch3_l3p", "torch"])
def test_time_and_memory_are_those_of_a_process(name):
    measured = bench_graphs._in_a_process(600, 600, 0.05, name, 0.3)
    assert measured["seconds"] > 0
    assert 0 < measured["extra_mb"] < measured["peak_mb"]


def test_links_of_real_networks_are_found_again(tmp_path, monkeypatch, capsys):
    groups = np.kron(np.eye(3), np.ones((6, 6)))
    (tmp_path / "networks" / "bipartite").mkdir(parents=True)
    file = tmp_path / "networks" / "bipartite" / "groups.edges"
    np.savetxt(file, np.argwhere(groups), "%d", header="three groups")
    monkeypatch.setenv("EPITOPO_DATA", str(tmp_path))
    assert main(["bench", "recovery", "--out", str(tmp_path / "t.csv")]) == 0
    assert "groups" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "t.csv").set_index("predictor")
    assert list(table.index) == list(topo.PREDICTORS)
    assert (table.precision["ch2_l3n"], table.auc_roc["ch3_l3p"]) == (1, 1)
    assert table.auc_roc["random"] == 0.5
    monkeypatch.setenv("EPITOPO_DATA", str(tmp_path / "nowhere"))
    assert main(["bench", "recovery"]) == 2
    assert "point EPITOPO_DATA at the data sets" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_the_figure_of_growing_time_and_memory(ending, tmp_path):
    rows = [
        {"sweep": s, "n": n, "density": d, "predictor": p, "seconds": n * d, "extra_mb": n}
        for s, n, d in (("size", 10, 0.1), ("size", 20, 0.1), ("dense", 9, 0.1), ("dense", 9, 0.2))
        for p in ("ch2_l3n", "ch3_l3p", "torch")
    ]
    table = pd.DataFrame(rows)
    file = draw_scaling(table, tmp_path / f"f.{ending}")
    assert file.stat().st_size > 5000
    if ending == "svg":
        text = file.read_text()
        assert all(word in text for word in ("CH2-L3n, topo", "neurons on each side", "density"))
    table.to_csv(tmp_path / "t.csv", index=False)
    arguments = ["figure", "scaling", str(tmp_path / "t.csv"), "--out"]
    assert analyse([*arguments, str(tmp_path / f"again.{ending}")]) == 0
    assert (tmp_path / f"again.{ending}").stat().st_size > 5000
    assert analyse([*arguments, str(tmp_path / "new" / f"f.{ending}")]) == 0
    assert (tmp_path / "new" / f"f.{ending}").stat().st_size > 5000
    assert analyse([*arguments, str(tmp_path / "t.csv" / f"f.{ending}")]) == 2  # no folder
    with pytest.raises(ValueError, match="the table has no column seconds"):
        draw_scaling(table.drop(columns="seconds"), file)
    with pytest.raises(ValueError, match=r"must end in \.svg"):
        draw_scaling(table, tmp_path / "figure")


def test_layers_are_timed_in_every_layout(capsys, monkeypatch):
    monkeypatch.setattr(bench, "_rivals", dict)
    bench.layers(densities=(0.2, 0.5), batches=(4,), hidden=32, large=256, block=6)
    title, heads, *rows, memory = capsys.readouterr().out.splitlines()
    assert "784-32-32-32-10" in title
    assert heads.split()[2:5] == ["dense", "masked", "csr"]
    assert [row.split()[-1] for row in rows] == ["csr", "masked"]
    assert all(float(cell) > 0 for row in rows for cell in row.split()[2:7])
    assert memory.startswith("layer 256 x 256 at 1 %")


def test_the_layers_of_llama_take_a_step_in_every_layout():
    times = bench._llama_layer(24, 16, 0.3, 10, "cpu")
    assert list(times) == ["dense", "masked", "csr"]
    assert all(seconds > 0 for seconds, _ in times.values())


def test_scores_are_timed_and_right(capsys, monkeypatch):
    monkeypatch.setattr(bench_scores, "_SMALLER", (("ch3_l3p", 12, 20),))
    bench_scores.scores()
    assert float(capsys.readouterr().out.split()[-1]) < 1e-6


def test_layers_of_two_branches_are_timed(capsys):
    bench_low_rank.low_rank(shape=(64, 96), tokens=32)
    lines = capsys.readouterr().out.splitlines()
    assert "64/96, 32 tokens, 90% sparse" in lines[0]
    names = ["dense", "sparse", "CoLA", "two branches", "aligned", "aligned, measured"]
    assert [line[:20].rstrip() for line in lines[2:]] == names
    assert lines[2].split()[-1] == "1.00"


def test_measures_are_timed_beside_networkx():
    table = measure_bench.bench_measures((30, 20, 0.2), (20, 20, 0.3))
    kinds = ["latapy", "robins_alexander", "opsahl", "path_length"]
    assert table["measure"].tolist() == kinds * 2
    assert (table["seconds"] > 0).all()
    rival = table["measure"].isin(["latapy", "robins_alexander"]) & table["layer"].str.startswith(
        "30"
    )
    assert table["networkx"].notna().tolist() == rival.tolist()
    assert table.loc[rival, "speedup"].to_numpy() == pytest.approx(
        (table["networkx"] / table["seconds"])[rival]
    )


def test_the_history_that_is_timed_loses_links_as_it_says(tmp_path):
    history = measure_bench._history(tmp_path / "topology", 2)
    assert history.steps == [0, 100, 200]
    assert analysis.turnover(history)["turnover"].to_numpy() == pytest.approx(0.3, abs=1e-3)
    assert {name: a.nnz for name, a in history.at(200).layers.items()} == {
        name: a.nnz for name, a in history.at(0).layers.items()
    }
