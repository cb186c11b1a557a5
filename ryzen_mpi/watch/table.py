"""Columns that grow at their end: the steps of a run, kept in memory while somebody watches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

KEPT_ROWS = 600
"""Newest rows that are kept of what has a value a rank."""


class Column:
    """Numbers of one kind, appended to without copying all of them every time."""

    def __init__(self) -> None:
        self._array, self._rows = np.empty(1024), 0

    def __len__(self) -> int:
        return self._rows

    @property
    def values(self) -> np.ndarray:
        """All of them, not to be changed."""
        return self._array[: self._rows]

    def extend(self, values: np.ndarray) -> None:
        """Adds `values` at the end."""
        end = self._rows + len(values)
        if end > len(self._array):
            grown = np.empty(max(end, 2 * len(self._array)))
            grown[: self._rows] = self.values
            self._array = grown
        self._array[self._rows : end] = values
        self._rows = end

    def cut(self, rows: int) -> None:
        """Leaves the first `rows`."""
        self._rows = min(rows, self._rows)


class Table:
    """Rows of steps: whole columns of what is one number a step, the newest KEPT_ROWS of what is one a rank.

    Args:
        plain, ranked: names of the columns.
    """

    def __init__(self, plain: Sequence[str], ranked: Sequence[str]) -> None:
        self._plain = {name: Column() for name in plain}
        self._ranked = {name: np.empty((0, 0)) for name in ranked}

    def __len__(self) -> int:
        return len(self._plain["step"])

    def __getitem__(self, name: str) -> np.ndarray:
        """A column: (rows,), or (newest rows, ranks) with NaN where a rank did not exist."""
        return self._plain[name].values if name in self._plain else self._ranked[name]

    @property
    def last_step(self) -> int:
        """Of the newest row; 0 where there is none."""
        return int(self["step"][-1]) if len(self) else 0

    def extend(self, plain: Mapping[str, np.ndarray], ranked: Mapping[str, np.ndarray]) -> None:
        """Adds rows; `ranked` may have the newest of them alone."""
        rows = len(plain["step"])
        for name, column in self._plain.items():
            column.extend(plain[name])
        for name, before in self._ranked.items():
            new = ranked[name][-KEPT_ROWS:]
            kept = before if len(new) == rows else before[:0]
            self._ranked[name] = _stacked(kept, new)[-KEPT_ROWS:]

    def cut(self, rows: int) -> None:
        """Leaves the first `rows` rows."""
        gone = len(self) - rows
        if gone <= 0:
            return
        for column in self._plain.values():
            column.cut(rows)
        for name, array in self._ranked.items():
            self._ranked[name] = array[: max(0, len(array) - gone)]


def _stacked(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Both, as wide as the wider, NaN where one has no such rank."""
    width = max(above.shape[1], below.shape[1])
    result = np.full((len(above) + len(below), width), np.nan)
    result[: len(above), : above.shape[1]] = above
    result[len(above) :, : below.shape[1]] = below
    return result
