"""A self-contained HTML page of figures and tables."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

import pandas as pd
from matplotlib.figure import Figure

__all__ = ["Item", "html_table", "page", "sections", "svg"]


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
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img alt="{escape(description)}" src="data:image/svg+xml;base64,{data}">'
    return f'<div class="wide">{image}</div>'


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


def page(**texts: str) -> str:
    """The whole page, with its style and script in it.

    Parameters
    ----------
    **texts : str
        HTML: title, lead, sections, commands, configs and version.
    """
    folder = files("analysis") / "report_page"
    parts = {
        name: (folder / file).read_text(encoding="utf-8").rstrip()
        for name, file in (("style", "page.css"), ("script", "slider.js"))
    }
    template = Template((folder / "page.html").read_text(encoding="utf-8"))
    return template.substitute(texts, **parts)
