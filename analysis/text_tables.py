"""Tables of text, as plain text, Markdown or LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd

__all__ = ["BOLD", "FORMATS", "STAR", "write_table"]

#: Marks around a cell that is to stand out, and behind one that has a star.
BOLD, STAR = "**", " *"


def write_table(table: pd.DataFrame, form: str) -> str:
    r"""Write a table of text.

    Parameters
    ----------
    table : DataFrame of str
        The first column is the heading of the rows. ``**...**`` is bold, ``" *"`` at the end a
        star.
    form : str
        "text", "markdown" or "latex".

    Examples
    --------
    >>> import pandas as pd
    >>> from analysis.text_tables import write_table
    >>> table = pd.DataFrame({"method": ["SET", "CHTs"], "a 90 %": ["1.20", "**2.30** *"]})
    >>> print(write_table(table, "markdown"))
    | method | a 90 % |
    |---|---:|
    | SET | 1.20 |
    | CHTs | **2.30** \* |
    """
    return FORMATS[form](table)


def _plain(table: pd.DataFrame) -> str:
    first = table.columns[0]
    width = max(len(first), *(len(text) for text in table[first]))
    left = table.assign(**{first: [text.ljust(width) for text in table[first]]})
    lines = left.rename(columns={first: first.ljust(width)}).to_string(index=False).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _markdown(table: pd.DataFrame) -> str:
    def cell(text: str) -> str:
        text = text.replace("|", r"\|")
        return text[: -len(STAR)] + r" \*" if text.endswith(STAR) else text

    rows = [list(table.columns), *table.to_numpy().tolist()]
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(table.columns) - 1))
    return "\n".join(lines)


_LATEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "–": "--",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
} | {c: f"\\{c}" for c in "%&_#$" + "{}"}


def _latex(table: pd.DataFrame) -> str:
    def cell(text: str) -> str:
        text = "".join(_LATEX.get(c, c) for c in text)
        text = re.sub(r"\*\*(.*?)\*\*", r"\\textbf{\1}", text)
        return text[: -len(STAR)] + "$^*$" if text.endswith(STAR) else text

    head, *body = [
        " & ".join(map(cell, row)) + r" \\"
        for row in (list(table.columns), *table.to_numpy().tolist())
    ]
    columns = "l" + "r" * (len(table.columns) - 1)
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body]
        + [r"\bottomrule", r"\end{tabular}"]
    )


FORMATS: dict[str, Callable[[pd.DataFrame], str]] = {
    "text": _plain,
    "markdown": _markdown,
    "latex": _latex,
}
