"""Tables of made-up runs: what is compared with what, and how it is written."""

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

import analysis
import topo
from analysis import figures, significance
from analysis.__main__ import main as cli
from analysis.end_figures import end_items
from analysis.learning_curves import learning_curves
from analysis.published import published_result

DATA = {
    "images": {"name": "fashion-mnist", "batch_size": 32},
    "translation": {"name": "multi30k", "source": "en", "target": "de", "train": None},
    "language": {"name": "openwebtext", "train": None, "rows": "documents"},
}
MODEL = {
    "images": {"hidden": [1568, 1568, 1568]},
    "translation": {"layers": 6, "width": 512},
    "language": {"width": 768, "layers": 12},
}
SCORE = {
    "images": ("test_accuracy", True),
    "translation": ("test_bleu", True),
    "language": ("valid_perplexity", False),
}
LAYERS = {
    "images": ["fc1", "fc2"],
    "translation": [
        f"model.{side}.layers.{i}.{name}"
        for side in ("encoder", "decoder")
        for i in range(2)
        for name in ("self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2")
    ],
    "language": [
        f"model.layers.{i}.{name}"
        for i in range(3)
        for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.down_proj")
    ],
}


def measures(task, step):
    loss = 5 - step / 20
    return {
        "images": {"test_loss": loss, "test_accuracy": 0.5 + step / 100},
        "translation": {
            "valid_loss": loss, "valid_perplexity": np.exp(loss), "valid_accuracy": step / 80,
        },
        "language": {"valid_loss": loss, "valid_perplexity": np.exp(loss)},
    }[task]  # fmt: skip


def make_run(
    folder, score, *, task="images", method="set", density=0.01, seed=0, steps=40, settings=None
):
    """A run folder as the trainer leaves it: a line every 5 steps, evaluations every 10."""
    folder.mkdir(parents=True)
    dense = method is None
    name, higher = SCORE[task]
    config = {
        "preset": f"{DATA[task]['name']}-{method or 'dense'}",
        "sparsity": {"method": method, "density": 1.0 if dense else density, "topology": None},
        "optimizer": {"lr": 0.1, "steps": steps},
        "seed": seed,
        "data": dict(DATA[task]),
        "model": dict(MODEL[task]),
    }
    for key, value in (settings or {}).items():
        group, inner = key.split(".")
        config[group][inner] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = []
    for step in range(5, steps + 1, 5) if steps <= 1000 else [steps]:
        line = {"step": step, "epoch": step / 10, "train_loss": 6 - step / 10, "learning_rate": 0.1}
        lines.append(line | (measures(task, step) if step % 10 == 0 else {}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if not dense:
        layers = {n: topo.small_world(32, 32, 0.2, seed=seed) for n in LAYERS[task]}
        writer = topo.HistoryWriter(folder / "topology", topo.Network(layers, couplings=()))
        first = next(iter(layers))
        rows, cols = topo.links(layers[first])
        gone, new = int(rows[0] * 32 + cols[0]), int(np.flatnonzero(~layers[first].toarray())[0])
        changed = layers[first].toarray()
        changed.ravel()[[gone, new]] = changed.ravel()[[new, gone]]
        network = topo.Network(layers | {first: changed}, couplings=())
        writer.append(20, network, {first: {"removed": [gone], "grown": [new]}}, {first: 0.0})
    summary = {
        "score": {
            "name": name, "value": score, "final": score - 0.5, "best": score + 0.5,
            "higher_is_better": higher,
        },
        "measures": measures(task, steps),
        "density": 1.0 if dense else density,
        "active_neuron_rate": 1.0 if dense else 0.5,
        "links": 1000 if dense else 100,
        "steps": steps,
        "training_flops_relative_to_dense": 1.0 if dense else density + 0.003,
        "run": {
            "seconds": 2.0, "samples_per_second": 5000.0,
            "unit": "samples" if task == "images" else "tokens",
            "peak_memory_bytes": 10**8, "device": "cpu", "threads": 1, "processes": 1,
            "command": f"epitopo train {config['preset']} --seed {seed}",
            "versions": {"epitopo": topo.__version__, "python": "3.11", "torch": "2"},
        },
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))


# task, method, density, seed, score: BLEU of three methods at two sparsities, dense beside them
TRANSLATION = [
    (None, 1.0, (30.0, 31.0)),
    ("set", 0.05, (27.0, 28.0)),
    ("set", 0.1, (28.0, 29.0)),
    ("chts", 0.05, (28.0, 28.0)),
    ("chts", 0.1, (31.0, 32.0)),
    ("chtss", 0.05, (29.0, 30.0)),
    ("chtss", 0.1, (31.0, 33.0)),
]


@pytest.fixture(scope="module")
def bleu(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bleu")
    for method, density, scores in TRANSLATION:
        for seed, score in enumerate(scores):
            name = f"{method}-{density}-{seed}"
            make_run(
                folder / name, score, task="translation", method=method, density=density, seed=seed
            )
    return folder


def table_of(folder):
    return analysis.run_table(analysis.find_runs([folder]))


# the papers' table


def test_the_papers_table_by_hand(bleu):
    table = analysis.paper_table(table_of(bleu)).set_index(["method", "sparsity"])
    assert [m for m, _ in table.index] == ["dense", "SET", "SET", "CHTs", "CHTs", "CHTss", "CHTss"]
    assert set(table["model"]) == {"transformer-512x6"}
    assert set(table["data"]) == {"multi30k"}
    row = table.loc[("SET", 0.95)]
    assert (row["mean"], row["std"], row["runs"]) == (27.5, np.std([27, 28], ddof=1), 2)
    assert (row["published"], row["published_steps"]) == (27.89, 5000)
    best = table.index[table["best"]].tolist()
    assert best == [("CHTss", 0.95), ("CHTss", 0.9)]  # 29.5 and 32.0; dense does not count
    assert table.index[table["better_than_dense"]].tolist() == [("CHTs", 0.9), ("CHTss", 0.9)]
    assert table["training_flops"].iloc[1:3].tolist() == pytest.approx([0.053, 0.103])
    dense = table.iloc[0]
    assert (dense["mean"], dense["published"]) == (30.5, 31.28)


def test_lower_is_better_for_perplexity(tmp_path):
    for method, score in ((None, 20.0), ("set", 21.0), ("chtss", 19.0), ("chts", 19.0)):
        make_run(tmp_path / f"{method}", score, task="language", method=method, density=0.3)
    runs = table_of(tmp_path)
    table = analysis.paper_table(runs).set_index("method")
    assert table.index[table["best"]].tolist() == ["CHTs", "CHTss"]  # both of equals
    assert table["better_than_dense"].tolist() == [False, False, True, True]
    assert np.isnan(table.loc["SET", "std"])
    wins = analysis.win_rates(analysis.score_cells(runs), higher_is_better=False)
    assert wins["win_rate"].to_dict() == {"dense": 0, "SET": 0, "CHTs": 0.5, "CHTss": 0.5}


def test_the_cells_have_the_dense_score_beside_every_sparsity(bleu):
    cells = analysis.score_cells(table_of(bleu))
    assert list(cells) == ["dense", "SET", "CHTs", "CHTss"]
    assert len(cells) == 4  # two sparsities, two seeds
    assert cells["dense"].tolist() == [30.0, 31.0] * 2
    by_setting = cells.reset_index().set_index(["sparsity", "seed"])
    assert by_setting.loc[(0.9, 1), ["SET", "CHTs", "CHTss"]].tolist() == [29.0, 32.0, 33.0]
    wins = analysis.win_rates(cells[["SET", "CHTs", "CHTss"]])
    assert wins["wins"].tolist() == [0, 0.5, 3.5]  # 31.0 twice at 90 %, seed 0


def test_dense_runs_alone(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / str(seed), 0.9 + seed / 100, method=None, seed=seed)
    runs = table_of(tmp_path)
    assert analysis.score_cells(runs)["dense"].tolist() == [0.9, 0.91]
    assert not analysis.paper_table(runs)["best"].any()
    assert cli(["table", str(tmp_path), "--papers"]) == 0


def test_variants_of_a_method_are_rows_of_their_own(tmp_path):
    for topology, score in (("scale_free", 0.8), ("small_world", 0.9)):
        make_run(
            tmp_path / topology, score, method="chts", settings={"sparsity.topology": topology}
        )
    make_run(tmp_path / "set", 0.7, settings={"sparsity.topology": "erdos_renyi"})
    runs = table_of(tmp_path)
    assert set(runs["method"]) == {
        "SET", "CHTs (topology=scale_free)", "CHTs (topology=small_world)",
    }  # fmt: skip
    assert analysis.paper_table(runs)["published"].notna().all()


def test_the_papers_table_in_every_format(bleu, capsys):
    command = ["table", str(bleu), "--papers", "--against", "set"]
    assert cli(command) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0] == "test BLEU, mean ± standard deviation over seeds"
    assert lines[2].split("  ")[0] == "method"
    row = next(line for line in lines if line.startswith("CHTss "))
    assert row.split(maxsplit=1)[1] == "**29.50 ± 0.71** **32.00 ± 1.41** *"
    assert "CHTss, published" in text
    assert "32.04" in text
    assert "arXiv 2501.19107" in text
    assert "multi30k: published after 5,000 steps, ours after 40" in text
    assert "– (fewer than 5 differ)" in text  # four pairs: no p

    assert cli([*command, "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    assert "| method | multi30k 95 % | multi30k 90 % |\n|---|---:|---:|\n" in text
    assert "| CHTss | **29.50 ± 0.71** | **32.00 ± 1.41** \\* |" in text

    assert cli([*command, "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert r"CHTss & \textbf{29.50 $\pm$ 0.71} & \textbf{32.00 $\pm$ 1.41}$^*$ \\" in text
    assert r"method & multi30k 95 \% & multi30k 90 \% \\" in text

    assert cli(["table", str(bleu), "--papers", "--format", "csv"]) == 0
    (bleu / "t.csv").write_text(capsys.readouterr().out)
    numbers = pd.read_csv(bleu / "t.csv")
    assert numbers["mean"].tolist() == analysis.paper_table(table_of(bleu))["mean"].tolist()


def test_accuracies_stand_with_active_neurons(tmp_path, capsys):
    make_run(tmp_path / "a", 0.9067, method="chts", steps=187_500)
    assert cli(["table", str(tmp_path), "--papers"]) == 0
    text = capsys.readouterr().out
    assert "test accuracy (%) / active neurons (%)" in text
    assert re.search(r"CHTs +90.67 / 50\n", text)  # alone, it is not marked
    assert re.search(r"CHTs, published +90.67 ± 0.05 / 73\n", text)
    assert "published after" not in text  # as long as ours
    assert "CHTs, published: CH2-L3n" in text


def test_tables_of_several_tasks_are_apart(bleu, tmp_path, capsys):
    make_run(tmp_path / "a", 0.9)
    make_run(tmp_path / "b", 25.0, task="language", density=0.1)
    folders = [str(bleu), str(tmp_path)]
    assert cli(["table", *folders]) == 0
    text = capsys.readouterr().out
    titles = [part.splitlines()[0] for part in text.split("\n\n")]
    assert titles == ["multi30k", "fashion-mnist", "openwebtext"]
    for heading in ("test BLEU", "test accuracy (%)", "validation perplexity"):
        assert text.count(heading) == 1
    assert text.count("tokens/s") == 2
    assert cli(["table", *folders, "--papers"]) == 0
    text = capsys.readouterr().out
    assert text.count("training operations relative to dense") == 3
    assert cli(["table", *folders, "--papers", "--format", "csv"]) == 2
    assert "one score" in capsys.readouterr().err
    groups = analysis.find_runs(folders)
    with pytest.raises(analysis.RunError, match="different scores cannot be compared"):
        analysis.compare(groups)


def test_a_setting_can_be_the_factor(tmp_path, capsys):
    """Two methods, two densities, three seeds: 12 cells in which topologies meet."""
    for i, (method, density, seed) in enumerate(
        itertools.product(("set", "chts"), (0.1, 0.05), (0, 1, 2))
    ):
        for topology, gain in (("small_world", 0.0), ("scale_free", 0.01 * (i + 1) * (-1) ** i)):
            make_run(
                tmp_path / f"{i}-{topology}", 0.5 + gain, method=method, density=density, seed=seed,
                settings={"sparsity.topology": topology},
            )  # fmt: skip
    make_run(tmp_path / "dense", 0.9, method=None)
    cells = analysis.score_cells(table_of(tmp_path), "sparsity.topology")
    assert cells.shape == (12, 2)
    assert set(cells.index.names) == {"sparsity.method", "sparsity.density", "seed"}
    command = ["table", str(tmp_path), "--by", "topology", "--against", "small_world"]
    assert cli(command) == 0
    text = capsys.readouterr().out
    assert re.search(r"sparsity.topology +cells +wins +win rate \(%\)", text)
    assert re.search(r"small_world +12 +6 +50.0", text)
    p = stats.wilcoxon([0.01 * (i + 1) * (-1) ** i for i in range(12)]).pvalue
    assert re.search(rf"scale_free +12 +\S+ +6 / 6 / 0 +{p:.3g} +{p:.3g}", text)
    assert cli([*command[:-2], "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--papers", "--by", "topology"], "--papers and --by are different tables"),
        (["--against", "set"], "go with --papers, --by KEY or --zero-shot"),
        (["--format", "csv"], "go with --papers, --by KEY or --zero-shot"),
        (["--papers", "--against", "cths"], "unknown method 'cths': did you mean 'chts'?"),
        (["--by", "topolgy"], "did you mean 'sparsity.topology'?"),
        (["--by", "topology"], "fewer than two values of sparsity.topology"),
        (["--by", "seed"], "unknown setting 'seed'"),
        (["--zero-shot"], "was not evaluated: epitopo evaluate"),
        (["--papers", "--format", "word"], "did you mean"),
    ],
)
def test_bad_options_are_one_line(options, message, bleu, capsys):
    assert cli(["table", str(bleu), *options]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("epitopo-analysis: error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert printed.out == ""


def test_runs_that_differ_in_more_than_the_factor_are_not_compared(tmp_path, capsys):
    for i, topology in enumerate(("small_world", "scale_free")):
        settings = {"sparsity.topology": topology, "optimizer.lr": 0.1 + i}
        make_run(tmp_path / topology, 0.5, settings=settings)
    assert cli(["table", str(tmp_path), "--by", "topology"]) == 2
    assert "no two runs differ in sparsity.topology alone" in capsys.readouterr().err


# significance


def test_win_rates_by_hand():
    scores = pd.DataFrame({"a": [3, 1, 2, 5], "b": [1, 1, np.nan, np.nan], "c": [2, 1, 4, np.nan]})
    wins = analysis.win_rates(scores)
    assert wins["cells"].tolist() == [3, 2, 3]  # the last row has nothing to compare
    np.testing.assert_allclose(wins["wins"], [1 + 1 / 3, 1 / 3, 1 / 3 + 1])
    np.testing.assert_allclose(wins["win_rate"], [4 / 9, 1 / 6, 4 / 9])
    lower = analysis.win_rates(scores, higher_is_better=False)
    np.testing.assert_allclose(lower["wins"], [1 / 3 + 1, 1 + 1 / 3, 1 / 3])
    assert np.isnan(analysis.win_rates(scores.iloc[3:])["win_rate"]).all()


def signed_rank_p(differences):
    """All sign patterns of the ranks: the definition."""
    ranks = stats.rankdata(np.abs(differences))
    patterns = [(ranks * s).sum() for s in itertools.product((-1, 1), repeat=len(ranks))]
    observed = abs((ranks * np.sign(differences)).sum())
    return np.mean(np.abs(patterns) >= observed - 1e-9)


@pytest.mark.parametrize("higher", [True, False])
def test_paired_tests_against_the_definition(higher):
    rng = np.random.default_rng(0)
    base = rng.normal(size=9)
    scores = pd.DataFrame(
        {
            "base": base,
            "noise": base + rng.normal(size=9),
            "ties": base + np.array([1, 1, 1, -1, 2, 2, 0, 0, 3]),
            "few": [*(base[:4] + 1), *[np.nan] * 5],
            "same": base,
        }
    )
    table = analysis.paired_tests(scores, "base", higher_is_better=higher)
    assert table.index.tolist() == ["noise", "ties", "few", "same"]
    assert table["pairs"].tolist() == [9, 9, 4, 9]
    counts = table.loc["ties", ["better", "worse", "equal"]].tolist()
    assert counts == ([6, 1, 2] if higher else [1, 6, 2])
    assert table.loc["ties", "difference"] == pytest.approx(1.0)
    for name in ("noise", "ties"):
        differences = (scores[name] - base)[(scores[name] - base).abs() > 1e-9]
        assert table.loc[name, "p"] == pytest.approx(signed_rank_p(differences))
    assert np.isnan(table.loc[["few", "same"], "p"]).all()
    least, most = sorted(table["p"].dropna())
    assert sorted(table["p_holm"].dropna()) == pytest.approx(
        [min(1, 2 * least), max(min(1, 2 * least), most)]
    )
    with pytest.raises(ValueError, match="no scores of 'x' to compare with"):
        analysis.paired_tests(scores, "x")


def test_holm_by_hand():
    nan = np.nan
    np.testing.assert_allclose(significance.holm([0.04, nan, 0.01, 0.03]), [0.06, nan, 0.03, 0.06])
    np.testing.assert_allclose(significance.holm([0.5, 0.6]), [1.0, 1.0])
    assert significance.holm([]).tolist() == []


# published figures


def test_published_figures_agree_with_what_the_papers_say_of_them():
    table = analysis.published_results()
    assert len(table) == 3 * 6 + (3 + 8 * 6) + (1 + 8 * 4) + 2 * (1 + 4 * 3) + 2 * (1 + 3 * 3)
    key = ["measure", "data", "model", "sparsity", "method", "steps"]
    assert not table.duplicated(key).any()
    assert table["mean"].notna().all()
    shares = table[table["measure"] == "test_accuracy"]
    assert shares["mean"].between(0.8, 1).all()
    assert shares.loc[shares["method"] != "dense", "active_neuron_rate"].between(0.2, 1).all()
    # CHTss is the best at both sparsities of Multi30k and IWSLT14
    bleu = table[(table["measure"] == "test_bleu") & table["sparsity"].notna()]
    best = bleu.loc[bleu.groupby(["data", "sparsity"])["mean"].idxmax()].set_index("data")["method"]
    assert best[["multi30k", "iwslt14"]].tolist() == ["chtss"] * 4
    zero_shot = analysis.published_zero_shot()
    assert zero_shot.mean().mul(100).round(2).tolist() == [48.80, 52.38]
    wins = analysis.win_rates(zero_shot)
    assert wins["wins"].tolist() == [2, 10]


def test_the_published_row_of_the_same_training_is_chosen():
    results = analysis.published_results()

    def found(steps, **options):
        setting = {
            "measure": "valid_perplexity", "data": "openwebtext", "model": "llama-130m",
            "sparsity": 0.9, "method": "chts", "steps": steps,
        } | options  # fmt: skip
        row = published_result(results, **setting)
        return None if row is None else row["mean"]

    assert found(30_000) == 24.24
    assert found(20_000) == 24.75
    assert found(10_000, model="llama-60m") == 33.03
    assert found(30_000, method="dense", sparsity=np.nan) == 19.27
    assert found(30_000, sparsity=0.99) is None
    assert found(30_000, method="mine") is None


# zero-shot


def evaluate(folder, values, stderr=0.01):
    tasks = {
        task: {"metric": "f1" if task == "mrpc" else "acc", "value": v, "stderr": stderr, "n": 100}
        for task, v in values.items()
    }
    (folder / "zero_shot.json").write_text(json.dumps(tasks))


@pytest.fixture
def zero_shot(tmp_path):
    tasks = list(analysis.published_zero_shot().index)
    for method, gain in ((None, 0.0), ("chtss", 0.05)):
        folder = tmp_path / f"{method}"
        make_run(folder, 20.0, task="language", method=method, density=0.3)
        values = {t: 0.4 + i / 100 + gain * (i > 1) for i, t in enumerate(tasks)}
        evaluate(folder, values)
    return tmp_path


def test_zero_shot_by_hand(zero_shot, capsys):
    groups = analysis.find_runs([zero_shot])
    table = analysis.zero_shot_table(groups)
    own = table[~table["published"]].set_index(["model", "task"])
    assert own.loc[("CHTss", "copa"), ["value", "error"]].tolist() == pytest.approx([0.56, 0.01])
    assert own.loc[("dense", "mrpc"), "metric"] == "f1"
    published = table[table["published"]].set_index(["model", "task"])["value"]
    assert published["CHTss, published", "mrpc"] == 0.8105
    assert cli(["table", str(zero_shot), "--zero-shot"]) == 0
    text = capsys.readouterr().out
    assert "zero-shot scores (%), ± standard error" in text
    assert re.search(r"CHTss +40.00 ± 1.00|CHTss +\*\*40.00 ± 1.00\*\*", text)
    assert re.search(r"dense, published +65.29 ", text)
    assert re.search(r"48.80\n", text)
    assert re.search(r"CHTss +12 +11 ", text)  # two of twelve are equal: half a win each
    p = stats.wilcoxon(np.full(10, 0.05)).pvalue
    assert re.search(rf"CHTss +12 +\+4.167 +10 / 0 / 2 +{p:.3g} ", text)
    assert "against dense" in text
    assert cli(["table", str(zero_shot), "--zero-shot", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 4 * 12


def test_zero_shot_over_seeds_and_without_standard_errors(tmp_path, capsys):
    for seed, value in ((0, 0.4), (1, 0.5)):
        folder = tmp_path / str(seed)
        make_run(folder, 20.0, task="language", method="chtss", density=0.3, seed=seed)
        evaluate(folder, {"mine": value}, stderr=None)
        results = json.loads((folder / "zero_shot.json").read_text())
        text = {"metric": "word_perplexity", "value": 20.0, "stderr": None, "n": 5}
        (folder / "zero_shot.json").write_text(json.dumps(results | {"wikitext": text}))
    table = analysis.zero_shot_table(analysis.find_runs([tmp_path])).set_index("task")
    assert table.loc["mine", "value"] == 0.45
    assert table.loc["mine", "error"] == np.std([0.4, 0.5], ddof=1)
    assert table.index.tolist() == ["mine"]  # no perplexity among shares
    assert not table["published"].any()
    assert cli(["table", str(tmp_path / "0"), "--zero-shot"]) == 0
    text = capsys.readouterr().out
    assert "40.00" in text
    assert "nan" not in text.lower()
    assert "win rates" not in text


def test_damaged_zero_shot_results_are_named(zero_shot, capsys):
    (zero_shot / "None" / "zero_shot.json").write_text('{"cola": {"value": 1}}')
    assert cli(["table", str(zero_shot), "--zero-shot"]) == 2
    message = capsys.readouterr().err
    assert "zero_shot.json is damaged (it has no 'metric'): evaluate the run again" in message


# runs


def test_an_old_run_still_opens(tmp_path):
    make_run(tmp_path / "r", 0.9)
    file = tmp_path / "r" / "summary.json"
    summary = json.loads(file.read_text())
    summary["score"] = {"name": "test_accuracy", "final": 0.8, "best": 0.85}
    del summary["run"]["unit"]
    file.write_text(json.dumps(summary))
    run = analysis.Run.open(tmp_path / "r")
    assert (run.score, run.higher_is_better, run.unit) == (0.8, True, "samples")
    assert analysis.compare({"SET": [run]})["score"].tolist() == [0.8]


@pytest.mark.parametrize(
    ("task", "settings", "model", "data"),
    [
        ("images", {}, "mlp-1568x3", "fashion-mnist"),
        ("images", {"model.hidden": [24, 16]}, "mlp-24-16", "fashion-mnist"),
        ("translation", {"data.name": "/data/de-en/"}, "transformer-512x6", "de-en"),
        ("translation", {"data.source": "de", "data.target": "en"}, "transformer-512x6",
         "multi30k de-en"),
        ("language", {"model.width": 512, "model.layers": 8}, "llama-60m", "openwebtext"),
        ("language", {"model.width": 64}, "llama-64x12", "openwebtext"),
        ("language", {"data.train": "texts/novels.txt"}, "llama-130m", "novels.txt"),
    ],
)  # fmt: skip
def test_names_of_models_and_data(task, settings, model, data, tmp_path):
    make_run(tmp_path / "r", 1.0, task=task, settings=settings)
    run = analysis.Run.open(tmp_path / "r")
    assert (run.model, run.data) == (model, data)


# reports


def test_a_report_of_several_tasks(bleu, tmp_path):
    make_run(tmp_path / "a", 0.9)
    make_run(tmp_path / "b", 25.0, task="language", density=0.1)
    make_run(tmp_path / "c", 20.0, task="language", method=None)
    groups = analysis.find_runs([bleu / "set-0.1-0", bleu / "set-0.1-1", *tmp_path.iterdir()])
    page = analysis.write_report(groups, tmp_path / "r.html").read_text()
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert sorted(headings[:3]) == ["On fashion-mnist", "On multi30k", "On openwebtext"]
    text = re.sub(r"base64,[^\"]+", "", page)
    assert "nan" not in text.lower().replace("dominant", "")
    assert "Test BLEU of the model with the lowest validation loss" in page
    assert "lower is better" in page
    assert "of transformer-512x6 on the data set multi30k" in page
    for kind, count in (("Table", 6), ("Figure", 18)):
        numbers = [int(n) for n in re.findall(rf"<b>{kind} (\d+)", page)]
        assert numbers == list(range(1, count + 1))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("images", {"Training loss": 8, "Test loss": 4, "Test accuracy": 4}),
        ("translation", {"Training loss": 8, "Validation loss": 4, "Validation accuracy": 4}),
        ("language", {"Training loss": 8, "Validation loss": 4, "Validation perplexity": 4}),
    ],
)
def test_learning_curves_have_no_gaps_where_nothing_was_evaluated(
    task, expected, tmp_path, monkeypatch
):
    make_run(tmp_path / "r", 1.0, task=task)
    seen = {}

    def look(figure, description):
        for ax in figure.axes:
            x, y = ax.lines[0].get_data()
            assert np.isfinite(y).all()
            assert ax.lines[0].get_linestyle() == "-"
            assert max(x) == (4 if task == "images" else 40)
            seen[ax.get_title(loc="left")[3:]] = len(x)
        return ""

    monkeypatch.setattr("analysis.learning_curves.svg", look)
    with figures.style():
        learning_curves(analysis.find_runs([tmp_path]))
    assert seen == expected


def test_many_layers_are_pictured_in_part(bleu, monkeypatch):
    groups = {"SET": [analysis.Run.open(bleu / "set-0.1-0")]}
    shown = []
    monkeypatch.setattr(
        "analysis.end_figures.svg",
        lambda figure, description: shown.append([a.get_title(loc="left") for a in figure.axes]),
    )
    with figures.style():
        items = end_items(groups)
    names = [title.split()[-1] for title in shown[0][:4]]
    assert names == [
        "encoder.0.self_attn.q_proj", "encoder.1.self_attn.out_proj", "decoder.0.fc1",
        "decoder.1.fc2",
    ]  # fmt: skip
    assert "4 of 16 layers" in items[0].caption
    assert items[-1].body.count("<tr>") == 1 + 2 * 4
