"""No compression: the null object among the compressors, and what the others are compared with."""

from __future__ import annotations

from torch import Tensor

from ryzen_mpi.comm.across import add_up
from ryzen_mpi.comm.compression.wire import PIECE_BYTES, Memoryless, in_rows
from ryzen_mpi.comm.dtypes import reduction


class Exact(Memoryless):
    """See `wire.Compressor`. Sums in the order of the nodes, in the values' own precision."""

    def reduce_scatter(self, parts: Tensor, own: Tensor) -> None:
        how = reduction(parts.dtype, "sum", self.wire.nodes)
        step = max(1, PIECE_BYTES // parts.element_size() // self.wire.nodes)
        for begin in range(0, own.numel(), step):
            got = self.wire.to_each(parts[:, begin : begin + step])
            add_up(list(got), own[begin : begin + step], how)

    def all_reduce(self, values: Tensor) -> None:
        parts = in_rows(values, self.wire.nodes)
        own = parts.new_empty(parts.shape[1])
        self.reduce_scatter(parts, own)
        values.copy_(self.wire.to_all(own).view(-1)[: values.numel()])
