"""A self-contained HTML page of figures and tables."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd
from matplotlib.figure import Figure

__all__ = ["PAGE", "Item", "html_table", "sections", "svg"]


@dataclass(frozen=True)
class Item:
    """A figure or table of the page.

    Attributes
    ----------
    kind : str
        "Figure" or "Table".
    title, caption : str
        Text.
    body : str
        HTML.
    """

    kind: str
    title: str
    caption: str
    body: str


def sections(parts: Sequence[tuple[str, Sequence[Item]]]) -> str:
    """HTML of items under headings, the figures and the tables numbered throughout.

    Parameters
    ----------
    parts : sequence of (heading, items)
        An empty heading is none.
    """
    numbers = {"Figure": 0, "Table": 0}
    lines = []
    for heading, items in parts:
        if heading:
            lines.append(f"<h2>{escape(heading)}</h2>")
        for item in items:
            numbers[item.kind] += 1
            caption = (
                f"<figcaption><b>{item.kind} {numbers[item.kind]}. {escape(item.title)}.</b> "
                f"{escape(item.caption)}</figcaption>"
            )
            inner = caption + item.body if item.kind == "Table" else item.body + caption
            lines.append(f"<figure>{inner}</figure>")
    return "\n".join(lines)


def svg(figure: Figure, description: str) -> str:
    """A figure as an image within the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(description)}" src="data:image/svg+xml;base64,{data}">'


def html_table(table: pd.DataFrame, text: frozenset[str] = frozenset({"method"})) -> str:
    """A table; columns of text are set to the left."""

    def cell(tag: str, column: str, value: object) -> str:
        kind = ' class="text"' if column in text else ""
        return f"<{tag}{kind}>{escape(str(value))}</{tag}>"

    head = "".join(cell("th", c, c) for c in table.columns)
    rows = "".join(
        f"<tr>{''.join(cell('td', c, row[c]) for c in table.columns)}</tr>"
        for _, row in table.iterrows()
    )
    inner = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f"<div class='wide'><table>{inner}</table></div>"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --ink: #1b1b1b; --soft: #5a5a5a; --rule: #1b1b1b; --hair: #d8d8d8; --page: #ffffff; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e8e8e8; --soft: #b0b0b0; --rule: #c8c8c8; --hair: #444; --page: #17181a; }}
}}
body {{ max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; color: var(--ink);
  background: var(--page); font: 1rem/1.55 Charter, "Bitstream Charter", Cambria, Georgia, serif; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; margin: 0 0 .6rem; }}
h2 {{ font-size: 1.15rem; margin: 2.5rem 0 .5rem; }}
p.lead {{ color: var(--soft); margin: 0 0 2rem; }}
figure {{ margin: 2.2rem 0; }}
figure img {{ display: block; width: 100%; height: auto; background: #fff; border-radius: 4px; }}
figcaption {{ font-size: .92rem; color: var(--soft); margin: .5rem 0; }}
figcaption b {{ color: var(--ink); }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; border-top: 2px solid var(--rule);
  border-bottom: 2px solid var(--rule); }}
th, td {{ padding: .35rem .6rem; text-align: right; vertical-align: top; }}
th {{ border-bottom: 1px solid var(--rule); font-weight: 600; vertical-align: bottom; }}
tbody tr + tr td {{ border-top: 1px solid var(--hair); }}
.text {{ text-align: left; }}
pre {{ font-size: .82rem; line-height: 1.4; overflow-x: auto; padding: .7rem .9rem;
  border: 1px solid var(--hair); border-radius: 4px; }}
summary {{ cursor: pointer; }}
footer {{ margin: 3rem 0 1rem; color: var(--soft); font-size: .85rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{sections}
<h2>Make it again</h2>
<pre>{commands}</pre>
{configs}
<footer>Made by epitopo {version}. This file needs no network.</footer>
</body>
</html>
"""
"""To be formatted with title, lead, sections, commands, configs and version."""
