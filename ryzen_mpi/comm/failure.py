"""Errors of a process group: which operation, on which rank, because of whom."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import NoReturn

import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.errors import PeerLost

ROLL_CALL_S, REPORT_S = 1.0, 0.3
STORE_HOST = 0  # the rank that serves torch's store


class CollectiveError(PeerLost, dist.DistBackendError):
    """A collective or message that cannot end because of another rank; the group is of no use afterwards."""


class Failures:
    """Makes errors for the group named `group`.

    Args:
        group: its name.
        rank: this process in it.
        global_ranks: of torch.distributed, by rank in the group.
        hosts: name of every rank's node.
        store: the group's; asked who is missing when MPI cannot tell.
    """

    def __init__(
        self, group: str, rank: int, global_ranks: list[int], hosts: list[str], store: dist.Store | None
    ) -> None:
        self.group, self.rank, self.global_ranks, self.hosts, self.store = group, rank, global_ranks, hosts, store
        self.broken: str | None = None
        from mpi4py import MPI

        self.mpi_errors = (MPI.Exception,)

    def refuse_broken(self) -> None:
        """Raises what ended the group, where something did: its ranks no longer know where the others are."""
        if self.broken:
            raise CollectiveError(f"process group {self.group} cannot be used any more: {self.broken}")

    def of_collective(
        self, name: str, number: int, tensors: list[Tensor], error: Exception, limit_s: float
    ) -> CollectiveError:
        reason, peer = error.args
        missing = self._roll_call(number, wait=reason == "late" and peer is None)  # also tells others that we came
        peers = missing if peer is None else [peer]
        what = f"{name} number {number}{_described(tensors)} in process group {self.group}"
        return self._error(what, reason, peers, limit_s)

    def of_mpi(self, name: str, number: int, tensors: list[Tensor], error: Exception) -> CollectiveError:
        return self._broke(f"{name} number {number}{_described(tensors)} in process group {self.group}", str(error))

    def interrupted(self, name: str, number: int) -> None:
        """The group is of no use after a collective that a signal ended half-way."""
        self._broke(f"{name} number {number} in process group {self.group}", "it was interrupted")

    def of_message(
        self, name: str, tensor: Tensor, peer: int, tag: int, error: Exception | str, limit_s: float = 0.0
    ) -> CollectiveError:
        way = "to" if name == "send" else "from"
        whom = f"rank {self.global_ranks[peer]}" if peer >= 0 else "any rank"
        what = f"{name} of{_described([tensor])} {way} {whom} with tag {tag} in process group {self.group}"
        if isinstance(error, str):
            return CollectiveError(f"{what} failed on rank {self._me}: {error}")
        reason, dead = error.args
        peers = [rank for rank in (dead, peer) if rank is not None and rank >= 0]
        return self._error(what, reason, peers[:1], limit_s)

    @property
    def _me(self) -> int:
        return self.global_ranks[self.rank]

    def _error(self, what: str, reason: str, peers: list[int], limit_s: float) -> CollectiveError:
        named = [f"rank {self.global_ranks[peer]} on {self.hosts[peer]}" for peer in peers]
        whom = " or ".join(named) or "some rank"
        why = {
            "late": f"{whom} did not come in {limit_s:.3g} s (hung, stopped, or busy with something else)",
            "dead": f"the process of {whom} has ended",
            "gave up": f"{whom} gave up before, on an error of its own",
            "mismatch": f"{whom} calls another operation, or with another shape, dtype or root",
        }[reason]
        return self._broke(what, why)

    def _broke(self, what: str, why: str) -> CollectiveError:
        text = f"{what} failed on rank {self._me}: {why}"
        if not self.broken:
            self.broken = text
            self.leave_without_finalize()
        return CollectiveError(text)

    def _roll_call(self, number: int, wait: bool) -> list[int]:
        """Reports in the store that this rank came. Returns the ranks that do not; empty where nobody knows.

        `wait`: gives the others time to report, instead of asking for nothing.
        A store whose host is stopped never answers, whatever its timeout, hence the thread; then it is the host.
        """
        missing: list[int] = []
        asking = threading.Thread(target=lambda: missing.extend(self._missing(number, wait)), daemon=True)
        asking.start()
        asking.join(2 * ROLL_CALL_S if wait else REPORT_S)
        if wait and asking.is_alive() and STORE_HOST in self.global_ranks:
            return [self.global_ranks.index(STORE_HOST)]
        return missing

    def _missing(self, number: int, wait: bool) -> list[int]:
        if self.store is None:
            return []
        try:
            self.store.set(f"here/{number}/{self.rank}", "1")
            keys = {rank: f"here/{number}/{rank}" for rank in range(len(self.global_ranks))}
            end = time.monotonic() + ROLL_CALL_S
            while wait:
                missing = [rank for rank, key in keys.items() if not self.store.check([key])]
                if not missing or time.monotonic() > end:
                    return missing
                time.sleep(0.05)
            return []
        except Exception:  # the store's own process may be the one that is gone
            return []

    @staticmethod
    def leave_without_finalize() -> None:
        """MPI_Finalize waits for ranks that will not come: from now on this process ends without it."""
        atexit.unregister(_leave)
        atexit.register(_leave)
        if sys.exit is not _exit_noting_code:
            sys.exit = _exit_noting_code


_exit, _noted = sys.exit, [0]


def _exit_noting_code(code: object = None) -> NoReturn:
    """sys.exit, for `_leave`: by then Python has forgotten the code."""
    _noted[0] = 0 if code is None else code if isinstance(code, int) else 1
    _exit(code)


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if hasattr(sys, "last_value") else _noted[0] & 0xFF)


def _described(tensors: list[Tensor]) -> str:
    if not tensors:
        return ""
    first = tensors[0]
    more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
    return f" ({str(first.dtype).removeprefix('torch.')}{list(first.shape)}{more})"
