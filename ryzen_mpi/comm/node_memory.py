"""Memory that all ranks of a node see as one: weights that are there once, and state that outlives who owned it.

A file that loses its name as soon as everybody has it open: whatever kills the ranks, the kernel gives it back with the
last of them, and as long as one lives it can read what the others left. Who makes it holds a lock on it meanwhile, so
one that was killed in between leaves a file without a lock, which the next to start takes away.

In front stands a row for every rank (the ledger): rank, process, the updates its part has had, and whether the part is
whole. Taking over a dead rank's part rests on it; built is the ledger, not the recovery:

1. A survivor that is told of a death (`PeerLost`) reads the dead rank's row. Its last stores are seen by all as soon as
   the kernel says that the process has gone; the row then says exactly how far it was.
2. WHOLE at the newest number of updates in any row: the part can be used as it is, by whoever maps this memory.
3. WHOLE at one less: it had not begun an update that others have made. Its sums of the gradient are in its part and are
   complete, because nobody updates before all ranks have agreed on the step, after their sums. Any survivor can do
   the update in its place, with the factor and learning rate that all ranks know.
4. CHANGING: it died in the middle. An update in place can't be done again; that part comes from a checkpoint, and with
   it all others, or from a copy that somebody kept.
5. What the model computes with are master weights, rounded: survivors write them again from the masters of all.

Rows are plain stores. On x86 others see a process' stores in their order. ARM does not promise that for a living
process, so a row says nothing about the data of a rank that lives and has not met the reader since (the meeting that
ends an update has the fences). Of a dead process both hold: stores before its last instruction have all happened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ryzen_mpi.cluster.exchange import MpiExchange, fail_together
from ryzen_mpi.comm.region import PAGE, SHARED_MEMORY
from ryzen_mpi.errors import UserError
from ryzen_mpi.units import bytes_text

MAGIC = 0x7A79726E_6F646531
"""Of this layout of the first page and the rows after it."""
CHANGING, WHOLE = 1, 2
PREFIX = "ryzen-mpi-"
"""Of a file's name; the maker's process follows."""
_ROW = np.dtype([("magic", "<u8"), ("rank", "<i8"), ("pid", "<i8"), ("step", "<i8"), ("state", "<i8"), ("pad", "V24")])
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def room(sizes: Sequence[int]) -> int:
    """Bytes that tensors of these many bytes take: each whole pages."""
    return sum(-(-size // PAGE) * PAGE for size in sizes)


class NodeMemory:
    """`size` bytes, the same on all ranks of `node`, zero. All make the same one and take the same tensors in order.

    Args:
        node: the ranks of this node.
        everyone: all ranks of the job, which make theirs at the same time.
        size: bytes for tensors; see `room`.
        folder: where the file is made; memory where it is /dev/shm.

    Attributes:
        rows: the ledger, a row for every rank of the node, which all of them see.

    Raises UserError on all ranks where a node has no room: the pages are asked for, not hoped for.
    """

    def __init__(self, node: Any, everyone: Any, size: int, folder: str = SHARED_MEMORY) -> None:
        self.node, self.folder, self._together = node, folder, MpiExchange(everyone)
        head = room([node.size * _ROW.itemsize])
        self.size = head + size
        self._file = self._open()
        self._map = mmap.mmap(self._file, self.size)
        self.used = head
        self._claim([(0, head if node.rank == 0 else 0)])
        self.rows = np.frombuffer(self._map, _ROW, node.size)
        row = self.rows[node.rank]
        row["rank"], row["pid"], row["step"], row["state"] = everyone.rank, os.getpid(), -1, CHANGING
        row["magic"] = MAGIC

    def take(self, count: int, dtype: torch.dtype, mine: Sequence[slice] = ()) -> Tensor:
        """[count] elements of the next free memory, which every rank of the node sees; `mine` get their pages now.

        Collective. Whoever claims a page has it on its NUMA domain; what nobody claims comes with the first touch.
        """
        size, item = count * dtype.itemsize, dtype.itemsize
        if self.used + size > self.size:
            raise ValueError(f"{self.size - self.used} bytes left of the node's memory, {size} asked for")
        offset, self.used = self.used, self.used + room([size])
        self._claim([(offset + part.start * item, (part.stop - part.start) * item) for part in mine])
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=offset)

    def changing(self, step: int) -> None:
        """This rank's part is about to become that of `step`. Local."""
        row = self.rows[self.node.rank]
        row["state"] = CHANGING
        row["step"] = step

    def whole(self) -> None:
        """This rank's part is what its step says. Local."""
        self.rows[self.node.rank]["state"] = WHOLE

    def close(self) -> None:
        """No tensor is taken any more. Local. The memory goes with the last tensor of it, or with the process."""
        if self._file >= 0:
            os.close(self._file)  # the mapping has a descriptor of its own
            self._file = -1

    def _claim(self, parts: Sequence[tuple[int, int]]) -> None:
        """Has the kernel set pages aside. Collective; raises UserError on all ranks where it cannot."""
        problem = None
        try:
            for offset, size in parts:
                if size:
                    os.posix_fallocate(self._file, offset, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                problem = self._explain(error)
        try:
            fail_together(self._together, problem)
        except UserError:
            self.close()
            raise

    def _open(self) -> int:
        """A file descriptor of the one file, on every rank."""
        name, file, problem = "", -1, None
        if self.node.rank == 0:
            try:
                remove_stale(self.folder)
                file, name = make_file(self.folder)
                free = _free(self.folder)
                if free < self.size:
                    raise OSError(errno.ENOSPC, f"{bytes_text(free)} free")
                os.ftruncate(file, self.size)
            except OSError as error:
                problem = self._explain(error)
        try:
            fail_together(self._together, problem)
            name = MpiExchange(self.node).broadcast(name)
            if self.node.rank:
                try:
                    file = os.open(name, os.O_RDWR)
                except OSError as error:
                    problem = UserError(
                        f"{name}, made by another rank of this node, can't be opened: {error.strerror}",
                        "ranks in containers need one /dev/shm (--ipc=host); or give hardware.shared_folder=DIR",
                    )
            fail_together(self._together, problem)
        except UserError:
            if file >= 0:
                os.close(file)
            raise
        finally:
            if self.node.rank == 0 and name:
                os.unlink(name)
        return file

    def _explain(self, error: OSError) -> UserError:
        where, reason = f"hardware.shared_folder={self.folder} on {socket.gethostname()}", error.strerror or str(error)
        if error.errno not in _FULL:
            hint = "a folder of every node that this user may write to, in memory (/dev/shm) or on a disk of the node"
            return UserError(f"{where} can't hold what ranks share: {reason}", hint)
        return UserError(
            f"{where} can't hold the {bytes_text(self.size)} that {self.node.size} ranks share: {reason}",
            f"mount -o remount,size={-(-self.size * 5 // 4 >> 30)}G {self.folder} (containers: --shm-size), or "
            "hardware.shared_folder=DIR of a disk with room: slower where memory is short; or hardware.zero_stage=0",
        )


def make_file(folder: str) -> tuple[int, str]:
    """A new file in `folder`, locked: its descriptor and its name. Local. Raises OSError."""
    while True:
        name = os.path.join(folder, f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}")
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with contextlib.suppress(OSError):  # no locks on this file system: then nobody removes anything either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return file, name
        os.close(file)  # taken for one that was left, in the moment before it had its lock


def remove_stale(folder: str) -> None:
    """Takes away files of makers that were killed before all ranks had theirs open. Local.

    Told by their lock, which ends with the process: in containers that share a folder a number says nothing.
    """
    for path in Path(folder).glob(f"{PREFIX}[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or in use
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(file)


def _free(folder: str) -> int:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize
