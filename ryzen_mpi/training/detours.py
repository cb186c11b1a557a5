"""What of the sample stream is gone round: windows of data that training was thrown back by."""

from __future__ import annotations


class Detours:
    """Windows of the sample stream of `total` samples that are left out. Alike on all ranks; local."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._windows: list[tuple[int, int]] = []

    def add(self, begin: int, end: int) -> None:
        """Leaves out the samples from `begin` to before `end`."""
        if begin < min(end, self.total):
            self._windows.append((begin, min(end, self.total)))

    def behind(self, position: int) -> int:
        """Where a step that would begin at `position` begins: behind the windows that it lies in."""
        while ends := [end for begin, end in self._windows if begin <= position < end]:
            position = max(ends)
        return position

    def steps_left(self, position: int, batch: int) -> int:
        """How many steps of `batch` samples there are from `position` on; the last one may have fewer samples."""
        steps, position = 0, self.behind(position)
        while position < self.total:
            following = min([begin for begin, _ in self._windows if begin > position], default=self.total)
            taken = -(-(following - position) // batch)
            steps += taken
            position = self.behind(min(position + taken * batch, self.total))
        return steps
