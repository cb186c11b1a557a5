"""The file under metrics.h5: a flush of HDF5 reaches the disk whole or not at all.

HDF5 flushes with many writes, and a writer killed between two of them leaves a file that cannot always be read (1 of
some 200 kills). So what HDF5 writes is kept in memory until `settle`, which puts it into a journal beside the file,
then into the file, then removes the journal. Whoever finds a journal applies it first, any number of times.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import struct
from pathlib import Path

_MAGIC = b"ryzenj1\n"
_PLACE = struct.Struct("<QQ")  # offset and length of a write; in the header: the file's length, and the writes' number

Writes = list[tuple[int, bytes]]


def journal_path(path: Path) -> Path:
    """Where the journal of the file `path` lies while there is one."""
    return path.with_name(f".{path.name}.journal")


def read_whole(path: Path) -> bytes:
    """The file's bytes as they are once its journal, if any, has been applied. Local. Raises OSError."""
    with SettledFile(path) as file:
        image = bytearray(file.seek(0, os.SEEK_END))
        file.seek(0)
        file.readinto(image)
    return bytes(image)


def read_journal(path: Path) -> tuple[int, Writes] | None:
    """Length of the file and the writes of its journal; None where there is none. A damaged one counts as none."""
    try:
        content = journal_path(path).read_bytes()
    except FileNotFoundError:
        return None
    head, body = content[:40], content[40:]
    if head != _MAGIC + hashlib.sha256(body).digest():
        return None
    length, count = _PLACE.unpack_from(body)
    writes, at = [], _PLACE.size
    for _ in range(count):
        offset, size = _PLACE.unpack_from(body, at)
        at += _PLACE.size
        writes.append((offset, body[at : at + size]))
        at += size
    return length, writes


class _Overlaid(io.RawIOBase):
    """A file with writes over it that are not in it yet, read where HDF5 asks for it and not all of it."""

    _descriptor = -1  # io closes what could not be opened, too

    def _lay(self, descriptor: int, length: int, writes: Writes) -> None:
        self._descriptor, self._length, self._writes, self._position = descriptor, length, writes, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Sets and returns the position, as io does."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}
        self._position = start[whence] + offset
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Fills `buffer` from the position on, with what was written last; beyond the end there are zeros."""
        view = memoryview(buffer).cast("B")
        first, last = self._position, self._position + len(view)
        done = 0
        while done < len(view) and (count := os.preadv(self._descriptor, [view[done:]], first + done)):
            done += count
        view[done:] = bytes(len(view) - done)
        for offset, data in self._writes:
            start, end = max(first, offset), min(last, offset + len(data))
            if start < end:
                view[start - first : end - first] = data[start - offset : end - offset]
        self._position = last
        return len(view)

    def close(self) -> None:
        """Closes the file; harmless when repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()


class SettledFile(_Overlaid):
    """The file `path`, to be read by h5py, as it is once its journal, if any, has been applied. Raises OSError."""

    def __init__(self, path: Path) -> None:
        found = read_journal(path)  # first: one that goes away meanwhile has been applied to what is read then
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        length, writes = found or (os.fstat(descriptor).st_size, [])
        self._lay(descriptor, length, writes)


class SafeFile(_Overlaid):
    """A file for h5py to write through (its "fileobj" driver), locked against other writers while it is open.

    HDF5 that meets a full disk leaves objects which it can neither write nor free, and the process ends in a
    segmentation fault, if not at once then at exit (seen with HDF5 2.0). Here it never meets one: to HDF5 every write
    succeeds, and what the disk refuses is raised by `settle`, outside HDF5.

    Raises OSError where the file cannot be opened, BlockingIOError where another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        self._path = Path(path)
        self._descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise
        except OSError:  # a file system without locks
            pass
        if (found := read_journal(self._path)) is not None:
            self._apply(*found)
        self._on_disk = os.fstat(self._descriptor).st_size
        self._lay(self._descriptor, self._on_disk, [])

    def settle(self) -> None:
        """Everything HDF5 has written so far is in the file when this returns.

        Raises OSError, then and ever after: what follows a lost write would not fit what is there.
        """
        if self.error is not None:
            raise self.error
        if not self._writes and self._length == self._on_disk:
            return
        writes, self._writes = self._writes, []
        body = b"".join([_PLACE.pack(self._length, len(writes)), *(_PLACE.pack(o, len(d)) + d for o, d in writes)])
        journal = journal_path(self._path)
        aside = journal.with_name(f"{journal.name}.partial")
        try:
            aside.write_bytes(_MAGIC + hashlib.sha256(body).digest() + body)
            aside.replace(journal)
            self._apply(self._length, writes)
        except OSError as error:
            self.error = error
            aside.unlink(missing_ok=True)
            raise

    def _apply(self, length: int, writes: Writes) -> None:
        """The writes of a journal into the file; the journal goes when they are there."""
        for offset, data in writes:
            done = 0
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], offset + done)
        os.ftruncate(self._descriptor, length)
        journal_path(self._path).unlink(missing_ok=True)
        self._on_disk = length

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, buffer: memoryview) -> int:
        """Takes all of `buffer`, to be written at the position by the next `settle`."""
        data = bytes(memoryview(buffer).cast("B"))
        self._writes.append((self._position, data))
        self._position += len(data)
        self._length = max(self._length, self._position)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Sets the length in bytes."""
        self._length = self._position if size is None else size
        return self._length

    def flush(self) -> None:
        """Has nothing to do: `settle` writes."""
