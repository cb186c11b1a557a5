"""Our own training step, as a side."""

from __future__ import annotations

from ryzen_mpi.cluster.world import World
from ryzen_mpi.config import Settings
from ryzen_mpi.data.source import TokenSource
from ryzen_mpi.model.transformer import parameter_count
from ryzen_mpi.training.step import TrainingStep


class OurStep:
    """See `step.Side`. Collective."""

    def __init__(self, world: World, settings: Settings, source: TokenSource) -> None:
        self.inner = TrainingStep(settings, source, world.rank, world.size, settings.global_batch(world.size))
        self.parameters = parameter_count(settings)
        self.rate = settings.training.learning_rate

    def run(self) -> float:
        return self.inner.run().loss

    def fill(self) -> None:
        self.inner.run()  # the gradient stays where it is until the next step's

    def update(self) -> None:
        self.inner.strategy.update(1.0, self.rate)

    def clear(self) -> None:
        pass
