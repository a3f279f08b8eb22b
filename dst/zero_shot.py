"""Score a language model on tasks it was not trained on, by lm-evaluation-harness."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from topo.files import write_atomically
from topo.names import unknown

__all__ = ["PAPER", "evaluate"]

PAPER = {
    "cola": "acc",  # the harness has Matthews' correlation alone, the papers give the accuracy
    "sst2": "acc",
    "mrpc": "f1",
    "qqp": "f1",
    "mnli": "acc",
    "qnli": "acc",
    "rte": "acc",
    "wnli": "acc",
    "boolq": "acc",
    "hellaswag": "acc",
    "cb": "acc",
    "copa": "acc",
}
"""The twelve tasks of the papers, which "paper" stands for, and the measure that each gives."""
_BOOTSTRAP = 1000  # resamples for the standard error of measures that are no means (F1)


def evaluate(
    model: str | Path | tuple[Any, Any],
    tasks: Sequence[str] | str,
    *,
    include_path: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    out: str | Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Score a model on tasks, without examples in the prompt.

    Parameters
    ----------
    model : path, or (model, tokenizer)
        A folder that `from_pretrained` loads, or what it would give.
    tasks : sequence of str, or str
        Names of the harness or of `include_path` (which come first), or "paper": `PAPER`. A string
        may hold several, with commas between.
    include_path : path, optional
        A folder of further tasks: YAML files as the harness reads them (see `dst.local_tasks`).
        If it has all tasks, nothing is downloaded.
    limit : int, optional
        Only the first so many questions of each task.
    batch_size : int
        Questions at a time.
    out : path, optional
        A JSON file for the result.

    Returns
    -------
    dict
        By task: "metric" (the papers' for `PAPER`, else "acc", or what the task has), its "value",
        its standard error "stderr" (None if there is none), the number of questions "n", and "all",
        value and stderr of every metric.

    Raises
    ------
    ValueError
        For an unknown task, a folder that holds no model, or an answer that is longer than the
        model's context (longer prompts lose their beginning).
    OSError
        If the data of a task cannot be had.
    ImportError
        Without lm-evaluation-harness.
    """
    names = _names(tasks)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None, not {limit!r}")
    if include_path is not None and not Path(include_path).is_dir():
        raise ValueError(f"there is no folder {include_path} of tasks")
    target = Path(out) if out is not None else None
    if target is not None and not target.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {target.absolute().parent} for the result")
    if find_spec("lm_eval") is None:
        raise ImportError(
            "zero-shot tasks need lm-evaluation-harness: pip install 'epitopo[zero-shot]'"
        )
    with _quiet():
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        manager, wanted = _tasks(names, include_path)
        network, tokenizer = _load(Path(model)) if isinstance(model, (str, Path)) else model
        was_training, cached = network.training, network.config.use_cache
        network.eval()
        network.config.use_cache = False
        try:
            found = lm_eval.simple_evaluate(
                HFLM(pretrained=network, tokenizer=tokenizer, batch_size=batch_size),
                tasks=wanted,
                task_manager=manager,
                num_fewshot=0,
                limit=limit,
                bootstrap_iters=_BOOTSTRAP,
                log_samples=False,
            )
        except AssertionError:
            raise ValueError(
                "an answer of a task is longer than the model's context of "
                f"{network.config.max_position_embeddings} tokens: leave that task out"
            ) from None
        except (ConnectionError, FileNotFoundError) as error:
            raise OSError(
                f"the data of a task cannot be had ({str(error).splitlines()[0]}): name a folder "
                "of local tasks (include_path), or of data for some (epitopo evaluate --data)"
            ) from None
        finally:
            network.train(was_training)
            network.config.use_cache = cached
    counts = {task: count["effective"] for task, count in found["n-samples"].items()}
    for group, members in found["group_subtasks"].items():
        counts[group] = sum(counts.get(member, 0) for member in members)
    every = found["results"] | found.get("groups", {})
    scores = {task: _scores(task, values, counts[task]) for task, values in every.items()}
    result = {task: score for task, score in scores.items() if score["all"]}
    if target is not None:
        write_atomically(target, json.dumps(result, indent=1).encode())
    return result


def _names(tasks: Sequence[str] | str) -> list[str]:
    given = tasks.split(",") if isinstance(tasks, str) else list(tasks)
    names = [name.strip() for name in given if name.strip()]
    if not names:
        raise ValueError('name a task at least, or "paper" for those of the papers')
    spelled_out = [n for name in names for n in (PAPER if name == "paper" else [name])]
    return list(dict.fromkeys(spelled_out))


def _tasks(names: list[str], include_path: str | Path | None) -> tuple[Any, list[Any]]:
    """The harness's index of tasks, and what it is asked for."""
    from lm_eval.tasks import TaskManager

    folder = None if include_path is None else str(include_path)
    # reading the thousands of tasks of the harness takes long: leave it if we can
    manager = TaskManager(include_path=folder, include_defaults=False) if folder else None
    if manager is None or not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=folder)
    for name in names:
        if name not in manager.all_tasks and not manager.match_tasks([name]):
            near = unknown(name, ["paper", *manager.all_tasks], "task").split(" known are")[0]
            raise ValueError(f"{near} `lm_eval ls tasks` lists those of the harness")
    return manager, [_with_accuracy(name, manager) for name in names]


def _with_accuracy(name: str, manager: Any) -> Any:
    """A task of the papers with the measure that they give, if it lacks it."""
    config = (manager.task_index[name].cfg or {}) if name in PAPER else {}
    metrics = [one["metric"] for one in config.get("metric_list", [])]
    if name not in PAPER or PAPER[name] in metrics:
        return name
    return config | {"metric_list": [{"metric": PAPER[name]}, *config["metric_list"]]}


def _scores(task: str, values: Mapping[str, Any], count: int) -> dict[str, Any]:
    """From the harness's flat keys, "acc,none" and "acc_stderr,none"."""
    every: dict[str, dict[str, float | None]] = {}
    for key, value in values.items():
        name, comma, kind = key.partition(",")
        if not comma or name.endswith("_stderr"):
            continue
        error = values.get(f"{name}_stderr,{kind}")
        every[name] = {
            "value": float(value),
            "stderr": float(error) if isinstance(error, (int, float)) else None,
        }
    preferred = [PAPER.get(task, "acc"), "acc", *every, ""]
    metric = next(name for name in preferred if name in every or not name)
    return {"metric": metric, **every.get(metric, {}), "n": count, "all": every}


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from dst.tasks.modeling_low_rank import LowRankLlama, LowRankLlamaConfig

    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no exported model: make one with epitopo export RUN")
    # ours is here: no code of the folder's is run
    AutoConfig.register(LowRankLlamaConfig.model_type, LowRankLlamaConfig, exist_ok=True)
    AutoModelForCausalLM.register(LowRankLlamaConfig, LowRankLlama, exist_ok=True)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device), tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's talk, and without bars where they end in a file.

    Its bootstrap runs in this process: a fork of one that has threads may hang.
    """
    from lm_eval import evaluator
    from transformers.utils import logging as chatter

    log, before = logging.getLogger("lm_eval"), os.environ.get("DISABLE_MULTIPROC")
    verbosity = chatter.get_verbosity()
    chatter.set_verbosity_error()  # of prompts that are cut, for one
    git, evaluator.get_git_commit_hash = evaluator.get_git_commit_hash, lambda: None
    level = log.level
    log.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"
    bars = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(bars), warnings.catch_warnings():
            # F1 of a model, or a resample, that never says yes: it is 0 then
            warnings.filterwarnings("ignore", message=".* is ill-defined and being set to 0")
            yield
    finally:
        log.setLevel(level)
        chatter.set_verbosity(verbosity)
        evaluator.get_git_commit_hash = git
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before
