"""Memory that all ranks of a node see as one: weights that are there once, and state that outlives who owned it.

A file that loses its name as soon as everybody has it open: whatever kills the ranks, the kernel gives it back with the
last of them, and as long as one lives it can read what the others left. In front stands a row for every rank with the
step its part belongs to, and whether it is whole (`Ledger`).
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
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
_ROW = np.dtype([("magic", "<u8"), ("rank", "<i8"), ("pid", "<i8"), ("step", "<i8"), ("state", "<i8"), ("pad", "V24")])


class NodeMemory:
    """`size` bytes, the same on all ranks of `comm`, zero. All make the same one and take the same tensors in order.

    Args:
        comm: the ranks of a node.
        rank: of this process in the whole job, for the ledger.
        size: bytes for tensors; each takes whole pages.
        folder: where the file is made; memory where it is /dev/shm.

    Raises UserError on all ranks where there is no room: the pages are asked for, not hoped for.
    """

    def __init__(self, comm: Any, rank: int, size: int, folder: str = SHARED_MEMORY) -> None:
        self.comm, self.folder = comm, folder
        self._head = -(-comm.size * _ROW.itemsize // PAGE) * PAGE
        self.size = self._head + size
        self._file = self._open()
        self._map = mmap.mmap(self._file, self.size)
        self.used = self._head
        self.claim(0, self._head if comm.rank == 0 else 0)
        self.rows = np.frombuffer(self._map, _ROW, comm.size)
        row = self.rows[comm.rank]
        row["rank"], row["pid"], row["step"], row["state"], row["magic"] = rank, os.getpid(), -1, CHANGING, MAGIC

    def take(self, count: int, dtype: torch.dtype, mine: slice = slice(0, 0)) -> Tensor:
        """[count] elements of the next free memory, which every rank of the node sees; `mine` gets its pages now.

        Collective. Whoever claims a page has it on its NUMA domain; what nobody claims comes with the first touch.
        """
        size = count * dtype.itemsize
        if self.used + size > self.size:
            raise ValueError(f"{self.size - self.used} bytes left of the node's memory, {size} asked for")
        offset, self.used = self.used, -(-(self.used + size) // PAGE) * PAGE
        self.claim(offset + mine.start * dtype.itemsize, (mine.stop - mine.start) * dtype.itemsize)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=offset)

    def claim(self, offset: int, size: int) -> None:
        """Has the kernel set pages aside. Collective; raises UserError on all ranks where it cannot."""
        problem = None
        try:
            if size:
                os.posix_fallocate(self._file, offset, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                problem = self._no_room(error.strerror or str(error))
        fail_together(MpiExchange(self.comm), problem)

    def changing(self, step: int) -> None:
        """This rank's part is about to become that of `step`. Local."""
        row = self.rows[self.comm.rank]
        row["state"], row["step"] = CHANGING, step

    def whole(self) -> None:
        """This rank's part is what its step says. Local."""
        self.rows[self.comm.rank]["state"] = WHOLE

    def _open(self) -> int:
        """A file descriptor of the one file, on every rank."""
        exchange, name, file, problem = MpiExchange(self.comm), "", -1, None
        if self.comm.rank == 0:
            try:
                state = os.statvfs(self.folder)
                if state.f_bavail * state.f_frsize < self.size:
                    raise OSError(errno.ENOSPC, f"{bytes_text(state.f_bavail * state.f_frsize)} free")
                file, name = tempfile.mkstemp(prefix="ryzen-mpi-", dir=self.folder)
                os.ftruncate(file, self.size)
            except OSError as error:
                problem = self._no_room(error.strerror or str(error))
        try:
            fail_together(exchange, problem)
            name = exchange.broadcast(name)
            if self.comm.rank:
                try:
                    file = os.open(name, os.O_RDWR)
                except OSError as error:
                    problem = UserError(
                        f"{name}, made by another rank of this node, can't be opened: {error.strerror}",
                        "ranks in containers need one /dev/shm (--ipc=host); or give hardware.shared_folder=DIR",
                    )
            fail_together(exchange, problem)
        finally:
            if self.comm.rank == 0 and name:
                os.unlink(name)
        return file

    def _no_room(self, reason: str) -> UserError:
        return UserError(
            f"{self.folder} can't hold the {bytes_text(self.size)} that the {self.comm.size} ranks of this node share: "
            f"{reason}",
            f"mount -o remount,size={-(-self.size * 5 // 4 >> 30)}G {self.folder} (containers: --shm-size), or "
            "hardware.shared_folder=DIR of a disk with room: slower where memory is short, or hardware.zero_stage=0",
        )

    def close(self) -> None:
        """Lets go of the memory as soon as no tensor of it is used. Local."""
        os.close(self._file)
