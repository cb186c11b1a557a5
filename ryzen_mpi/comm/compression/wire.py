"""What compressors send on, what was sent, and what all of them can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ryzen_mpi.comm.across import as_bytes
from ryzen_mpi.comm.waiting import Patience

PIECE_BYTES = 8 << 20
"""Of uncompressed values at a time: what is under way is bounded, and so is the time a piece may take."""


@dataclass
class Traffic:
    """Gradient bytes that this rank handed to other nodes in a step, without the network's own headers.

    NaN where it is not known what leaves a node.

    Attributes:
        sent: really.
        plain: without compression.
    """

    sent: float = 0
    plain: float = 0

    def begin(self) -> None:
        """A step starts. Local."""
        self.sent *= 0  # what is not known stays so
        self.plain *= 0


class Wire:
    """Messages between rank i of every node. All methods are collective over those ranks.

    Args:
        comm: an mpi4py communicator of them, in the order of the nodes.
        patience: how long to wait; raises Absent (see waiting.py).

    Attributes:
        nodes, me: how many, and which of them this rank is on.
        traffic: `sent` is counted here, an all-gather as what it hands on to every other node.
    """

    def __init__(self, comm: Any, patience: Patience) -> None:
        self.comm, self.patience = comm, patience
        self.nodes, self.me = comm.size, comm.rank
        self.traffic = Traffic()

    def to_each(self, rows: Tensor) -> Tensor:
        """Row m of [nodes, ...] goes to node m; row m of the result came from there."""
        rows = rows.contiguous()
        got = torch.empty_like(rows)
        self.traffic.sent += rows[0].nbytes * (self.nodes - 1)
        self.patience.finish(self.comm.Ialltoall(as_bytes(rows), as_bytes(got)))
        return got

    def to_all(self, row: Tensor) -> Tensor:
        """[nodes, ...]: everybody's `row`."""
        row = row.contiguous()
        got = torch.empty((self.nodes, *row.shape), dtype=row.dtype)
        self.traffic.sent += row.nbytes * (self.nodes - 1)
        self.patience.finish(self.comm.Iallgather(as_bytes(row), as_bytes(got)))
        return got


class Compressor(Protocol):
    """Sums over nodes that are sent in fewer bytes. Serves one vector, of one length, step after step.

    Everybody's values are compressed, also those that stay where they are: a sum does not depend on who owns it. What
    is not finite in any node's values is not finite in the sum. The error that some keep, to send it later, is not part
    of checkpoints: a resumed run starts with none.

    Attributes:
        traffic: what was sent since `begin`; `plain` is counted by who calls, who knows what else it would have sent.
    """

    traffic: Traffic

    def begin(self) -> None:
        """A step starts. After a step that `keep` was not called in, what was kept of it and before is forgotten.

        Local, and alike on all nodes.
        """

    def keep(self) -> None:
        """The step counts. Local."""

    def reduce_scatter(self, parts: Tensor, own: Tensor) -> None:
        """Sums over nodes: of `parts` [nodes, n] row m goes to node m; `own` [n] is the sum. Collective."""

    def all_reduce(self, values: Tensor) -> None:
        """The sum over nodes of `values` [n], in place; the same bits on all nodes. Collective."""


class Memoryless:
    """Of a compressor that keeps nothing from one step to the next."""

    def __init__(self, wire: Wire) -> None:
        self.wire, self.traffic = wire, wire.traffic

    def begin(self) -> None:
        self.traffic.begin()

    def keep(self) -> None:
        pass


class Feedback:
    """Error feedback (Seide et al. 2014; Karimireddy et al. 2019): what was not sent is added to the next values.

    The error is as large as what is compressed, in its precision. A skipped step clears it: its values may be far too
    large without being infinite.
    """

    def __init__(self) -> None:
        self.error: Tensor | None = None
        self._kept = True

    def begin(self) -> None:
        if not self._kept:
            self.forget()
        self._kept = False

    def keep(self) -> None:
        self._kept = True

    def forget(self) -> None:
        """Nothing was ever compressed. Local."""
        if self.error is not None:
            self.error.zero_()

    def owed(self, values: Tensor, room: int) -> Tensor:
        """[rows, room]: `values` [rows, n] and the error, zero from n on; what is left in it is the next error."""
        if self.error is None:
            self.error = values.new_zeros(values.shape[0], room)
        self.error[:, : values.shape[1]] += values
        return self.error


def in_rows(values: Tensor, rows: int) -> Tensor:
    """[rows, n]: a copy of `values` [at most rows * n], zeros behind them."""
    width = -(-values.numel() // rows)
    padded = values.new_zeros(rows * width)
    padded[: values.numel()] = values
    return padded.view(rows, width)
