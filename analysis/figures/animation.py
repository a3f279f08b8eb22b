"""Animations: a figure that is drawn anew for every frame, as one GIF."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from topo.files import write_atomically

__all__ = ["Animation", "save_animation"]

_COLOURS = 128  # of all frames together: a shared palette does not flicker
_WHITE = 250  # and lighter, of a mean of colours: paper
_SAMPLES = 5  # frames that the palette is made of


@dataclass(frozen=True)
class Animation:
    """A figure over time.

    Attributes
    ----------
    figure : Figure
    draw : callable
        Draws a frame, by its number from 0, on the figure.
    frames : int
        At least 1.
    seconds : float
        Of each frame; the last stays eight times as long.
    """

    figure: Figure
    draw: Callable[[int], None]
    frames: int
    seconds: float = 0.15


def save_animation(
    animation: Animation, out: str | os.PathLike[str], *, width: int | None = None
) -> Path:
    """Write an animation as a whole to a GIF that repeats for ever, the same bytes every time.

    Parameters
    ----------
    animation : Animation
    out : path
        A file that ends in .gif.
    width : int, optional
        Pixels. Default: 150 an inch, and at most 960.

    Raises
    ------
    ValueError
        If the file ends in something else.
    """
    file = Path(out)
    if file.suffix.lower() != ".gif":
        raise ValueError(f"{file} must end in .gif: an animation is written as that alone")
    canvas = FigureCanvasAgg(animation.figure)
    inches = animation.figure.get_figwidth()
    animation.figure.set_dpi((width or min(960, 150 * inches)) / inches)
    pictures = []
    for frame in range(animation.frames):
        animation.draw(frame)
        canvas.draw()
        if frame == 0:  # panels that move would be seen as change
            animation.figure.set_layout_engine("none")
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    some = np.unique(np.linspace(0, len(pictures) - 1, _SAMPLES).round().astype(int))
    sample = Image.fromarray(np.concatenate([np.asarray(pictures[i]) for i in some]))
    palette = sample.quantize(_COLOURS)
    colours = palette.getpalette() or []
    palette.putpalette([255 if value >= _WHITE else value for value in colours])
    flat = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    length = round(1000 * animation.seconds)
    buffer = io.BytesIO()
    flat[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=flat[1:],
        duration=[length] * (len(flat) - 1) + [8 * length],
        loop=0,
        optimize=False,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, buffer.getvalue())
    return file
