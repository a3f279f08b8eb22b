import json
import os
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dst import zero_shot
from dst.local_tasks import local_tasks
from dst.tasks.language import LanguageConfig, LanguageData, LlamaShape
from dst.zero_shot import PAPER, evaluate

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(zero_shot, "_BOOTSTRAP", 50)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tiny LLaMA on bytes, and its tokenizer; its weights are large, so that it has opinions."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPITOPO_CACHE", str(folder))
        data = LanguageData(length=256)
        task = LanguageConfig(data=data, model=LlamaShape(16, 32, 1, 2)).task()
    torch.manual_seed(1)
    model = task.model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 5
    return task, model, task.tokenizer.hugging_face(256)


QUESTIONS = [
    {"q": "The sky is", "choices": ["blue", "made of cheese"], "label": 0},
    {"q": "Two and two make", "choices": ["five", "four"], "label": 1},
    {"q": "Cats say", "choices": ["meow", "moo"], "label": 0},
    {"q": "Ice is", "choices": ["hot", "cold"], "label": 1},
    {"q": "Grass is", "choices": ["red", "green"], "label": 1},
    {"q": "Snow is", "choices": ["white", "black"], "label": 1},
    {"q": "A mouse is", "choices": ["big", "tiny"], "label": 0},
]


def task_file(folder, name="mini", **changes):
    lines = "".join(json.dumps(question) + "\n" for question in QUESTIONS)
    (folder / f"{name}.jsonl").write_text(lines)
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"validation": str(folder / f"{name}.jsonl")},
            "cache_dir": str(folder / "cache"),
        },
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "f1"}, {"metric": "acc"}],
        **changes,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


def log_likelihood(model, context, answer):
    """Of the bytes of an answer behind a context."""
    tokens = torch.tensor([[*context.encode(), *answer.encode()]])
    with torch.no_grad():
        log_p = model(input_ids=tokens).logits[0].log_softmax(-1)
    places = range(len(context.encode()) - 1, tokens.shape[1] - 1)
    return sum(log_p[i, tokens[0, i + 1]].item() for i in places)


def test_answers_are_those_of_the_highest_log_likelihood(small, tmp_path):
    _, model, tokenizer = small
    chosen = []
    for question in QUESTIONS:
        scores = [log_likelihood(model, question["q"], " " + c) for c in question["choices"]]
        assert abs(scores[0] - scores[1]) > 1e-3
        chosen.append(scores.index(max(scores)))
    labels = [question["label"] for question in QUESTIONS]
    right = [a == b for a, b in zip(chosen, labels)]
    assert 0 < sum(right) < 7
    assert 0 < sum(chosen) < 7
    task_file(tmp_path)
    model.train()  # the function evaluates it all the same
    found = evaluate((model, tokenizer), "mini", include_path=tmp_path, out=tmp_path / "r.json")
    assert model.training
    model.eval()
    share = sum(right) / 7
    assert found["mini"]["metric"] == "acc"
    assert found["mini"]["n"] == 7
    assert found["mini"]["value"] == pytest.approx(share)
    assert found["mini"]["stderr"] == pytest.approx((share * (1 - share) / 6) ** 0.5)
    hits = sum(a and b for a, b in zip(chosen, labels))
    f1 = 2 * hits / (sum(chosen) + sum(labels))
    assert found["mini"]["all"]["f1"]["value"] == pytest.approx(f1)
    assert 0 < found["mini"]["all"]["f1"]["stderr"] < 0.5
    assert json.loads((tmp_path / "r.json").read_text()) == found


def test_an_exported_folder_and_a_limit(small, tmp_path, capfd):
    task, model, _ = small
    (tmp_path / "model").mkdir()
    task.export(model, tmp_path / "model")
    task_file(tmp_path)
    capfd.readouterr()
    limited = evaluate(tmp_path / "model", ["mini"], include_path=tmp_path, limit=3)
    assert limited["mini"]["n"] == 3
    assert capfd.readouterr().out == ""


def test_a_task_of_the_papers_has_their_measure(small, tmp_path):
    """The harness scores CoLA by Matthews' correlation, the papers give the accuracy."""
    _, model, tokenizer = small
    task_file(tmp_path, "cola", metric_list=[{"metric": "mcc"}])
    task_file(tmp_path, "mrpc", metric_list=[{"metric": "acc"}, {"metric": "f1"}])
    found = evaluate((model, tokenizer), "cola, mrpc", include_path=tmp_path)
    assert [found[name]["metric"] for name in ("cola", "mrpc")] == ["acc", "f1"]
    assert set(found["cola"]["all"]) == {"acc", "mcc"}
    assert found["cola"]["value"] == found["mrpc"]["all"]["acc"]["value"]
    assert len(PAPER) == 12


def test_a_group_of_tasks(small, tmp_path):
    _, model, tokenizer = small
    task_file(tmp_path, "one")
    task_file(tmp_path, "two")
    group = {
        "group": "both",
        "task": ["one", "two"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(group))
    found = evaluate((model, tokenizer), ["both"], include_path=tmp_path, limit=4)
    assert found["both"]["n"] == 8
    assert found["both"]["value"] == found["one"]["value"]


def test_bad_arguments(small, tmp_path, monkeypatch):
    pair = small[1:]
    task_file(tmp_path)
    for arguments, message in (
        ((pair, []), "name a task at least"),
        ((pair, " , "), "name a task at least"),
        ((pair, "mini", {"limit": 0}), "limit must be at least 1, or None, not 0"),
        ((pair, "mini", {"include_path": tmp_path / "x"}), "there is no folder .*x of tasks"),
        ((pair, "mini", {"out": tmp_path / "x" / "r.json"}), "there is no folder .*x for the"),
        ((tmp_path, "mini"), "holds no exported model: make one with epitopo export RUN"),
    ):
        options = {"include_path": tmp_path} | (arguments[2] if len(arguments) > 2 else {})
        with pytest.raises(ValueError, match=message):
            evaluate(arguments[0], arguments[1], **options)
    long = {"q": "a", "choices": ["b" * 300, "c"], "label": 0}
    (tmp_path / "mini.jsonl").write_text(json.dumps(long))
    with pytest.raises(ValueError, match=r"an answer of a task is longer than .* 256 tokens"):
        evaluate(pair, "mini", include_path=tmp_path)
    (tmp_path / "mini.jsonl").unlink()
    with pytest.raises(OSError, match=r"the data of a task cannot be had .*include_path"):
        evaluate(pair, "mini", include_path=tmp_path)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r"pip install 'epitopo\[zero-shot\]'"):
        evaluate(pair, "mini", include_path=tmp_path)


def test_an_unknown_task_with_the_nearest_name(small, tmp_path, monkeypatch):
    import lm_eval.tasks

    class Index(lm_eval.tasks.TaskManager):
        def __init__(self, include_path=None, include_defaults=True):  # thousands of files
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", Index)
    task_file(tmp_path)
    with pytest.raises(ValueError, match="unknown task 'minni': did you mean 'mini'"):
        evaluate(small[1:], "mini,minni", include_path=tmp_path)


# --- tasks from files ---


def test_published_formats_by_hand(tmp_path):
    files = {
        "cola/in_domain_dev.tsv": "gj04\t1\t\tHe ran.\n",
        "cola/out_of_domain_dev.tsv": "gj04\t0\t*\tRan he not.\n",
        "rte/dev.tsv": 'sentence1\tsentence2\tlabel\tidx\nIt "rains.\tIt is wet.\t0\t0\n',
        "copa/copa-dev.xml": '<copa-corpus><item id="1" asks-for="effect" '
        'most-plausible-alternative="2"><p>It rained.</p><a1>It dried.</a1><a2>We got wet.</a2>'
        "</item></copa-corpus>",
        "wsc273/wsc273.txt": "The cup fell off the table because [MASK] was wet. \n[MASK]\n"
        "The cup ,The table \nThe table \n\n[MASK]  is Ann's. \n[MASK]\nThe cup,Bob\nBob\n",
        "lambada_test.jsonl": '{"text": "In the end"}\n',
        "piqa/valid.jsonl": '{"goal": "Dry", "sol1": "Sun.", "sol2": "Rain."}\n',
        "piqa/valid-labels.lst": "0\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    names = local_tasks(tmp_path, tmp_path / "out")
    assert names == ["cola", "rte", "copa", "piqa", "lambada_openai", "wsc273"]

    def questions(name):
        text = (tmp_path / "out" / f"{name}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    assert questions("cola") == [
        {"sentence": "He ran.", "label": 1},
        {"sentence": "Ran he not.", "label": 0},
    ]
    assert questions("rte") == [{"sentence1": 'It "rains.', "sentence2": "It is wet.", "label": 0}]
    assert questions("copa") == [
        {"premise": "It rained therefore", "choices": ["it dried.", "we got wet."], "label": 1}
    ]
    assert questions("lambada_openai") == [{"start": "In the", "last": "end"}]
    before = "The cup fell off the table because"
    assert questions("wsc273") == [
        {"starts": [f"{before} the cup", f"{before} the table"], "rest": "was wet.", "label": 1},
        {"starts": ["The cup", "Bob"], "rest": "is Ann's.", "label": 1},
    ]
    (tmp_path / "rte/dev.tsv").write_text("sentence1\tsentence2\nonly one\n")
    with pytest.raises(ValueError, match=r"rte/dev.tsv is not as expected for rte"):
        local_tasks(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="holds none of cola, rte"):
        local_tasks(tmp_path / "out", tmp_path)


def test_each_prompt_is_scored(small, tmp_path):
    """Real questions of every format, and two of them by hand."""
    data = Path(os.environ.get("EPITOPO_DATA", "/nowhere")) / "eval-zero-shot"
    if not data.is_dir():
        pytest.skip("EPITOPO_DATA has no eval-zero-shot")
    _, model, tokenizer = small
    names = local_tasks(data, tmp_path)
    counts = {name: (tmp_path / f"{name}.jsonl").read_bytes().count(b"\n") for name in names}
    assert counts == {
        "cola": 1043, "rte": 277, "sst2": 872, "copa": 500, "piqa": 1838,
        "lambada_openai": 5153, "wsc273": 273,
    }  # fmt: skip
    short = [n for n in names if n not in ("piqa", "lambada_openai")]  # their answers are long
    found = evaluate((model, tokenizer), short, include_path=tmp_path, limit=8)
    assert {name: found[name]["n"] for name in short} == dict.fromkeys(short, 8)
    for name, texts in (
        ("copa", lambda q: [(q["premise"], f" {c}") for c in q["choices"]]),
        ("wsc273", lambda q: [(start, f" {q['rest']}") for start in q["starts"]]),
    ):
        right = 0
        for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()[:8]:
            question = json.loads(line)
            scores = [log_likelihood(model, *pair) for pair in texts(question)]
            right += scores.index(max(scores)) == question["label"]
        assert found[name]["value"] == right / 8
