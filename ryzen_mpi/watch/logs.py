"""Event logs read as they grow: every look gives the lines since the one before."""

from __future__ import annotations

import os
from pathlib import Path

MOST_BYTES = 64 << 20
"""Read in one look at most: a log of a million steps is caught up with in several."""
LONGEST_LINE = 4 << 20


class Tail:
    """The whole lines of a file that others append to. A line still being written waits for its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        """Bytes that the file had at the last look; 0 where there is none."""
        self._inode = self._offset = 0
        self._rest = b""

    def again(self) -> None:
        """The next look begins at the first line."""
        self._offset, self._rest = 0, b""

    def read(self, most: int = MOST_BYTES) -> list[bytes]:
        """The lines since the last look, without their ends; none where the file cannot be read. Never raises OSError.

        A file that was replaced or became shorter is read from its beginning.
        """
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._offset:
                    self.again()
                self._inode, self.size = found.st_ino, found.st_size
                if found.st_size == self._offset:
                    return []
                file.seek(self._offset)
                content = file.read(most)
        except OSError:
            self.size = 0
            return []
        self._offset += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        if len(self._rest) > LONGEST_LINE:  # no line of ours: what it ends with is passed over as torn
            self._rest = b""
        return lines

    @property
    def behind(self) -> bool:
        """Whether the last look left something unread."""
        return self._offset < self.size
