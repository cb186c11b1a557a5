"""Pictures a rank or a pair of ranks: where the time of each went, and what lies between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ryzen_mpi.report.content import Picture
from ryzen_mpi.report.pictures.canvas import Size, colour, legend, name_axes, picture
from ryzen_mpi.report.run_measures import RankTimes
from ryzen_mpi.report.texts import clean, number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

MOST_RANKS = 64
_PARTS = (("computation", "s1", ""), ("communication", "s5", "///"), ("other", "s4", "..."))


def breakdown(times: RankTimes, name: str = "ranks", what: str = "a step") -> Picture:
    """Computation, communication and the rest of a step, a bar a rank; the first MOST_RANKS of them."""
    parts = [getattr(times, f"{part}_s")[:MOST_RANKS] for part, *_ in _PARTS]
    ranks, scale, unit = len(parts[0]), *((1, "s") if np.sum(parts, axis=0).max() >= 2 else (1e3, "ms"))
    parts = [scale * values for values in parts]

    def draw(figure: Figure, size: Size) -> None:
        axes, left = figure.subplots(), np.zeros(ranks)
        for (part, tint, hatch), values in zip(_PARTS, parts, strict=True):
            axes.barh(
                range(ranks), values, left=left, height=0.66, label=part, color=colour(tint), hatch=hatch,
                edgecolor=colour("paper"), linewidth=1,
            )  # fmt: skip
            left = left + values
        every = max(1, -(-ranks // (16 if size.narrow else 24)))
        axes.set_yticks(range(0, ranks, every), [f"rank {rank}" for rank in range(0, ranks, every)])
        axes.invert_yaxis()
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        name_axes(axes, f"{unit} {what}, mean", "")
        legend(axes, size)

    words = "; ".join(
        f"rank {rank}: "
        + ", ".join(f"{part} {number_text(float(v[rank]))} {unit}" for (part, *_), v in zip(_PARTS, parts, strict=True))
        for rank in range(min(ranks, 8))
    )
    height = 110 + 26 * min(ranks, 24)
    return picture(name, "Where the time of each rank goes", words, draw, height, height + 60)


def heat_map(name: str, title: str, unit: str, hosts: Sequence[object], matrix: Sequence[Sequence[float]]) -> Picture:
    """All pairs: a row a sender, a column a receiver, the figure in each field where there is room for it."""
    values = np.array([[np.nan if v is None else float(v) for v in row] for row in matrix])
    ranks = len(values)
    off = values[~np.eye(ranks, dtype=bool)]
    off = off[np.isfinite(off)]

    def draw(figure: Figure, size: Size) -> None:
        from matplotlib import colormaps
        from matplotlib.colors import Normalize, to_hex

        axes, norm = figure.subplots(), Normalize(off.min(), off.max())
        room = 8
        for i, j in np.ndindex(ranks, ranks):
            value = values[i, j]
            known = i != j and np.isfinite(value)
            tint = colormaps["cividis"](norm(value)) if known else None
            axes.fill(
                [j - 0.5, j + 0.5, j + 0.5, j - 0.5], [i - 0.5, i - 0.5, i + 0.5, i + 0.5],
                facecolor=to_hex(tint) if known else colour("line"), edgecolor=colour("paper"), linewidth=1.5,
            )  # fmt: skip
            if known and ranks <= room:
                shown = f"{value / 1e3:.2g}k" if value >= 999.5 else f"{value:.3g}"
                axes.text(j, i, shown, ha="center", va="center", color=ink_on(tint[:3]))
        every = max(1, -(-ranks // 16))
        labels = [clean(f"{rank}") for rank in range(0, ranks, every)]
        axes.set_xticks(range(0, ranks, every), labels)
        axes.set_yticks(range(0, ranks, every), [_place(rank, hosts) for rank in range(0, ranks, every)])
        axes.set_xlim(-0.5, ranks - 0.5)
        axes.set_ylim(ranks - 0.5, -0.5)
        axes.set_aspect("equal")
        if ranks > room:
            _scale(figure, axes, norm)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        name_axes(axes, "to rank", f"from rank, {unit}")

    words = f"{title} of {ranks} ranks"
    if len(off):
        words += f", from {number_text(float(off.min()))} to {number_text(float(off.max()))} {unit}"
    return picture(name, title, words, draw, min(390, 110 + 36 * ranks), min(390, 110 + 36 * ranks), half=True)


def ink_on(tint: Sequence[float]) -> str:
    """Black or white, whichever stands out more on the colour `tint` (red, green, blue of 0 to 1). WCAG 2.1, 1.4.3."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in tint]
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    return "#000000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#ffffff"


def _scale(figure: Figure, axes: Axes, norm: Normalize) -> None:
    """What the colours mean, where the fields are too small to say it."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(norm, "cividis"), ax=axes, shrink=0.7, aspect=18)
    bar.outline.set_visible(False)


def _place(rank: int, hosts: Sequence[object]) -> str:
    host = clean(hosts[rank]) if rank < len(hosts) else ""
    most = 9
    return f"{host[: most - 1] + '…' if len(host) > most else host}  {rank}"
