"""The look of all figures, for screens and for papers, and the files they are saved to."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context, rcParams
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter

from topo.files import write_atomically
from topo.names import find

__all__ = [
    "COLOURS",
    "COLUMN",
    "PAGE",
    "STYLES",
    "TALL",
    "Sheet",
    "canvas",
    "footnote",
    "percent",
    "points",
    "save",
    "style",
    "use",
]

#: Okabe and Ito's palette: told apart with every common colour vision deficiency.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
#: Inches: the width of one column of a journal's page, and of the page.
COLUMN, PAGE = 3.35, 6.9
#: Inches: the height that there is for figures on a page.
TALL = 9.4

_TYPE = 7  # points, of a paper
_LINE = 1.7  # points, on a screen
_WITHIN = 0.92  # of the width: on a screen's grid letters are a little wider than on paper
_FEWEST = 10  # letters on a line, however narrow

# text is kept as text where the font is embedded (pdf, eps), and drawn as outlines in an svg,
# which would else look for the font on the reader's machine
_FILES: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "epitopo",
}

_SCREEN: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "both",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "figure.dpi": 100,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # which comes with matplotlib: the same everywhere
    "font.size": 9,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": _LINE,
    "savefig.dpi": 150,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    **_FILES,
}

STYLES: dict[str, dict[Any, Any]] = {
    "screen": _SCREEN,
    "paper": _SCREEN
    | {
        "axes.titlesize": _TYPE + 0.5,
        "axes.labelsize": _TYPE,
        "axes.labelpad": 2.5,
        "axes.linewidth": 0.6,
        "axes.titlepad": 4,
        "font.size": _TYPE,
        "grid.linewidth": 0.4,
        "legend.fontsize": _TYPE,
        "lines.linewidth": 1.2,
        "savefig.dpi": 300,
        "xtick.labelsize": _TYPE,
        "ytick.labelsize": _TYPE,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4,
    },
}
"""Settings of matplotlib by name: "screen", and "paper" (type of 7 points, thin lines)."""

_UNDATED: dict[str, dict[str, None] | None] = {  # metadata by format
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": None,
}


@contextmanager
def style(name: str = "screen") -> Iterator[None]:
    """The look of all figures: ``with style(): ...``, or ``with style("paper"): ...``.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    with rc_context(find(STYLES, name, "style")):
        yield


def use(name: str = "screen") -> None:
    """Give all figures that follow the look of `style`: once, at the head of a notebook.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    rcParams.update(find(STYLES, name, "style"))


class Sheet(Figure):
    """A figure that writes letters which its font lacks by their codes."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw, with words that the font can write."""
        for text in self.findobj(Text):
            assert isinstance(text, Text)
            text.set_text(_legible(text.get_text(), text.get_fontproperties()))
        super().draw(renderer)


def _legible(text: str, font: FontProperties) -> str:
    if text.isascii():
        return text
    there = get_font(findfont(font)).get_char_index
    return "".join(
        c if c.isascii() or there(ord(c)) else c.encode("unicode_escape").decode() for c in text
    )


def canvas(width: float, height: float) -> Sheet:
    """An empty figure, sized for the style that is on.

    Parameters
    ----------
    width, height : float
        Inches in a paper, such as `COLUMN` or `PAGE`. A style with larger type makes the figure
        larger in proportion.

    Examples
    --------
    >>> from analysis import figures
    >>> with figures.style("paper"):
    ...     float(figures.canvas(figures.PAGE, 2).get_figwidth())
    6.9
    >>> with figures.style("screen"):
    ...     round(float(figures.canvas(figures.PAGE, 2).get_figwidth()), 2)
    8.87
    """
    larger = rcParams["font.size"] / _TYPE
    return Sheet(figsize=(width * larger, height * larger), layout="constrained")


def points(size: float) -> float:
    """A width of a line, or a size of a marker, of the screen's style in that which is on."""
    return size * rcParams["lines.linewidth"] / _LINE


def percent() -> FuncFormatter:
    """Ticks of an axis of shares: 5%, 97.5%, 0.1%."""
    return FuncFormatter(lambda value, _: f"{100 * value:.6g}%")


def footnote(figure: Figure, text: str) -> None:
    """Say below a figure what it does not show by itself; nothing for an empty text."""
    if not text:
        return
    size = rcParams["font.size"] * 0.93
    text = _legible(text, FontProperties())
    figure.supxlabel(
        _wrapped(text, size, 72 * _WITHIN * figure.get_figwidth()),
        x=0.01,
        ha="left",
        multialignment="left",
        fontsize=size,
        color="#555555",
    )


def _wrapped(text: str, size: float, width: float) -> str:
    """Lines of at most a width, in points."""
    letters = round(1.05 * len(text) * width / _length(text, size))
    while True:
        lines = textwrap.wrap(text, max(letters, _FEWEST))
        if letters <= _FEWEST or max(_length(line, size) for line in lines) <= width:
            return "\n".join(lines)
        letters -= 1


def _length(text: str, size: float) -> float:
    return float(TextPath((0, 0), text, size).get_extents().width)


def save(figure: Figure, out: str | os.PathLike[str]) -> Path:
    """Write a figure as a whole, fonts embedded, the same bytes every time.

    Raises
    ------
    ValueError
        If the file's ending is another than .svg, .pdf or .png.
    """
    file = Path(out)
    kind = file.suffix[1:].lower()
    if kind not in _UNDATED:
        raise ValueError(f"{file} must end in .svg, .pdf or .png, so that its format is known")
    buffer = io.BytesIO()
    with rc_context(_FILES):  # whatever is on
        figure.savefig(buffer, format=kind, metadata=_UNDATED[kind])
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, buffer.getvalue())
    return file
