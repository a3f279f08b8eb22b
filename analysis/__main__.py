"""The command line: ``python -m analysis`` and ``epitopo-analysis``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jsonargparse import ArgumentError, ArgumentParser

from analysis import __version__
from analysis.report import write_report
from analysis.runs import find_runs
from analysis.table import compare, format_table
from topo.names import unknown

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        The exit status: 0 if all went well, 2 for input that cannot be used.
    """
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        try:
            options = _parser().parse_args(arguments)
        except ArgumentError as error:
            raise ValueError(_explain(str(error))) from None
        chosen = options[options.command]
        groups = find_runs(chosen.runs)
        table = format_table(compare(groups))
        with pd.option_context("display.width", None, "display.max_columns", None):
            print(table.to_string(index=False))
        if options.command == "report":
            out = Path(chosen.out) if chosen.out else Path(chosen.runs[0]) / "report.html"
            print(f"\nreport: {write_report(groups, out)}")
    except (ValueError, OSError) as error:
        print(f"epitopo-analysis: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


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
    return parser


def _explain(message: str) -> str:
    if match := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
        return unknown(match[1], re.findall(r"[\w-]+", match[2]), "command")
    return message


if __name__ == "__main__":
    sys.exit(main())
