"""Stage 0, plain data parallelism: every rank holds everything, and all make the same update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.comm.arena import shared_memory
from ryzen_mpi.comm.compression.choose import check_possible, make_compressor
from ryzen_mpi.comm.compression.wire import Traffic
from ryzen_mpi.config import Settings
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.first import first_values
from ryzen_mpi.training.flat import FlatParameters
from ryzen_mpi.training.optimizer import FlatOptimizer
from ryzen_mpi.training.reduce import ArenaReducer, BucketedReducer, CompressedReducer, Reducer, world_size
from ryzen_mpi.training.strategy import DTYPES, VECTORS, Stretch, square_sum
from ryzen_mpi.training.zero.cut import Owner


class Replicated:
    """See `strategy.Strategy`.

    Attributes:
        flat, optimizer, reducer: weights and gradient, moments, and how gradients come together.
    """

    description = "every rank holds and updates everything (hardware.zero_stage=0)"
    cut = None
    owners: list[Owner] = []

    def __init__(
        self,
        model: Transformer,
        settings: Settings,
        group: dist.ProcessGroup | None,
        reducer: Callable[[FlatParameters, dist.ProcessGroup | None], Reducer] | None = None,
    ) -> None:
        self.group, self.ranks = group, world_size(group)
        self.rank = dist.get_rank(group) if self.ranks > 1 else 0
        if self.ranks > 1:
            check_possible(settings.distributed, group or dist.group.WORLD)
        shared = shared_memory(group) if settings.distributed.arena else None
        self.flat = FlatParameters(model, DTYPES[settings.hardware.dtype], shared)
        self.layout = self.flat.layout
        frozen = {name: p.data.view(-1) for name, p in model.named_parameters() if not p.requires_grad}
        for name, begin, values in first_values(model, settings.training.seed, group):
            if name in frozen:
                frozen[name][begin : begin + values.numel()].copy_(values)
            else:
                self.flat.put(name, begin, values)
        self.flat.publish()
        choice = reducer or (BucketedReducer if shared is None else self._arena_reducer(settings))
        self.reducer: Reducer = choice(self.flat, group)
        working = None if self.flat.working is self.flat.master else self.flat.working[None]
        self.optimizer = FlatOptimizer(self.flat, settings.training, working=working)

    def _arena_reducer(self, settings: Settings) -> Callable[[FlatParameters, dist.ProcessGroup | None], Reducer]:
        compressor = None
        if settings.distributed.compression != "none":
            compressor = make_compressor(settings.distributed, self.group or dist.group.WORLD)
        return ArenaReducer if compressor is None else partial(CompressedReducer, compressor=compressor)

    @property
    def traffic(self) -> Traffic:
        return self.reducer.traffic

    @property
    def updates(self) -> int:
        return self.optimizer.updates

    @updates.setter
    def updates(self, count: int) -> None:
        self.optimizer.updates = count

    def begin(self) -> None:
        self.reducer.begin()

    def before_backward(self, last: bool) -> None:
        if last:
            self.reducer.last_micro_batch()

    def after_micro_batch(self) -> None:
        pass

    def reduce(self) -> float:
        return self.reducer.finish()

    def square_norm(self) -> float:
        return self.square_norm_of(self.rank, self.ranks)

    def square_norm_of(self, rank: int, ranks: int) -> float:
        """The part of `rank` of `ranks` in the gradient's squared L2 norm. Local."""
        share = -(-self.layout.size // ranks)
        return square_sum(self.flat.gradient[share * rank : share * (rank + 1)])

    def layer_parts(self, layers: Mapping[str, list[int]]) -> Iterable[Iterable[Tensor]]:
        return self.layer_parts_of(layers, self.rank, self.ranks)

    def layer_parts_of(self, layers: Mapping[str, list[int]], rank: int, ranks: int) -> Iterable[Iterable[Tensor]]:
        """The parts of `rank` of `ranks` of the gradient, by layer. Local."""
        for numbers in layers.values():  # every rank has all of it, and looks at some
            mine = [self.layout.places[n] for n in numbers if n % ranks == rank]
            yield [self.flat.view(self.flat.gradient, place) for place in mine]

    def update(self, factor: float, learning_rate: float) -> None:
        self.reducer.keep()
        self.optimizer.step(learning_rate, factor)

    def vectors(self) -> Iterable[tuple[str, Tensor]]:
        return zip(VECTORS, (self.flat.master, self.optimizer.first, self.optimizer.second), strict=True)

    def weights(self) -> Iterable[Tensor]:
        flat = self.flat
        return (flat.master,) if flat.working is flat.master else (flat.master, flat.working)

    def load(self, stretches: Iterable[Stretch]) -> None:
        vectors = dict(self.vectors())
        for name, begin, values in stretches:
            vectors[name][begin : begin + values.numel()].copy_(values)

    def settle(self) -> None:
        self.flat.publish()
