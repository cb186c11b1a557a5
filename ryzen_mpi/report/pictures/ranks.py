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
    from matplotlib.figure import Figure

MOST_RANKS = 64
_PARTS = (("computation", "s1", ""), ("communication", "s5", "///"), ("other", "s4", "..."))


def breakdown(times: RankTimes, name: str = "ranks", what: str = "a step") -> Picture:
    """Computation, communication and the rest of a step, a bar a rank; the first MOST_RANKS of them."""
    parts = [getattr(times, f"{part}_s")[:MOST_RANKS] * 1e3 for part, *_ in _PARTS]
    ranks = len(parts[0])

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
        name_axes(axes, f"milliseconds {what}, mean", "")
        legend(axes, size)

    words = "; ".join(
        f"rank {rank}: "
        + ", ".join(f"{part} {number_text(float(v[rank]))} ms" for (part, *_), v in zip(_PARTS, parts, strict=True))
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
        room = 8 if size.narrow else 16
        for i, j in np.ndindex(ranks, ranks):
            value = values[i, j]
            known = i != j and np.isfinite(value)
            tint = colormaps["cividis"](norm(value)) if known else None
            axes.fill(
                [j - 0.5, j + 0.5, j + 0.5, j - 0.5], [i - 0.5, i - 0.5, i + 0.5, i + 0.5],
                facecolor=to_hex(tint) if known else colour("line"), edgecolor=colour("paper"), linewidth=1.5,
            )  # fmt: skip
            if known and ranks <= room:
                light = 0.2126 * tint[0] + 0.7152 * tint[1] + 0.0722 * tint[2] > 0.45
                shown = number_text(float(f"{value:.3g}"))
                axes.text(j, i, shown, ha="center", va="center", color="#101418" if light else "#ffffff")
        every = max(1, -(-ranks // room))
        labels = [clean(f"{rank}") for rank in range(0, ranks, every)]
        axes.set_xticks(range(0, ranks, every), labels)
        axes.set_yticks(range(0, ranks, every), [_place(rank, hosts, size) for rank in range(0, ranks, every)])
        axes.set_xlim(-0.5, ranks - 0.5)
        axes.set_ylim(ranks - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        name_axes(axes, "to rank", f"from rank, {unit}")

    words = f"{title} of {ranks} ranks"
    if len(off):
        words += f", from {number_text(float(off.min()))} to {number_text(float(off.max()))} {unit}"
    side = min(420, 150 + 42 * ranks)
    return picture(name, title, words, draw, side, min(390, 130 + 42 * ranks))


def _place(rank: int, hosts: Sequence[object], size: Size) -> str:
    host = clean(hosts[rank]) if rank < len(hosts) else ""
    most = 8 if size.narrow else 20
    return f"{host[: most - 1] + '…' if len(host) > most else host}  {rank}"
