"""ZeRO 1 and 2 (Rajbhandari et al. 2020): every rank updates its own shard, and all compute with everybody's.

Nobody computes with weights that are being changed: an update follows the ranks' agreement on the step, which all come
to after backward, and ends with a meeting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.comm.compression.wire import Traffic
from ryzen_mpi.config import Settings
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.first import first_values
from ryzen_mpi.training.flat import Layout, Place, trained_parameters
from ryzen_mpi.training.optimizer import FlatOptimizer
from ryzen_mpi.training.strategy import DTYPES, VECTORS, Stretch, square_sum
from ryzen_mpi.training.zero.buckets import RING, BucketRing, WholeGradient
from ryzen_mpi.training.zero.cut import Cut
from ryzen_mpi.training.zero.ground import Ground, choose_ground

BUCKET_BYTES = 16 << 20


class Shard:
    """What `FlatOptimizer` updates: this rank's part of the flat vectors.

    Attributes:
        master, gradient: [shard] in master precision.
        decayed: length of the front part that weight decay applies to.
    """

    def __init__(self, master: Tensor, gradient: Tensor, decayed: int) -> None:
        self.master, self.gradient, self.decayed = master, gradient, decayed


class Sharded:
    """See `strategy.Strategy`. `ground` is chosen by what the group can do; tests give another, and small buckets.

    The ledger of the node's memory counts in updates made: a step that was skipped changes nothing.
    """

    def __init__(
        self,
        model: Transformer,
        settings: Settings,
        group: dist.ProcessGroup | None,
        ground: Ground | None = None,
        bucket_bytes: int = BUCKET_BYTES,
        domain: int | None = None,
    ) -> None:
        self.group, self.stage = group, settings.hardware.zero_stage
        compute = DTYPES[settings.hardware.dtype]
        wide = torch.promote_types(compute, torch.float32)
        self.layout = Layout.of(model)
        self.parameters = trained_parameters(model, compute)
        self.ground = ground or choose_ground(group, settings, domain)
        self.description = f"ZeRO stage {self.stage} on {self.ground.reason}"
        bucket = bucket_bytes // wide.itemsize
        self.cut = cut = Cut.of(self.layout.size, bucket, self.ground.local, self.ground.nodes)
        # a micro-batch's gradient is as narrow as the computation, the sum of several is not
        self.ground.lay(cut, *((RING, compute) if self.stage == 2 else (cut.buckets, wide)), wide, compute)
        master, first, second, gradient = self.ground.state
        self._vectors = dict(zip(VECTORS, (master, first, second), strict=True))
        self.shard = Shard(master, gradient, cut.before(self.layout.decayed, self.ground.me))
        self.owners = self.ground.owners
        self.optimizer = FlatOptimizer(self.shard, settings.training, (first, second), self.ground.places)
        self._parts = gradient[None] if cut.nodes == 1 else gradient.new_zeros(cut.nodes, cut.shard)
        fill = BucketRing if self.stage == 2 else WholeGradient
        self.buckets = fill(self.ground, cut, self.layout, self._parts)
        self._gaps = self._own_gaps() if settings.distributed.compression != "none" else []
        self._adopt(model, settings.training.seed)

    def _adopt(self, model: Transformer, seed: int) -> None:
        """The model's tensors into the common vector, and rank 0's first weights into the shards. Collective."""
        places = {place.name: place for place in self.layout.places}
        for name, place in places.items():
            parameter = self.parameters[name]
            parameter.data = self.ground.weights[place.offset : place.end].view(place.shape)
            parameter.register_post_accumulate_grad_hook(self._hook(place))
        frozen = {name: p.data.view(-1) for name, p in model.named_parameters() if name not in places}
        for name, begin, values in first_values(model, seed, self.group):
            if name in frozen:
                frozen[name][begin : begin + values.numel()].copy_(values)
            else:
                self.cut.put(self.shard.master, places[name].offset + begin, values, self.ground.me)
        self.settle()

    def _own_gaps(self) -> list[tuple[int, int]]:
        """Where this rank's shard holds no parameter: an approximation of the gradient is not zero there."""
        gaps = [*self.layout.gaps(), (self.layout.size, self.cut.padded)]
        spans = (span for gap in gaps for span in self.cut.overlaps(*gap, self.ground.me))
        return [(start, start + length) for start, _, length in spans]

    def _hook(self, place: Place):
        def take(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            self.buckets.take(place, gradient)

        return take

    @property
    def traffic(self) -> Traffic:
        return self.ground.traffic

    @property
    def updates(self) -> int:
        return self.optimizer.updates

    @updates.setter
    def updates(self, count: int) -> None:
        self.optimizer.updates = count

    def begin(self) -> None:
        self.ground.begin()
        self.buckets.begin()

    def before_backward(self, last: bool) -> None:
        pass

    def after_micro_batch(self) -> None:
        self.buckets.end_micro_batch()

    def reduce(self) -> float:
        self.buckets.finish()
        if self.cut.nodes > 1:
            self.ground.across(self._parts, self.shard.gradient)
            for begin, end in self._gaps:
                self.shard.gradient[begin:end] = 0
        return self.ground.blocked_s

    def square_norm(self) -> float:
        return square_sum(self.shard.gradient)

    def layer_parts(self, layers: Mapping[str, list[int]]) -> Iterable[Iterable[Tensor]]:
        for numbers in layers.values():
            places = [self.layout.places[number] for number in numbers]
            spans = [span for place in places for span in self.cut.overlaps(place.offset, place.end, self.ground.me)]
            yield [self.shard.gradient[start : start + length] for start, _, length in spans]

    def update(self, factor: float, learning_rate: float) -> None:
        self.ground.keep()
        self.ground.changing(self.updates + 1)
        self.optimizer.step(learning_rate, factor)
        self.ground.whole()  # before the meeting: who waits in it for a rank that has died is whole
        self.ground.spread()

    def vectors(self) -> Iterable[tuple[str, Tensor]]:
        return self._vectors.items()

    def weights(self) -> Iterable[Tensor]:
        return (self.ground.weights,)

    def load(self, stretches: Iterable[Stretch]) -> None:
        self.ground.changing(-1)
        for name, begin, values in stretches:
            self.cut.put(self._vectors[name], begin, values, self.ground.me)

    def settle(self) -> None:
        self.ground.changing(self.updates)
        self.ground.whole()
        self.optimizer.publish()
        self.ground.spread()
