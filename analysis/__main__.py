"""The command line: ``python -m analysis`` and ``epitopo-analysis``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jsonargparse import ArgumentError, ArgumentParser

from analysis import __version__
from analysis.report import write_report
from analysis.runs import find_runs
from analysis.scaling import draw_scaling
from analysis.table import compare, format_table
from topo.command_line import exit_status, explain_choice

__all__ = ["main"]


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
        raise ValueError(explain_choice(str(error))) from None
    chosen = options[options.command]
    if options.command == "figure":
        print(f"figure: {draw_scaling(pd.read_csv(chosen.table), chosen.out)}")
        return
    groups = find_runs(chosen.runs)
    table = format_table(compare(groups))
    with pd.option_context("display.width", None, "display.max_columns", None):
        print(table.to_string(index=False))
    if options.command == "report":
        out = Path(chosen.out) if chosen.out else Path(chosen.runs[0]) / "report.html"
        print(f"\nreport: {write_report(groups, out)}")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="epitopo-analysis",
        description="Tables and reports of training runs.",
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
        commands.add_subcommand(name, sub, help=text)
    figure = ArgumentParser(exit_on_error=False, description="Draw the table of a benchmark.")
    figure.add_argument("name", choices=["scaling"], help="Which figure.")
    figure.add_argument("table", help="CSV file of `epitopo bench scaling --out`.")
    figure.add_argument("--out", default="scaling.svg", help="Vector or PNG file to write.")
    commands.add_subcommand("figure", figure, help="Draw the table of a benchmark.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
