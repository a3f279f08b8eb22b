"""The report: what its page holds, and that the page works in a browser."""

import base64
import html
import json
import re
import shutil
import subprocess
import warnings
import xml.etree.ElementTree as ET
import zlib
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
import yaml

import analysis
import topo
from analysis import frames, slider
from analysis.end_figures import end_items
from analysis.measures.pooled import pooled_lives
from analysis.page import sections
from dst.__main__ import main as dst

SHAPES = {"fc1": (300, 150), "fc2": (20, 300)}


def network(shapes, seed, density=0.05):
    layers = {n: topo.erdos_renyi(*s, density, seed=seed) for n, s in shapes.items()}
    return topo.Network(layers, couplings=())


def keys(adjacency):
    coo = adjacency.tocoo()
    return coo.row.astype(np.int64) * adjacency.shape[1] + coo.col


def make_run(folder, networks, *, method="set", seed=0, every=10):
    """A run as the trainer leaves it: a topology every some steps; none where it is dense."""
    folder.mkdir(parents=True)
    config = {
        "preset": f"toy-{method or 'dense'}", "seed": seed, "data": {"name": "toy"},
        "model": {"hidden": [8]}, "sparsity": {"method": method, "density": 0.05},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [
        {"step": s, "epoch": e, "train_loss": 1 / e, "test_loss": 2 / e, "test_accuracy": 0.5}
        for e, s in ((1, 40), (2, 80))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    versions = {"epitopo": topo.__version__, "python": "3.11", "torch": "2"}
    run = {
        "seconds": 2.0, "samples_per_second": 50.0, "device": "cpu", "threads": 1,
        "command": "epitopo train", "versions": versions,
    }  # fmt: skip
    score = {"name": "test_accuracy", "final": 0.5}
    summary = {"score": score, "density": 0.05, "active_neuron_rate": 1.0, "links": 9, "run": run}
    (folder / "summary.json").write_text(json.dumps(summary))
    if networks:
        writer = topo.HistoryWriter(folder / "topology", networks[0])
        for i, (before, after) in enumerate(pairwise(networks), 1):
            events = {}
            for name in after.layers:
                old, new = keys(before.layers[name]), keys(after.layers[name])
                events[name] = {"removed": np.setdiff1d(old, new), "grown": np.setdiff1d(new, old)}
            writer.append(every * i, after, events)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """SET with two seeds, CHTs that updates half as often, and a dense run."""
    folder = tmp_path_factory.mktemp("made")
    for seed in (0, 1):
        nets = [network(SHAPES, 10 * seed + i) for i in range(6)]
        make_run(folder / f"set{seed}", nets, seed=seed)
    nets = [network(SHAPES, 100 + i, 0.05 - 0.01 * i) for i in range(4)]
    make_run(folder / "chts", nets, method="chts", every=20)
    make_run(folder / "dense", None, method=None)
    return folder


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    return analysis.write_report(analysis.find_runs([runs]), out)


def slider_of(folder, *bound):
    groups = analysis.find_runs([folder])
    histories = {r.path: r.history for own in groups.values() for r in own}
    summaries = {path: analysis.summary(h, ["links"], cache=False) for path, h in histories.items()}
    (item,) = slider.slider_item(groups, summaries, *bound)
    return item


def pictures(text):
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)
    return [ET.fromstring(base64.b64decode(data)) for data in found]


def told(text):
    """The page without its pictures, data and script."""
    text = re.sub(r"<(script|style)[ >].*?</\1>", "", text, flags=re.DOTALL)
    return re.sub(r"base64,[^\"]+", "", text)


def films(text):
    """What the sliders of a page hold, by run and layer; levels as (frames, tall, wide)."""
    found = {}
    for data in re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL):
        for run in json.loads(data)["runs"]:
            for layer in run["layers"]:
                packed = zlib.decompress(base64.b64decode(layer["levels"]))
                flat = np.frombuffer(packed, np.uint8).reshape(-1, len(run["steps"])).T
                layer["levels"] = flat.reshape(-1, *layer["tiles"])
            found[run["name"]] = run | {"layers": {each["name"]: each for each in run["layers"]}}
    return found


def dense_levels(adjacency):
    """Tile by tile, in three lines: the obvious reference."""
    dense = adjacency.toarray()
    high, broad = (-(-n // 128) for n in dense.shape)
    rows, columns = (range(0, n, s) for n, s in zip(dense.shape, (high, broad)))
    means = [[dense[r : r + high, c : c + broad].mean() for c in columns] for r in rows]
    return np.round(255 * np.sqrt(means)).astype(np.uint8)


# frames


def test_levels_by_hand():
    assert frames.tile_sides((128, 129)) == (1, 2)
    matrix = np.zeros((1, 129), bool)
    matrix[0, [0, 1, 2, 128]] = True
    levels = frames.tile_levels(topo.as_adjacency(matrix))
    assert levels.shape == (1, 65)
    # a full tile, half of one, and the last, of one neuron alone
    assert levels[0, [0, 1, 64]].tolist() == [255, 180, 255]
    assert levels[0, 2:64].tolist() == [0] * 62


@pytest.mark.parametrize("shape", [(5, 7), (128, 128), (300, 150), (1, 1000), (129, 1)])
def test_levels_are_those_of_a_dense_reference(shape):
    rng = np.random.default_rng(3)
    for density in (0.0, 0.1, 1.0):
        adjacency = topo.as_adjacency(rng.random(shape) < density)
        levels = frames.tile_levels(adjacency)
        assert max(levels.shape) <= 128
        np.testing.assert_array_equal(levels, dense_levels(adjacency))


# what the page holds


def test_the_slider_shows_what_the_history_holds(page, runs):
    shown = films(page.read_text())
    assert list(shown) == ["SET, seed 0", "CHTs, seed 0", "SET, seed 1"]
    for name, folder in (
        ("SET, seed 0", "set0"),
        ("CHTs, seed 0", "chts"),
        ("SET, seed 1", "set1"),
    ):
        history = topo.History.open(runs / folder)
        film = shown[name]
        assert film["steps"] == history.steps
        assert film["updates"] == list(range(len(history.steps)))
        assert list(film["layers"]) == list(SHAPES)
        for i, step in enumerate(history.steps):
            state = history.at(step)
            table = analysis.summary(state, measures=["links", "in_degree_max"]).set_index("layer")
            for layer, adjacency in state.layers.items():
                film_layer = film["layers"][layer]
                np.testing.assert_array_equal(film_layer["levels"][i], dense_levels(adjacency))
                for axis, side in ((1, "output"), (0, "input")):
                    k, neurons = np.unique(adjacency.toarray().sum(axis), return_counts=True)
                    pairs = np.stack([k, neurons], axis=1)[k > 0]
                    assert film_layer["degrees"][side][i] == pairs.ravel().tolist()
                numbers = {key: values[i] for key, values in film_layer["measures"].items()}
                assert numbers["links"] == f"{table.loc[layer, 'links']:,}"
                assert numbers["largest in-degree"] == f"{table.loc[layer, 'in_degree_max']}"
                assert (numbers["turnover"] is None) == (step == 0)


def test_full_ink_is_the_same_in_all_runs(page):
    shown = films(page.read_text())
    for layer, shape in SHAPES.items():
        densest = round(0.05 * shape[0] * shape[1]) / (shape[0] * shape[1])
        most = [film["layers"][layer]["most"] for film in shown.values()]
        assert most == pytest.approx([5 * densest] * 3)


def test_the_same_runs_give_the_same_bytes(page, runs, tmp_path):
    again = analysis.write_report(analysis.find_runs([runs]), tmp_path / "again.html")
    assert again.read_bytes() == page.read_bytes()


def test_nothing_is_loaded_and_nothing_leaks(page):
    text = page.read_text()
    assert len(pictures(text)) == text.count("<img") == 5
    assert not re.search(r'(?:src|href|action|data)\s*=\s*"(?!data:)', text)
    script_and_style = (files("analysis") / "report_page" / "slider.js").read_text()
    script_and_style += (files("analysis") / "report_page" / "page.css").read_text()
    assert script_and_style.count("http") == 1  # the name of SVG's namespace
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp|import\(", script_and_style)
    assert "default-src 'none'" in text
    plain = told(text)
    assert "nan" not in plain.lower().replace("dominant", "")
    assert "None" not in plain
    for label in ("dense", "SET", "CHTs"):
        assert f'<td class="text">{label}</td>' in plain
    numbers = re.findall(r"<b>(Table|Figure) (\d)", plain)
    for kind in ("Table", "Figure"):
        own = [int(n) for k, n in numbers if k == kind]
        assert own == list(range(1, len(own) + 1))
    assert "epitopo train" in plain  # how to make it again
    assert "seed: 0" in plain


def test_a_name_is_text_wherever_it_stands(runs, tmp_path):
    evil = "</script><script>alert(1)</script>"
    nets = [topo.Network({evil: network(SHAPES, i).layers["fc1"]}, couplings=()) for i in range(2)]
    run = make_run(tmp_path / "r", nets)
    groups = analysis.find_runs([run])
    text = sections([("", [slider_of(tmp_path), *end_items(groups)])])
    assert evil not in text
    assert list(films(text)["SET, seed 0"]["layers"]) == [evil]
    assert text.count("<script") == text.count("</script>") == 1


def test_the_page_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(slider, "MOST_RUNS", 2)
    shapes = {f"blocks.{i}.fc": (150, 140) for i in range(7)}
    for method in ("set", "chts", "rigl"):
        nets = [network(shapes, i, 0.3) for i in range(5)]
        make_run(tmp_path / method, nets, method=method)
    item = slider_of(tmp_path)
    assert len(item.body) < 2_000_000
    whole = films(item.body)
    assert {len(film["layers"]) for film in whole.values()} == {6}
    assert [film["steps"] for film in whole.values()] == [list(range(0, 41, 10))] * 2
    for words in ("2 of 3 runs", "6 of 7 layers", "recorded steps"):
        assert (words in item.caption) == (words != "recorded steps")
    bound = len(item.body) // 2
    less = slider_of(tmp_path, bound)
    assert len(less.body) <= bound
    few = films(less.body)
    for film in few.values():
        assert film["steps"][0] == 0
        assert film["steps"][-1] == 40
        assert 2 <= len(film["steps"]) < 5
        for name, layer in film["layers"].items():
            own = whole[next(iter(few))]["layers"][name]["levels"]
            at = [step // 10 for step in film["steps"]]
            np.testing.assert_array_equal(layer["levels"], own[at])
    assert f"{len(film['steps'])} of up to 5 recorded steps" in less.caption
    least = slider_of(tmp_path, 10)  # no more than it can
    assert {len(film["steps"]) for film in films(least.body).values()} == {2}


def test_branches_do_not_keep_layers_apart(tmp_path):
    plain = [network({"a.q": (9, 9), "a.k": (9, 9)}, i) for i in range(2)]
    branch = [network({"a.q.sparse": (9, 9), "a.k.sparse": (9, 9)}, i) for i in range(2)]
    make_run(tmp_path / "x", plain)
    make_run(tmp_path / "y", branch, method="chts")
    text = slider_of(tmp_path).body
    assert [list(film["layers"]) for film in films(text).values()] == [["a.q", "a.k"]] * 2
    assert re.findall(r'<option value="([^"]+)">', text) == ["a.q", "a.k"]


def test_fits_that_fail_are_folded(page):
    table = told(page.read_text()).split("Power-law fits of the final degrees")[1]
    assert "A power law fits none of the 8 degree sequences" in table
    folded = re.search(r"<details>(.*?)</details>", table, re.DOTALL)[1]
    assert folded.startswith("<summary>No power law in 8 of the 8 degree sequences: why</summary>")
    assert folded.count("<tr>") == 9


# lives of links


def test_lives_of_several_histories_are_those_of_all_links_together(runs):
    histories = [topo.History.open(runs / f"set{seed}") for seed in (0, 1)]
    pooled = pooled_lives([analysis.survival(h) for h in histories])
    lives, alive = [], []  # (cohort, age, died) of every link
    for history in histories:
        for name in SHAPES:
            born = {}
            for step in history.steps:
                now = set(keys(history.at(step).layers[name]).tolist())
                for key in set(born) - now:
                    start = born.pop(key)
                    lives.append(("start" if start == 0 else "grown", step - start, True))
                born |= dict.fromkeys(now - set(born), step)
            for start in born.values():
                lives.append(("start" if start == 0 else "grown", history.steps[-1] - start, False))
                alive.append(history.steps[-1] - start)
    alive = np.array(alive)
    for cohort in ("start", "grown"):
        ages = np.array([age for c, age, _ in lives if c == cohort])
        died = np.array([gone for c, _, gone in lives if c == cohort])
        share = 1.0
        table = pooled[pooled["cohort"] == cohort].set_index("age")
        for age in sorted(set(ages)):
            share *= 1 - (died & (ages == age)).sum() / (ages >= age).sum()
            assert table.loc[age, "at_risk"] == (ages >= age).sum()
            assert table.loc[age, "survival"] == pytest.approx(share)
    ages = pooled[pooled["cohort"] == "ages"]
    assert ages["at_risk"].tolist() == [(alive >= age).sum() for age in ages["age"]]
    np.testing.assert_allclose(ages["survival"], ages["at_risk"] / len(alive))


# in a browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
browser = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium to open the page in")

_FIRST = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(`error: ${event.message}`));
addEventListener("unhandledrejection", (event) => problems.push(`rejection: ${event.reason}`));
addEventListener("securitypolicyviolation",
  (event) => problems.push(`blocked: ${event.blockedURI}`));
console.error = (...words) => problems.push(words.join(" "));
</script>"""

_LAST = """<script>
(async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const find = (what) => document.querySelector(what);
  const found = {};
  const set = (element, value, kind) => {
    element.value = value;
    element.dispatchEvent(new Event(kind, { bubbles: true }));
  };
  const key = (element, key) =>
    element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const read = (canvas) => {  // from a copy that is made for it
    const copy = new OffscreenCanvas(canvas.width, canvas.height);
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(canvas, 0, 0);
    return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
  };
  const look = () => ({
    output: find("output").textContent,
    focusable: find(".step").tabIndex,
    value: Number(find(".step").value),
    most: Number(find(".step").max),
    play: find(".play").textContent,
    theme: find(".theme").textContent,
    full: find(".full").textContent,
    page: getComputedStyle(document.body).backgroundColor,
    cards: [...document.querySelectorAll(".card")].map((card) => ({
      title: card.querySelector("h3").textContent,
      when: card.querySelector("p").textContent,
      label: card.querySelector("canvas").getAttribute("aria-label"),
      pixels: read(card.querySelector("canvas")),
      numbers: Object.fromEntries([...card.querySelectorAll("tr")].map((row) =>
        [...row.children].map((cell) => cell.textContent))),
      none: [...card.querySelectorAll("svg text")].map((text) => text.textContent)
        .filter((text) => text === "no links").length,
      charts: [...card.querySelectorAll("svg")].map((chart) => chart.getAttribute("aria-label")),
      dots: [...card.querySelectorAll("svg .now.dots")].map((dots) =>
        (dots.getAttribute("d").match(/M/g) ?? []).length),
    })),
  });
  try {
    DRIVER
  } catch (error) {
    problems.push(String(error));
  }
  document.documentElement.replaceChildren(Object.assign(document.createElement("pre"),
    { id: "found", textContent: JSON.stringify({ found, problems }) }));
})();
</script>"""


def drive(page, tmp_path, driver, *options):
    """Open a page, run the driver in it; what it found, and all that went wrong."""
    text = page.read_text().replace("<head>", f"<head>{_FIRST}")
    copy = tmp_path / "driven.html"
    copy.write_text(text.replace("</body>", _LAST.replace("DRIVER", driver) + "</body>"))
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--disable-background-networking", "--enable-logging=stderr", "--window-size=1200,900"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=60000"),
        *(*options, "--dump-dom", copy.as_uri()),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    dumped = re.search(r'<pre id="found">(.*?)</pre>', ran.stdout, re.DOTALL)
    assert dumped, ran.stderr[-2000:]
    told = json.loads(html.unescape(dumped[1]))
    console = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    return told["found"], told["problems"] + console


def inked(levels, most, page, ink):
    """What the canvas must show: linear in the level, from the page's colour to the ink's."""
    share = np.minimum(1.0, levels / (255 * np.sqrt(most)))[..., None]
    return page + share * (np.array(ink) - page)


@browser
def test_the_page_works_in_a_browser(page, runs, tmp_path):
    found, problems = drive(
        page,
        tmp_path,
        """
    await wait(500);
    found.start = look();
    set(find(".step"), 2, "input");
    found.moved = look();
    set(find(".layer"), "fc2", "change");
    await wait(500);
    found.layer = look();
    document.querySelectorAll("fieldset input")[2].click();
    await wait(500);
    found.three = look();
    document.querySelectorAll("fieldset input").forEach((box) => box.checked && box.click());
    found.none = look();
    document.querySelectorAll("fieldset input")[1].click();
    await wait(500);
    found.one = look();
    find(".play").click();
    found.playing = look();
    await wait(600);
    found.later = look();
    key(find(".step"), " ");
    found.paused = look();
    await wait(600);
    found.still = look();
    key(find(".step"), " ");
    await wait(3000);
    found.ended = look();
    find(".theme").click();
    found.dark = look();
    dispatchEvent(new Event("beforeprint"));
    found.printed = look();
    dispatchEvent(new Event("afterprint"));
    found.after = look();
    """,
    )
    assert problems == []
    shown = films(page.read_text())
    light, black = [255, 255, 255], [27, 27, 27]

    def check(state, layer, names, step, paper=light, ink=black):
        assert [card["title"] for card in state["cards"]] == names
        for card in state["cards"]:
            film = shown[card["title"]]
            frame = max(i for i, s in enumerate(film["steps"]) if s <= step)
            own = film["layers"][layer]
            assert (
                card["when"]
                == f"step {film['steps'][frame]}, update {frame} of {film['updates'][-1]}"
            )
            assert card["label"] == f"Links of {layer}, {card['title']}, {card['when']}"
            pixels = np.reshape(card["pixels"], (*own["tiles"], 4))
            expected = inked(own["levels"][frame], own["most"], np.array(paper), ink)
            np.testing.assert_allclose(pixels[..., :3], expected, atol=0.51)
            assert (pixels[..., 3] == 255).all()
            degrees = [own["degrees"][side][frame] for side in ("output", "input")]
            assert card["dots"] == [len(d) // 2 for d in degrees]
            least, most = degrees[1][0], degrees[1][-2]
            told = f"Distribution of the links per input neuron: from {least} to {most}"
            assert card["charts"][1] == told
            for name, values in own["measures"].items():
                assert card["numbers"][name] == (values[frame] or "–")

    both = ["SET, seed 0", "CHTs, seed 0"]
    assert found["start"]["most"] == 6  # 0, 10, ..., 50 of SET, and 60 of CHTs
    assert found["start"]["focusable"] == 0
    check(found["start"], "fc1", both, 0)
    assert found["start"]["full"] == "25 % and more"
    assert found["moved"]["output"] == "step 20 (3 of 7)"
    check(found["moved"], "fc1", both, 20)
    check(found["layer"], "fc2", both, 20)
    check(found["three"], "fc2", [*both, "SET, seed 1"], 20)
    assert found["none"]["cards"] == []
    check(found["one"], "fc2", ["CHTs, seed 0"], 0)  # of no run, the slider has one step
    assert found["one"]["most"] == 3
    assert found["playing"]["play"] == "Pause"
    check(found["later"], "fc2", ["CHTs, seed 0"], 40)  # two steps, at four a second
    assert found["paused"]["play"] == "Play"
    assert found["still"]["value"] == found["paused"]["value"] == 2
    check(found["ended"], "fc2", ["CHTs, seed 0"], 60)
    assert (found["ended"]["play"], found["ended"]["theme"]) == ("Play", "Dark")
    night = {"paper": [23, 24, 26], "ink": [232, 232, 232]}
    assert found["dark"]["page"] == "rgb(23, 24, 26)"
    check(found["dark"], "fc2", ["CHTs, seed 0"], 60, **night)
    assert found["printed"]["page"] == "rgb(255, 255, 255)"
    check(found["printed"], "fc2", ["CHTs, seed 0"], 60)
    check(found["after"], "fc2", ["CHTs, seed 0"], 60, **night)


@browser
def test_odd_layers_work_in_a_browser(tmp_path):
    """One neuron, no link, every link, all degrees equal."""
    layers = {
        "one": np.eye(1, 9), "to one": np.eye(9, 1), "empty": np.zeros((4, 5)),
        "full": np.ones((3, 4)), "equal": np.eye(200), "single": np.ones((1, 1)),
    }  # fmt: skip
    nets = [topo.Network(layers, couplings=())] * 3
    make_run(tmp_path / "x", nets)
    page = analysis.write_report(analysis.find_runs([tmp_path]), tmp_path / "r.html")
    driver = """
    for (const option of find(".layer").options) {
      set(find(".layer"), option.value, "change");
      set(find(".step"), 1, "input");
      await wait(100);
      found[option.value] = look();
    }
    """
    found, problems = drive(page, tmp_path, driver)
    assert problems == []
    assert list(found) == list(layers)
    for name, matrix in layers.items():
        (card,) = found[name]["cards"]
        assert card["when"] == "step 10, update 1 of 2"
        links = int(matrix.sum())
        assert card["numbers"]["links"] == f"{links:,}"
        pixels = np.reshape(card["pixels"], (-1, 4))[:, 0]
        assert (pixels.min(), pixels.max()) == (27 if links else 255, 27 if matrix.all() else 255)
        assert card["dots"] == [min(links, 1)] * 2
        assert card["none"] == (0 if links else 2)
        assert [name == "empty"] * 2 == [chart.startswith("No links") for chart in card["charts"]]


@browser
def test_the_page_follows_a_dark_system(page, tmp_path):
    dark = "--blink-settings=preferredColorScheme=0"
    found, problems = drive(page, tmp_path, "found.it = look();", dark)
    assert problems == []
    assert found["it"]["page"] == "rgb(23, 24, 26)"
    assert found["it"]["theme"] == "Light"


@browser
def test_the_browser_tells_what_is_wrong(page, tmp_path):
    """So that the tests above can fail."""
    driver = """
    console.warn("odd");
    document.body.append(document.createElement("img"));
    document.body.lastChild.src = "http://127.0.0.1:9/x";
    await wait(200);
    throw new Error("broken");
    """
    _, problems = drive(page, tmp_path, driver)
    for words in ("Error: broken", "blocked: http://127.0.0.1:9/x", "odd"):
        assert any(words in problem for problem in problems), (words, problems)


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
            assert ax.get_xlabel() or not ax.get_subplotspec().is_last_row()
        return "<img alt=''>"

    for module in ("learning_curves", "topology_figures", "survival_figure", "end_figures"):
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


def test_a_report_of_everything_at_once(odd, tmp_path, monkeypatch):
    check_pictures(monkeypatch)
    monkeypatch.setattr("analysis.end_figures.MOST_GROUPS", 2)
    folders = sorted(odd.iterdir(), reverse=True)
    groups = analysis.find_runs([*folders, odd])  # each twice
    assert sum(map(len, groups.values())) == len(ODD)
    page = analysis.write_report(groups, tmp_path / "r.html").read_text()
    assert "30 or 40, 30 neurons" in page
    assert "; 2 of 7 methods)" in page


def test_no_group_is_lost_when_names_agree(odd, tmp_path):
    for parent, run in (("a", "static"), ("b", "static")):
        shutil.copytree(odd / run, tmp_path / parent / "same")
    config = tmp_path / "b" / "same" / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.05", "lr: 0.06"))
    assert len(analysis.find_runs([tmp_path / "a", tmp_path / "b"])) == 2


# networks that lose their links


@pytest.mark.parametrize("densities", [(0.0, 0.0, 0.0), (0.1, 0.05, 0.0), (0.0, 0.1, 0.1)])
def test_the_report_of_a_network_without_links(densities, tmp_path, monkeypatch):
    check_pictures(monkeypatch)
    nets = [network({"fc": (30, 20)}, i, d) if d else topo.Network({"fc": np.zeros((30, 20))})
            for i, d in enumerate(densities)]  # fmt: skip
    make_run(tmp_path / "x", nets)
    page = analysis.write_report(analysis.find_runs([tmp_path]), tmp_path / "r.html").read_text()
    assert "The topology, step by step" in page


def figures_of(monkeypatch, modules, groups, tmp_path):
    """The figures of a report, and the page's words."""
    found = {}
    for module in modules:
        monkeypatch.setattr(
            f"analysis.{module}.svg",
            lambda figure, _, module=module: found.setdefault(module, figure) and "",
        )
    page = analysis.write_report(groups, tmp_path / "r.html").read_text()
    for figure in found.values():
        figure.draw_without_rendering()
    return found, html.unescape(told(page))


def test_the_density_is_that_of_all_layers_together(tmp_path, monkeypatch):
    layers = {"wide": (300, 20), "small": (10, 10)}
    nets = [
        topo.Network(
            {n: topo.erdos_renyi(*s, d, seed=i) for (n, s), d in zip(layers.items(), ds)},
            couplings=(),
        )
        for i, ds in enumerate([(0.5, 0.02), (0.1, 0.5)])
    ]
    make_run(tmp_path / "x", nets)
    found, words = figures_of(
        monkeypatch, ["topology_figures"], analysis.find_runs([tmp_path]), tmp_path
    )
    (line,) = found["topology_figures"].axes[0].lines
    links = [sum(layer.nnz for layer in net.layers.values()) for net in nets]
    np.testing.assert_allclose(line.get_ydata(), np.array([*links, links[-1]]) / 6100)
    assert line.get_drawstyle() == "steps-post"
    assert "a is of the possible links of all of them together" in words


def test_the_report_tells_whose_hubs_agree_with_nothing(tmp_path, monkeypatch):
    """Of two layers: where all degrees of one side are equal, there is no correlation."""
    chain = {"fc1": (40, 20), "fc2": (30, 40)}
    nets = {
        "set": [topo.Network({n: topo.erdos_renyi(*s, 0.2, seed=9 * i + s[0])
                              for n, s in chain.items()}) for i in range(2)],
        "chts": [topo.Network({n: np.ones(s) for n, s in chain.items()})] * 2,
    }  # fmt: skip
    for method, own in nets.items():
        make_run(tmp_path / method, own, method=method)
    groups = analysis.find_runs([tmp_path])
    found, words = figures_of(monkeypatch, ["topology_figures"], groups, tmp_path)
    panel = found["topology_figures"].axes[8]
    low, high = panel.get_ylim()
    drawn = np.concatenate([line.get_ydata() for line in panel.lines])
    assert high - low > 0.2 - 1e-9
    assert low <= np.nanmin(drawn) <= np.nanmax(drawn) <= high
    assert re.search(r"No value in i: CHTs\.", words)


def test_letters_that_the_font_lacks_are_written_by_their_codes(tmp_path, monkeypatch):
    nets = [topo.Network({"日": topo.erdos_renyi(9, 9, 0.3, seed=i)}) for i in range(2)]
    make_run(tmp_path / "x", nets)
    groups = analysis.find_runs([tmp_path])
    found, words = figures_of(monkeypatch, ["end_figures"], groups, tmp_path)
    assert found["end_figures"].axes[0].get_title(loc="left").endswith(r": \u65e5")
    assert "日" in words  # the page's own text is the browser's


@pytest.mark.parametrize("history", [1, 2])
def test_one_state_or_two_that_are_alike(history, tmp_path, monkeypatch):
    check_pictures(monkeypatch)
    make_run(tmp_path / "x", [network(SHAPES, 0)] * history)
    page = analysis.write_report(analysis.find_runs([tmp_path]), tmp_path / "r.html").read_text()
    assert ("How long links live" in page) == (history > 1)
