"""From a preset, a YAML file and the command line to a `Config`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from dst.config import Config
from dst.presets import PRESETS
from topo.command_line import explain_choice
from topo.names import find, flat, unknown

__all__ = ["configured", "instantiate", "preset_among", "saved_config", "trainer_parser"]


def trainer_parser(preset: str | None) -> ArgumentParser:
    """The parser of ``train``, with the keys of a preset's task and its values as defaults."""
    named: Config = find(PRESETS, preset, "preset") if preset is not None else Config()
    parser = ArgumentParser(
        exit_on_error=False, allow_abbrev=False, description="Train a preset, or go on with a run."
    )
    parser.add_argument("preset", nargs="?", help="One of `epitopo presets`.")
    parser.add_argument("--out", help="Run folder; default: runs/PRESET-seedSEED.")
    parser.add_argument("--resume", help="Run folder to go on with, from its last checkpoint.")
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")
    parser.add_class_arguments(type(named))
    if preset is not None:
        parser.set_defaults(flat(asdict(named)) | {"preset": preset})
    return parser


def files_first(arguments: Sequence[str]) -> list[str]:
    """Put the files of ``--config`` before all else, which overrides them then.

    An option of steps sets epochs to null, and the other way round.

    Examples
    --------
    >>> from dst.configure import files_first
    >>> files_first(["train", "digits-set", "--seed", "3", "--config", "a.yaml"])
    ['train', '--config', 'a.yaml', 'digits-set', '--seed', '3']
    """
    files: list[str] = []
    others: list[str] = []
    rest = iter(arguments[1:])
    for argument in rest:
        if argument == "--config":
            files += [argument, next(rest, "")]
        else:
            (files if argument.startswith("--config=") else others).append(argument)
    given = {argument.partition("=")[0] for argument in others}
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if f"--optimizer.{one}" in given and f"--optimizer.{other}" not in given:
            others += [f"--optimizer.{other}", "null"]
    return [arguments[0], *files, *others]


def preset_among(arguments: Sequence[str]) -> str | None:
    """The preset that arguments of ``train`` name, or a YAML file among them.

    Raises
    ------
    ValueError
        If both name one, and not the same.
    """
    typed = file = None
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            typed = argument
            continue
        key, given, value = argument.partition("=")
        if key not in ("-h", "--help", "--print_config") and not given:
            value = next(rest, "")
        if key == "--config":
            file = value
    content = _yaml(Path(file)) if file is not None and Path(file).is_file() else None
    named = content.get("preset") if isinstance(content, dict) else None
    if typed is not None and named not in (None, typed):
        raise ValueError(f"two presets: {typed} on the command line, {named} in {file}")
    return typed or named


def configured(preset: str, options: Mapping[str, Any]) -> Config:
    """The configuration of a preset with some keys changed.

    Parameters
    ----------
    preset : str
    options : mapping
        By dotted keys, or nested.

    Raises
    ------
    ValueError
        For an unknown preset or key, or a value that cannot be.

    Examples
    --------
    >>> from dst.configure import configured
    >>> configured("digits-set", {"optimizer.epochs": 3}).optimizer.epochs
    3
    """
    parser = trainer_parser(preset)
    known, options = flat(asdict(PRESETS[preset])), flat(options)
    for key in options:
        if key not in known:
            raise ValueError(unknown(key, list(known), "key"))
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if options.get(f"optimizer.{one}") is not None:
            options.setdefault(f"optimizer.{other}", None)
    try:
        return instantiate(parser, parser.parse_object(_nested(options)), preset)
    except ArgumentError as error:
        raise ValueError(explain(str(error), parser)) from None


def instantiate(parser: ArgumentParser, options: Namespace, preset: str) -> Config:
    """Make the `Config` of what was parsed."""
    kind = type(find(PRESETS, preset, "preset"))
    built = parser.instantiate(options)
    return kind(**{f.name: built[f.name] for f in fields(kind)})


def saved_config(run: Path) -> tuple[str, Config]:
    """The preset and the configuration that a run was trained with.

    Raises
    ------
    ValueError
        If there is no run, or it is of another version.
    """
    file = run / "config.yaml"
    if not file.is_file():
        raise ValueError(f"there is no run in {run}: it has no config.yaml")
    content = _yaml(file)
    if not isinstance(content, dict) or not isinstance(content.get("preset"), str):
        raise ValueError(f"{file} is damaged: it names no preset")
    preset = content.pop("preset")
    try:
        return preset, configured(preset, content)
    except ValueError as error:
        raise ValueError(
            f"{file} is damaged, or of another version of epitopo: {error}; go on with the version "
            "in the run's checkpoints/*/state.json"
        ) from None


def explain(message: str, parser: ArgumentParser) -> str:
    """Add the nearest right name to the parser's complaint about a wrong one."""
    options = [o for a in parser._actions for o in a.option_strings if o.startswith("--")]
    wrong = r"Parser key \"([\w.]+)\":\s+Expected an? <class '(\w+)'>.*Got value: (.*)"
    if match := re.search(wrong, message, re.DOTALL):
        return f"{match[1]} must be a {match[2]}, not {match[3].strip()}"
    if match := re.search(r"unrecognized arguments: (--[^\s=]+)", message):
        return unknown(match[1], options, "option")
    if match := re.search(r"[Oo]ption '([\w.]+)' is not|does not accept .*?'([\w.]+)'", message):
        keys = [option.removeprefix("--") for option in options]
        return unknown(match[1] or match[2], keys, "key")
    return explain_choice(message)


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} cannot be read as YAML: {reason}") from None


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for dotted, value in flat(options).items():
        *groups, key = dotted.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[key] = value
    return nested
