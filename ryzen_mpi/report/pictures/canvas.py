"""The paper all pictures are drawn on: sizes, type, colours, and the way from matplotlib to SVG inside a page.

Colours are drawn as marks (nearly black hexadecimal values) that become CSS variables of the page, so that a picture is
light or dark with it; beside a page each has a light fallback. The series are of Okabe and Ito's palette, which
colour-blind people can tell apart, and every series has a dash or a marker of its own as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ryzen_mpi.report.content import Picture
from ryzen_mpi.report.texts import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKS = {
    "ink": ("#010101", "#1c2530"),
    "soft": ("#010102", "#55616f"),
    "line": ("#010103", "#dde2e8"),
    "paper": ("#010104", "#ffffff"),
    "s1": ("#010105", "#0072b2"),
    "s2": ("#010106", "#d55e00"),
    "s3": ("#010107", "#009e73"),
    "s4": ("#010108", "#b0578c"),
    "s5": ("#010109", "#e69f00"),
    "good": ("#01010a", "#00664a"),
    "warn": ("#01010b", "#7a5200"),
    "bad": ("#01010c", "#a63b00"),
    "unknown": ("#01010d", "#55616f"),
}
SERIES = ("s1", "s2", "s3", "s4", "s5")
DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (7, 2, 2, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v")

_FONT = re.compile(r"font: (\S+) [^;\"]*")
_ID = re.compile(r'\bid="([^"]+)"')
_REFERENCE = re.compile(r'(url\(#|href="#)([^)"]+)')


def colour(name: str) -> str:
    """The mark of a colour, to be given to matplotlib."""
    return _MARKS[name][0]


@dataclass(frozen=True)
class Size:
    """Of a picture, in points of its own; shown about as large. `narrow`: for a page as narrow as a telephone."""

    width: float
    height: float
    narrow: bool

    @property
    def inches(self) -> tuple[float, float]:
        return self.width / 72, self.height / 72


def picture(
    name: str,
    title: str,
    words: str,
    draw: Callable[[Figure, Size], None],
    height: float = 300,
    narrow: float = 270,
    half: bool = False,
) -> Picture:
    """The picture that `draw(figure, size)` makes, in both sizes; `height` and `narrow` are their heights in points."""
    return Picture(
        name,
        clean(title),
        clean(words),
        _svg(f"{name}-wide", title, words, draw, Size(372 if half else 760, height, False)),
        _svg(f"{name}-narrow", title, words, draw, Size(330, narrow, True)),
        half,
    )


def _svg(identity: str, title: str, words: str, draw: Callable[[Figure, Size], None], size: Size) -> str:
    from markupsafe import escape
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_settings()):
        figure = Figure(figsize=size.inches, layout="constrained")
        draw(figure, size)
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    text = target.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = _FONT.sub(r"font: \1 var(--sans, sans-serif)", body)
    body = _ID.sub(lambda found: f'id="{identity}-{found[1]}"', body)
    body = _REFERENCE.sub(lambda found: f"{found[1]}{identity}-{found[2]}", body)
    for mark, (value, fallback) in _MARKS.items():
        body = body.replace(value, f"var(--{mark}, {fallback})")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'viewBox="0 0 {size.width:g} {size.height:g}" aria-labelledby="{identity}-t {identity}-d">'
        f'<title id="{identity}-t">{escape(clean(title))}</title><desc id="{identity}-d">{escape(clean(words))}</desc>'
        f"{body}</svg>"
    )


def _settings() -> dict[str, object]:
    ink, soft, line = colour("ink"), colour("soft"), colour("line")
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "ryzen_mpi",
        "text.parse_math": False,  # names from outside may hold dollars
        "axes.formatter.use_mathtext": False,
        "axes.unicode_minus": False,
        "font.size": 12.5,
        "axes.labelsize": 12.5,
        "xtick.labelsize": 12.5,
        "ytick.labelsize": 12.5,
        "legend.fontsize": 12.5,
        "text.color": ink,
        "axes.labelcolor": soft,
        "axes.edgecolor": line,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": line,
        "grid.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "xtick.color": line,
        "ytick.color": line,
        "xtick.labelcolor": soft,
        "ytick.labelcolor": soft,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "axes.labelpad": 6,
        "figure.constrained_layout.h_pad": 0.08,
    }


def name_axes(axes: Axes, x: str, y: str) -> None:
    """Labels: that of the y axis stands above it, flush left, where it is read first."""
    axes.set_xlabel(x)
    axes.set_title(y, loc="left", fontsize=12.5, color=colour("soft"), pad=9)


def legend(axes: Axes, size: Size, columns: int = 4) -> None:
    """Above the axes on a wide picture, below on a narrow one."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    if size.narrow:
        axes.figure.legend(handles, labels, loc="outside lower left", ncols=2, columnspacing=1.2)
    elif len(labels) > 3:  # no room beside the name of the axis
        axes.figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.6)
    else:
        axes.legend(
            handles,
            labels,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=columns,
            columnspacing=1.6,
            borderaxespad=0.2,
        )
