"""How ranks tell one another small facts before torch.distributed is up.

One protocol, three ways: over the communicator, over torchrun's store, or not at all. Values are JSON, never pickle.
"""

from __future__ import annotations

import json
import time
from typing import Any, Protocol

import numpy as np

from ryzen_mpi.errors import UserError

MOST_DOZE_S, DOZE_STEP_S = 2e-3, 20e-6
"""Seconds between two looks at a request: none at first, then ever longer."""


class Exchange(Protocol):
    """All ranks must call the same methods in the same order."""

    def allgather(self, value: Any) -> list[Any]:
        """Every rank's `value` (JSON-able), in rank order."""

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value` on every rank."""

    def abort(self, code: int) -> None:
        """Ends the whole job at once. Local: any rank may call it; does not return under MPI."""

    def close(self) -> None:
        """Leaves the job in order."""


def fail_together(exchange: Exchange, failure: UserError | None) -> None:
    """Raises the UserError of the lowest rank that has one, on all ranks: one that left alone would be waited for.

    Collective.
    """
    told = exchange.allgather(None if failure is None else [failure.message, failure.hint])
    first = next((item for item in told if item is not None), None)
    if first is not None:
        raise UserError(*first)


class Alone:
    """A world of one."""

    def allgather(self, value: Any) -> list[Any]:
        return [value]

    def broadcast(self, value: Any) -> Any:
        return value

    def abort(self, code: int) -> None:
        pass

    def close(self) -> None:
        pass


class MpiExchange:
    """Over an mpi4py communicator."""

    def __init__(self, comm: Any) -> None:
        self.comm = comm

    def allgather(self, value: Any) -> list[Any]:
        mine = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
        counts = np.empty(self.comm.size, dtype=np.int64)
        wait(self.comm.Iallgather(np.array([mine.size], dtype=np.int64), counts))
        everyone = np.empty(int(counts.sum()), dtype=np.uint8)
        wait(self.comm.Iallgatherv(mine, (everyone, counts)))
        parts = np.split(everyone, np.cumsum(counts)[:-1])
        return [json.loads(part.tobytes()) for part in parts]

    def broadcast(self, value: Any) -> Any:
        return self.allgather(value if self.comm.rank == 0 else None)[0]

    def abort(self, code: int) -> None:
        self.comm.Abort(code)

    def close(self) -> None:
        from mpi4py import MPI

        if not MPI.Is_finalized():
            wait(self.comm.Ibarrier())  # a rank that finalises early makes Open MPI report the others
            MPI.Finalize()


def wait(request: Any) -> None:
    """Waits without taking a core: a blocking call of MPI spins, and rank 0 may take minutes to prepare a corpus.

    On cores that ranks share, those that spin keep the one they wait for from its work (16 ranks on 2 cores stood still
    for a minute), and `mpi_yield_when_idle` makes it worse beside one that does not yield: since Linux 6.18 a yield
    gives up a whole time slice, so that a rank which polls for what arrives gets a few microseconds of it in each.
    """
    doze_s = 0.0
    while not request.Test():
        time.sleep(doze_s)
        doze_s = min(MOST_DOZE_S, doze_s + DOZE_STEP_S)


class StoreExchange:
    """Over the key-value store that torchrun's agent serves."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.store, self.rank, self.size, self._round = store, rank, size, 0

    def allgather(self, value: Any) -> list[Any]:
        self._round += 1
        self.store.set(f"ryzen_mpi/{self._round}/{self.rank}", json.dumps(value))
        return [json.loads(self.store.get(f"ryzen_mpi/{self._round}/{rank}")) for rank in range(self.size)]

    def broadcast(self, value: Any) -> Any:
        return self.allgather(value if self.rank == 0 else None)[0]

    def abort(self, code: int) -> None:
        pass  # torchrun ends the other ranks when one of its children ends with an error

    def close(self) -> None:
        pass
