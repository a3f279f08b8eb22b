"""Zero-shot tasks from files on disk, in the formats that their authors publish them in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from dst.downloads import opened

__all__ = ["local_tasks"]

_RTE_LABELS = {"entailment": 0, "not_entailment": 1, "0": 0, "1": 1}  # GLUE's own, and numbers
Questions = Iterator[dict[str, Any]]


def local_tasks(data: str | Path, out: str | Path) -> list[str]:
    r"""Convert what a folder holds to tasks for `dst.zero_shot.evaluate`.

    The prompts are those of the harness's tasks of the same names. Known are cola/*_dev.tsv,
    rte/dev.tsv, sst2/stsa.binary.dev, copa/copa-dev.xml (all 500 questions, of which SuperGLUE
    validates on 100), piqa/valid.jsonl with valid-labels.lst, lambada_test.jsonl (lambada_openai),
    and wsc273/wsc273.txt; compressed ones, too (.gz, .xz).

    Parameters
    ----------
    data : path
    out : path
        A folder for the tasks: NAME.yaml and NAME.jsonl each.

    Returns
    -------
    list of str
        The names of the tasks.

    Raises
    ------
    ValueError
        If the folder holds none of them, or a file is not as expected.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from dst.local_tasks import local_tasks
    >>> data, out = (pathlib.Path(tempfile.mkdtemp()) for _ in range(2))
    >>> (data / "sst2").mkdir()
    >>> _ = (data / "sst2" / "stsa.binary.dev").write_text("1 a joy .\n0 a bore .\n")
    >>> local_tasks(data, out)
    ['sst2']
    >>> (out / "sst2.jsonl").read_text().splitlines()[0]
    '{"sentence": "a joy .", "label": 1}'
    """
    data, out = Path(data), Path(out)
    made = []
    for name, (files, read, prompt) in _TASKS.items():
        paths = [_present(data / file) for file in files]
        present = [path for path in paths if path is not None]
        if len(present) < len(files):
            continue
        try:
            lines = [json.dumps(question) + "\n" for question in read(*map(_read, present))]
        except (ValueError, KeyError, IndexError, ElementTree.ParseError) as error:
            raise ValueError(f"{present[0]} is not as expected for {name}: {error!r}") from None
        out.mkdir(parents=True, exist_ok=True)
        questions = out / f"{name}.jsonl"
        questions.write_text("".join(lines), encoding="utf-8")
        where = {"data_files": {"validation": str(questions.resolve())}}
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": where | {"cache_dir": str((out / "cache").resolve())},
            "output_type": "multiple_choice",
            "validation_split": "validation",
            "doc_to_target": "label",
            "metric_list": [{"metric": "acc"}],
            **prompt,
        }
        (out / f"{name}.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
        made.append(name)
    if not made:
        raise ValueError(f"{data} holds none of {', '.join(_TASKS)}: see dst.local_tasks")
    return made


def _present(path: Path) -> Path | None:
    candidates = [path.with_name(path.name + ending) for ending in ("", ".gz", ".xz")]
    return next((path for path in candidates if path.is_file()), None)


def _read(path: Path) -> str:
    with opened(path) as f:
        return f.read().decode()


def _rows(text: str) -> list[str]:
    """Lines that are not empty; unlike `splitlines`, cut at line feeds alone."""
    return [row for line in text.split("\n") if (row := line.rstrip("\r"))]


def _cola(*files: str) -> Questions:
    for line in _rows("\n".join(files)):
        _, label, _, sentence = line.split("\t")
        yield {"sentence": sentence, "label": int(label)}


def _rte(text: str) -> Questions:
    names, *lines = (line.split("\t") for line in _rows(text))
    for line in lines:
        row = dict(zip(names, line, strict=True))
        yield {
            "sentence1": row["sentence1"],
            "sentence2": row["sentence2"],
            "label": _RTE_LABELS[row["label"]],
        }


def _sst2(text: str) -> Questions:
    for line in _rows(text):
        label, sentence = line.split(" ", 1)
        yield {"sentence": sentence, "label": int(label)}


def _copa(text: str) -> Questions:
    word = {"cause": "because", "effect": "therefore"}
    for item in ElementTree.fromstring(text):
        parts = {part.tag: (part.text or "").strip() for part in item}
        choices = [parts[a][0].lower() + parts[a][1:] for a in ("a1", "a2")]
        yield {
            "premise": f"{parts['p'][:-1]} {word[item.attrib['asks-for']]}",
            "choices": choices,
            "label": int(item.attrib["most-plausible-alternative"]) - 1,
        }


def _piqa(text: str, labels: str) -> Questions:
    for line, label in zip(_rows(text), labels.split(), strict=True):
        yield json.loads(line) | {"label": int(label)}


def _lambada(text: str) -> Questions:
    for line in _rows(text):
        start, _, last = json.loads(line)["text"].rpartition(" ")
        yield {"start": start, "last": last}


def _wsc273(text: str) -> Questions:
    for item in text.strip().split("\n\n"):
        sentence, mask, options, answer = (line.strip() for line in item.splitlines())
        before, after = sentence.split(mask)
        names = [option.strip() for option in options.split(",")]
        lower = before.strip() != ""  # within a sentence
        yield {
            "starts": [before.strip() + " " + _article(n, lower) if lower else n for n in names],
            "rest": after.strip(),
            "label": names.index(answer),
        }


def _article(name: str, lower: bool) -> str:
    first, space, rest = name.partition(" ")
    small = lower and first in ("The", "A", "An", "My", "His", "Her", "Our", "Their")
    return (first.lower() if small else first) + space + rest


_Task = tuple[tuple[str, ...], Callable[..., Questions], dict[str, Any]]
_TASKS: dict[str, _Task] = {
    "cola": (
        ("cola/in_domain_dev.tsv", "cola/out_of_domain_dev.tsv"),
        _cola,
        {
            "doc_to_text": "{{sentence}}\nQuestion: Does this sentence make sense?\nAnswer:",
            "doc_to_choice": ["no", "yes"],
            "metric_list": [{"metric": "acc"}, {"metric": "mcc"}],
        },
    ),
    "rte": (
        ("rte/dev.tsv",),
        _rte,
        {
            "doc_to_text": "{{sentence1}}\nQuestion: {{sentence2}} True or False?\nAnswer:",
            "doc_to_choice": ["True", "False"],
        },
    ),
    "sst2": (
        ("sst2/stsa.binary.dev",),
        _sst2,
        {
            "doc_to_text": "{{sentence}}\n"
            "Question: Is this sentence positive or negative?\nAnswer:",
            "doc_to_choice": ["negative", "positive"],
        },
    ),
    "copa": (
        ("copa/copa-dev.xml",),
        _copa,
        {"doc_to_text": "{{premise}}", "doc_to_choice": "{{choices}}"},
    ),
    "piqa": (
        ("piqa/valid.jsonl", "piqa/valid-labels.lst"),
        _piqa,
        {
            "doc_to_text": "Question: {{goal}}\nAnswer:",
            "doc_to_choice": "{{[sol1, sol2]}}",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
    ),
    "lambada_openai": (
        ("lambada_test.jsonl",),
        _lambada,
        {
            "output_type": "loglikelihood",
            "doc_to_text": "{{start}}",
            "doc_to_target": "{{' ' + last}}",
            "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
        },
    ),
    "wsc273": (
        ("wsc273/wsc273.txt",),
        _wsc273,
        {"doc_to_text": "label", "doc_to_choice": "{{starts}}", "doc_to_target": "{{rest}}"},
    ),
}
