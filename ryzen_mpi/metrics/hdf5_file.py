"""The file under metrics.h5: to HDF5 its writes always succeed, and what the disk refused is raised outside HDF5."""

from __future__ import annotations

import fcntl
import io
import os
from pathlib import Path


class SafeFile(io.RawIOBase):
    """A file for h5py to write through (its "fileobj" driver), locked against other writers while it is open.

    HDF5 that meets a full disk leaves objects which it can neither write nor free, and the process ends in a
    segmentation fault, if not at once then at exit (seen with HDF5 2.0). So the first write that fails is kept in
    `error` and all later ones are dropped: on disk this looks like a writer killed at that moment.

    Raises OSError where the file cannot be opened, BlockingIOError where another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        self._position = 0
        self._descriptor = -1  # io closes what could not be opened, too
        self._descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise
        except OSError:  # a file system without locks
            pass

    def check(self) -> None:
        """Raises the OSError that writing met, if any."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Closes the file, after h5py's own close; harmless when repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()

    # -- what h5py calls ----------------------------------------------------------------------------------------------

    def readable(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Sets and returns the position, as io does."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: os.fstat(self._descriptor).st_size}
        self._position = start[whence] + offset
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Fills `buffer` from the position on; what lies beyond the end reads as zeros."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], self._position + done)
            if count == 0:
                view[done:] = bytes(len(view) - done)
                break
            done += count
        self._position += len(view)
        return len(view)

    def write(self, buffer: memoryview) -> int:
        """Writes all of `buffer` at the position, or keeps the error."""
        view = memoryview(buffer).cast("B")
        try:
            done = 0
            while done < len(view) and self.error is None:
                done += os.pwrite(self._descriptor, view[done:], self._position + done)
        except OSError as error:
            self.error = error
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Sets the length in bytes, or keeps the error."""
        size = self._position if size is None else size
        try:
            if self.error is None:
                os.ftruncate(self._descriptor, size)
        except OSError as error:
            self.error = error
        return size

    def flush(self) -> None:
        """Has nothing to do: writes are with the operating system when they return."""
