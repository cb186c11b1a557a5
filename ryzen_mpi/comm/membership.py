"""What torch asks of a process group beside collectives, and how a collective is called: now, or in line.

What nobody waits for goes to the line; what is waited for is done by the caller's own thread, which saves two thread
switches, unless something is in line before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.comm.arena import Arena
from ryzen_mpi.comm.collectives import Collectives
from ryzen_mpi.comm.failure import Failures
from ryzen_mpi.comm.region import PEER_ERRORS
from ryzen_mpi.comm.waiting import Absent
from ryzen_mpi.comm.work import Finished, Line, Pending
from ryzen_mpi.errors import UserError


class Membership(dist.ProcessGroup):
    """A process group without its collectives.

    Args:
        collectives: over a communicator of the group's own, ranks in the group's order.
        failures: makes errors out of what went wrong.
        store: the group's, for torch.
    """

    def __init__(self, collectives: Collectives, failures: Failures, store: dist.Store) -> None:
        super().__init__(collectives.rank, collectives.size)
        self.collectives, self.failures, self._store = collectives, failures, store
        self._timeout_s = collectives.patience.timeout_s
        self._line = Line(f"ryzen_mpi {failures.group}")
        self._turn = threading.RLock()
        self._name, self._description, self._sequence = failures.group, "undefined", 0
        self._together: list[dist.Work] | None = None

    # --- how a call is done ----------------------------------------------------------------------------------

    def _do(
        self, name: str, tensors: list[Tensor], options: Any, act: Callable[[], None], limit_s: float | None = None
    ) -> dist.Work:
        """Calls `act`, now or in line, with errors named. Returns the work."""
        self._sequence = number = self._sequence + 1
        now = options is not None and not options.asyncOp and not self._line.waiting
        if now and self._turn.acquire(blocking=False):
            try:
                self._act(name, number, tensors, act, limit_s)
            finally:
                self._turn.release()
            work: dist.Work = Finished(tensors)
        else:
            work = Pending(tensors)
            self._line.put(partial(self._in_turn, name, number, tensors, act, limit_s), work)
        if self._together is not None:
            self._together.append(work)
        return work

    def _in_turn(self, *call: Any) -> None:
        with self._turn:
            self._act(*call)

    def _act(
        self, name: str, number: int, tensors: list[Tensor], act: Callable[[], None], limit_s: float | None
    ) -> None:
        if self.failures.broken:
            self.failures.refuse_broken()
        limit_s = self._timeout_s if limit_s is None else limit_s
        self.collectives.set_timeout(limit_s)
        try:
            act()
        except PEER_ERRORS as error:
            self.collectives.give_up()
            raise self.failures.of_collective(name, number, tensors, error, limit_s) from None
        except self.failures.mpi_errors as error:
            self.collectives.give_up()
            dead = self.collectives.patience.dead()  # MPI says that a process failed, not whose
            if dead is not None:
                raise self.failures.of_collective(name, number, tensors, Absent("dead", dead), limit_s) from None
            raise self.failures.of_mpi(name, number, tensors, error) from None
        except (KeyboardInterrupt, SystemExit):  # of a signal's handler: the others would wait for our part
            self.collectives.give_up()
            self.failures.interrupted(name, number)
            raise
        except UserError:
            raise
        except (ValueError, TypeError) as error:
            raise type(error)(f"{name} on rank {self.rank()}: {error}") from None

    # --- what torch asks of a group --------------------------------------------------------------------------

    def arena(self, slot_bytes: int) -> Arena:
        """Memory the ranks of each node share; its tensors are reduced and broadcast where they lie. Collective.

        It lives as long as the group. Raises UserError where there is not enough shared memory.
        """
        arena = Arena(self.collectives.locality, slot_bytes, self._timeout_s)
        self.collectives.arenas.append(arena)
        return arena

    def name(self) -> str:
        return "ryzen"

    def _get_backend_name(self) -> str:
        return "ryzen"

    def _get_backend(self, device: torch.device) -> Membership:
        return self

    @property
    def supports_coalescing(self) -> bool:
        return False

    @property
    def supports_splitting(self) -> bool:
        return False

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")]

    def getGroupName(self) -> str:
        return self._name

    def setGroupName(self, name: str) -> None:
        self._name = name

    _set_group_name = setGroupName

    @property
    def group_name(self) -> str:
        return self._name

    def _set_group_desc(self, description: str) -> None:
        self._description = description

    @property
    def group_desc(self) -> str:
        return self._description

    def get_group_store(self) -> dist.Store:
        return self._store

    def set_timeout(self, timeout: timedelta) -> None:
        self._timeout_s = timeout.total_seconds()

    def _set_sequence_number_for_group(self) -> None:
        self._sequence = 0

    def _get_sequence_number_for_group(self) -> int:
        return self._sequence

    def _has_hooks(self) -> bool:
        return False

    def _enable_collectives_timing(self) -> None:
        return None

    def _wait_for_pending_works(self) -> None:
        work = Pending([])
        self._line.put(lambda: None, work)
        work.wait()

    def _start_coalescing(self, device: torch.device) -> None:
        self._together = []

    def _end_coalescing(self, device: torch.device) -> dist.Work:
        works, self._together = self._together or [], None
        for work in works[:-1]:
            work.wait()
        return works[-1] if works else Finished([])

    def abort(self) -> None:
        """The other ranks of this node need not wait for this one. Local."""
        self.failures.broken = self.failures.broken or "the group was aborted on this rank"
        self.collectives.give_up()
        self._line.close()

    def shutdown(self) -> None:
        """Collective where the group is sound."""
        self._line.close()
        if self.failures.broken:
            return
        self.failures.broken = "the group was shut down"
        try:
            self.collectives.close()
        except PEER_ERRORS:
            self.failures.leave_without_finalize()
