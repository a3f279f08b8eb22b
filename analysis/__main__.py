"""The command line: ``python -m analysis`` and ``epitopo-analysis``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from analysis import __version__
from analysis.bench import bench_text
from analysis.figure_files.command import add_figures, write_figure
from analysis.papers import run_table
from analysis.papers_text import factor_text, papers_text
from analysis.report import write_report
from analysis.runs import Run, by_data, find_runs
from analysis.table import compare, format_table
from analysis.text_tables import FORMATS
from analysis.zero_shot import zero_shot_text
from topo.command_line import exit_status, explain_choice

__all__ = ["main"]

Groups = Mapping[str, Sequence[Run]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        The exit status: 0 if all went well, 2 for input that cannot be used.
    """
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    return exit_status("epitopo-analysis", lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> None:
    try:
        options = _parser().parse_args(arguments)
    except ArgumentError as error:
        told = explain_choice(str(error))
        if told.startswith("unrecognized arguments"):
            words = " ".join(arguments[: 2 if arguments[0] == "figure" else 1])
            told += f"; what it takes: epitopo-analysis {words} --help"
        raise ValueError(told) from None
    chosen = options[options.command]
    if options.command == "figure":
        print(write_figure(chosen))
        return
    if options.command == "bench":
        print(bench_text())
        return
    groups = find_runs(chosen.runs)
    if options.command == "table":
        print(_table(groups, chosen))
        return
    print(_comparison(groups))
    out = Path(chosen.out) if chosen.out else Path(chosen.runs[0]) / "report.html"
    print(f"\nreport: {write_report(groups, out)}")


def _table(groups: Groups, chosen: Namespace) -> str:
    asked = [k for k in ("papers", "by", "zero_shot") if chosen[k]]
    if len(asked) > 1:
        names = " and ".join(f"--{k.replace('_', '-')}" for k in asked)
        raise ValueError(f"{names} are different tables: ask for one")
    if not asked:
        if chosen.against is not None or chosen.format != "text":
            raise ValueError("--against and --format go with --papers, --by KEY or --zero-shot")
        return _comparison(groups)
    if chosen.zero_shot:
        return zero_shot_text(groups, chosen.format, chosen.against).rstrip("\n")
    runs = run_table(groups)
    parts = [part for _, part in runs.groupby("measure", sort=False)]
    if len(parts) > 1 and chosen.format == "csv":
        raise ValueError(f"a CSV table has one score, not {', '.join(runs['measure'].unique())}")
    texts = [
        factor_text(part, chosen.by, chosen.format, chosen.against)
        if chosen.by
        else papers_text(part, chosen.format, chosen.against)
        for part in parts
    ]
    return "\n\n".join(texts).rstrip("\n")


def _comparison(groups: Groups) -> str:
    parts = by_data(groups)
    tables = []
    for data, part in parts.items():
        title = f"{data}\n" if len(parts) > 1 else ""
        tables.append(title + format_table(compare(part)).to_string(index=False))
    return "\n\n".join(tables)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="epitopo-analysis",
        description="Tables, figures and reports of training runs.",
        version=__version__,
        exit_on_error=False,
    )
    commands = parser.add_subcommands(dest="command")
    for name, text in (
        ("report", "Write one HTML page about runs, and print their table."),
        ("table", "Print the table that compares runs."),
    ):
        sub = ArgumentParser(exit_on_error=False, description=text)
        sub.add_argument("runs", nargs="+", help="Run folders, or folders of run folders.")
        if name == "report":
            sub.add_argument("--out", help="HTML file; default: report.html in the first folder.")
        else:
            _add_table_options(sub)
        commands.add_subcommand(name, sub, help=text)
    text = "Draw a figure of runs, or of a benchmark."
    figure = ArgumentParser(exit_on_error=False, description=text)
    commands.add_subcommand("figure", figure, help=text)
    add_figures(figure)
    text = "Time the measures, beside those of networkx, and the summary of a history."
    commands.add_subcommand(
        "bench", ArgumentParser(exit_on_error=False, description=text), help=text
    )
    return parser


def _add_table_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--papers",
        action="store_true",
        help="The papers' table: methods by data sets and sparsities, with published figures, "
        "training operations and win rates.",
    )
    parser.add_argument(
        "--by", help="Win rates over the values of a setting, such as sparsity.topology."
    )
    parser.add_argument(
        "--zero-shot", action="store_true", help="The results of `epitopo evaluate`, by task."
    )
    parser.add_argument(
        "--against", help="Test all others against this method (or value of --by), in pairs."
    )
    parser.add_argument(
        "--format",
        default="text",
        choices=[*FORMATS, "csv"],
        help="Of --papers, --by and --zero-shot; csv: the numbers alone.",
    )


if __name__ == "__main__":
    sys.exit(main())
